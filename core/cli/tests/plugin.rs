//! `yard plugin new` writes plugins that build, pass their own tests and keep every promise.

use std::path::Path;
use std::process::Command;

const YARD: &str = env!("CARGO_BIN_EXE_yard");

#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

fn new(language: &str, folder: &Path) {
    run(Command::new(YARD).args(["plugin", "new", "my-net", "--lang", language, "--dir"]).arg(folder));
}

#[track_caller]
fn keeps_every_promise(file: &Path) {
    let report = run(Command::new(YARD).args(["plugin", "check"]).arg(file));
    assert!(report.contains("my-net") && report.contains("0 failed"), "{report}");
}

#[test]
fn a_plugin_in_rust() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("my-net");
    new("rust", &folder);
    // Kept from run to run, so that its dependencies are built once.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugin-new");
    let cargo = |task: &str| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(&folder).args([task, "--offline", "--quiet"]).env("CARGO_TARGET_DIR", &target);
        // What the outer cargo said is not for the inner one.
        run(cargo.env_remove("RUSTFLAGS").env_remove("CARGO_BUILD_TARGET"))
    };
    cargo("test");
    cargo("build");
    keeps_every_promise(&target.join("debug/libswitchyard_my_net.so"));
}

#[test]
fn a_plugin_in_c() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("my-net");
    new("c", &folder);
    run(Command::new("make").current_dir(&folder));
    keeps_every_promise(&folder.join("libswitchyard_my-net.so"));
}

#[test]
fn a_plugin_in_python() {
    let dir = tempfile::tempdir().unwrap();
    new("python", dir.path());
    keeps_every_promise(&dir.path().join("switchyard_my-net.plugin"));
}

#[test]
fn nothing_is_overwritten_and_names_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("plugin.c"), "mine").unwrap();
    for (name, why) in [("my-net", "is there and not empty"), ("My net", "must be 1 to 40")] {
        let output = Command::new(YARD).args(["plugin", "new", name, "--dir"]).arg(dir.path()).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && told.contains(why), "{told}");
    }
    assert_eq!(std::fs::read_to_string(dir.path().join("plugin.c")).unwrap(), "mine");
}
