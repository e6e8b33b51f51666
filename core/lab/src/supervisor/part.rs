//! One part of a cluster: a process that has to run.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use switchyard_netstate::Place;

use crate::boot::SELF;
use crate::channel::Channel;
use crate::control::ProcessStatus;
use crate::handover::Handover;
use crate::home::Directory;
use crate::namespaces;

/// What to run, and where.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its name; its log is `D/log/NAME.log`.
    pub name: String,
    /// The namespace it lives in.
    pub place: Place,
    /// Arguments of `yard`.
    pub arguments: Vec<OsString>,
    /// More of them, for the first start only.
    pub first_arguments: Vec<OsString>,
    /// Descriptors it gets on standard input, each time it starts: listeners, and the lock if it has to be gone before another life of
    /// the cluster begins.
    pub listeners: Vec<String>,
    /// It starts others, so it has to be gone before they are asked to end.
    pub leaves_first: bool,
}

/// A part and its process.
#[derive(Debug)]
pub(super) struct Running {
    part: Part,
    pid: Option<i32>,
    since: Instant,
    /// How long it ran, the last time that it ended.
    lived: Duration,
    /// Ends in a row, each soon after the start.
    failures: u32,
    restarts: u32,
    last_exit: Option<String>,
}

/// A part that lived this long was well.
const WELL: Duration = Duration::from_secs(10);
/// Longest time from one start to the next.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

// === impl Running ===

impl Running {
    pub(super) fn new(part: Part) -> Self {
        Self {
            part,
            pid: None,
            since: Instant::now(),
            lived: Duration::ZERO,
            failures: 0,
            restarts: 0,
            last_exit: None,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.part.name
    }

    pub(super) fn leaves_first(&self) -> bool {
        self.part.leaves_first
    }

    pub(super) fn pid(&self) -> Option<i32> {
        self.pid
    }

    pub(super) fn start(&mut self, directory: &Directory, handover: &Handover) -> io::Result<()> {
        let log = File::options().create(true).append(true).open(directory.log_of(&self.part.name))?;
        let mut command = Command::new(SELF);
        command.arg0("yard").args(&self.part.arguments).stdout(log.try_clone()?).stderr(log).stdin(Stdio::null());
        if self.restarts == 0 {
            command.args(&self.part.first_arguments);
        }
        let (ours, theirs) = Channel::pair()?;
        if !self.part.listeners.is_empty() {
            handover.send(&self.part.listeners, &ours)?;
            command.stdin(Stdio::from(OwnedFd::from(theirs)));
        }
        self.since = Instant::now();
        self.pid = Some(spawn_in(directory, &self.part.place, command)?);
        Ok(())
    }

    pub(super) fn note_exit(&mut self, how: String) {
        self.lived = self.since.elapsed();
        self.failures = if self.lived > WELL { 1 } else { self.failures + 1 };
        self.restarts += 1;
        self.pid = None;
        self.last_exit = Some(how);
    }

    pub(super) fn note_failure(&mut self, why: String) {
        self.lived = Duration::ZERO;
        self.failures += 1;
        self.pid = None;
        self.last_exit = Some(why);
    }

    /// How long to wait before the next start. From one start to the next: any time after the first end, then 0.2 s and twice as long
    /// each time.
    pub(super) fn pause(&self) -> Duration {
        let between = match self.failures {
            0 | 1 => Duration::ZERO,
            n => LONGEST_PAUSE.min(Duration::from_millis(100) * 2u32.saturating_pow(n - 1)),
        };
        between.saturating_sub(self.lived)
    }

    pub(super) fn status(&self) -> ProcessStatus {
        ProcessStatus {
            name: self.part.name.clone(),
            place: self.part.place.clone(),
            pid: self.pid.map(|pid| pid as u32),
            host_pid: None,
            restarts: self.restarts,
            last_exit: self.last_exit.clone(),
        }
    }
}

/// Starts a command in the namespace of a place. The supervisor reaps all its children itself, so only the process id is kept.
pub(crate) fn spawn_in(directory: &Directory, place: &Place, mut command: Command) -> io::Result<i32> {
    let child = namespaces::inside(&directory.netns_of(place), move || command.spawn()).map_err(io::Error::other)??;
    Ok(child.id() as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_forgiven() {
        let part = Part {
            name: "p".into(),
            place: Place::Router,
            arguments: vec![],
            first_arguments: vec![],
            listeners: vec![],
            leaves_first: false,
        };
        let mut running = Running::new(part);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            running.note_exit("exit code 1".into());
            pauses.push((running.pause() + running.lived).as_millis());
        }
        assert_eq!(pauses[1..], [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        running.since = Instant::now() - WELL / 2;
        running.note_exit("SIGKILL".into());
        assert!(running.pause() <= LONGEST_PAUSE - WELL / 2, "the time it lived counts");
        running.since = Instant::now() - WELL - WELL;
        running.note_exit("SIGKILL".into());
        assert_eq!(running.pause(), Duration::ZERO);
    }
}
