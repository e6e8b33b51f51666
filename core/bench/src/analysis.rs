//! From samples to comparisons. A report is all it looks at.

mod breakdown;
pub(crate) mod doubts;
mod lives;
mod metric;
mod residue;
mod sweeps;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use breakdown::{Breakdown, breakdowns};
pub use lives::{Life, Step, lives};
pub use metric::Metric;
use residue::residue;
pub use sweeps::{Curve, Figure, Point, curves};

use crate::experiment::{LoadKind, Workload};
use crate::report::{BASELINE, Report, Sample};
use crate::stats::{Interval, Pair, Statistic, median};
use crate::verdict::{Evidence, FEWEST, Verdict, verdict};

/// All that a report says.
#[derive(Clone, Debug)]
pub struct Analysis {
    /// Contestants in their order, their paths, the workloads, their metrics.
    pub comparisons: Vec<Comparison>,
    /// The baseline against itself, by workload and metric.
    pub controls: Vec<Control>,
}

/// One figure of one contestant on one path, against the baseline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// The network, or `by-hand`.
    pub network: String,
    /// The path, or the wires.
    pub path: String,
    /// The load.
    pub workload: String,
    /// The figure.
    pub metric: Metric,
    /// Its unit.
    pub unit: &'static str,
    /// The contestant's median.
    pub value: f64,
    /// The baseline's.
    pub base: f64,
    /// How many times the baseline; of loss, how much more.
    pub interval: Option<Interval>,
    /// What may be said.
    pub verdict: Verdict,
    /// What that was made of.
    pub pairs: Vec<Pair>,
}

/// The baseline's sample after the others against the one before.
#[derive(Clone, Debug)]
pub struct Control {
    /// The load.
    pub workload: String,
    /// The figure.
    pub metric: Metric,
    /// How many times itself.
    pub interval: Option<Interval>,
}

/// The samples of one workload in one round.
type Round<'a> = Vec<&'a Sample>;

/// A generator that runs its own code for more of the time than this does not wait for the network.
const BUSY: f64 = 0.5;

// === impl Analysis ===

impl Analysis {
    /// Of what a report holds, of a sweep its first level; the same report gives the same analysis.
    pub fn of(report: &Report) -> Self {
        let report = &*report.base();
        let spec = &report.experiment.spec;
        let mut rounds: BTreeMap<(&str, usize, u16), Round<'_>> = BTreeMap::new();
        for sample in &report.samples {
            rounds.entry((&sample.workload, sample.block, sample.round)).or_default().push(sample);
        }
        let mut analysis = Self { comparisons: Vec::new(), controls: Vec::new() };
        for workload in &spec.workloads {
            let of_workload: Vec<&Round<'_>> =
                rounds.iter().filter(|((name, ..), _)| *name == workload.name).map(|(_, round)| round).collect();
            for &metric in Metric::of(workload.kind) {
                let pairs: Vec<Pair> = of_workload.iter().filter_map(|round| control(round, metric)).collect();
                let interval = Interval::of(&pairs, metric.statistic(), spec.seed);
                analysis.controls.push(Control { workload: workload.name.clone(), metric, interval });
            }
            for contestant in report.contestants() {
                for path in report.paths(contestant) {
                    let samples = select(&of_workload, contestant, path);
                    if samples.is_empty() {
                        continue;
                    }
                    for &metric in Metric::of(workload.kind) {
                        analysis.comparisons.push(analysis.compare(report, workload, metric, &samples));
                    }
                }
            }
        }
        analysis
    }

    fn compare(
        &self,
        report: &Report,
        workload: &Workload,
        metric: Metric,
        samples: &[(&Sample, Vec<&Sample>)],
    ) -> Comparison {
        let seed = report.experiment.spec.seed;
        let (first, _) = samples[0];
        let pairs: Vec<Pair> = samples.iter().filter_map(|(sample, base)| pair(sample, base, metric)).collect();
        let interval = Interval::of(&pairs, metric.statistic(), seed);
        let control =
            self.controls.iter().find(|control| control.workload == workload.name && control.metric == metric);
        let evidence = Evidence {
            // What the baseline itself loses is in the difference.
            control: control
                .and_then(|control| control.interval)
                .filter(|_| metric.statistic() != Statistic::Difference),
            residue: residue(report, &first.network),
            elsewhere: report.elsewhere(),
            most_ceiling: most_ceiling(workload.kind, metric),
            ..evidence(workload.kind, samples, pairs.len())
        };
        Comparison {
            network: first.network.clone(),
            path: first.path.clone(),
            workload: workload.name.clone(),
            metric,
            unit: metric.unit(workload.kind),
            value: median(&pairs.iter().map(|pair| pair.value).collect::<Vec<_>>()),
            base: median(&pairs.iter().map(|pair| pair.base).collect::<Vec<_>>()),
            interval,
            verdict: verdict(interval.as_ref(), (metric.statistic(), metric.better()), &evidence),
            pairs,
        }
    }

