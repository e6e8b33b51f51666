//! Code that hangs before the first call costs whoever opens it a deadline, and is not tried for ever.

mod support;

use std::process::Command;
use std::time::Duration;

use support::{built, facts, faulty, node};
use switchyard_plugin::Options;
use switchyard_plugin_host::{Hosting, OpenError, ProcessHost, Registry};

const IN: Hosting = Hosting::InProcess;
/// Says to this program that it is the one whose dynamic linker will hang.
const CHILD: &str = "SWITCHYARD_TEST_HANGS";

fn short() -> Registry {
    let host = ProcessHost { deadline: Duration::from_millis(20), ..ProcessHost::default() };
    Registry::new(vec![built()]).with_process_host(host)
}

#[test]
fn a_create_that_hangs_is_given_up_and_not_repeated_for_ever() {
    let Some((_dir, file)) = faulty(&["CREATE_HANGS"]) else { return };
    let (registry, file) = (short(), file.to_str().unwrap());
    let error = std::iter::from_fn(|| registry.open(file, &Options::new(), IN).err());
    let errors: Vec<OpenError> = error.take(40).collect();
    let [first, .., last] = &errors[..] else { panic!("{errors:?}") };
    assert_eq!((first.reason(), last.reason()), ("PluginHung", "PluginHung"));
    assert!(first.to_string().ends_with("create has not returned within 0 s"), "{first}");
    assert!(last.to_string().contains("16 calls have not returned from its code"), "{last}");
    support::registry().open("kubenet", &Options::new(), IN).unwrap().node(&facts(), &node(1)).unwrap();
}

#[test]
fn constructors_that_hang_are_told_at_once_and_processes_go_on() {
    let Some((_dir, file)) = faulty(&["CONSTRUCTOR_HANGS"]) else { return };
    if std::env::var_os(CHILD).is_none() {
        // The dynamic linker of the process that opens this is lost, also for its own end.
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "--nocapture", "constructors_that_hang_are_told_at_once_and_processes_go_on"]);
        let output = child.env(CHILD, "").output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(told.contains("all went well"), "{told}");
        return;
    }
    let short = short();
    let error = short.open(file.to_str().unwrap(), &Options::new(), IN).err().unwrap();
    assert!(error.to_string().ends_with("its constructors have not returned within 0 s"), "{error}");
    let error = short.open("none", &Options::new(), IN).err().unwrap();
    assert!(matches!(error, OpenError::Stuck { .. }), "{error}");
    assert!(error.to_string().ends_with("restart this process, or use hosting: process"), "{error}");
    let host = ProcessHost { program: env!("CARGO_BIN_EXE_yard-plugin-host").into(), ..ProcessHost::default() };
    let host = ProcessHost { arguments: Vec::new(), deadline: Duration::from_secs(60), ..host };
    let outside = Registry::new(vec![built()]).with_process_host(host).open("none", &Options::new(), Hosting::Process);
    outside.unwrap().node(&facts(), &node(1)).unwrap();
    println!("all went well");
    std::process::abort();
}
