//! What a call costs. The limits are generous; the numbers are for the author.

use std::time::{Duration, Instant};

use crate::cluster;
use crate::subject::{Checked, Subject, answer, fail, optional};

/// So many pods are asked about.
const CALLS: u32 = 200;
/// A call on the way of every pod's start, round trip to the plugin's process included.
const LONGEST: Duration = Duration::from_millis(50);
/// Answers about one pod or peer, and about a node, in bytes.
const LARGEST: usize = 64 << 10;
const LARGEST_NODE: usize = 1 << 20;

pub(super) fn time(subject: &Subject) -> Checked {
    let mut bare = subject.bare()?;
    let (facts, node) = (cluster::facts(), cluster::node(1));
    let ask = |bare: &mut switchyard_plugin_host::bare::Bare, number: u32| {
        let pod = cluster::pod(&format!("pod-{number}"), cluster::ip(&format!("10.40.1.{}", 2 + number % 250)));
        answer("pod", bare.ask("pod", &cluster::input(&facts, &node, None, Some(&pod))))
    };
    ask(&mut bare, 0)?;
    let began = Instant::now();
    for number in 0..CALLS {
        ask(&mut bare, number)?;
        // Slow enough to be sure of it without waiting for the rest.
        if began.elapsed() > LONGEST * CALLS {
            return Err(fail(format!("{} calls of pod took more than {} ms each", number + 1, LONGEST.as_millis())));
        }
    }
    Ok(format!("{} µs a call of pod, in a process of its own", (began.elapsed() / CALLS).as_micros()))
}

pub(super) fn size(subject: &Subject) -> Checked {
    let mut bare = subject.bare()?;
    let mut seen = Vec::new();
    for (operation, input) in subject.questions() {
        let Some(bytes) = optional(operation, bare.ask(operation, &input))? else { continue };
        let limit = if operation == "node" { LARGEST_NODE } else { LARGEST };
        if bytes.len() > limit {
            return Err(fail(format!("{operation}: {} bytes, at most {limit} are sensible", bytes.len())));
        }
        seen.push(format!("{operation} {}", bytes.len()));
    }
    Ok(format!("bytes: {}", seen.join(", ")))
}
