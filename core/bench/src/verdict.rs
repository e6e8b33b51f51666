//! What may be said about a comparison.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::stats::Interval;

/// The outcome of a comparison with the baseline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Better than the baseline: the whole interval says so.
    Faster,
    /// Worse than the baseline: the whole interval says so.
    Slower,
    /// The interval holds 1, or nothing in it is far enough from 1 to matter.
    NoDifferenceShown,
    /// Nothing may be said.
    Invalid(Reason),
}

/// Why nothing may be said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Too few samples for an interval.
    TooFew {
        /// So many.
        samples: usize,
    },
    /// Operations failed.
    Errors {
        /// So many.
        errors: u64,
        /// Out of.
        operations: u64,
    },
    /// The load generator itself could not do more, or was late.
    GeneratorWasTheCeiling {
        /// How much of the time, or of its requests.
        share: f64,
    },
    /// The hypervisor gave the processors to others.
    CpuStolen {
        /// How much of the time.
        share: f64,
    },
    /// Something else than the experiment used the processors.
    MachineWasBusy {
        /// How much of them, while the cluster rested.
        share: f64,
    },
    /// Compared with itself, the baseline was not the same.
    ControlOff {
        /// How many times itself it was.
        control: Interval,
    },
    /// An earlier network left something behind.
    SwapResidue {
        /// What there was at one time and not at another.
        devices: Vec<String>,
    },
}

/// What a verdict is made of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Evidence {
    pub(crate) samples: usize,
    pub(crate) errors: u64,
    pub(crate) operations: u64,
    /// Whether failures are what is measured: datagrams may be lost.
    pub(crate) may_lose: bool,
    /// How much of the time the generator was busy with itself, or of its requests it was late with.
    pub(crate) ceiling: f64,
    /// How much of that can be borne.
    pub(crate) most_ceiling: f64,
    pub(crate) steal: f64,
    pub(crate) elsewhere: f64,
    pub(crate) control: Option<Interval>,
    pub(crate) residue: Vec<String>,
}

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// Fewer samples than this make no interval worth the name.
const FEWEST: usize = 4;
/// More than this share of the machine stolen spoils a comparison.
const MOST_STEAL: f64 = 0.01;
/// The same for more than this share that other programs used.
const MOST_ELSEWHERE: f64 = 0.25;
/// How far from itself a baseline may be although its interval does not hold 1.
const CONTROL: f64 = 0.03;
/// Differences smaller than this are no differences.
const SMALLEST: f64 = 0.01;

/// The rules, in the order in which they spoil a comparison.
pub(crate) fn verdict(interval: Option<&Interval>, better: Better, evidence: &Evidence) -> Verdict {
    if evidence.errors > 0 && !evidence.may_lose {
        return Verdict::Invalid(Reason::Errors { errors: evidence.errors, operations: evidence.operations });
    }
    let Some(interval) = interval.filter(|_| evidence.samples >= FEWEST) else {
        return Verdict::Invalid(Reason::TooFew { samples: evidence.samples });
    };
    if !evidence.residue.is_empty() {
        return Verdict::Invalid(Reason::SwapResidue { devices: evidence.residue.clone() });
    }
    if evidence.ceiling > evidence.most_ceiling {
        return Verdict::Invalid(Reason::GeneratorWasTheCeiling { share: evidence.ceiling });
    }
    if evidence.steal > MOST_STEAL {
        return Verdict::Invalid(Reason::CpuStolen { share: evidence.steal });
    }
    if evidence.elsewhere > MOST_ELSEWHERE {
        return Verdict::Invalid(Reason::MachineWasBusy { share: evidence.elsewhere });
    }
    if let Some(control) = evidence.control.filter(|control| !is_quiet(control)) {
        return Verdict::Invalid(Reason::ControlOff { control });
    }
    let matters = interval.low < 1.0 - SMALLEST || interval.high > 1.0 + SMALLEST;
    if interval.contains(1.0) || !matters {
        return Verdict::NoDifferenceShown;
    }
    match (interval.low > 1.0, better) {
        (true, Better::Higher) | (false, Better::Lower) => Verdict::Faster,
        _ => Verdict::Slower,
    }
}

