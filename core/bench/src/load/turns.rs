//! One thing after the other: what loads have in common that wait for an answer before they go on.

use std::time::Instant;

use super::Measured;
use super::meter::{Meter, Span};
use super::pinned::Pinned;

/// Takes turns for the time of a sample. A turn counts from the end of the one before, so that nothing between two of them is lost; one that
/// fails is an error of the sample, but not during the warm-up, or its end if the turn says so.
pub(super) fn take(span: Span, mut turn: impl FnMut() -> Turn) -> anyhow::Result<Measured> {
    let _pinned = Pinned::first();
    let begun = Instant::now();
    while begun.elapsed() < span.warmup {
        if let Turn::Over(error) = turn() {
            return Err(error);
        }
    }
    let mut measured = Measured::default();
    let meter = Meter::start(span.told)?;
    let begun = Instant::now();
    let mut before = begun;
    loop {
        let done = turn();
        let now = Instant::now();
        match done {
            Turn::Answered => {
                measured.latency.record(now - before);
                measured.operations += 1;
            }
            Turn::Failed(error) => measured.failed(&error),
            Turn::Over(error) => return Err(error),
        }
        if now - begun >= span.sample {
            break;
        }
        before = now;
    }
    meter.stop(&mut measured)?;
    Ok(measured)
}

/// How a turn ended.
pub(super) enum Turn {
    /// Well.
    Answered,
    /// Without an answer; the next one may have one.
    Failed(anyhow::Error),
    /// There can be no next one.
    Over(anyhow::Error),
}
