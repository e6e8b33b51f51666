//! `--fail-if`: a condition on the figures, for machines that watch over a project.
//!
//! ```text
//! overlay.rr.p99 > 1.3x              a load, on any path of the network, as a ratio to the baseline
//! overlay.rr.p99.other-node > 80     one path, in the figure's own unit
//! overlay.attach.p50 > 2x            a step of the lives of pods, as a ratio to the first network
//! overlay.swap.gap > 50              the longest silence of a running flow in any swap to it, milliseconds
//! ```
//!
//! It holds if the figure itself does; a figure that is invalid makes it hold too, as nothing is known. What happened once at least
//! (`most`, `gap`, `lost`) is never invalid: it did happen.

use std::fmt;
use std::str::FromStr;

use crate::analysis::{Analysis, Comparison, Life, Metric, Step, lives};
use crate::experiment::{Experiment, Workload};
use crate::report::{Report, with_unit};
use crate::verdict::Verdict;

/// A condition.
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    text: String,
    network: String,
    /// A workload, or a step of the lives of pods.
    of: String,
    figure: Figure,
    path: Option<String>,
    above: bool,
    limit: Limit,
}

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Figure {
    /// Of a load; the median of a step.
    Metric(Metric),
    /// The longest time that a step took.
    Most,
    /// The longest silence in a swap.
    Gap,
    /// Datagrams lost in all swaps together.
    Lost,
}

/// With what a figure is compared.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Limit {
    Ratio(f64),
    Value(f64),
}

/// Why a text is no condition, or fits no experiment.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("{text:?}: {problem}; for instance: {example}")]
pub struct GateError {
    text: String,
    problem: String,
    example: &'static str,
}

/// A condition on a load, and one on a step.
const EXAMPLES: [&str; 2] = ["overlay.rr.p99 > 1.3x", "overlay.attach.p50 > 2x"];

// === impl Gate ===

impl Gate {
    /// Checks that the experiment will have such a figure, before it is made.
    pub fn fits(&self, experiment: &Experiment) -> Result<(), GateError> {
        let spec = &experiment.spec;
        let networks: Vec<&str> = spec.networks.iter().map(|network| network.name.as_str()).collect();
        if !self.is_by_hand() && !networks.contains(&self.network.as_str()) {
            return Err(self.wrong(format!("no network {}: there are {}", self.network, networks.join(", "))));
        }
        if let Some(step) = Step::of_word(&self.of) {
            return self.fits_step(experiment, step);
        }
        match spec.workloads.iter().find(|workload| workload.name == self.of) {
            Some(workload) => self.fits_load(experiment, workload),
            None => {
                let names: Vec<&str> = spec.workloads.iter().map(|workload| workload.name.as_str()).collect();
                let problem =
                    format!("no workload and no step {}: there are {}; {}", self.of, names.join(", "), Step::words());
                Err(self.wrong(problem))
            }
        }
    }

    fn fits_load(&self, experiment: &Experiment, workload: &Workload) -> Result<(), GateError> {
        let spec = &experiment.spec;
        let metrics = Metric::of(workload.kind);
        if !matches!(self.figure, Figure::Metric(metric) if metrics.contains(&metric)) {
            let names: Vec<&str> = metrics.iter().map(|metric| metric.name()).collect();
            return Err(self.wrong(format!("{} has no {}: it has {}", self.of, self.figure, names.join(", "))));
        }
        if let (Figure::Metric(Metric::Loss), Limit::Ratio(_)) = (self.figure, self.limit) {
            return Err(
                self.wrong("loss is no ratio, wires lose nothing: leave out the x for a share, as in 0.01".into())
            );
        }
        let paths: Vec<&str> = match self.is_by_hand() {
            true => spec.by_hand.iter().map(|wiring| wiring.name()).collect(),
            false => spec.paths.iter().filter(|path| path.carries(workload.kind)).map(|path| path.name()).collect(),
        };
        match &self.path {
            Some(path) if !paths.contains(&path.as_str()) => {
                Err(self.wrong(format!("no path {path}: there are {}", paths.join(", "))))
            }
            _ => Ok(()),
        }
    }

