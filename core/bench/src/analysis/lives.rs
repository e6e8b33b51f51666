//! Lives of pods and swaps: how long what a network does to a cluster takes.
//!
//! Wires made by hand have no pods and no policies, and a network without any (`none`) cannot be reached to be measured, so the
//! reference is the experiment's first network. The k-th life under one network is paired with the k-th under the reference:
//! networks are gone through there and back again, so the two are near each other in time.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::report::{Deed, Failure, Report, Trial};
use crate::stats::{Interval, Pair, Statistic};
use crate::verdict::{Better, Evidence, Verdict, verdict};

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// A pod's devices and routes.
    Attach,
    /// A pod that is ready.
    PodReady,
    /// A Service that leads to a new endpoint.
    EndpointProgramming,
    /// A policy that forbids, and does.
    PolicyDeny,
    /// A policy that is gone, and forbids nothing any more.
    PolicyAllow,
    /// A pod that has left nothing.
    Detach,
    /// A pod and its Service, from asking to the first answer.
    FirstAnswer,
    /// Another network.
    Swap,
}

/// One step under one network, against the reference.
#[derive(Clone, Debug, PartialEq)]
pub struct Life {
    /// The network.
    pub network: String,
    /// What was waited for.
    pub step: Step,
    /// How long, each time, milliseconds, by block.
    pub pairs: Vec<Pair>,
    /// The median, and the 95 % interval around it, milliseconds.
    pub middle: Option<Interval>,
    /// How many times the reference; nothing for the reference itself.
    pub ratio: Option<Interval>,
    /// What may be said about that; nothing of a reference that can be relied on.
    pub verdict: Option<Verdict>,
}

/// Packets are sent at this pace, milliseconds, and news of the API are not much younger: nothing is known better.
const RESOLUTION: f64 = 1.0;

/// All of them, by step; steps that never happened are left out.
pub fn lives(report: &Report) -> Vec<Life> {
    let networks: Vec<&str> = report.experiment.spec.networks.iter().map(|network| network.name.as_str()).collect();
    let Some(&reference) = networks.first() else { return Vec::new() };
    let steps = Step::ALL.into_iter().flat_map(|step| networks.iter().map(move |&network| (step, network)));
    steps.filter_map(|(step, network)| life(report, step, network, reference)).collect()
}

fn life(report: &Report, step: Step, network: &str, reference: &str) -> Option<Life> {
    let seed = report.experiment.spec.seed;
    let own = step.times(report, network);
    let own_pairs: Vec<Pair> = own.iter().map(|&(block, value)| Pair { block, value, base: 1.0 }).collect();
    let pair = |(own, base): (&(usize, f64), &(usize, f64))| Pair { block: own.0, value: own.1, base: base.1 };
    let pairs: Vec<Pair> = own.iter().zip(&step.times(report, reference)).map(pair).collect();
    let others = network != reference && !pairs.is_empty();
    let ratio = others.then(|| Interval::of(&pairs, Statistic::MedianRatio, seed)).flatten();
    let failed: Vec<&Failure> = step.failures(report, network).collect();
    let evidence = Evidence {
        errors: failed.len() as u64,
        operations: own.len() as u64,
        why: failed.first().map(|failure| failure.why.clone()),
        samples: if network == reference { own.len() } else { pairs.len() },
        residue: super::residue::residue(report, network),
        // Nobody reads the processors' time around a step: what was stolen all the while has to do.
        steal: report.stolen(),
        elsewhere: report.elsewhere(),
        ..Evidence::default()
    };
    let middle = Interval::of(&own_pairs, Statistic::MedianRatio, seed);
    // Nothing can be said of the reference but that it is spoiled.
    let interval = if network == reference { &middle } else { &ratio };
    let judged = verdict(interval.as_ref(), (Statistic::MedianRatio, Better::Lower), &evidence);
    Some(Life {
        network: network.to_owned(),
        step,
        pairs: own_pairs,
        middle,
        ratio,
        verdict: Some(judged).filter(|judged| others || !judged.is_valid()),
    })
    .filter(|life| !life.pairs.is_empty())
}

// === impl Life ===

impl Life {
    /// How long, each time, milliseconds.
    pub fn times(&self) -> impl Iterator<Item = f64> + '_ {
        self.pairs.iter().map(|pair| pair.value)
    }

    /// The longest time, milliseconds.
    pub fn most(&self) -> f64 {
        self.times().fold(0.0, f64::max)
    }
}

// === impl Step ===

