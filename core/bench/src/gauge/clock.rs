//! The clock that all processes of a machine share.

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of the monotonic clock: the same for whoever asks, which `Instant` keeps to itself.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every machine has a monotonic clock");
    u64::try_from(std::time::Duration::from(time).as_nanos()).unwrap_or(u64::MAX)
}