/// Whether a baseline against itself is near enough to 1.
fn is_quiet(control: &Interval) -> bool {
    control.contains(1.0) || (control.ratio - 1.0).abs() <= CONTROL
}

impl Verdict {
    /// Whether anything may be said.
    pub fn is_valid(&self) -> bool {
        !matches!(self, Self::Invalid(_))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Faster => f.write_str("faster"),
            Self::Slower => f.write_str("slower"),
            Self::NoDifferenceShown => f.write_str("no difference shown"),
            Self::Invalid(reason) => write!(f, "invalid: {reason}"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: &f64| share * 100.0;
        match self {
            Self::TooFew { samples } => write!(f, "{samples} samples are too few, {FEWEST} would do"),
            Self::Errors { errors, operations } => write!(f, "{errors} operations failed, {operations} did not"),
            Self::GeneratorWasTheCeiling { share } => {
                write!(f, "the generator was the ceiling ({:.1} % of it)", percent(share))
            }
            Self::CpuStolen { share } => write!(f, "{:.1} % of the processors was stolen", percent(share)),
            Self::MachineWasBusy { share } => {
                write!(f, "other programs used {:.0} % of the processors", percent(share))
            }
            Self::ControlOff { control } => write!(
                f,
                "the baseline against itself was {:.2}x [{:.2} to {:.2}]",
                control.ratio, control.low, control.high
            ),
            Self::SwapResidue { devices } => write!(f, "a swap left something: {}", devices.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(low: f64, high: f64, better: Better, change: impl FnOnce(&mut Evidence)) -> Verdict {
        let mut evidence = Evidence { samples: 10, operations: 100, ..Evidence::default() };
        change(&mut evidence);
        verdict(Some(&Interval { low, ratio: f64::midpoint(low, high), high }), better, &evidence)
    }

    #[test]
    fn the_whole_interval_has_to_say_so() {
        assert_eq!(of(1.1, 1.2, Better::Lower, |_| ()), Verdict::Slower);
        assert_eq!(of(1.1, 1.2, Better::Higher, |_| ()), Verdict::Faster);
        assert_eq!(of(0.8, 0.9, Better::Lower, |_| ()), Verdict::Faster);
        assert_eq!(of(0.8, 0.9, Better::Higher, |_| ()), Verdict::Slower);
        assert_eq!(of(0.9, 1.2, Better::Higher, |_| ()), Verdict::NoDifferenceShown);
        assert_eq!(of(1.001, 1.009, Better::Lower, |_| ()), Verdict::NoDifferenceShown);
    }

    #[test]
    fn what_cannot_be_trusted_is_invalid_with_its_reason() {
        type Change = fn(&mut Evidence);
        let cases: [(Change, &str); 7] = [
            (|evidence| evidence.samples = 3, "invalid: 3 samples are too few, 4 would do"),
            (|evidence| evidence.errors = 2, "invalid: 2 operations failed, 100 did not"),
            (|evidence| evidence.ceiling = 0.2, "invalid: the generator was the ceiling (20.0 % of it)"),
            (|evidence| evidence.elsewhere = 0.4, "invalid: other programs used 40 % of the processors"),
            (|evidence| evidence.steal = 0.02, "invalid: 2.0 % of the processors was stolen"),
            (
                |evidence| evidence.control = Some(Interval { low: 1.04, ratio: 1.08, high: 1.12 }),
                "invalid: the baseline against itself was 1.08x [1.04 to 1.12]",
            ),
            (|evidence| evidence.residue = vec!["vx0".into()], "invalid: a swap left something: vx0"),
        ];
        for (change, wanted) in cases {
            assert_eq!(of(1.5, 1.6, Better::Lower, change).to_string(), wanted);
        }
        let quiet = |evidence: &mut Evidence| evidence.control = Some(Interval { low: 1.01, ratio: 1.02, high: 1.03 });
        assert_eq!(of(1.5, 1.6, Better::Lower, quiet), Verdict::Slower);
        let lossy = |evidence: &mut Evidence| (evidence.errors, evidence.may_lose) = (5, true);
        assert_eq!(of(1.5, 1.6, Better::Lower, lossy), Verdict::Slower);
        assert_eq!(verdict(None, Better::Lower, &Evidence::default()), Verdict::Invalid(Reason::TooFew { samples: 0 }));
    }
}