impl Step {
    /// All, in the order of a life.
    pub const ALL: [Self; 8] = [
        Self::Attach,
        Self::PodReady,
        Self::EndpointProgramming,
        Self::PolicyDeny,
        Self::PolicyAllow,
        Self::Detach,
        Self::FirstAnswer,
        Self::Swap,
    ];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Attach => "attach",
            Self::PodReady => "pod-ready",
            Self::EndpointProgramming => "endpoint-programming",
            Self::PolicyDeny => "policy-programming, deny",
            Self::PolicyAllow => "policy-programming, allow",
            Self::Detach => "detach",
            Self::FirstAnswer => "first answer",
            Self::Swap => "swap",
        }
    }

    /// As conditions and files have it: one word.
    pub fn word(self) -> &'static str {
        match self {
            Self::PolicyDeny => "policy-deny",
            Self::PolicyAllow => "policy-allow",
            Self::FirstAnswer => "first-answer",
            other => other.name(),
        }
    }

    /// The step of a word.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.word() == word)
    }

    /// All words.
    pub(crate) fn words() -> String {
        Self::ALL.map(Self::word).join(", ")
    }

    /// What it is, in a sentence.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Attach => {
                "From a pod's binding to its node until the kernel there has said that its devices and routes are in place"
            }
            Self::PodReady => "From a pod's creation until it is ready",
            Self::EndpointProgramming => {
                "From a pod's readiness until the Service that it alone stands behind answers a pod on another node"
            }
            Self::PolicyDeny => {
                "From the creation of a policy that forbids it until no packet of another node reaches the pod"
            }
            Self::PolicyAllow => "From the deletion of that policy until a packet reaches the pod again",
            Self::Detach => {
                "From a pod's deletion until the kernel has said that its devices and routes are gone, and its address is silent"
            }
            Self::FirstAnswer => {
                "From asking for a pod and a Service until the first answer through it, the time of the command included"
            }
            Self::Swap => "From asking for this network until nothing of the one before is left",
        }
    }

    /// What did not work of it.
    fn failures<'a>(self, report: &'a Report, network: &'a str) -> impl Iterator<Item = &'a Failure> {
        let what = if self == Self::Swap { Deed::Swap } else { Deed::Life };
        report.failures.iter().filter(move |failure| failure.network == network && failure.what == what)
    }

    /// Milliseconds each time under a network, with the block.
    fn times(self, report: &Report, network: &str) -> Vec<(usize, f64)> {
        if self == Self::Swap {
            let swaps = report.swaps.iter().filter(|swap| swap.to == network);
            return swaps.map(|swap| (swap.block, swap.milliseconds)).collect();
        }
        let of = |trial: &Trial| match self {
            Self::Attach => trial.attach,
            Self::PodReady => trial.pod_ready,
            Self::EndpointProgramming => trial.endpoint,
            Self::PolicyDeny => trial.deny,
            Self::PolicyAllow => trial.allow,
            Self::Detach => trial.detach,
            Self::FirstAnswer | Self::Swap => trial.first_answer,
        };
        let trials = report.trials.iter().filter(|trial| trial.network == network);
        trials.map(|trial| (trial.block, of(trial).max(RESOLUTION))).collect()
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::tests::report;
    use crate::stats::median;

    #[test]
    fn a_life_is_compared_with_that_under_the_first_network() {
        let lives = lives(&report(|network| if network == "overlay" { 1.5 } else { 1.0 }, |_| ()));
        let find = |network: &str, step| lives.iter().find(|life| life.network == network && life.step == step);
        let reference = find("kubenet", Step::Detach).unwrap();
        assert_eq!((reference.verdict.as_ref(), reference.pairs.len()), (None, 4));
        let slower = find("overlay", Step::Detach).unwrap();
        assert_eq!(slower.verdict, Some(Verdict::Slower), "{slower:?}");
        assert!((slower.ratio.unwrap().ratio - 1.5).abs() < 0.05, "{slower:?}");
        // Both are below what a packet a millisecond can tell.
        let alike = find("overlay", Step::EndpointProgramming).unwrap();
        assert_eq!(alike.verdict, Some(Verdict::NoDifferenceShown), "{alike:?}");
        assert!(find("overlay", Step::Swap).is_none(), "nothing was swapped");
        let stolen = report(|_| 1.0, |sample| sample.measured.cpu.steal = 0.05);
        assert!(super::lives(&stolen).iter().all(|life| !life.verdict.as_ref().unwrap().is_valid()));
        assert_eq!(median(&slower.times().collect::<Vec<_>>()), slower.middle.unwrap().ratio);
    }
}
