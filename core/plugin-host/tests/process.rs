//! The same plugins in a child process: the same answers, and faults that a process of its own contains.

mod support;

use std::time::{Duration, Instant};

use serde_json::json;
use support::{built, facts, faulty, node, options, pod, registry, skipped};
use switchyard_plugin::Options;
use switchyard_plugin_host::{CallError, Hosting, ProcessHost, Registry, State};

const OUT: Hosting = Hosting::Process;

fn host(deadline: Duration) -> ProcessHost {
    ProcessHost { program: env!("CARGO_BIN_EXE_yard-plugin-host").into(), arguments: Vec::new(), deadline }
}

fn hosted() -> Registry {
    Registry::new(vec![built()]).with_process_host(host(Duration::from_secs(60)))
}

#[test]
fn a_child_gives_the_same_answers() {
    let outside = hosted().open("kubenet", &options(json!({"bridge": "br1"})), OUT).unwrap();
    let inside = registry().open("kubenet", &options(json!({"bridge": "br1"})), Hosting::InProcess).unwrap();
    assert_eq!(outside.sha256(), inside.sha256());
    for pod in ["a", "b"].map(pod) {
        assert_eq!(outside.pod(&facts(), &node(1), &pod), inside.pod(&facts(), &node(1), &pod));
        assert_eq!(outside.pool(&facts(), &node(1), &pod), inside.pool(&facts(), &node(1), &pod));
    }
    assert_eq!(outside.underlay(&facts(), &node(1)), inside.underlay(&facts(), &node(1)));
}

#[test]
fn errors_cross_the_socket() {
    let registry = hosted();
    let error = registry.open("kubenet", &options(json!({"mtu": 12})), OUT).err().unwrap();
    assert_eq!(error.to_string(), "option mtu: 12 given, expected a number from 576 to 65535");
    let plugin = registry.open("faulty", &options(json!({"panic": "web"})), OUT).unwrap();
    let error = plugin.pod(&facts(), &node(1), &pod("web")).unwrap_err();
    assert_eq!(error, CallError::Panicked { operation: "pod", message: "told to panic for pod web".into() });
    assert_eq!(plugin.state(), State::Poisoned);
    let Some((_dir, file)) = faulty(&["NO_SYMBOL"]) else { return };
    let error = registry.open(file.to_str().unwrap(), &Options::new(), OUT).err().unwrap();
    assert_eq!(error.reason(), "ProcessFailed");
    assert!(error.to_string().contains("symbol switchyard_plugin_v1 is missing"), "{error}");
}

#[test]
fn a_crash_ends_the_child_and_the_next_call_has_another() {
    let Some((_dir, file)) = faulty(&["CRASH"]) else { return };
    let plugin = hosted().open(file.to_str().unwrap(), &Options::new(), OUT).unwrap();
    for _ in 0..2 {
        plugin.node(&facts(), &node(1)).unwrap();
        let error = plugin.peer(&facts(), &node(1), &node(2)).unwrap_err();
        let CallError::Died { operation: "peer", why } = &error else { panic!("{error}") };
        assert!(why.contains("signal: 6"), "{why}");
    }
    assert_eq!(plugin.state(), State::Started);
}

#[test]
fn a_call_that_hangs_is_ended_at_its_deadline() {
    let Some((_dir, file)) = faulty(&["HANG"]) else { return };
    let registry = Registry::new(vec![]).with_process_host(host(Duration::from_secs(10)));
    let plugin = registry.open(file.to_str().unwrap(), &Options::new(), OUT).unwrap();
    let began = Instant::now();
    let error = plugin.peer(&facts(), &node(1), &node(2)).unwrap_err();
    assert_eq!(error, CallError::Timeout { operation: "peer", seconds: 10 });
    assert!(began.elapsed() < Duration::from_secs(60));
    plugin.node(&facts(), &node(1)).unwrap();
}

#[test]
fn a_constructor_that_aborts_is_not_our_end() {
    let Some((_dir, file)) = faulty(&["CONSTRUCTOR"]) else { return };
    let error = hosted().open(file.to_str().unwrap(), &Options::new(), OUT).err().unwrap();
    assert_eq!(error.reason(), "ProcessFailed");
    assert!(error.to_string().contains("signal: 6"), "{error}");
}

#[test]
fn a_program_that_hosts_nothing_is_an_error() {
    for (program, expected) in [("/nowhere/yard", "No such file or directory"), ("/bin/true", "exit status: 0")] {
        let host = ProcessHost { program: program.into(), ..host(Duration::from_secs(60)) };
        let error =
            Registry::new(vec![built()]).with_process_host(host).open("none", &Options::new(), OUT).err().unwrap();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn a_program_in_another_language_answers() {
    if std::process::Command::new("python3").arg("--version").output().is_err() {
        return skipped("there is no python3", true);
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/python-plugin/switchyard_python-plugin.plugin");
    let registry = hosted();
    // A program is a process, whatever is asked for.
    for hosting in [OUT, Hosting::InProcess] {
        let plugin = registry.open(file, &options(json!({"mtu": 1400})), hosting).unwrap();
        assert_eq!(plugin.manifest().name, "python-plugin");
        assert_eq!(plugin.pod(&facts(), &node(1), &pod("web")).unwrap().places().count(), 2);
        assert_eq!(plugin.pool(&facts(), &node(1), &pod("web")).unwrap().block, node(1).pod_cidr);
        assert!(plugin.peer(&facts(), &node(1), &node(2)).unwrap().is_empty());
    }
    let error = registry.open(file, &options(json!({"mtu": "big"})), OUT).err().unwrap();
    assert_eq!(error.to_string(), "option mtu: 'big' given, expected a number from 576 to 65535");
}

#[test]
fn what_hangs_in_this_process_is_given_up_and_says_so() {
    let host = host(Duration::from_secs(2));
    let registry = Registry::new(vec![built()]).with_process_host(host);
    let plugin = registry.open("faulty", &options(json!({"fault": "hangs"})), Hosting::InProcess).unwrap();
    plugin.node(&facts(), &node(1)).unwrap();
    let error = plugin.pod(&facts(), &node(1), &pod("web")).unwrap_err();
    assert_eq!(error, CallError::Hung { operation: "pod", seconds: 2 });
    assert_eq!(plugin.state(), State::Poisoned);
    let error = plugin.node(&facts(), &node(1)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "node: the plugin is not asked again since an earlier call failed: \
         pod: the plugin gave no answer within 2 s and is not asked again"
    );
    let other = registry.open("faulty", &Options::new(), Hosting::InProcess).unwrap();
    other.pod(&facts(), &node(1), &pod("web")).unwrap();
}

#[test]
fn a_plugin_that_lies_about_places_or_addresses_is_not_believed() {
    let registry = registry();
    let open = |fault: &str| registry.open("faulty", &options(json!({"fault": fault})), Hosting::InProcess).unwrap();
    let error = open("cable-to-other-pod").pod(&facts(), &node(1), &pod("web")).unwrap_err();
    assert_eq!(error.to_string(), "pod: the plugin speaks about pod/another, which this call does not concern");
    let error = open("pool-outside").pool(&facts(), &node(1), &pod("web")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "pool: the plugin's answer is not understood: block 172.16.0.0/24 is not in the cluster's 10.40.0.0/16"
    );
}
