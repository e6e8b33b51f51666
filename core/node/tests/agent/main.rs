//! An agent against the real API server, in namespaces of its own, without root.
//!
//! The program runs itself in several roles, by its first argument or its name: the runner, one scenario in fresh namespaces, the
//! agent (so that it can be killed), the pause process, a container that serves HTTP.

mod rig;
mod scenarios;

use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let called = arguments[0].rsplit('/').next().unwrap_or_default();
    match (called, arguments.get(1).map(String::as_str)) {
        ("yard-pause", _) => return switchyard_pause::run(),
        ("yard-echo", port) => rig::serve(port.unwrap_or("--port=80")),
        (_, Some("--agent")) => rig::agent(&arguments[2]),
        (_, Some("--scenario")) => return scenarios::run(&arguments[2]),
        (_, Some("--list")) => {
            for (name, _) in scenarios::ALL {
                println!("{name}: test");
            }
        }
        (_, filter) => return all(filter.filter(|filter| !filter.starts_with('-')).unwrap_or_default()),
    }
    ExitCode::SUCCESS
}

/// Runs the scenarios whose names hold `filter`, each in namespaces of its own, all at the same time.
fn all(filter: &str) -> ExitCode {
    let own = std::env::current_exe().expect("the program's own path");
    let start = |name: &&str| {
        Command::new("unshare")
            .args(["--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .arg(&own)
            .args(["--scenario", name])
            .spawn()
            .expect("unshare(1) of util-linux")
    };
    let names: Vec<_> = scenarios::ALL.iter().map(|(name, _)| *name).filter(|name| name.contains(filter)).collect();
    let running: Vec<_> = names.iter().map(|name| (*name, start(name))).collect();
    let (mut passed, mut failed) = (0, 0);
    for (name, mut scenario) in running {
        let good = scenario.wait().is_ok_and(|status| status.success());
        println!("test {name} ... {}", if good { "ok" } else { "FAILED" });
        *if good { &mut passed } else { &mut failed } += 1;
    }
    println!("\ntest result: {}. {passed} passed; {failed} failed", if failed == 0 { "ok" } else { "FAILED" });
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
