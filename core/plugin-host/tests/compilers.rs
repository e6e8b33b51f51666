//! A plugin that another compiler version built, another opt-level or another compiler, loads all the same.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use support::{built, compile_with, facts, node, pod, registry, skipped};
use switchyard_plugin::Options;
use switchyard_plugin_host::{Hosting, Registry};

/// Builds kubenet with a toolchain and an opt-level; none if the toolchain is not installed.
fn build(toolchain: &str, opt_level: &str) -> Option<PathBuf> {
    let mut cargo = Command::new("rustup");
    // What the outer cargo has set is not for the inner one.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let keep = ["CARGO_HOME", "CARGO_NET_OFFLINE"].contains(&&*text);
        if (text.starts_with("CARGO") || text.starts_with("RUST")) && !keep && text != "RUSTUP_HOME" {
            cargo.env_remove(&name);
        }
    }
    let known = Command::new("rustup").args(["run", toolchain, "rustc", "--version"]).output();
    if !known.is_ok_and(|output| output.status.success()) {
        skipped(&format!("toolchain {toolchain} is not installed"), false);
        return None;
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{toolchain}-{opt_level}"));
    let output = cargo
        .args(["run", toolchain, "cargo", "build", "--quiet", "--offline", "--locked", "-p", "switchyard-kubenet"])
        .arg("--target-dir")
        .arg(&target)
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", opt_level)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(target.join("debug"))
}

/// Toolchains besides the one that builds this.
fn toolchains() -> Vec<String> {
    let Ok(output) = Command::new("rustup").args(["toolchain", "list"]).output() else { return Vec::new() };
    let list = String::from_utf8_lossy(&output.stdout).into_owned();
    list.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// The plugin without dependencies, by `rustc` and these arguments, must load and answer.
fn bare(mut rustc: Command, what: &str, opt_level: &str) {
    let dir = tempfile::tempdir().unwrap();
    let library = dir.path().join("libswitchyard_bare.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bare.rs");
    rustc.args(["--edition", "2024", "--crate-type", "cdylib", "--crate-name", "bare", "-C"]);
    rustc.arg(format!("opt-level={opt_level}")).arg("-o").arg(&library).arg(&source);
    let output = rustc.output().unwrap();
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    let plugin = Registry::new(vec![dir.path().into()]).open("bare", &Options::new(), Hosting::InProcess).unwrap();
    let answer = serde_json::to_string(&plugin.node(&facts(), &node(1)).unwrap()).unwrap();
    assert_eq!(answer, r#"{"node/worker-1":[{"kind":"sysctl","path":"net/a","value":"7"}]}"#, "{what}");
    assert!(plugin.underlay(&facts(), &node(1)).unwrap().is_empty());
}

#[test]
fn another_opt_level() {
    for opt_level in ["0", "3", "s"] {
        bare(Command::new("rustc"), "the pinned compiler", opt_level);
    }
}

#[test]
fn another_compiler_version() {
    for toolchain in toolchains() {
        let known = Command::new("rustup").args(["run", &toolchain, "rustc", "--version"]).output();
        if known.is_ok_and(|output| output.status.success()) {
            let mut rustc = Command::new("rustup");
            rustc.args(["run", &toolchain, "rustc"]);
            bare(rustc, &toolchain, "2");
        }
    }
}

#[test]
fn another_language_and_its_compilers() {
    let mut answers = Vec::new();
    for (compiler, opt_level) in [("cc", "-O0"), ("cc", "-O3"), ("gcc", "-O2"), ("clang", "-O2")] {
        let dir = tempfile::tempdir().unwrap();
        let source = "../../examples/c-plugin/plugin.c";
        let Some(_) = compile_with(compiler, dir.path(), "c-plugin", source, &[opt_level]) else { continue };
        let plugin = Registry::new(vec![dir.path().into()]);
        let plugin = plugin.open("c-plugin", &Options::new(), Hosting::InProcess).unwrap();
        answers.push(plugin.pod(&facts(), &node(1), &pod("web")).unwrap());
    }
    assert!(answers.windows(2).all(|two| two[0] == two[1]), "{answers:?}");
}

/// The library that `cargo build --release` has left beside this test's own build, at whatever time: it loads, and is understood.
#[test]
fn the_plugin_of_a_release_build() {
    let folder = built();
    let target = folder.ancestors().nth(2).expect("target/PROFILE/deps");
    let release = target.join("release");
    if folder.starts_with(&release) || !release.join("libswitchyard_kubenet.so").exists() {
        return skipped("there is no other build's libswitchyard_kubenet.so in target/release", false);
    }
    let plugin = Registry::new(vec![release]).open("kubenet", &Options::new(), Hosting::InProcess).unwrap();
    assert!(!plugin.node(&facts(), &node(1)).unwrap().is_empty());
    assert_eq!(plugin.pod(&facts(), &node(1), &pod("web")).unwrap().places().count(), 2);
    assert_eq!(plugin.pool(&facts(), &node(1), &pod("web")).unwrap().block, node(1).pod_cidr);
}

/// Another build's kubenet is another file with the same answers.
#[track_caller]
fn same(folder: PathBuf) {
    let theirs = Registry::new(vec![folder]).open("kubenet", &Options::new(), Hosting::InProcess).unwrap();
    let ours = registry().open("kubenet", &Options::new(), Hosting::InProcess).unwrap();
    assert_ne!(theirs.sha256(), ours.sha256());
    assert_eq!(theirs.node(&facts(), &node(1)), ours.node(&facts(), &node(1)));
    assert_eq!(theirs.pod(&facts(), &node(1), &pod("a")), ours.pod(&facts(), &node(1), &pod("a")));
}

#[test]
#[ignore = "builds everything below kubenet once more, in a minute or two; run it with -- --ignored"]
fn kubenet_by_another_compiler_and_opt_level() {
    if let Some(folder) = build("nightly", "3") {
        same(folder);
    }
}
