//! A plugin that another compiler version built, or another opt-level, loads all the same.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use support::{facts, node, pod, registry};
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
        eprintln!("skipped: toolchain {toolchain} is not installed");
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

#[test]
#[ignore = "builds everything below kubenet once more; run it with -- --ignored"]
fn another_compiler_and_another_opt_level() {
    let Some(folder) = build("nightly", "3") else { return };
    let theirs = Registry::new(vec![folder]).open("kubenet", &Options::new(), Hosting::InProcess).unwrap();
    let ours = registry().open("kubenet", &Options::new(), Hosting::InProcess).unwrap();
    assert_ne!(theirs.sha256(), ours.sha256());
    assert_eq!(theirs.node(&facts(), &node(1)), ours.node(&facts(), &node(1)));
    assert_eq!(theirs.pod(&facts(), &node(1), &pod("a")), ours.pod(&facts(), &node(1), &pod("a")));
}
