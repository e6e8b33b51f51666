//! Watches of the API that outlive the API server: how everybody who follows objects is connected, and waits for it to come back.

mod client;

use std::fmt::Debug;
use std::time::Duration;

use futures::Stream;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::utils::{Backoff, ResetTimerBackoff};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

pub use client::client;

/// Short pauses first: the control plane is on the same machine, and back within moments when it is restarted.
const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);
/// A watch that was not interrupted for so long was well. Time tells, as one that is taken up again says nothing before something
/// happens.
const WELL: Duration = Duration::from_secs(10);

/// How long to wait after the next error.
struct Pause(Duration);

/// Events of one kind, without end. An error is handed on, and followed by another attempt: a list anew where the watch cannot go on.
pub fn watch<K>(api: Api<K>, config: watcher::Config) -> impl Stream<Item = watcher::Result<Event<K>>> + Send + use<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    watcher(api, config).backoff(pauses(WELL))
}

fn pauses(well: Duration) -> impl Backoff {
    ResetTimerBackoff::new(Pause(FIRST), well)
}

// === impl Pause ===

impl Iterator for Pause {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let longer = LONGEST.min(self.0 * 2);
        Some(std::mem::replace(&mut self.0, longer))
    }
}

impl Backoff for Pause {
    fn reset(&mut self) {
        self.0 = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_well_for_a_while_is_tried_again_at_once() {
        let pauses = |well| pauses(well).take(8).map(|pause| pause.as_millis()).collect::<Vec<_>>();
        assert_eq!(pauses(Duration::from_secs(3600)), [50, 100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(pauses(Duration::ZERO), [50; 8]);
    }
}
