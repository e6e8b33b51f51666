//! Runs the checks.

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::sched::{CloneFlags, unshare};
use switchyard_plugin::Options;
use switchyard_plugin_host::ProcessHost;
use switchyard_plugin_host::bare::Prepared;

use crate::checks::CHECKS;
use crate::report::{Outcome, Report, Verdict};
use crate::subject::Subject;

/// What to check, and how.
#[derive(Clone, Debug)]
pub struct Request {
    /// The plugin's file.
    pub file: PathBuf,
    /// Options that it is to have throughout.
    pub options: Options,
    /// Only checks of these groups or names; all if empty.
    pub only: Vec<String>,
    /// How to run it in a process. Its deadline is also how long a packet may take.
    pub host: ProcessHost,
}

/// Why nothing was checked.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no such check.
    #[error("there is no check or group {given:?}; groups are {}", groups())]
    Unknown {
        /// What was asked for.
        given: String,
    },
}

/// Leaves for a network namespace, and a user namespace if that needs one. The process must have one thread, and stays there.
pub fn enter() -> Result<(), String> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |errno: nix::errno::Errno| format!("{what}: {errno}; `yard doctor` says how to allow it")
    };
    // Whoever may make namespaces as they are does so; everybody else becomes root of a user namespace first.
    if unshare(CloneFlags::CLONE_NEWNET).is_ok() {
        return Ok(());
    }
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    unshare(CloneFlags::CLONE_NEWUSER).map_err(failed("make a user namespace"))?;
    // A group may only be mapped by somebody who cannot drop groups any more (user_namespaces(7)).
    for (file, text) in
        [("setgroups", "deny".into()), ("uid_map", format!("0 {uid} 1")), ("gid_map", format!("0 {gid} 1"))]
    {
        fs::write(Path::new("/proc/self").join(file), text).map_err(|error| format!("write {file}: {error}"))?;
    }
    unshare(CloneFlags::CLONE_NEWNET).map_err(failed("make a network namespace"))
}

/// Runs the checks. `lab` says whether this process may make network namespaces, as [`enter`] found it.
pub fn run(request: &Request, lab: Result<(), String>) -> Result<Report, RunError> {
    for given in &request.only {
        if !CHECKS.iter().any(|check| chosen(given, check.name)) {
            return Err(RunError::Unknown { given: given.clone() });
        }
    }
    let file = request.file.display().to_string();
    // A name without a folder would be looked for on a search path.
    let path =
        if request.file.components().count() == 1 { Path::new(".").join(&request.file) } else { request.file.clone() };
    let prepared = match Prepared::read(&path) {
        Ok(prepared) => prepared,
        Err(error) => {
            let check = &CHECKS[0];
            let outcome = Outcome::Fail(error.to_string());
            let verdict = verdict(check, outcome, Instant::now());
            return Ok(Report { file, plugin: "no plugin".into(), checks: vec![verdict] });
        }
    };
    let plugin = format!("{} {}", prepared.inspected().manifest.name, prepared.inspected().manifest.version);
    let subject = Subject {
        file: path,
        prepared,
        options: request.options.clone(),
        host: request.host.clone(),
        plugin: OnceCell::new(),
        world: OnceCell::new(),
        lab,
    };
    let mut checks = Vec::new();
    for check in CHECKS {
        let wanted = request.only.is_empty() || request.only.iter().any(|given| chosen(given, check.name));
        if !wanted {
            continue;
        }
        let began = Instant::now();
        let outcome = match (check.look)(&subject) {
            Ok(seen) => Outcome::Pass(seen),
            Err(outcome) => outcome,
        };
        let useless = checks.is_empty() && matches!(outcome, Outcome::Fail(_));
        checks.push(verdict(check, outcome, began));
        // A plugin that does not even start breaks every other promise as well.
        if useless && check.name == CHECKS[0].name {
            break;
        }
    }
    Ok(Report { file, plugin, checks })
}

fn verdict(check: &crate::Check, outcome: Outcome, began: Instant) -> Verdict {
    let advice = matches!(outcome, Outcome::Fail(_)).then_some(check.advice);
    Verdict { check: check.name, promise: check.promise, outcome, advice, seconds: began.elapsed() }
}

fn chosen(given: &str, name: &str) -> bool {
    name == given || name.split_once('/').is_some_and(|(group, _)| group == given)
}

fn groups() -> String {
    let mut groups: Vec<&str> = CHECKS.iter().filter_map(|check| Some(check.name.split_once('/')?.0)).collect();
    groups.dedup();
    groups.join(", ")
}
