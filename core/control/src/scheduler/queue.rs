//! Pods that wait for a node: those to be tried, by priority and then in order, and those that found none.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use foldhash::HashMap;
use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use crate::cache::Key;

#[derive(Default)]
pub(super) struct Pending {
    active: BinaryHeap<(i32, Reverse<u64>, Key)>,
    waiting: HashMap<Key, Waiting>,
    order: u64,
    /// When those that found no node are tried again.
    retry: Option<Instant>,
    /// How long who was failed by others waited last, and since when.
    pause: Option<(Duration, Instant)>,
}

struct Waiting {
    pod: Arc<Pod>,
    order: u64,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Active,
    /// Found no node; waits for a change.
    Parked,
    /// A decision about it is being written.
    Binding,
}

/// Changes come in groups; one try for all of them.
const RETRY_AFTER: Duration = Duration::from_millis(20);
/// A plugin or an API that failed may answer again after a while, of which nobody tells.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

// === impl Pending ===

impl Pending {
    /// A pod without a node or an address, or a new state of one.
    pub(super) fn put(&mut self, key: Key, pod: Arc<Pod>) {
        match self.waiting.get_mut(&key) {
            Some(waiting) if waiting.pod.metadata.uid == pod.metadata.uid => {
                let same = waiting.pod.spec == pod.spec && waiting.pod.metadata.labels == pod.metadata.labels;
                waiting.pod = pod;
                if waiting.state == State::Parked && !same {
                    self.activate(&key);
                }
            }
            _ => {
                self.order += 1;
                self.waiting.insert(key.clone(), Waiting { pod, order: self.order, state: State::Parked });
                self.activate(&key);
            }
        }
    }

    /// It has a node, or is gone.
    pub(super) fn remove(&mut self, key: &Key) {
        self.waiting.remove(key);
    }

    pub(super) fn pop(&mut self) -> Option<(Key, Arc<Pod>)> {
        while let Some((_, Reverse(order), key)) = self.active.pop() {
            if let Some(waiting) = self.waiting.get_mut(&key)
                && waiting.order == order
                && waiting.state == State::Active
            {
                waiting.state = State::Binding;
                return Some((key, waiting.pod.clone()));
            }
        }
        None
    }

    /// It found no node.
    pub(super) fn park(&mut self, key: &Key, uid: &str) {
        if let Some(waiting) =
            self.waiting.get_mut(key).filter(|waiting| waiting.pod.metadata.uid.as_deref() == Some(uid))
        {
            waiting.state = State::Parked;
        }
    }

    /// There may be room now.
    pub(super) fn retry_soon(&mut self) {
        self.retry_by(Instant::now() + RETRY_AFTER);
    }

    /// The network plugin gave no answer, or the API server took none; that may change.
    pub(super) fn retry_later(&mut self) {
        let now = Instant::now();
        let last = self.pause.filter(|(_, since)| *since + LONGEST_PAUSE * 2 > now);
        let (pause, _) = match last {
            // Of several that fail in one round only the first makes the pause longer.
            Some(last) if self.retry.is_some() => last,
            Some((last, _)) => *self.pause.insert(((last * 2).min(LONGEST_PAUSE), now)),
            None => *self.pause.insert((FIRST_PAUSE, now)),
        };
        self.retry_by(now + pause);
    }

    fn retry_by(&mut self, at: Instant) {
        self.retry = Some(self.retry.map_or(at, |retry| retry.min(at)));
    }

    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry
    }

    pub(super) fn retry(&mut self) {
        self.retry = None;
        let parked = self.waiting.iter().filter(|(_, waiting)| waiting.state == State::Parked);
        for key in parked.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.activate(&key);
        }
    }

    fn activate(&mut self, key: &Key) {
        let Some(waiting) = self.waiting.get_mut(key) else { return };
        waiting.state = State::Active;
        let priority = waiting.pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
        self.active.push((priority, Reverse(waiting.order), key.clone()));
    }
}
