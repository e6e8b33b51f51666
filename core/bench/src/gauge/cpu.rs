//! Processor time of the whole machine, by what it was spent on (proc(5), `/proc/stat`). Most of the work of receiving a packet is
//! softirq, which no process is charged for: figures without it say that networks are cheap.

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// Seconds, summed over processors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpu {
    /// Programs, `nice` ones included.
    pub user: f64,
    /// The kernel for programs.
    pub system: f64,
    /// Interrupts.
    pub irq: f64,
    /// What interrupts leave to do: receiving packets, mostly.
    pub softirq: f64,
    /// Taken by the hypervisor for others.
    pub steal: f64,
    /// Nothing, waiting for disks included.
    pub idle: f64,
}

/// USER_HZ, which is 100 on every architecture that we run on.
const TICKS: f64 = 100.0;

// === impl Cpu ===

impl Cpu {
    /// Since the machine started.
    pub(crate) fn read() -> anyhow::Result<Self> {
        Self::parse(&std::fs::read_to_string("/proc/stat").context("read /proc/stat")?).context("/proc/stat")
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let line = text.lines().next()?.strip_prefix("cpu ")?;
        let seconds: Vec<f64> =
            line.split_whitespace().map_while(|word| Some(word.parse::<f64>().ok()? / TICKS)).collect();
        let &[user, nice, system, idle, iowait, irq, softirq, steal, ..] = &seconds[..] else { return None };
        Some(Self { user: user + nice, system, irq, softirq, steal, idle: idle + iowait })
    }

    /// What passed since an earlier reading.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let less = |now: f64, then: f64| (now - then).max(0.0);
        Self {
            user: less(self.user, before.user),
            system: less(self.system, before.system),
            irq: less(self.irq, before.irq),
            softirq: less(self.softirq, before.softirq),
            steal: less(self.steal, before.steal),
            idle: less(self.idle, before.idle),
        }
    }

    /// Seconds in which something was done.
    pub fn busy(&self) -> f64 {
        self.user + self.system + self.irq + self.softirq
    }

    /// Seconds in all.
    pub fn total(&self) -> f64 {
        self.busy() + self.steal + self.idle
    }

    /// Share of the time that others were given.
    pub fn steal_share(&self) -> f64 {
        if self.total() > 0.0 { self.steal / self.total() } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softirq_and_steal_are_told_apart() {
        let before = Cpu::parse("cpu  100 0 200 1000 0 5 50 0 0 0\ncpu0 ...").unwrap();
        let after = Cpu::parse("cpu  150 10 300 1100 10 5 90 20 0 0\n").unwrap().since(&before);
        let near = |value: f64, wanted: f64| assert!((value - wanted).abs() < 1e-9, "{value} is not {wanted}");
        near(after.user, 0.6);
        near(after.softirq, 0.4);
        near(after.busy(), 2.0);
        near(after.steal_share(), 0.2 / 3.3);
        assert_eq!(Cpu::parse("cpu  1 2"), None);
        assert_eq!(Cpu::default().steal_share(), 0.0);
    }
}
