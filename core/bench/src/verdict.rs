//! What may be said about a comparison.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::stats::{Interval, Statistic};

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
        /// So many did not.
        operations: u64,
        /// Why the first of them did, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// The load generator itself could not do more, or was late.
    GeneratorWasTheCeiling {
        /// How much of the time, or of its requests.
        share: f64,
    },
    /// Datagrams arrived and the server's end of the generator had no room for them.
    GeneratorDropped {
        /// How much of all that were sent.
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
        /// What there was at one time and not at another: where, and after which network.
        things: Vec<String>,
    },
}

/// What a verdict is made of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Evidence {
    pub(crate) samples: usize,
    pub(crate) errors: u64,
    pub(crate) operations: u64,
    /// Why the first of them failed.
    pub(crate) why: Option<String>,
    /// How much of the time the generator was busy with itself, or of its requests it was late with.
    pub(crate) ceiling: f64,
    /// How much of that can be borne.
    pub(crate) most_ceiling: f64,
    pub(crate) dropped: f64,
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
pub(crate) const FEWEST: usize = 4;
/// More than this share of datagrams dropped by ourselves spoils a comparison.
const MOST_DROPPED: f64 = 0.001;
/// More than this share of the machine stolen spoils a comparison.
const MOST_STEAL: f64 = 0.01;
/// The same for more than this share that other programs used.
const MOST_ELSEWHERE: f64 = 0.25;
/// So much of what was left is named.
const MOST_THINGS: usize = 5;
/// How far from itself a baseline may be although its interval does not hold 1.
const CONTROL: f64 = 0.03;