    fn fits_step(&self, experiment: &Experiment, step: Step) -> Result<(), GateError> {
        let spec = &experiment.spec;
        let wrong = |problem: String| Err(GateError { example: EXAMPLES[1], ..self.wrong(problem) });
        if self.is_by_hand() {
            return wrong("wires made by hand have no pods and no swaps".into());
        }
        let figures: &[Figure] = if step == Step::Swap { &Figure::OF_SWAPS } else { &Figure::OF_STEPS };
        if !figures.contains(&self.figure) {
            let names: Vec<&str> = figures.iter().map(|figure| figure.name()).collect();
            return wrong(format!("{} has no {}: it has {}", self.of, self.figure, names.join(", ")));
        }
        if let Some(path) = &self.path {
            return wrong(format!("{} has no path {path}: leave it out", self.of));
        }
        let reference = spec.networks.first().map_or("", |network| network.name.as_str());
        match self.limit {
            Limit::Ratio(_) if self.figure != Figure::Metric(Metric::P50) => {
                wrong(format!("{} is no ratio: leave out the x", self.figure))
            }
            Limit::Ratio(_) if self.network == reference => {
                wrong(format!("{reference} is what the others are compared with: leave out the x for milliseconds"))
            }
            _ if step == Step::Swap && spec.networks.len() < 2 => wrong("nothing is swapped with one network".into()),
            _ if step != Step::Swap && spec.trials == 0 => {
                wrong("no life of a pod is followed: spec.trials is 0, and must be 1 or more".into())
            }
            _ => Ok(()),
        }
    }

    /// What makes the condition hold, in words; nothing if it does not.
    pub fn holds(&self, report: &Report, analysis: &Analysis) -> Option<String> {
        let nothing = || Some(format!("{}: nothing was measured in {}", self.text, report.experiment.metadata.name));
        if let Some(step) = Step::of_word(&self.of) {
            let report = &*report.base();
            let life = lives(report).into_iter().find(|life| life.network == self.network && life.step == step);
            return life.map_or_else(nothing, |life| self.reason_of_step(report, &life));
        }
        let concerned = analysis.comparisons.iter().filter(|one| {
            one.network == self.network
                && one.workload == self.of
                && self.figure == Figure::Metric(one.metric)
                && self.path.as_ref().is_none_or(|path| *path == one.path)
        });
        let found: Vec<&Comparison> = concerned.collect();
        if found.is_empty() {
            return nothing();
        }
        found.into_iter().find_map(|one| self.reason(one))
    }

    fn reason(&self, one: &Comparison) -> Option<String> {
        if let Verdict::Invalid(reason) = &one.verdict {
            return Some(format!("{}: {}: invalid: {reason}", self.text, one.path));
        }
        match (self.limit, &one.interval) {
            (Limit::Ratio(_), Some(interval)) if self.exceeds(interval.ratio) => Some(format!(
                "{}: {}: {:.2}x [{:.2} to {:.2}]",
                self.text, one.path, interval.ratio, interval.low, interval.high
            )),
            (Limit::Value(_), _) if self.exceeds(one.value) => {
                Some(format!("{}: {}: {}", self.text, one.path, with_unit(one.value, one.unit)))
            }
            _ => None,
        }
    }

    fn reason_of_step(&self, report: &Report, life: &Life) -> Option<String> {
        let swaps = || report.swaps.iter().filter(|swap| swap.to == self.network);
        let (value, said) = match (self.figure, self.limit) {
            (Figure::Metric(_), _) if matches!(life.verdict, Some(Verdict::Invalid(_))) => {
                let Some(Verdict::Invalid(reason)) = &life.verdict else { return None };
                return Some(format!("{}: invalid: {reason}", self.text));
            }
            (Figure::Metric(_), Limit::Ratio(_)) => {
                let one = life.ratio?;
                (one.ratio, format!("{:.2}x [{:.2} to {:.2}]", one.ratio, one.low, one.high))
            }
            (Figure::Metric(_), Limit::Value(_)) => {
                let one = life.middle?;
                (one.ratio, format!("{:.2} ms [{:.2} to {:.2}]", one.ratio, one.low, one.high))
            }
            (Figure::Most, _) => {
                let most = life.most();
                (most, format!("{most:.2} ms, the longest of {}", life.pairs.len()))
            }
            (Figure::Gap, _) => {
                let worst = swaps().max_by(|a, b| a.flow.longest_gap.total_cmp(&b.flow.longest_gap))?;
                let (gap, stall) = (worst.flow.longest_gap, worst.flow.longest_stall);
                (gap, format!("{gap:.2} ms; the sender itself was held up for {stall:.2} ms at most"))
            }
            (Figure::Lost, _) => {
                let lost = swaps().map(|swap| swap.flow.lost()).sum::<u64>();
                let sent = swaps().map(|swap| swap.flow.sent).sum::<u64>();
                (lost as f64, format!("{lost} of {sent} datagrams"))
            }
        };
        self.exceeds(value).then(|| format!("{}: {said}", self.text))
    }

