//! The figures of a sample.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::experiment::LoadKind;
use crate::load::Measured;
use crate::stats::Statistic;
use crate::verdict::Better;

/// A figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Bits of payload a second.
    Throughput,
    /// Operations a second.
    Rate,
    /// The latency that half of all operations do not exceed.
    P50,
    /// That nine of ten do not exceed.
    P90,
    /// That 99 of 100 do not exceed.
    P99,
    /// That 999 of 1000 do not exceed.
    P999,
    /// Processor seconds of the whole machine, softirq included: for a gigabyte of a stream, for 10,000 operations of anything else.
    Cpu,
    /// Share of datagrams that did not arrive.
    Loss,
}

const ALL: [Metric; 8] =
    [Metric::Throughput, Metric::Rate, Metric::P50, Metric::P90, Metric::P99, Metric::P999, Metric::Cpu, Metric::Loss];

// === impl Metric ===

impl Metric {
    /// The figures of a kind of load.
    pub fn of(kind: LoadKind) -> &'static [Self] {
        match kind {
            LoadKind::Stream => &[Self::Throughput, Self::Cpu],
            LoadKind::Rr | LoadKind::Crr => &[Self::P50, Self::P99, Self::Rate, Self::Cpu],
            LoadKind::Http => &[Self::P50, Self::P90, Self::P99, Self::P999, Self::Cpu],
            LoadKind::Peak => &[Self::Rate, Self::P50, Self::P99, Self::Cpu],
            LoadKind::Udp | LoadKind::Flood => &[Self::Rate, Self::Loss, Self::Throughput, Self::Cpu],
        }
    }

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::Rate => "rate",
            Self::P50 => "p50",
            Self::P90 => "p90",
            Self::P99 => "p99",
            Self::P999 => "p999",
            Self::Cpu => "cpu",
            Self::Loss => "loss",
        }
    }

    /// The figure that says most of a kind of load: an experiment goes on until it is known well.
    pub(crate) fn main(kind: LoadKind) -> Self {
        match kind {
            LoadKind::Stream => Self::Throughput,
            LoadKind::Rr | LoadKind::Crr | LoadKind::Http => Self::P50,
            LoadKind::Peak | LoadKind::Udp | LoadKind::Flood => Self::Rate,
        }
    }

    /// Whether it tells those who look closely what another figure tells everybody.
    pub(crate) fn is_detail(self, kind: LoadKind) -> bool {
        match self {
            Self::P90 | Self::P999 => true,
            Self::Rate => matches!(kind, LoadKind::Rr | LoadKind::Crr),
            // Datagrams of one size: as many bits as there are datagrams.
            Self::Throughput => kind.is_udp(),
            _ => false,
        }
    }

    /// The share of all operations that lies beyond a quantile; half of all for what is no quantile.
    pub(crate) fn beyond(self) -> f64 {
        match self {
            Self::P90 => 0.1,
            Self::P99 => 0.01,
            Self::P999 => 0.001,
            _ => 0.5,
        }
    }

    pub(crate) fn better(self) -> Better {
        match self {
            Self::Throughput | Self::Rate => Better::Higher,
            _ => Better::Lower,
        }
    }

    /// The kernel counts processor time in hundredths of a second, so single samples say little; wires lose nothing, so no loss is any
    /// number of times theirs.
    pub(crate) fn statistic(self) -> Statistic {
        match self {
            Self::Cpu => Statistic::RatioOfSums,
            Self::Loss => Statistic::Difference,
            _ => Statistic::MedianRatio,
        }
    }

    /// The unit of [`value`](Self::value).
    pub fn unit(self, kind: LoadKind) -> &'static str {
        match (self, kind) {
            (Self::Throughput, _) => "Gbit/s",
            (Self::Rate, _) => "/s",
            (Self::Cpu, LoadKind::Stream) => "s/GB",
            (Self::Cpu, _) => "s/10k",
            (Self::Loss, _) => "",
            _ => "µs",
        }
    }

    /// What a sample says; not a number if it says nothing.
    pub fn value(self, measured: &Measured) -> f64 {
        let over = |amount: f64, by: f64| if by > 0.0 { amount / by } else { f64::NAN };
        let operations = measured.operations as f64;
        match self {
            Self::Throughput => over(measured.bytes as f64 * 8.0 / 1e9, measured.seconds),
            Self::Rate => over(operations, measured.seconds),
            Self::P50 => measured.latency.microseconds_at(0.5),
            Self::P90 => measured.latency.microseconds_at(0.9),
            Self::P99 => measured.latency.microseconds_at(0.99),
            Self::P999 => measured.latency.microseconds_at(0.999),
            Self::Cpu if measured.operations == 0 => over(measured.cpu.busy() * 1e9, measured.bytes as f64),
            Self::Cpu => over(measured.cpu.busy() * 1e4, operations),
            Self::Loss => over(measured.errors as f64, operations + measured.errors as f64),
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Metric {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || ALL.map(Self::name).join(", ");
        ALL.into_iter().find(|metric| metric.name() == text).ok_or_else(|| format!("must be one of {}", known()))
    }
}