/// The rules, in the order in which they spoil a comparison.
pub(crate) fn verdict(
    interval: Option<&Interval>,
    (statistic, better): (Statistic, Better),
    evidence: &Evidence,
) -> Verdict {
    if evidence.errors > 0 {
        let (errors, operations, why) = (evidence.errors, evidence.operations, evidence.why.clone());
        return Verdict::Invalid(Reason::Errors { errors, operations, why });
    }
    let Some(interval) = interval.filter(|_| evidence.samples >= FEWEST) else {
        return Verdict::Invalid(Reason::TooFew { samples: evidence.samples });
    };
    if !evidence.residue.is_empty() {
        return Verdict::Invalid(Reason::SwapResidue { things: evidence.residue.clone() });
    }
    if evidence.ceiling > evidence.most_ceiling {
        return Verdict::Invalid(Reason::GeneratorWasTheCeiling { share: evidence.ceiling });
    }
    if evidence.dropped > MOST_DROPPED {
        return Verdict::Invalid(Reason::GeneratorDropped { share: evidence.dropped });
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
    difference(interval, statistic, better)
}

/// What an interval shows.
pub(crate) fn difference(interval: &Interval, statistic: Statistic, better: Better) -> Verdict {
    let (alike, smallest) = (statistic.alike(), statistic.smallest());
    let matters = interval.low < alike - smallest || interval.high > alike + smallest;
    if interval.contains(alike) || !matters {
        return Verdict::NoDifferenceShown;
    }
    match (interval.low > alike, better) {
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

impl Reason {
    /// What reasons of one kind say together; those of other kinds than the first are not looked at.
    pub fn together(reasons: &[&Self]) -> String {
        let numbers =
            |of: &dyn Fn(&Self) -> Option<f64>| reasons.iter().filter_map(|one| of(one)).collect::<Vec<f64>>();
        let percent = |digits, of: &dyn Fn(&Self) -> Option<f64>| {
            let shares: Vec<f64> = numbers(of).into_iter().map(|share| share * 100.0).collect();
            format!("{} %", span(&shares, digits))
        };
        match reasons {
            [] => String::new(),
            [Self::ControlOff { control }] => format!(
                "the baseline against itself was {:.2}x [{:.2} to {:.2}]",
                control.ratio, control.low, control.high
            ),
            [Self::TooFew { .. }, ..] => {
                let samples = span(
                    &numbers(&|one| if let Self::TooFew { samples } = one { Some(*samples as f64) } else { None }),
                    0,
                );
                let words = if samples == "1" { "sample is" } else { "samples are" };
                format!("{samples} {words} too few, {FEWEST} would do")
            }
            [Self::Errors { .. }, ..] => {
                let failed =
                    numbers(&|one| if let Self::Errors { errors, .. } = one { Some(*errors as f64) } else { None });
                let fine = numbers(&|one| {
                    if let Self::Errors { operations, .. } = one { Some(*operations as f64) } else { None }
                });
                let why: BTreeSet<&str> = reasons
                    .iter()
                    .filter_map(|one| if let Self::Errors { why, .. } = one { why.as_deref() } else { None })
                    .collect();
                let mut text = match span(&failed, 0).as_str() {
                    "1" => format!("1 operation failed, {} did not", span(&fine, 0)),
                    failed => format!("{failed} operations failed, {} did not", span(&fine, 0)),
                };
                if let Some(first) = why.first() {
                    let others = if why.len() > 1 { "; others for other reasons" } else { "" };
                    text += &format!(" ({first}{others})");
                }
                text
            }
            [Self::GeneratorWasTheCeiling { .. }, ..] => {
                let share = percent(1, &|one| match one {
                    Self::GeneratorWasTheCeiling { share } => Some(*share),
                    _ => None,
                });
                format!("the generator was the ceiling ({share} of it)")
            }
            [Self::GeneratorDropped { .. }, ..] => {
                let share = percent(1, &|one| match one {
                    Self::GeneratorDropped { share } => Some(*share),
                    _ => None,
                });
                format!("the generator dropped {share} of the datagrams")
            }
            [Self::CpuStolen { .. }, ..] => {
                let share = percent(1, &|one| if let Self::CpuStolen { share } = one { Some(*share) } else { None });
                format!("{share} of the processors was stolen")
            }
            [Self::MachineWasBusy { .. }, ..] => {
                let share =
                    percent(0, &|one| if let Self::MachineWasBusy { share } = one { Some(*share) } else { None });
                format!("other programs used {share} of the processors")
            }
            [Self::ControlOff { .. }, ..] => {
                let ratios =
                    numbers(&|one| if let Self::ControlOff { control } = one { Some(control.ratio) } else { None });
                format!("the baseline against itself was {}x", span(&ratios, 2))
            }
            [Self::SwapResidue { .. }, ..] => {
                let of = |one: &&Self| if let Self::SwapResidue { things } = one { things.clone() } else { Vec::new() };
                let all: BTreeSet<String> = reasons.iter().flat_map(of).collect();
                let shown: Vec<&str> = all.iter().map(String::as_str).take(MOST_THINGS).collect();
                let more = all.len() - shown.len();
                let more = if more > 0 { format!(", and {more} more") } else { String::new() };
                format!("a swap left something: {}{more}", shown.join(", "))
            }
        }
    }

    /// What somebody may do about it.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::TooFew { .. } => "a larger budget",
            Self::Errors { .. } => "finding the cause first",
            Self::GeneratorWasTheCeiling { .. } => "a lower rate, or more processors",
            Self::GeneratorDropped { .. } => "a lower rate",
            Self::CpuStolen { .. } => "a machine that is not shared",
            Self::MachineWasBusy { .. } => "leaving the machine alone meanwhile",
            Self::ControlOff { .. } => "a quieter machine, or a larger budget",
            Self::SwapResidue { .. } => "mending the network that left it",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Self::together(&[self]))
    }
}

/// `1.3 to 2.5`, or one number if both ends read alike.
fn span(values: &[f64], digits: usize) -> String {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let (low, high) = (format!("{low:.digits$}"), format!("{high:.digits$}"));
    if low == high { low } else { format!("{low} to {high}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(low: f64, high: f64, better: Better, change: impl FnOnce(&mut Evidence)) -> Verdict {
        let mut evidence = Evidence { samples: 10, operations: 100, ..Evidence::default() };
        change(&mut evidence);
        let interval = Interval { low, ratio: f64::midpoint(low, high), high };
        verdict(Some(&interval), (Statistic::MedianRatio, better), &evidence)
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
        let cases: [(Change, &str); 9] = [
            (|evidence| evidence.samples = 3, "invalid: 3 samples are too few, 4 would do"),
            (|evidence| evidence.errors = 2, "invalid: 2 operations failed, 100 did not"),
            (
                |evidence| (evidence.errors, evidence.why) = (1, Some("connection refused".into())),
                "invalid: 1 operation failed, 100 did not (connection refused)",
            ),
            (|evidence| evidence.ceiling = 0.2, "invalid: the generator was the ceiling (20.0 % of it)"),
            (|evidence| evidence.dropped = 0.05, "invalid: the generator dropped 5.0 % of the datagrams"),
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
        let stolen = [0.013, 0.26].map(|share| Reason::CpuStolen { share });
        assert_eq!(Reason::together(&stolen.each_ref()), "1.3 to 26.0 % of the processors was stolen");
        let few = [1, 2].map(|samples| Reason::TooFew { samples });
        assert_eq!(Reason::together(&few.each_ref()), "1 to 2 samples are too few, 4 would do");
        assert_eq!(few[0].to_string(), "1 sample is too few, 4 would do");
        let quiet = |evidence: &mut Evidence| evidence.control = Some(Interval { low: 1.01, ratio: 1.02, high: 1.03 });
        assert_eq!(of(1.5, 1.6, Better::Lower, quiet), Verdict::Slower);
        let nothing = verdict(None, (Statistic::MedianRatio, Better::Lower), &Evidence::default());
        assert_eq!(nothing, Verdict::Invalid(Reason::TooFew { samples: 0 }));
    }

    #[test]
    fn a_difference_of_shares_is_none_at_0() {
        let of = |low, high| difference(&Interval { low, ratio: low, high }, Statistic::Difference, Better::Lower);
        assert_eq!(of(0.09, 0.11), Verdict::Slower);
        assert_eq!(of(-0.11, -0.09), Verdict::Faster);
        assert_eq!(of(-0.01, 0.5), Verdict::NoDifferenceShown);
        assert_eq!(of(0.0002, 0.0004), Verdict::NoDifferenceShown, "less than one in a thousand");
    }
}
