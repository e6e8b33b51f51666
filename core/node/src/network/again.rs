//! When to try something again: later each time, and at once after a success.

use std::time::Duration;

use tokio::time::Instant;

/// A pause that grows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Again {
    pause: Option<Duration>,
    until: Option<Instant>,
}

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(60);

// === impl Again ===

impl Again {
    pub(super) fn failed(&mut self) {
        let pause = self.pause.map_or(FIRST, |pause| (pause * 2).min(LONGEST));
        (self.pause, self.until) = (Some(pause), Some(Instant::now() + pause));
    }

    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// What it was put off for is over: now is the time.
    pub(super) fn hasten(&mut self) {
        self.until = self.until.map(|_| Instant::now());
    }

    /// When it is time, if something failed.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    pub(super) fn is_due(&self) -> bool {
        self.until.is_some_and(|until| until <= Instant::now())
    }
}
