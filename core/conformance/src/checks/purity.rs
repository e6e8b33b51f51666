//! A pure function: nothing but the question decides the answer, and nothing but the answer comes of it.

use std::collections::BTreeMap;

use switchyard_plugin::abi;
use switchyard_plugin_host::bare::{Bare, Reply};

use crate::cluster;
use crate::subject::{Checked, Subject, answer, fail, optional, said, skip};

type Answers = BTreeMap<(&'static str, &'static str), Vec<u8>>;

/// So often is each question repeated.
const TIMES: usize = 20;

pub(super) fn repeated(subject: &Subject) -> Checked {
    let mut bare = subject.bare()?;
    for (operation, input) in subject.questions() {
        let Some(first) = optional(operation, bare.ask(operation, &input))? else { continue };
        for _ in 1..TIMES {
            let again = answer(operation, bare.ask(operation, &input))?;
            if again != first {
                return Err(fail(format!("{operation}: {}", difference(&first, &again))));
            }
        }
    }
    Ok(String::new())
}

pub(super) fn order(subject: &Subject) -> Checked {
    let pods = ["a", "b", "c", "d"];
    let forwards = ask_all(&mut subject.bare()?, pods.into_iter())?;
    let backwards = ask_all(&mut subject.bare()?, pods.into_iter().rev())?;
    same(&forwards, &backwards, "when it was asked about other pods before")
}

pub(super) fn surroundings(subject: &Subject) -> Checked {
    let here = ask_all(&mut subject.bare()?, ["a"].into_iter())?;
    let noise = [
        ("TZ", "Asia/Kathmandu"),
        ("LANG", "de_DE.UTF-8"),
        ("LC_ALL", "C"),
        ("HOME", "/nowhere"),
        ("USER", "nobody"),
        ("HOSTNAME", "elsewhere"),
        ("SWITCHYARD_HOME", "/nowhere"),
        ("MTU", "9000"),
        ("DEBUG", "1"),
    ];
    let there = ask_all(&mut subject.bare_in(&noise)?, ["a"].into_iter())?;
    same(&here, &there, "in another process and environment")
}

pub(super) fn system_calls(subject: &Subject) -> Checked {
    if !subject.is_library() {
        return Err(skip("a program may need system calls of its own; that it leaves nothing behind is looked at"));
    }
    let mut bare = subject.bare()?;
    answer("confine", bare.confine())?;
    for (operation, input) in subject.questions() {
        match bare.ask(operation, &input) {
            Reply::SystemCall(name) => return Err(fail(format!("{operation}: it made the system call {name}"))),
            other => drop(optional(operation, other)?),
        }
    }
    Ok(String::new())
}

pub(super) fn leaves_nothing(subject: &Subject) -> Checked {
    let mut bare = subject.bare()?;
    // The first round may load what stays.
    let ask = |bare: &mut Bare| ask_all(bare, ["a", "b", "c"].into_iter()).map(drop);
    ask(&mut bare)?;
    let before = (count(&bare, "fd")?, count(&bare, "task")?);
    for _ in 0..TIMES {
        ask(&mut bare)?;
    }
    let after = (count(&bare, "fd")?, count(&bare, "task")?);
    match after == before {
        true => Ok(String::new()),
        false => Err(fail(format!(
            "after {TIMES} rounds of calls its process has {} open descriptors and {} threads, before it had {} and {}",
            after.0, after.1, before.0, before.1
        ))),
    }
}

/// How many entries a folder of the process has.
pub(super) fn count(bare: &Bare, folder: &str) -> Result<usize, crate::Outcome> {
    let path = format!("/proc/{}/{folder}", bare.pid());
    std::fs::read_dir(&path).map(Iterator::count).map_err(|error| fail(format!("look at {path}: {error}")))
}

fn ask_all(bare: &mut Bare, pods: impl Iterator<Item = &'static str>) -> Result<Answers, crate::Outcome> {
    let (facts, one, two) = (cluster::facts(), cluster::node(1), cluster::node(2));
    let mut answers = Answers::new();
    for pod in pods {
        let number = pod.as_bytes()[0] - b'a' + 5;
        let facts_of_pod = cluster::pod(pod, cluster::ip(&format!("10.40.1.{number}")));
        for (operation, input) in cluster::questions(&facts, &one, &two, &facts_of_pod) {
            match bare.ask(operation, &input) {
                Reply::Answer(bytes) => drop(answers.insert((operation, pod), bytes)),
                Reply::Status(abi::NOT_IMPLEMENTED, _) => {}
                other => return Err(fail(format!("{operation}: {}", said(&other)))),
            }
        }
    }
    Ok(answers)
}

fn same(one: &Answers, other: &Answers, when: &str) -> Checked {
    for (question, answer) in one {
        if other.get(question) != Some(answer) {
            let (operation, pod) = question;
            let other = other.get(question).map_or(&b""[..], |answer| answer);
            return Err(fail(format!("{operation}, pod {pod}: differs {when}: {}", difference(answer, other))));
        }
    }
    Ok(String::new())
}

/// Where two answers part.
fn difference(one: &[u8], other: &[u8]) -> String {
    let at = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    let near = |bytes: &[u8]| {
        let from = at.saturating_sub(30).min(bytes.len());
        String::from_utf8_lossy(&bytes[from..(at + 30).min(bytes.len())]).into_owned()
    };
    format!("at byte {at} once `{}`, once `{}`", near(one), near(other))
}