    fn exceeds(&self, value: f64) -> bool {
        let (Limit::Ratio(limit) | Limit::Value(limit)) = self.limit;
        if self.above { value > limit } else { value < limit }
    }

    fn is_by_hand(&self) -> bool {
        self.network == crate::report::BY_HAND
    }

    fn wrong(&self, problem: String) -> GateError {
        GateError { text: self.text.clone(), problem, example: EXAMPLES[0] }
    }
}

impl FromStr for Gate {
    type Err = GateError;

    fn from_str(text: &str) -> Result<Self, GateError> {
        let wrong =
            |problem: &str| GateError { text: text.to_owned(), problem: problem.to_owned(), example: EXAMPLES[0] };
        let at = text.find(['<', '>']).ok_or_else(|| wrong("expected FIGURE > LIMIT or FIGURE < LIMIT"))?;
        let (figure, rest) = text.split_at(at);
        let above = rest.starts_with('>');
        let words: Vec<&str> = figure.trim().split('.').collect();
        let (network, of, figure, path) = match words[..] {
            [network, of, figure] => (network, of, figure, None),
            [network, of, figure, path] => (network, of, figure, Some(path.to_owned())),
            _ => {
                return Err(wrong(
                    "expected NETWORK.WORKLOAD.METRIC, NETWORK.WORKLOAD.METRIC.PATH or NETWORK.STEP.METRIC before the comparison",
                ));
            }
        };
        let figure = figure.parse().map_err(|problem: String| wrong(&format!("metric {figure}: {problem}")))?;
        let limit = rest[1..].trim();
        let number = limit.strip_suffix('x').unwrap_or(limit);
        let value = number.parse::<f64>().ok().filter(|value| value.is_finite() && *value >= 0.0);
        let value =
            value.ok_or_else(|| wrong(&format!("limit {limit:?}: must be a number, or a ratio such as 1.3x")))?;
        let limit = if number.len() < limit.len() { Limit::Ratio(value) } else { Limit::Value(value) };
        let (network, of) = (network.to_owned(), of.to_owned());
        Ok(Self { text: text.to_owned(), network, of, figure, path, above, limit })
    }
}

// === impl Figure ===

impl Figure {
    const OF_STEPS: [Self; 2] = [Self::Metric(Metric::P50), Self::Most];
    const OF_SWAPS: [Self; 4] = [Self::Metric(Metric::P50), Self::Most, Self::Gap, Self::Lost];

