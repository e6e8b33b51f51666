//! Instances that come and go, and calls at the same time.

use switchyard_plugin::abi;
use switchyard_plugin_host::bare::{Bare, Reply};

use super::purity::count;
use crate::subject::{Checked, Subject, answer, fail, optional, said, skip};

/// So many instances are made.
const INSTANCES: usize = 300;
/// So much may a process grow by them, in KiB: 16 an instance is much.
const GROWTH: u64 = 300 * 16;

pub(super) fn many(subject: &Subject) -> Checked {
    let mut bare = subject.bare()?;
    let options = subject.options();
    let (operation, input) = &subject.questions()[1];
    let round = |bare: &mut Bare| {
        answer("create", bare.create(&options))?;
        answer(operation, bare.ask(operation, input))
    };
    let first = round(&mut bare)?;
    for _ in 0..20 {
        round(&mut bare)?;
    }
    let (memory, descriptors) = (resident(&bare)?, count(&bare, "fd")?);
    for number in 0..INSTANCES {
        if round(&mut bare)? != first {
            return Err(fail(format!("instance {number} answers differently from the first")));
        }
    }
    let grown = resident(&bare)?.saturating_sub(memory);
    if grown > GROWTH {
        return Err(fail(format!("{INSTANCES} instances made and destroyed cost {grown} KiB that did not come back")));
    }
    let more = count(&bare, "fd")?.saturating_sub(descriptors);
    if more > 0 {
        return Err(fail(format!("{INSTANCES} instances made and destroyed left {more} descriptors open")));
    }
    Ok(format!("{INSTANCES} instances, {grown} KiB"))
}

pub(super) fn concurrent(subject: &Subject) -> Checked {
    if !subject.is_library() {
        return Err(skip("a program is asked one thing after the other"));
    }
    let mut bare = subject.bare()?;
    for (operation, input) in subject.questions() {
        let Some(alone) = optional(operation, bare.ask(operation, &input))? else { continue };
        match bare.concurrent(operation, &input) {
            Reply::Answer(together) if together == alone => {}
            Reply::Answer(_) => {
                return Err(fail(format!("{operation}: answers differently when asked by several threads")));
            }
            Reply::Status(abi::FAILED, why) => return Err(fail(format!("{operation}: {why}"))),
            other => return Err(fail(format!("{operation}, asked by several threads: {}", said(&other)))),
        }
    }
    Ok(String::new())
}

/// Resident memory of the process in KiB.
fn resident(bare: &Bare) -> Result<u64, crate::Outcome> {
    let path = format!("/proc/{}/status", bare.pid());
    let text = std::fs::read_to_string(&path).map_err(|error| fail(format!("look at {path}: {error}")))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| fail(format!("{path} says nothing of memory")))
}
