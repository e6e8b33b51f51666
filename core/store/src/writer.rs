//! The one thread that writes.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::bounds::MOST_BYTES;
use crate::disk::Disk;
use crate::state::Shared;
use crate::{Change, Durability, Entry, Error, Event, Expect};

/// Proposals in flight; more of them wait their turn.
const IN_FLIGHT: usize = 4096;
/// Proposals decided and committed together at most.
const BATCH: usize = 512;
/// How long relaxed writes may stay off the disk.
const RELAXED_DELAY: Duration = Duration::from_millis(100);
/// How many of them; also how far revisions jump at a start, so that none is ever given twice.
pub(crate) const RELAXED_MOST: usize = 1000;

/// Handle to the thread.
#[derive(Clone)]
pub(crate) struct Writer {
    sender: Arc<Mutex<Option<Sender<Job>>>>,
    in_flight: Arc<Semaphore>,
}

enum Job {
    Write(Proposal),
    Close(oneshot::Sender<()>),
}

struct Proposal {
    key: Arc<str>,
    value: Option<Value>,
    expect: Expect,
    durability: Durability,
    answer: oneshot::Sender<Result<Arc<Entry>, Error>>,
    _permit: OwnedSemaphorePermit,
}

struct Thread {
    shared: Arc<Shared>,
    disk: Option<Disk>,
    index: fn(&str, &Value) -> Option<Arc<str>>,
    revision: u64,
    /// Published, but not yet on disk.
    relaxed: Vec<Arc<Event>>,
    relaxed_since: Option<Instant>,
}

// === impl Writer ===

impl Writer {
    pub(crate) fn start(
        shared: Arc<Shared>,
        disk: Option<Disk>,
        index: fn(&str, &Value) -> Option<Arc<str>>,
    ) -> Result<Self, Error> {
        let (sender, receiver) = channel();
        let revision = shared.revision();
        let thread = Thread { shared, disk, index, revision, relaxed: Vec::new(), relaxed_since: None };
        std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || thread.run(receiver))
            .map_err(|error| Error::Disk(format!("start the writer thread: {error}")))?;
        Ok(Self { sender: Arc::new(Mutex::new(Some(sender))), in_flight: Arc::new(Semaphore::new(IN_FLIGHT)) })
    }

    pub(crate) async fn submit(
        &self,
        key: &str,
        value: Option<Value>,
        expect: Expect,
        durability: Durability,
    ) -> Result<Arc<Entry>, Error> {
        let permit = self.in_flight.clone().acquire_owned().await.map_err(|_| Error::Closed)?;
        let (answer, wait) = oneshot::channel();
        self.send(Job::Write(Proposal { key: key.into(), value, expect, durability, answer, _permit: permit }))?;
        wait.await.map_err(|_| Error::Closed)?
    }

    pub(crate) async fn close(&self) {
        let (done, wait) = oneshot::channel();
        if self.send(Job::Close(done)).is_ok() {
            self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
            wait.await.ok();
        }
    }

    fn send(&self, job: Job) -> Result<(), Error> {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        sender.as_ref().ok_or(Error::Closed)?.send(job).map_err(|_| Error::Closed)
    }
}

// === impl Thread ===

impl Thread {
    fn run(mut self, jobs: Receiver<Job>) {
        let mut closing = None;
        while closing.is_none() {
            let first = match self.relaxed_since {
                None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(since) => jobs.recv_timeout(RELAXED_DELAY.saturating_sub(since.elapsed())),
            };
            let mut batch = Vec::new();
            match first {
                Ok(Job::Write(proposal)) => batch.push(proposal),
                Ok(Job::Close(done)) => closing = Some(done),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            while closing.is_none() && batch.len() < BATCH {
                match jobs.try_recv() {
                    Ok(Job::Write(proposal)) => batch.push(proposal),
                    Ok(Job::Close(done)) => closing = Some(done),
                    Err(_) => break,
                }
            }
            self.process(batch);
        }
        self.flush();
        // The file is closed before the answer, so that it may be opened again.
        drop(self);
        if let Some(done) = closing {
            done.send(()).ok();
        }
    }

    fn process(&mut self, batch: Vec<Proposal>) {
        let mut pending: HashMap<Arc<str>, Option<Arc<Entry>>> = HashMap::new();
        let mut events = Vec::with_capacity(batch.len());
        let mut accepted = Vec::with_capacity(batch.len());
        let mut strict = false;
        let before = self.revision;
        for proposal in batch {
            let current = match pending.get(&proposal.key) {
                Some(entry) => entry.clone(),
                None => self.shared.get(&proposal.key),
            };
            if let Err(error) = check(&proposal.key, current.as_deref(), proposal.expect) {
                proposal.answer.send(Err(error)).ok();
                continue;
            }
            let (change, value) = match (proposal.value, &current) {
                (Some(value), None) => (Change::Created, value),
                (Some(value), Some(_)) => (Change::Updated, value),
                (None, Some(current)) => (Change::Deleted, current.value.clone()),
                (None, None) => unreachable!("a removal expects its key to be present"),
            };
            let entry = Arc::new(Entry::new(proposal.key.clone(), value, self.revision + 1, self.index));
            // What is there already may go, whatever its length.
            if change != Change::Deleted && entry.json.len() > MOST_BYTES {
                let (key, bytes) = (proposal.key.to_string(), entry.json.len());
                proposal.answer.send(Err(Error::TooLarge { key, bytes })).ok();
                continue;
            }
            strict |= proposal.durability == Durability::Strict;
            self.revision += 1;
            pending.insert(proposal.key, (change != Change::Deleted).then(|| entry.clone()));
            events.push(Arc::new(Event::new(change, entry.clone(), current)));
            accepted.push((proposal.answer, entry, proposal._permit));
        }
        let relaxed_is_due = self.relaxed_since.is_some_and(|since| since.elapsed() >= RELAXED_DELAY)
            || self.relaxed.len() + events.len() > RELAXED_MOST;
        if let Some(disk) = &mut self.disk {
            if strict || relaxed_is_due {
                if let Err(error) = disk.commit(self.relaxed.iter().chain(&events), self.revision) {
                    tracing::error!(%error, "store file: commit failed");
                    self.revision = before;
                    for (answer, ..) in accepted {
                        answer.send(Err(Error::Disk(error.to_string()))).ok();
                    }
                    return;
                }
                self.relaxed.clear();
                self.relaxed_since = None;
            } else if !events.is_empty() {
                self.relaxed.extend(events.iter().cloned());
                self.relaxed_since.get_or_insert_with(Instant::now);
            }
        }
        if !events.is_empty() {
            self.shared.publish(events);
        }
        for (answer, entry, _permit) in accepted {
            answer.send(Ok(entry)).ok();
        }
    }

    fn flush(&mut self) {
        if let Some(disk) = &mut self.disk
            && !self.relaxed.is_empty()
            && let Err(error) = disk.commit(self.relaxed.iter(), self.revision)
        {
            tracing::error!(%error, "store file: last commit failed");
        }
    }
}

fn check(key: &str, current: Option<&Entry>, expect: Expect) -> Result<(), Error> {
    match (current, expect) {
        (None, Expect::Absent) | (Some(_), Expect::Present) => Ok(()),
        (Some(_), Expect::Absent) => Err(Error::Exists(key.into())),
        (None, _) => Err(Error::NotFound(key.into())),
        (Some(entry), Expect::Revision(expected)) if entry.revision == expected => Ok(()),
        (Some(entry), Expect::Revision(expected)) => {
            Err(Error::Conflict { key: key.into(), expected, current: entry.revision })
        }
    }
}
