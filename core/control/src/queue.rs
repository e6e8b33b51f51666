//! Work queues: every controller is one, keyed by the objects it looks after.
//!
//! A key waits at most once and is worked on by one worker at a time; what arrives meanwhile makes it wait once more. A step that
//! fails comes again after a back-off. With a *pace*, a key's next step begins no sooner than that after its last one: the first
//! change goes out at once, a burst behind it in one piece.

use std::collections::{BinaryHeap, VecDeque};
use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::error::Result;

/// A queue of keys; a cheap handle.
pub(crate) struct Queue<K>(Arc<Inner<K>>);

/// When a key should be looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// When something changes.
    Change,
    /// When something changes, and at the latest after this long: a deadline of the object itself.
    After(Duration),
}

struct Inner<K> {
    state: Mutex<State<K>>,
    wake: Notify,
    pace: Duration,
}

struct State<K> {
    ready: VecDeque<K>,
    /// Everything in `ready`, and what is to become ready once it is no longer busy.
    dirty: HashSet<K>,
    /// Being worked on, or resting between two steps.
    busy: HashSet<K>,
    failures: HashMap<K, u32>,
    timers: BinaryHeap<Timer<K>>,
    /// The earliest timer of each key; later ones are void.
    due: HashMap<K, Instant>,
}

struct Timer<K> {
    at: Instant,
    key: K,
    rest: bool,
}

const FIRST_BACK_OFF: Duration = Duration::from_millis(5);
const MOST_DOUBLINGS: u32 = 12;
/// Later than this means never: ten years. Objects may name times that no clock reaches.
const FAR: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

// === impl Queue ===

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Clone + Eq + Hash + Debug> Queue<K> {
    pub(crate) fn new() -> Self {
        Self::paced(Duration::ZERO)
    }

    pub(crate) fn paced(pace: Duration) -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            busy: HashSet::new(),
            failures: HashMap::new(),
            timers: BinaryHeap::new(),
            due: HashMap::new(),
        };
        Self(Arc::new(Inner { state: Mutex::new(state), wake: Notify::new(), pace }))
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        self.0.state.lock().expect("no panic while the queue is locked")
    }

    pub(crate) fn add(&self, key: K) {
        if self.state().add(key) {
            self.0.wake.notify_one();
        }
    }

    pub(crate) fn add_after(&self, key: K, delay: Duration) {
        let at = Instant::now() + delay.min(FAR);
        let mut state = self.state();
        if state.due.get(&key).is_some_and(|due| *due <= at) {
            return;
        }
        state.due.insert(key.clone(), at);
        state.timers.push(Timer { at, key, rest: false });
        drop(state);
        self.0.wake.notify_one();
    }

    /// Works for ever, on at most `workers` keys at once.
    pub(crate) async fn run<F, W>(self, name: &'static str, workers: usize, step: W)
    where
        W: Fn(K) -> F,
        F: Future<Output = Result<Next>>,
    {
        let mut running = FuturesUnordered::new();
        loop {
            let next_timer = loop {
                let mut state = self.state();
                let next_timer = state.fire(Instant::now());
                if running.len() >= workers {
                    break next_timer;
                }
                let Some(key) = state.take() else { break next_timer };
                drop(state);
                let step = step(key.clone());
                running.push(async move { (key, step.await) });
            };
            let timer = async {
                match next_timer {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some((key, result)) = running.next(), if !running.is_empty() => self.done(name, key, result),
                () = self.0.wake.notified() => {}
                () = timer => {}
            }
        }
    }

    fn done(&self, name: &'static str, key: K, result: Result<Next>) {
        let mut state = self.state();
        match result {
            Ok(next) => {
                state.failures.remove(&key);
                if let Next::After(delay) = next {
                    drop(state);
                    self.add_after(key.clone(), delay);
                    state = self.state();
                }
            }
            Err(error) => {
                let failures = state.failures.entry(key.clone()).or_default();
                let delay = FIRST_BACK_OFF * 2u32.pow((*failures).min(MOST_DOUBLINGS));
                *failures += 1;
                if error.is_race() {
                    tracing::debug!(controller = name, ?key, %error, "again");
                } else {
                    tracing::warn!(controller = name, ?key, %error, retry_in = ?delay, "step failed");
                }
                drop(state);
                self.add_after(key.clone(), delay);
                state = self.state();
            }
        }
        if self.0.pace.is_zero() {
            state.rested(&key);
        } else {
            state.timers.push(Timer { at: Instant::now() + self.0.pace, key, rest: true });
        }
    }
}

// === impl State ===

impl<K: Clone + Eq + Hash> State<K> {
    /// Whether a worker may be wanted for it.
    fn add(&mut self, key: K) -> bool {
        if !self.dirty.insert(key.clone()) || self.busy.contains(&key) {
            return false;
        }
        self.ready.push_back(key);
        true
    }

    fn take(&mut self) -> Option<K> {
        let key = self.ready.pop_front()?;
        self.dirty.remove(&key);
        self.busy.insert(key.clone());
        Some(key)
    }

    fn rested(&mut self, key: &K) {
        self.busy.remove(key);
        if self.dirty.contains(key) {
            self.ready.push_back(key.clone());
        }
    }

    /// Does what timers ask for up to `now`; says when the next one is due.
    fn fire(&mut self, now: Instant) -> Option<Instant> {
        while let Some(timer) = self.timers.peek() {
            if timer.at > now {
                return Some(timer.at);
            }
            let Some(Timer { at, key, rest }) = self.timers.pop() else { break };
            if rest {
                self.rested(&key);
            } else if self.due.get(&key) == Some(&at) {
                self.due.remove(&key);
                self.add(key);
            }
        }
        None
    }
}

// === impl Timer ===

impl<K> PartialEq for Timer<K> {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl<K> Eq for Timer<K> {}

impl<K> PartialOrd for Timer<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<K> Ord for Timer<K> {
    /// The earliest is the greatest, so that it is on top of the heap.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.at.cmp(&self.at)
    }
}

#[cfg(test)]
mod tests;
