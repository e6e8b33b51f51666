//! The one thread that writes.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

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
    alive: watch::Receiver<()>,
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
    _alive: watch::Sender<()>,
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
        let (_alive, alive) = watch::channel(());
        let thread = Thread { shared, disk, index, revision, relaxed: Vec::new(), relaxed_since: None, _alive };
        std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || thread.run(receiver))
            .map_err(|error| Error::Disk(format!("start the writer thread: {error}")))?;
        let (sender, in_flight) = (Arc::new(Mutex::new(Some(sender))), Arc::new(Semaphore::new(IN_FLIGHT)));
        Ok(Self { sender, in_flight, alive })
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

    /// Returns once the thread has ended.
    pub(crate) async fn ended(&self) {
        let mut alive = self.alive.clone();
        while alive.changed().await.is_ok() {}
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
            if let Err(error) = self.process(batch) {
                // What the file has now is not known, nor does it take anything more until it is opened again.
                tracing::error!(%error, "store file: commit failed; nothing is written any more");
                return;
            }
        }
        self.flush();
        // The file is closed before the answer, so that it may be opened again.
        drop(self);
        if let Some(done) = closing {
            done.send(()).ok();
        }
    }

    /// An error is the file's, and the end.
    fn process(&mut self, batch: Vec<Proposal>) -> Result<(), Error> {
        let mut pending: HashMap<Arc<str>, Option<Arc<Entry>>> = HashMap::new();
        let mut events = Vec::with_capacity(batch.len());
        let mut accepted = Vec::with_capacity(batch.len());
        let mut strict = false;
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
                    for (answer, ..) in accepted {
                        answer.send(Err(error.clone())).ok();
                    }
                    return Err(error);
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
        Ok(())
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

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicBool, Ordering};

    use redb::StorageBackend;
    use redb::backends::InMemoryBackend;
    use serde_json::json;

    use super::*;
    use crate::Options;

    /// A disk that is full when told so.
    #[derive(Debug)]
    struct Full {
        inner: InMemoryBackend,
        full: Arc<AtomicBool>,
    }

    impl Full {
        fn check(&self) -> io::Result<()> {
            if self.full.load(Ordering::Relaxed) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        }
    }

    impl StorageBackend for Full {
        fn len(&self) -> io::Result<u64> {
            self.inner.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.inner.read(offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.check().and_then(|()| self.inner.set_len(len))
        }

        fn sync_data(&self) -> io::Result<()> {
            self.check().and_then(|()| self.inner.sync_data())
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.check().and_then(|()| self.inner.write(offset, data))
        }
    }

    #[tokio::test]
    async fn after_a_failed_commit_nothing_is_accepted_any_more() {
        for durability in [Durability::Strict, Durability::Relaxed] {
            let full = Arc::new(AtomicBool::new(false));
            let disk = Disk::on(Full { inner: InMemoryBackend::new(), full: full.clone() });
            let shared = Arc::new(Shared::new(&Options::default()));
            let writer = Writer::start(shared, Some(disk), |_, _| None).expect("a writer");
            let put = |key| writer.submit(key, Some(json!({})), Expect::Absent, durability);
            put("a/1").await.expect("there is room");
            full.store(true, Ordering::Relaxed);
            // One that may be late is taken, and fails later.
            assert_eq!(put("a/2").await.is_ok(), durability == Durability::Relaxed);
            writer.ended().await;
            assert!(matches!(put("a/3").await, Err(Error::Closed)));
        }
    }
}