    fn name(self) -> &'static str {
        match self {
            Self::Metric(metric) => metric.name(),
            Self::Most => "most",
            Self::Gap => "gap",
            Self::Lost => "lost",
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Figure {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::Most, Self::Gap, Self::Lost].into_iter().find(|one| one.name() == text);
        let metric = || text.parse().map(Self::Metric).map_err(|known: String| format!("{known}, most, gap, lost"));
        known.map_or_else(metric, Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::tests::report;
    use crate::load::Followed;
    use crate::stage::Swapped;

    fn gate(text: &str) -> Gate {
        text.parse().unwrap()
    }

    #[test]
    fn a_condition_holds_when_its_figure_does() {
        let report = report(|network| if network == "overlay" { 1.5 } else { 1.0 }, |_| ());
        let analysis = Analysis::of(&report);
        let holds = |text: &str| gate(text).holds(&report, &analysis);
        assert!(holds("overlay.rr.p99 > 1.3x").unwrap().contains("same-node: 1.5"));
        assert_eq!(holds("overlay.rr.p99 > 1.7x"), None);
        assert_eq!(holds("kubenet.rr.p50.other-node>1.3x"), None);
        assert!(holds("overlay.stream.throughput < 0.8x").is_some());
        assert!(holds("overlay.rr.p50 > 10").is_some());
        assert!(holds("overlay.detach.p50 > 1.3x").unwrap().contains("1.5"));
        assert_eq!(holds("overlay.detach.p50 > 1.7x"), None);
        assert!(holds("kubenet.detach.p50 > 19").unwrap().contains(" ms ["));
        assert_eq!(holds("kubenet.detach.most > 21"), None);
        assert!(holds("overlay.detach.most > 21").unwrap().contains("the longest of 4"));
        assert!(holds("overlay.swap.gap > 50").unwrap().contains("nothing was measured"));
        assert!(holds("gone.rr.p50 > 10").unwrap().contains("nothing was measured"));
    }

    #[test]
    fn what_happened_in_swaps_is_told_and_what_is_known_too_little_holds() {
        let mut report = report(|_| 1.0, |_| ());
        let flow =
            |longest_gap| Followed { sent: 300, answered: 298, longest_gap, longest_stall: 2.0, ..Default::default() };
        for gap in [12.0, 40.0] {
            let (from, to) = ("kubenet".to_owned(), "overlay".to_owned());
            report.swaps.push(Swapped { from, to, milliseconds: 250.0, flow: flow(gap), ..Swapped::default() });
        }
        let analysis = Analysis::of(&report);
        let holds = |text: &str| gate(text).holds(&report, &analysis);
        assert!(
            holds("overlay.swap.gap > 30").unwrap().contains("40.00 ms; the sender itself was held up for 2.00 ms")
        );
        assert_eq!(holds("overlay.swap.gap > 50"), None);
        assert!(holds("overlay.swap.lost > 0").unwrap().contains("4 of 600 datagrams"));
        assert_eq!(holds("overlay.swap.most > 300"), None);
        assert!(holds("overlay.swap.p50 > 300").unwrap().contains("too few"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_before_the_experiment() {
        let error = |text: &str| text.parse::<Gate>().unwrap_err().to_string();
        assert!(error("overlay.rr.p99").contains("expected FIGURE > LIMIT"));
        assert!(error("overlay.p99 > 1").contains("NETWORK.WORKLOAD.METRIC"));
        assert!(error("overlay.rr.p77 > 1").contains("p999"));
        assert!(error("overlay.rr.p99 > fast").contains("1.3x"));
        let experiment = crate::Experiment::quick(&["kubenet"]);
        let unfit = |text: &str| gate(text).fits(&experiment).unwrap_err().to_string();
        assert!(unfit("overlay.rr.p99 > 1").contains("there are kubenet"));
        assert!(unfit("kubenet.udp.p99 > 1").contains("stream, rr, crr, http, http-4k"));
        assert!(unfit("kubenet.rr.throughput > 1").contains("p50, p99"));
        assert!(unfit("kubenet.rr.p99.ingress > 1").contains("other-node"));
        assert!(unfit("kubenet.udp.p99 > 1").contains("attach, pod-ready, endpoint-programming, policy-deny"));
        assert!(
            unfit("kubenet.attach.p99 > 1")
                .contains("attach has no p99: it has p50, most; for instance: overlay.attach")
        );
        assert!(unfit("kubenet.swap.rate > 1").contains("it has p50, most, gap, lost"));
        assert!(unfit("kubenet.rr.gap > 1").contains("rr has no gap: it has p50, p99"));
        assert!(unfit("kubenet.attach.p50.ingress > 1").contains("has no path ingress"));
        assert!(unfit("kubenet.attach.p50 > 2x").contains("leave out the x for milliseconds"));
        assert!(unfit("kubenet.swap.gap > 2x").contains("gap is no ratio"));
        assert!(unfit("kubenet.swap.gap > 2").contains("nothing is swapped"));
        assert!(unfit("by-hand.attach.p50 > 2").contains("no pods"));
        let two = crate::Experiment::quick(&["kubenet", "overlay"]);
        for good in ["overlay.policy-deny.p50 > 2x", "overlay.swap.gap > 50", "kubenet.first-answer.most > 900"] {
            assert_eq!(gate(good).fits(&two), Ok(()), "{good}");
        }
        let mut datagrams = two.clone();
        datagrams.spec.workloads[0].kind = crate::experiment::LoadKind::Udp;
        assert_eq!(gate("overlay.stream.loss > 0.01").fits(&datagrams), Ok(()));
        assert!(
            gate("overlay.stream.loss > 2x").fits(&datagrams).unwrap_err().to_string().contains("loss is no ratio")
        );
        let mut still = two.clone();
        still.spec.trials = 0;
        assert!(gate("overlay.detach.p50 > 2x").fits(&still).unwrap_err().to_string().contains("spec.trials is 0"));
        assert_eq!(gate("by-hand.rr.p99.vxlan > 2x").fits(&experiment), Ok(()));
    }
}