    /// Whether the main figure of every load is known well enough; where there is none, nothing is known.
    pub(crate) fn is_precise(&self, workloads: &[Workload], precision: f64) -> bool {
        let is_main = |one: &&Comparison| {
            let workload = workloads.iter().find(|workload| workload.name == one.workload);
            workload.is_some_and(|workload| Metric::main(workload.kind) == one.metric)
        };
        let is_known = |one: &Comparison| {
            one.pairs.len() >= FEWEST && one.interval.is_some_and(|interval| interval.precision() <= precision)
        };
        let mut main = self.comparisons.iter().filter(is_main).peekable();
        main.peek().is_some() && main.all(is_known)
    }

    /// One comparison.
    pub fn find(&self, network: &str, path: &str, workload: &str, metric: Metric) -> Option<&Comparison> {
        self.comparisons.iter().find(|comparison| {
            comparison.network == network
                && comparison.path == path
                && comparison.workload == workload
                && comparison.metric == metric
        })
    }
}

/// Samples of one contestant on one path, each with the baseline's around it.
fn select<'a>(rounds: &[&Round<'a>], network: &str, path: &str) -> Vec<(&'a Sample, Vec<&'a Sample>)> {
    let of_round = |round: &&Round<'a>| {
        let sample = round.iter().find(|sample| sample.network == network && sample.path == path)?;
        Some((*sample, baseline(round)))
    };
    rounds.iter().filter_map(of_round).collect()
}

fn baseline<'a>(round: &Round<'a>) -> Vec<&'a Sample> {
    round.iter().filter(|sample| sample.network == BASELINE && sample.measured.is_taken()).copied().collect()
}

fn pair(sample: &Sample, base: &[&Sample], metric: Metric) -> Option<Pair> {
    let bases: Vec<f64> = base.iter().map(|base| metric.value(&base.measured)).collect();
    if bases.is_empty() || !sample.measured.is_taken() {
        return None;
    }
    let count = bases.len() as f64;
    let base = match metric.statistic() {
        Statistic::MedianRatio => (bases.iter().map(|base| base.ln()).sum::<f64>() / count).exp(),
        Statistic::RatioOfSums | Statistic::Difference => bases.iter().sum::<f64>() / count,
    };
    Some(Pair { block: sample.block, value: metric.value(&sample.measured), base })
}

fn control(round: &Round<'_>, metric: Metric) -> Option<Pair> {
    let base = baseline(round);
    let (first, last) = (base.first()?, base.last().filter(|_| base.len() > 1)?);
    Some(Pair { block: first.block, value: metric.value(&last.measured), base: metric.value(&first.measured) })
}

fn evidence(kind: LoadKind, samples: &[(&Sample, Vec<&Sample>)], pairs: usize) -> Evidence {
    let all = || samples.iter().flat_map(|(sample, base)| base.iter().copied().chain([*sample]));
    let own = || samples.iter().map(|(sample, _)| &sample.measured);
    let steal: f64 = all().map(|sample| sample.measured.cpu.steal).sum();
    let time: f64 = all().map(|sample| sample.measured.cpu.total()).sum();
    let operations: u64 = own().map(|one| one.operations).sum();
    let errors: u64 = own().map(|one| one.errors).sum();
    // Datagrams may be lost: that is a figure of theirs.
    let failed = || own().filter(|one| !kind.is_udp() || !one.is_taken());
    // Where as many as can be sent are sent, the network's part ends where they arrive.
    let sent: u64 = all().map(|sample| sample.measured.operations + sample.measured.errors).sum();
    let dropped: u64 = match kind {
        LoadKind::Udp => all().map(|sample| sample.measured.dropped).sum(),
        _ => 0,
    };
    let late: u64 = own().map(|one| one.late).sum();
    let (user, seconds) = own().fold((0.0, 0.0), |sum, one| (sum.0 + one.generator_user, sum.1 + one.seconds));
    let ceiling = match kind {
        LoadKind::Http | LoadKind::Udp => late as f64 / (operations + errors).max(1) as f64,
        // What the kernel does for a generator is the way through the network, also where that is nearly all (flood): only its own code
        // says nothing of any network.
        LoadKind::Stream | LoadKind::Flood | LoadKind::Peak | LoadKind::Rr | LoadKind::Crr => {
            user / seconds.max(f64::MIN_POSITIVE)
        }
    };
    Evidence {
        samples: pairs,
        errors: failed().map(|one| one.errors).sum(),
        operations,
        why: failed().find_map(|one| one.why.clone()),
        ceiling,
        dropped: dropped as f64 / sent.max(1) as f64,
        steal: if time > 0.0 { steal / time } else { 0.0 },
        ..Evidence::default()
    }
}

/// A late request may stand anywhere in the distribution: half of those beyond a quantile may be late ones, or it says more about the
/// generator than about the network.
fn most_ceiling(kind: LoadKind, metric: Metric) -> f64 {
    match kind {
        LoadKind::Http | LoadKind::Udp => metric.beyond() / 2.0,
        _ => BUSY,
    }
}

#[cfg(test)]
pub(crate) mod tests;
