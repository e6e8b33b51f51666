//! Events of the API, each with the moment at which it arrived.

use std::io::BufReader;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::Yard;
use crate::gauge::now;
use crate::load::LIMIT;

/// All changes of a kind, until dropped.
pub(crate) struct Watch {
    kind: &'static str,
    child: Child,
    events: Receiver<Event>,
}

/// An object as it was after a change, or, if that took it away, before.
#[derive(Debug)]
pub(crate) struct Event {
    /// Nanoseconds of the monotonic clock.
    pub(crate) at: u64,
    pub(crate) object: Value,
}

// === impl Watch ===

impl Watch {
    /// Begins with what is there now.
    pub(crate) fn start(yard: &Yard, kind: &'static str) -> anyhow::Result<Self> {
        let mut command = yard.command(&["get", kind, "--watch", "-o", "json"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("start yard get")?;
        let out = child.stdout.take().context("yard's output")?;
        let (sender, events) = channel();
        std::thread::spawn(move || {
            let documents = serde_json::Deserializer::from_reader(BufReader::new(out)).into_iter::<Value>();
            for object in documents.map_while(Result::ok) {
                if sender.send(Event { at: now(), object }).is_err() {
                    break;
                }
            }
        });
        let watch = Self { kind, child, events };
        watch.next(Instant::now() + LIMIT).with_context(|| format!("list {kind}"))?;
        Ok(watch)
    }

    /// Waits for an event of an object that says something.
    pub(crate) fn until<T>(
        &self,
        name: &str,
        what: &str,
        mut says: impl FnMut(&Event) -> Option<T>,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let event = self.next(deadline).with_context(|| format!("{} {name} is not {what}", self.kind))?;
            if event.object["metadata"]["name"] == name
                && let Some(found) = says(&event)
            {
                return Ok(found);
            }
        }
    }

    fn next(&self, deadline: Instant) -> anyhow::Result<Event> {
        match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(event) => Ok(event),
            Err(RecvTimeoutError::Timeout) => bail!("nothing was heard of it for {} s", LIMIT.as_secs()),
            Err(RecvTimeoutError::Disconnected) => bail!("the watch has ended"),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
