//! Watches: who waits for which keys, and the bounded queue of each.
//!
//! An event finds its watches by hash, one look-up for each `/`-bounded prefix of its key, and within a prefix by index word. A
//! thousand pods on twenty nodes wake the twenty agents a thousand times in all, not twenty thousand times.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::state::Shared;
use crate::{Entry, Event};

/// An open watch: ordered, each event once, resumable from the revision of the last event.
pub struct Watch {
    watcher: Arc<Watcher>,
    shared: Arc<Shared>,
}

/// The watch was too slow and lost events: list anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the watch lagged behind and was closed")]
pub struct Lagged;

/// All open watches.
#[derive(Default)]
pub(crate) struct Hub {
    prefixes: HashMap<Box<str>, Group>,
    count: usize,
    next: u64,
}

#[derive(Default)]
struct Group {
    all: Vec<Arc<Watcher>>,
    indexed: HashMap<Box<str>, Vec<Arc<Watcher>>>,
}

struct Watcher {
    id: u64,
    prefix: Box<str>,
    index: Option<Box<str>>,
    limit: Limit,
    queue: Mutex<Queue>,
    wake: Notify,
}

#[derive(Default)]
struct Queue {
    events: VecDeque<Arc<Event>>,
    /// Of the events' encoded values.
    bytes: usize,
    lagged: bool,
}

/// What may wait in a queue.
#[derive(Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

// === impl Watch ===

impl Watch {
    /// Waits for events and takes up to `limit` of those that are there. Cancel safe.
    pub async fn next(&mut self, limit: usize) -> Result<Vec<Arc<Event>>, Lagged> {
        loop {
            let notified = self.watcher.wake.notified();
            {
                let mut queue = self.watcher.queue();
                if queue.lagged {
                    return Err(Lagged);
                }
                if !queue.events.is_empty() {
                    return Ok(queue.take(limit.max(1)));
                }
            }
            notified.await;
        }
    }

    /// The store's revision, if this watch has delivered everything up to it: what a bookmark may promise.
    pub fn progress(&self) -> Option<u64> {
        let _hub = self.shared.hub();
        let queue = self.watcher.queue();
        (queue.events.is_empty() && !queue.lagged).then(|| self.shared.revision())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.hub().close(&self.watcher);
    }
}

// === impl Hub ===

impl Hub {
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn open(
        &mut self,
        shared: Arc<Shared>,
        prefix: &str,
        index: Option<&str>,
        replay: impl Iterator<Item = Arc<Event>>,
        limit: Limit,
    ) -> Watch {
        self.next += 1;
        let mut watcher = Watcher {
            id: self.next,
            prefix: prefix.into(),
            index: index.map(Into::into),
            limit,
            queue: Mutex::default(),
            wake: Notify::new(),
        };
        // Replay may exceed the limit: it is in the ring anyway.
        let events: VecDeque<_> = replay.filter(|event| watcher.wants(event)).collect();
        let bytes = events.iter().map(|event| event.entry.json.len()).sum();
        watcher.limit = Limit {
            events: limit.events.max(events.len() + limit.events / 2),
            bytes: limit.bytes.max(bytes + limit.bytes / 2),
        };
        watcher.queue = Mutex::new(Queue { events, bytes, lagged: false });
        let watcher = Arc::new(watcher);
        let group = self.prefixes.entry(prefix.into()).or_default();
        match index {
            None => group.all.push(watcher.clone()),
            Some(index) => group.indexed.entry(index.into()).or_default().push(watcher.clone()),
        }
        self.count += 1;
        Watch { watcher, shared }
    }

    pub(crate) fn dispatch(&mut self, events: &[Arc<Event>]) {
        if self.count == 0 {
            return;
        }
        for event in events {
            let key: &str = &event.entry.key;
            for (at, _) in key.match_indices('/') {
                self.dispatch_prefix(&key[..=at], event);
            }
            self.dispatch_prefix("", event);
            self.dispatch_prefix(key, event);
        }
    }

    fn dispatch_prefix(&self, prefix: &str, event: &Arc<Event>) {
        let Some(group) = self.prefixes.get(prefix) else { return };
        for watcher in &group.all {
            watcher.push(event);
        }
        if group.indexed.is_empty() {
            return;
        }
        let now = event.entry.index.as_deref();
        let before =
            event.previous.as_deref().and_then(|entry| entry.index.as_deref()).filter(|word| Some(*word) != now);
        for word in [now, before].into_iter().flatten() {
            for watcher in group.indexed.get(word).into_iter().flatten() {
                watcher.push(event);
            }
        }
    }

    fn close(&mut self, watcher: &Watcher) {
        let Some(group) = self.prefixes.get_mut(&watcher.prefix) else { return };
        match &watcher.index {
            None => group.all.retain(|other| other.id != watcher.id),
            Some(index) => {
                if let Some(list) = group.indexed.get_mut(index) {
                    list.retain(|other| other.id != watcher.id);
                    if list.is_empty() {
                        group.indexed.remove(index);
                    }
                }
            }
        }
        if group.all.is_empty() && group.indexed.is_empty() {
            self.prefixes.remove(&watcher.prefix);
        }
        self.count -= 1;
    }
}

// === impl Watcher ===

impl Watcher {
    fn wants(&self, event: &Event) -> bool {
        let key: &str = &event.entry.key;
        let prefix: &str = &self.prefix;
        let under = key == prefix || ((prefix.is_empty() || prefix.ends_with('/')) && key.starts_with(prefix));
        let has = |entry: &Entry| entry.index.as_deref() == self.index.as_deref();
        under && (self.index.is_none() || has(&event.entry) || event.previous.as_deref().is_some_and(has))
    }

    fn push(&self, event: &Arc<Event>) {
        let mut queue = self.queue();
        if queue.lagged {
            return;
        }
        let bytes = queue.bytes + event.entry.json.len();
        // One event may always wait, however long it is.
        if queue.events.len() >= self.limit.events || !queue.events.is_empty() && bytes > self.limit.bytes {
            *queue = Queue { lagged: true, ..Queue::default() };
        } else {
            queue.events.push_back(event.clone());
            queue.bytes = bytes;
        }
        drop(queue);
        self.wake.notify_one();
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Queue ===

impl Queue {
    fn take(&mut self, count: usize) -> Vec<Arc<Event>> {
        let count = count.min(self.events.len());
        let events: Vec<_> = self.events.drain(..count).collect();
        self.bytes -= events.iter().map(|event| event.entry.json.len()).sum::<usize>();
        events
    }
}
