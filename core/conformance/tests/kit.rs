//! The kit against sound plugins, which keep every promise, and against one that breaks them one by one.

use std::path::{Path, PathBuf};
use std::process::Command;

use switchyard_conformance::CHECKS;

/// The folder into which cargo has built the plugins that are dependencies of the tests.
fn built() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_owned()
}

fn library(name: &str) -> PathBuf {
    built().join(format!("libswitchyard_{name}.so"))
}

/// Exit code and report.
fn check(file: &Path, options: &str, only: &[&str]) -> (i32, String) {
    let mut kit = Command::new(env!("CARGO_BIN_EXE_yard-plugin-check"));
    let output = kit.arg(file).arg(options).args(only).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap_or(-1), text)
}

fn keeps_every_promise(file: &Path, options: &str) -> String {
    let (code, text) = check(file, options, &[]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains(&format!("{} checks", CHECKS.len())), "{text}");
    text
}

#[test]
fn our_plugins_keep_every_promise() {
    for (name, options) in [
        ("kubenet", "{}"),
        ("kubenet", r#"{"bridge":"br7","mtu":1400,"masquerade":false}"#),
        ("overlay", "{}"),
        ("nsx", "{}"),
        ("nsx", r#"{"northSouth":"node","subnetPrefix":28,"port":4790}"#),
        ("hello", "{}"),
        ("faulty", "{}"),
    ] {
        let text = keeps_every_promise(&library(name), options);
        assert!(text.contains("pass  dataplane/mtu") || text.contains("yard doctor"), "{name} {options}: {text}");
    }
}

#[test]
fn plugins_in_other_languages_keep_every_promise() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    if Command::new("python3").arg("--version").output().is_ok() {
        keeps_every_promise(&examples.join("python-plugin/switchyard_python-plugin.plugin"), "{}");
    } else {
        skipped("there is no python3");
    }
    let dir = tempfile::tempdir().unwrap();
    let library = dir.path().join("libswitchyard_c-plugin.so");
    let mut cc = Command::new("cc");
    cc.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-I"]);
    cc.arg(examples.join("../core/plugin/include")).arg(examples.join("c-plugin/plugin.c")).arg("-o").arg(&library);
    match cc.output() {
        Err(_) => skipped("there is no C compiler"),
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            keeps_every_promise(&library, r#"{"mtu":1400}"#);
        }
    }
}

/// Says so; on CI nothing is missing.
#[track_caller]
fn skipped(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "not to be skipped on CI: {why}");
    eprintln!("skipped: {why}");
}

#[test]
fn a_network_without_interfaces_is_not_asked_for_packets() {
    let text = keeps_every_promise(&library("none"), "{}");
    assert!(text.contains("skip  dataplane/same-node"), "{text}");
}

/// Each fault, and the check that finds it.
const FOUND: &[(&str, &str)] = &[
    ("fails-to-start", "abi/load"),
    ("answers-unknown", "abi/operations"),
    ("strict-arguments", "abi/arguments"),
    ("takes-any-option", "options/unknown"),
    ("takes-any-type", "options/types"),
    ("counts", "purity/repeated"),
    ("remembers", "purity/order"),
    ("environment", "purity/surroundings"),
    ("process-id", "purity/surroundings"),
    ("opens-file", "purity/system-calls"),
    ("opens-socket", "purity/system-calls"),
    ("starts-thread", "purity/system-calls"),
    ("leaks-descriptor", "purity/leaves-nothing"),
    ("leaks-memory", "lifecycle/many"),
    ("racy", "concurrency/same-answers"),
    ("other-pod", "semantics/answers"),
    ("router-from-node", "semantics/answers"),
    ("cable-to-other-pod", "semantics/answers"),
    ("invalid", "semantics/valid"),
    ("disagrees", "semantics/agreement"),
    ("name-clash", "semantics/names"),
    ("pool-outside", "semantics/pool"),
    ("gateway-not-reserved", "semantics/pool"),
    ("wrong-address", "semantics/address"),
    ("drops-foreign", "semantics/address"),
    ("ignores-uplink", "semantics/uplink"),
    ("believes-anything", "hostile/malformed"),
    ("panics-on-nonsense", "hostile/malformed"),
    ("panics-on-small-blocks", "hostile/odd"),
    ("slow", "budget/time"),
    ("large", "budget/size"),
    ("hangs", "abi/operations"),
    ("refused-by-kernel", "dataplane/applies"),
    ("no-route", "dataplane/same-node"),
    ("no-way-back", "dataplane/other-node"),
    ("no-way-to-nodes", "dataplane/nodes"),
    ("no-default-route", "dataplane/outside"),
    ("masquerades", "dataplane/source"),
    ("mtu-too-large", "dataplane/mtu"),
    ("forgets-foreign", "dataplane/foreign"),
    ("touches-uplink", "isolation/untouched"),
    ("disables-ipv6", "cleanup/as-before"),
];

#[test]
fn every_broken_promise_is_found() {
    let has_lab = check(&library("hello"), "{}", &["dataplane"]).1.contains("pass  dataplane/applies");
    let has_ipv6 = Path::new("/proc/sys/net/ipv6").exists();
    let cases: Vec<_> = FOUND
        .iter()
        .filter(|(_, found)| has_lab || !["dataplane", "isolation", "cleanup"].iter().any(|lab| found.starts_with(lab)))
        .filter(|(fault, _)| has_ipv6 || *fault != "disables-ipv6")
        .collect();
    let one = |(fault, found): &&&(&str, &str)| {
        let options = format!(r#"{{"fault":"{fault}"}}"#);
        let (code, text) = check(&library("faulty"), &options, &[found]);
        let good = code == 1 && text.contains(&format!("FAIL  {found}")) && text.contains("to do: ");
        (!good).then(|| format!("{fault} is not found by {found}:\n{text}"))
    };
    // Most of them wait for something that does not come.
    let missed: Vec<String> = std::thread::scope(|scope| {
        let cases = &cases;
        let threads: Vec<_> = (0..4)
            .map(|first| {
                scope.spawn(move || {
                    cases.iter().skip(first).step_by(4).filter_map(|case| one(&case)).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[test]
fn every_check_is_broken_by_something() {
    // The manifest's is tested beside it, on manifests.
    for check in CHECKS.iter().filter(|check| check.name != "manifest/complete") {
        assert!(FOUND.iter().any(|(_, found)| *found == check.name), "nothing breaks {}", check.name);
    }
}

#[test]
fn what_is_no_plugin_fails_at_once_and_unknown_checks_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("libswitchyard_x.so");
    std::fs::write(&file, "text").unwrap();
    let (code, text) = check(&file, "{}", &[]);
    assert_eq!(code, 1);
    assert!(text.contains("FAIL  abi/load") && text.contains("not a shared library"), "{text}");
    let (code, text) = check(&library("hello"), "{}", &["colour"]);
    assert_eq!(code, 2);
    assert!(text.contains("no check or group \"colour\"; groups are abi, manifest, options"), "{text}");
}
