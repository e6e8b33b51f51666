//! What the tests share: facts, and plugin files that cargo or the C compiler has made.
#![allow(dead_code, reason = "each test uses some of it")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use switchyard_plugin::{Facts, NodeFacts, Options, PodFacts};
use switchyard_plugin_host::{Hosting, OpenError, Registry};

/// The folder into which cargo has built the plugins that are dependencies of the tests.
pub(crate) fn built() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    exe.parent().unwrap().to_owned()
}

/// A registry of those.
pub(crate) fn registry() -> Registry {
    Registry::new(vec![built()])
}

/// Compiles a C plugin as `libswitchyard_NAME.so` in `dir`; none if there is no C compiler.
pub(crate) fn compile(dir: &Path, name: &str, source: &str, defines: &[&str]) -> Option<PathBuf> {
    let defines: Vec<String> = defines.iter().map(|define| format!("-D{define}")).collect();
    compile_with("cc", dir, name, source, &defines.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The same by another compiler, with other flags.
pub(crate) fn compile_with(compiler: &str, dir: &Path, name: &str, source: &str, flags: &[&str]) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let library = dir.join(format!("libswitchyard_{name}.so"));
    let mut cc = Command::new(compiler);
    cc.args(["-shared", "-fPIC", "-O1", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function"]);
    cc.arg("-I").arg(root.join("../plugin/include"));
    cc.args(flags).arg(root.join(source)).arg("-o").arg(&library);
    let Ok(output) = cc.output() else {
        skipped(&format!("there is no {compiler}"), compiler == "cc");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(library)
}

/// Says that a test is skipped; where everything that is `needed` has to be there, on CI, this fails it.
#[track_caller]
pub(crate) fn skipped(why: &str, needed: bool) {
    assert!(!needed || std::env::var_os("CI").is_none(), "not to be skipped on CI: {why}");
    let _ = writeln!(std::io::stderr(), "skipped: {}: {why}", std::thread::current().name().unwrap_or_default());
}

/// A faulty plugin in a folder of its own.
pub(crate) fn faulty(defines: &[&str]) -> Option<(tempfile::TempDir, PathBuf)> {
    let dir = tempfile::tempdir().unwrap();
    let library = compile(dir.path(), "faulty-c", "tests/fixtures/faulty.c", defines)?;
    Some((dir, library))
}

/// Why a file does not open, with its folder taken out of the message.
pub(crate) fn refusal(file: &Path) -> (&'static str, String) {
    let opened = Registry::new(vec![]).open(file.to_str().unwrap(), &Options::new(), Hosting::InProcess);
    let error: OpenError = opened.err().expect("it must not open");
    let folder = format!("{}/", file.parent().unwrap().display());
    (error.reason(), error.to_string().replace(&folder, ""))
}

pub(crate) fn options(json: Value) -> Options {
    json.as_object().unwrap().clone()
}

pub(crate) fn facts() -> Facts {
    Facts {
        cluster: "sphinx".into(),
        pod_cidr: "10.40.0.0/16".parse().unwrap(),
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        underlay_cidr: "10.140.0.0/24".parse().unwrap(),
        underlay_gateway: "10.140.0.1".parse().unwrap(),
        underlay_mtu: 1500,
    }
}

/// `worker-1`, `worker-2`, ...
pub(crate) fn node(number: u8) -> NodeFacts {
    NodeFacts {
        name: format!("worker-{number}"),
        address: format!("10.140.0.{}", 10 + number).parse().unwrap(),
        pod_cidr: format!("10.40.{number}.0/24").parse().unwrap(),
        uplink: "eth0".parse().unwrap(),
        mac: None,
        mtu: None,
        edge: None,
    }
}

pub(crate) fn pod(name: &str) -> PodFacts {
    PodFacts {
        uid: format!("uid-of-{name}"),
        namespace: "default".into(),
        name: name.into(),
        labels: Default::default(),
        ip: "10.40.1.5".parse().unwrap(),
        segment: None,
    }
}
