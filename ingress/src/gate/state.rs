//! What gate, handler and clock of one connection tell each other. All of it lives on one core; the atomics are here only because
//! the HTTP library wants a connection that can be upgraded to be `Send`.

use std::{
    io,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Poll, Waker},
    time::Duration,
};

use futures::task::AtomicWaker;

use super::Refusal;

/// Time in steps of a core's clock, which looks at all its connections once a step: deadlines cost a store, not a timer.
pub type Tick = u64;

/// How long a connection may keep us waiting.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Between requests.
    pub idle: Duration,
    /// For the rest of a head.
    pub head: Duration,
    /// For the next bytes of a body, and for the peer to take bytes of ours.
    pub body: Duration,
    /// Length of a clock step.
    pub step: Duration,
}

/// Shared state of one connection.
#[derive(Debug)]
pub struct ConnState {
    timeouts: Timeouts,
    now: AtomicU64,
    /// Ticks at which reading or writing has taken too long; 0 means no limit now.
    read_by: AtomicU64,
    write_by: AtomicU64,
    /// Requests being answered.
    busy: AtomicU32,
    leaving: AtomicBool,
    ending: AtomicBool,
    upgrade: AtomicU8,
    refused_at: AtomicU32,
    refusal: Mutex<Option<Refusal>>,
    /// Of the last request: its body is the end.
    body_refusal: Mutex<Option<(u32, Refusal)>>,
    task: AtomicWaker,
}

/// Where an upgrade stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// The answer is not known yet.
    Undecided,
    /// The answer was an ordinary one; HTTP goes on.
    Refused,
    /// Bytes are no longer HTTP.
    Done,
}

// === impl ConnState ===

impl ConnState {
    /// A connection just accepted.
    pub fn new(timeouts: Timeouts, now: Tick) -> Self {
        let state = Self {
            timeouts,
            now: AtomicU64::new(now),
            read_by: AtomicU64::new(0),
            write_by: AtomicU64::new(0),
            busy: AtomicU32::new(0),
            leaving: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            upgrade: AtomicU8::new(0),
            refused_at: AtomicU32::new(0),
            refusal: Mutex::new(None),
            body_refusal: Mutex::new(None),
            task: AtomicWaker::new(),
        };
        state.read_by.store(state.after(timeouts.head), Relaxed);
        state
    }

    /// Who to wake when time is up or a decision is made.
    pub fn register(&self, waker: &Waker) {
        self.task.register(waker);
    }

    /// One clock step; wakes the connection if it has waited too long.
    pub fn tick(&self, now: Tick) {
        self.now.store(now, Relaxed);
        let late = |by: u64| by != 0 && by <= now;
        if late(self.read_by.load(Relaxed)) || late(self.write_by.load(Relaxed)) {
            self.task.wake();
        }
    }

    /// From now on every answer says that it is the last.
    pub fn leave(&self) {
        self.leaving.store(true, Relaxed);
    }

    /// Asks the connection to end after what it is doing, at once if it does nothing.
    pub fn drain(&self) {
        self.leave();
        self.ending.store(true, Relaxed);
        self.task.wake();
    }

    /// Whether answers should say that they are the last.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Relaxed)
    }

    /// Whether the connection should end after what it is doing.
    pub fn must_end(&self) -> bool {
        self.ending.load(Relaxed)
    }

    /// A request starts: the peer may now be silent as long as we are.
    pub fn begin(&self) {
        self.busy.fetch_add(1, Relaxed);
        self.read_by.store(0, Relaxed);
    }

    /// A request is answered.
    pub fn finish(&self) {
        if self.busy.fetch_sub(1, Relaxed) == 1 {
            self.read_by.store(self.after(self.timeouts.idle), Relaxed);
        }
    }

    /// The refusal that stands in for request number `request`, if that is where it is.
    pub fn refusal(&self, request: u32) -> Option<Refusal> {
        if self.refused_at.load(Relaxed) != request {
            return None;
        }
        *lock(&self.refusal)
    }

    /// Why the body of request number `request` ended early, if that is where the gate cut.
    pub fn body_refusal(&self, request: u32) -> Option<Refusal> {
        lock(&self.body_refusal).and_then(|(at, refusal)| (at == request).then_some(refusal))
    }

    /// Tells the gate how an upgrade ended.
    pub fn decide(&self, upgraded: bool) {
        self.upgrade.store(if upgraded { 2 } else { 1 }, Relaxed);
        self.task.wake();
    }

    pub(super) fn refuse(&self, request: u32, refusal: Refusal) {
        *lock(&self.refusal) = Some(refusal);
        self.refused_at.store(request, Relaxed);
    }

    pub(super) fn refuse_body(&self, request: u32, refusal: Refusal) {
        *lock(&self.body_refusal) = Some((request, refusal));
    }

    pub(super) fn upgrade(&self) -> Upgrade {
        match self.upgrade.load(Relaxed) {
            0 => Upgrade::Undecided,
            1 => Upgrade::Refused,
            _ => Upgrade::Done,
        }
    }

    pub(super) fn upgrade_settled(&self) {
        self.upgrade.store(0, Relaxed);
    }

    /// Whether the peer has been quiet for too long.
    pub fn read_expired(&self) -> bool {
        let by = self.read_by.load(Relaxed);
        by != 0 && by <= self.now.load(Relaxed)
    }

    /// A peer that was quiet for too long has been told to go: as long as it may be quiet in a body, and no longer.
    pub fn linger(&self) {
        self.read_by.store(self.after(self.timeouts.body), Relaxed);
    }

    /// Part of a head has come; its rest must come soon. Set once, so that dripping does not help.
    pub(super) fn waits_for_head(&self) {
        let by = self.read_by.load(Relaxed);
        let soon = self.after(self.timeouts.head);
        if self.busy.load(Relaxed) == 0 && (by == 0 || by > soon) {
            self.read_by.store(soon, Relaxed);
        }
    }

    pub(super) fn waits_for_body(&self) {
        self.read_by.store(self.after(self.timeouts.body), Relaxed);
    }

    pub(super) fn read_something(&self) {
        if self.busy.load(Relaxed) != 0 {
            self.read_by.store(0, Relaxed);
        }
    }

    pub(super) fn after_write(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &result {
            Poll::Ready(_) => self.write_by.store(0, Relaxed),
            Poll::Pending => {
                let by = self.write_by.load(Relaxed);
                if by == 0 {
                    self.write_by.store(self.after(self.timeouts.body), Relaxed);
                } else if by <= self.now.load(Relaxed) {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
        }
        result
    }

    fn after(&self, timeout: Duration) -> Tick {
        let steps = timeout.as_millis().div_ceil(self.timeouts.step.as_millis().max(1));
        self.now.load(Relaxed) + u64::try_from(steps).unwrap_or(u64::MAX / 2) + 1
    }
}

fn lock<T>(slot: &Mutex<Option<T>>) -> std::sync::MutexGuard<'_, Option<T>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}
