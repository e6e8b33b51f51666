//! What a sample's time that counts has cost.

use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

use super::{Measured, Reply};
use crate::gauge::Cpu;

/// Readings at the end of the warm-up.
pub(super) struct Meter {
    begun: Instant,
    cpu: Cpu,
    own: (f64, f64),
    told: fn(&Reply),
}

/// The times of a sample.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) warmup: Duration,
    pub(super) sample: Duration,
    /// Who hears of the moments between which time counts: others measure meanwhile, too.
    pub(super) told: fn(&Reply),
}

// === impl Meter ===

impl Meter {
    pub(super) fn start(told: fn(&Reply)) -> anyhow::Result<Self> {
        told(&Reply::Begun);
        Ok(Self { told, cpu: Cpu::read()?, own: own()?, begun: Instant::now() })
    }

    /// Fills in what passed since the start.
    pub(super) fn stop(self, measured: &mut Measured) -> anyhow::Result<()> {
        measured.seconds = self.begun.elapsed().as_secs_f64();
        let own = own()?;
        measured.generator_user = own.0 - self.own.0;
        measured.generator_system = own.1 - self.own.1;
        measured.cpu = Cpu::read()?.since(&self.cpu);
        (self.told)(&Reply::Ended);
        Ok(())
    }
}

/// Seconds that this process ran its own code, and that the kernel ran for it.
fn own() -> anyhow::Result<(f64, f64)> {
    use nix::sys::time::TimeValLike as _;
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let seconds = |time: nix::sys::time::TimeVal| time.num_microseconds() as f64 / 1e6;
    Ok((seconds(usage.user_time()), seconds(usage.system_time())))
}
