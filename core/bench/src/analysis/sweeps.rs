//! Figures by the number of something.

use super::{Analysis, Metric, Step, lives};
use crate::experiment::{Crowd, LoadKind, Route};
use crate::report::{BY_HAND, Report};
use crate::stats::{Interval, Statistic, median};

/// A figure of one network at each number of something.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// What there was more and more of.
    pub of: Crowd,
    /// What was measured.
    pub figure: Figure,
    /// The network.
    pub network: String,
    /// In the order of the numbers.
    pub points: Vec<Point>,
}

/// A figure at one number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Of how many things.
    pub number: u16,
    /// The figure with its 95 % interval.
    pub interval: Interval,
    /// Whether anything may be said of it.
    pub valid: bool,
}

/// What may be shown by number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    /// Of a workload on a path, as a multiple of the baseline's.
    Load {
        /// The workload.
        workload: String,
        /// The path.
        path: &'static str,
        /// Its figure.
        metric: Metric,
    },
    /// Of the lives of pods, milliseconds.
    Life(Step),
    /// Processors in use by the cluster at rest.
    Rest,
    /// MiB of all processes of the cluster.
    Memory,
}

/// All of them, if there was a sweep: of what, which figure, whose.
pub fn curves(report: &Report) -> Vec<Curve> {
    let mut curves: Vec<Curve> = Vec::new();
    for level in report.experiment.spec.sweep.levels() {
        let at = report.at(level);
        for (figure, network, interval, valid) in figures(&at) {
            let point = Point { number: level.number, interval, valid };
            match curves.iter_mut().find(|one| (one.of, &one.figure, &one.network) == (level.of, &figure, &network)) {
                Some(curve) => curve.points.push(point),
                None => curves.push(Curve { of: level.of, figure, network, points: vec![point] }),
            }
        }
    }
    together(curves)
}

/// Curves of one figure beside each other, figures and networks in the order in which they came.
fn together(mut curves: Vec<Curve>) -> Vec<Curve> {
    let mut order: Vec<(Crowd, Figure)> = Vec::new();
    for curve in &curves {
        let key = (curve.of, curve.figure.clone());
        if !order.contains(&key) {
            order.push(key);
        }
    }
    curves.sort_by_key(|curve| order.iter().position(|(of, figure)| *of == curve.of && *figure == curve.figure));
    curves
}

/// Figures of one level, in the order in which they are shown.
fn figures(report: &Report) -> Vec<(Figure, String, Interval, bool)> {
    let analysis = Analysis::of(report);
    let paths = &report.experiment.spec.paths;
    let main = paths.iter().copied().find(|path| *path == Route::OtherNode).or(paths.first().copied());
    let mut figures = Vec::new();
    for workload in &report.experiment.spec.workloads {
        for metric in main_metrics(workload.kind) {
            for one in &analysis.comparisons {
                let Some((path, interval)) = main.filter(|path| path.name() == one.path).zip(one.interval) else {
                    continue;
                };
                if one.workload == workload.name && one.metric == metric && one.network != BY_HAND {
                    let (workload, path) = (workload.name.clone(), path.name());
                    figures.push((
                        Figure::Load { workload, path, metric },
                        one.network.clone(),
                        interval,
                        one.verdict.is_valid(),
                    ));
                }
            }
        }
    }
    let lives = lives(report).into_iter();
    figures.extend(lives.filter_map(|life| {
        let valid = life.verdict.is_none_or(|verdict| verdict.is_valid());
        Some((Figure::Life(life.step), life.network, life.middle?, valid))
    }));
    for network in report.contestants().into_iter().filter(|network| *network != BY_HAND) {
        let stays: Vec<_> = report.stays.iter().filter(|stay| stay.network == network).collect();
        let spread = |of: &dyn Fn(&crate::report::Stay) -> f64| {
            let values: Vec<f64> = stays.iter().map(|stay| of(stay)).filter(|value| value.is_finite()).collect();
            let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |ends, &one| (ends.0.min(one), ends.1.max(one)));
            (!values.is_empty()).then(|| Interval { low, ratio: median(&values), high })
        };
        let rest = spread(&crate::report::Stay::processors_at_rest);
        let memory = spread(&|stay| stay.memory_bytes as f64 / f64::from(1 << 20));
        figures.extend(rest.map(|rest| (Figure::Rest, network.to_owned(), rest, true)));
        figures.extend(memory.map(|memory| (Figure::Memory, network.to_owned(), memory, true)));
    }
    figures
}

/// The figures that matter most.
fn main_metrics(kind: LoadKind) -> impl Iterator<Item = Metric> {
    let main = |metric: &Metric| match metric {
        Metric::P50 | Metric::P99 => true,
        Metric::Throughput | Metric::Rate => !metric.is_detail(kind),
        metric => metric.statistic() == Statistic::RatioOfSums,
    };
    Metric::of(kind).iter().copied().filter(main).collect::<Vec<_>>().into_iter()
}

// === impl Figure ===

impl Figure {
    /// As people read it.
    pub fn title(&self) -> String {
        match self {
            Self::Load { workload, path, metric } => format!("{workload} {metric}, {path}"),
            Self::Life(step) => step.to_string(),
            Self::Rest => "processors at rest".into(),
            Self::Memory => "memory".into(),
        }
    }

    /// The unit of its points; `x` is a multiple of the baseline.
    pub fn unit(&self) -> &'static str {
        match self {
            Self::Load { .. } => "x",
            Self::Life(_) => "ms",
            Self::Rest => "cpu",
            Self::Memory => "MiB",
        }
    }
}
