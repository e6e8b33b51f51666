//! What readers see: the ordered map, the revision, and the ring of recent events.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::hub::{Hub, Limit, Watch};
use crate::{Change, Entry, Error, Event, Options};

/// The store's memory, shared by its handles, its watches and its writer.
///
/// Lock order: `hub`, then `state`. Whoever publishes holds `hub` throughout, so a watch that opens sees each event either in the
/// ring or in its queue, never in both or neither.
pub(crate) struct Shared {
    hub: Mutex<Hub>,
    state: RwLock<State>,
    revision: AtomicU64,
    history_events: usize,
    history_bytes: usize,
    watch_limit: Limit,
}

struct State {
    map: BTreeMap<Arc<str>, Arc<Entry>>,
    ring: VecDeque<Arc<Event>>,
    ring_bytes: usize,
    /// A watch may start from this revision or a later one.
    oldest: u64,
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            hub: Mutex::default(),
            state: RwLock::new(State { map: BTreeMap::new(), ring: VecDeque::new(), ring_bytes: 0, oldest: 0 }),
            revision: AtomicU64::new(0),
            history_events: options.history_events,
            history_bytes: options.history_bytes,
            watch_limit: Limit { events: options.watch_queue.max(1), bytes: options.watch_bytes },
        }
    }

    pub(crate) fn restore(&self, entries: Vec<Arc<Entry>>, revision: u64) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.map = entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        state.oldest = revision;
        self.revision.store(revision, Ordering::Release);
    }

    pub(crate) fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.read().map.get(key).cloned()
    }

    pub(crate) fn list(&self, prefix: &str) -> (Vec<Arc<Entry>>, u64) {
        let state = self.read();
        let entries = state
            .map
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(_, entry)| entry.clone())
            .collect();
        (entries, self.revision.load(Ordering::Acquire))
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    pub(crate) fn watches(&self) -> usize {
        self.hub().len()
    }

    /// Makes events visible, in order: map, ring, revision, then the watches' queues.
    pub(crate) fn publish(&self, events: Vec<Arc<Event>>) {
        let mut hub = self.hub();
        {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            for event in &events {
                match event.change {
                    Change::Deleted => state.map.remove(&event.entry.key),
                    _ => state.map.insert(event.entry.key.clone(), event.entry.clone()),
                };
                state.remember(event.clone(), self.history_events, self.history_bytes);
            }
            if let Some(last) = events.last() {
                self.revision.store(last.entry.revision, Ordering::Release);
            }
        }
        hub.dispatch(&events);
    }

    pub(crate) fn watch(self: &Arc<Self>, prefix: &str, index: Option<&str>, from: u64) -> Result<Watch, Error> {
        let mut hub = self.hub();
        let state = self.read();
        let current = self.revision.load(Ordering::Acquire);
        // A revision from the future was given by a store whose last writes were lost; its owner must list anew as well.
        if from < state.oldest || from > current {
            return Err(Error::Compacted { requested: from, oldest: state.oldest, current });
        }
        let first = state.ring.partition_point(|event| event.entry.revision <= from);
        let replay = state.ring.range(first..).cloned();
        Ok(hub.open(self.clone(), prefix, index, replay, self.watch_limit))
    }

    pub(crate) fn hub(&self) -> std::sync::MutexGuard<'_, Hub> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    fn remember(&mut self, event: Arc<Event>, max_events: usize, max_bytes: usize) {
        self.ring_bytes += event.entry.json.len();
        self.ring.push_back(event);
        while self.ring.len() > max_events || self.ring_bytes > max_bytes {
            let Some(forgotten) = self.ring.pop_front() else { break };
            self.ring_bytes -= forgotten.entry.json.len();
            self.oldest = forgotten.entry.revision;
        }
    }
}
