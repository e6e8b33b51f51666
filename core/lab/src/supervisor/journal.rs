//! The steps of a start, for those who wait for it.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

use crate::control::{Event, Step};

#[derive(Debug)]
pub(super) struct Journal {
    started: Instant,
    events: Mutex<Vec<Event>>,
    written: Condvar,
}

// === impl Journal ===

impl Journal {
    pub(super) fn new(started: Instant) -> Self {
        Self { started, events: Mutex::default(), written: Condvar::new() }
    }

    pub(super) fn write(&self, step: Step) {
        let at_milliseconds = self.started.elapsed().as_millis() as u64;
        tracing::info!(?step, at_milliseconds, "start");
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(Event { at_milliseconds, step });
        self.written.notify_all();
    }

    /// The event with this number, waiting for it if it has yet to happen.
    pub(super) fn event(&self, number: usize) -> Event {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let events = self.written.wait_while(events, |events| events.len() <= number);
        events.unwrap_or_else(PoisonError::into_inner)[number].clone()
    }
}
