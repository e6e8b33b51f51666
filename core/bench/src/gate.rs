//! `--fail-if`: a condition on the figures, for machines that watch over a project.
//!
//! ```text
//! overlay.rr.p99 > 1.3x              any path of the network, as a ratio to the baseline
//! overlay.rr.p99.other-node > 80     one path, in the figure's own unit
//! ```
//!
//! It holds if the figure itself does; a figure that is invalid makes it hold too, as nothing is known.

use std::str::FromStr;

use crate::analysis::{Analysis, Comparison, Metric};
use crate::report::Report;
use crate::verdict::Verdict;

/// A condition.
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    text: String,
    network: String,
    workload: String,
    metric: Metric,
    path: Option<String>,
    above: bool,
    limit: Limit,
}

/// With what a figure is compared.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Limit {
    Ratio(f64),
    Value(f64),
}

/// Why a text is no condition, or fits no experiment.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("{text:?}: {problem}; for instance: overlay.rr.p99 > 1.3x")]
pub struct GateError {
    text: String,
    problem: String,
}

// === impl Gate ===

impl Gate {
    /// Checks that the experiment will have such a figure, before it is made.
    pub fn fits(&self, experiment: &crate::Experiment) -> Result<(), GateError> {
        let spec = &experiment.spec;
        let by_hand = self.network == crate::report::BY_HAND;
        let networks: Vec<&str> = spec.networks.iter().map(|network| network.name.as_str()).collect();
        if !by_hand && !networks.contains(&self.network.as_str()) {
            return Err(self.wrong(format!("no network {}: there are {}", self.network, networks.join(", "))));
        }
        let workload = spec.workloads.iter().find(|workload| workload.name == self.workload);
        let Some(workload) = workload else {
            let names: Vec<&str> = spec.workloads.iter().map(|workload| workload.name.as_str()).collect();
            return Err(self.wrong(format!("no workload {}: there are {}", self.workload, names.join(", "))));
        };
        let metrics = Metric::of(workload.kind);
        if !metrics.contains(&self.metric) {
            let names: Vec<&str> = metrics.iter().map(|metric| metric.name()).collect();
            return Err(self.wrong(format!("{} has no {}: it has {}", self.workload, self.metric, names.join(", "))));
        }
        let paths: Vec<&str> = match by_hand {
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

    /// What makes the condition hold, in words; nothing if it does not.
    pub fn holds(&self, report: &Report, analysis: &Analysis) -> Option<String> {
        let concerned = analysis.comparisons.iter().filter(|one| {
            one.network == self.network
                && one.workload == self.workload
                && one.metric == self.metric
                && self.path.as_ref().is_none_or(|path| *path == one.path)
        });
        let found: Vec<&Comparison> = concerned.collect();
        if found.is_empty() {
            return Some(format!("{}: nothing was measured in {}", self.text, report.experiment.metadata.name));
        }
        found.into_iter().find_map(|one| self.reason(one))
    }

    fn reason(&self, one: &Comparison) -> Option<String> {
        if let Verdict::Invalid(reason) = &one.verdict {
            return Some(format!("{}: {}: invalid: {reason}", self.text, one.path));
        }
        let exceeds = |value: f64, limit: f64| if self.above { value > limit } else { value < limit };
        match (self.limit, &one.interval) {
            (Limit::Ratio(limit), Some(interval)) if exceeds(interval.ratio, limit) => Some(format!(
                "{}: {}: {:.2}x [{:.2} to {:.2}]",
                self.text, one.path, interval.ratio, interval.low, interval.high
            )),
            (Limit::Value(limit), _) if exceeds(one.value, limit) => {
                Some(format!("{}: {}: {:.2} {}", self.text, one.path, one.value, one.unit))
            }
            _ => None,
        }
    }

    fn wrong(&self, problem: String) -> GateError {
        GateError { text: self.text.clone(), problem }
    }
}

impl FromStr for Gate {
    type Err = GateError;

    fn from_str(text: &str) -> Result<Self, GateError> {
        let wrong = |problem: &str| GateError { text: text.to_owned(), problem: problem.to_owned() };
        let at = text.find(['<', '>']).ok_or_else(|| wrong("expected FIGURE > LIMIT or FIGURE < LIMIT"))?;
        let (figure, rest) = text.split_at(at);
        let above = rest.starts_with('>');
        let words: Vec<&str> = figure.trim().split('.').collect();
        let (network, workload, metric, path) = match words[..] {
            [network, workload, metric] => (network, workload, metric, None),
            [network, workload, metric, path] => (network, workload, metric, Some(path.to_owned())),
            _ => {
                return Err(wrong(
                    "expected NETWORK.WORKLOAD.METRIC or NETWORK.WORKLOAD.METRIC.PATH before the comparison",
                ));
            }
        };
        let metric = metric.parse().map_err(|problem: String| wrong(&format!("metric {metric}: {problem}")))?;
        let limit = rest[1..].trim();
        let number = limit.strip_suffix('x').unwrap_or(limit);
        let value = number.parse::<f64>().ok().filter(|value| value.is_finite() && *value >= 0.0);
        let value = value.ok_or_else(|| wrong("the limit must be a number, or a ratio such as 1.3x"))?;
        let limit = if number.len() < limit.len() { Limit::Ratio(value) } else { Limit::Value(value) };
        let (network, workload) = (network.to_owned(), workload.to_owned());
        Ok(Self { text: text.to_owned(), network, workload, metric, path, above, limit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::tests::report;

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
        assert!(holds("gone.rr.p50 > 10").unwrap().contains("nothing was measured"));
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
        assert_eq!(gate("by-hand.rr.p99.vxlan > 2x").fits(&experiment), Ok(()));
    }
}
