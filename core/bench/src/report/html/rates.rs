//! Latency over rate: where a path begins to queue.

use super::palette::{Palette, swatch};
use super::plot::{Anchor, Drawing, Scale, WIDTH, escaped, range};
use crate::analysis::{Analysis, Metric};
use crate::experiment::{LoadKind, Workload};
use crate::load::Load;
use crate::report::text::{number, plain};
use crate::report::{BASELINE, BY_HAND, Report};

const LEFT: f64 = 48.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 190.0;

/// A figure of a network at each rate.
struct Curve {
    network: String,
    metric: Metric,
    points: Vec<(f64, f64)>,
}

/// A card for each path, if HTTP was sent at several rates.
pub(super) fn cards(report: &Report, analysis: &Analysis, palette: &Palette) -> String {
    let spec = &report.experiment.spec;
    let mut rates: Vec<(f64, &Workload)> = spec.workloads.iter().filter_map(|one| Some((rate(one)?, one))).collect();
    rates.sort_by(|a, b| a.0.total_cmp(&b.0));
    if rates.len() < 2 {
        return String::new();
    }
    let paths = spec.paths.iter().filter(|path| path.carries(LoadKind::Http));
    paths.map(|path| card(report, analysis, path.name(), &rates, palette)).collect()
}

fn rate(workload: &Workload) -> Option<f64> {
    match workload.load() {
        Load::Http { rate, .. } => rate,
        _ => None,
    }
}

fn card(report: &Report, analysis: &Analysis, path: &str, rates: &[(f64, &Workload)], palette: &Palette) -> String {
    let mut curves: Vec<Curve> = Vec::new();
    for network in report.contestants().into_iter().filter(|name| *name != BY_HAND) {
        for metric in [Metric::P50, Metric::P99] {
            let value = |workload: &Workload| analysis.find(network, path, &workload.name, metric).map(|one| one.value);
            let points = rates.iter().filter_map(|(rate, workload)| Some((*rate, value(workload)?)));
            let points: Vec<_> = points.filter(|(_, value)| value.is_finite()).collect();
            curves.push(Curve { network: network.to_owned(), metric, points });
        }
    }
    // The baseline's samples stand around those of each network; those around the first one do.
    let first = report.contestants().first().copied().unwrap_or_default();
    for metric in [Metric::P50, Metric::P99] {
        let value = |workload: &Workload| analysis.find(first, path, &workload.name, metric).map(|one| one.base);
        let points = rates.iter().filter_map(|(rate, workload)| Some((*rate, value(workload)?)));
        let points: Vec<_> = points.filter(|(_, value)| value.is_finite()).collect();
        curves.push(Curve { network: BASELINE.to_owned(), metric, points });
    }
    let title = escaped(&format!("HTTP over rate, {path}"));
    let names = report.contestants();
    let legend: String = std::iter::once(&BASELINE)
        .chain(names.iter().filter(|name| **name != BY_HAND))
        .map(|name| swatch(name, &palette.of(name)))
        .collect();
    format!(
        "<figure><h3>{title}</h3>{}<ul class=legend>{legend}<li>— p50</li><li>- - p99</li></ul><figcaption>Requests arrive at the rate \
         on the x-axis whether or not earlier ones have been answered; where a line turns upwards, they begin to \
         wait.</figcaption></figure>",
        drawing(&title, &curves, palette)
    )
}

fn drawing(title: &str, curves: &[Curve], palette: &Palette) -> String {
    let mut drawing = Drawing::new(BOTTOM + 30.0, &format!("{title}: latency at several rates"));
    let points = || curves.iter().flat_map(|curve| curve.points.iter().copied());
    let Some(first) = points().next() else { return drawing.finish() };
    let (slowest, fastest) = range(points().map(|point| point.0), first.0);
    let (low, high) = range(points().map(|point| point.1), first.1);
    let x = Scale::logarithmic((slowest / 1.1, fastest * 1.1), (LEFT, WIDTH - 10.0));
    let y = Scale::logarithmic((low / 1.2, high * 1.2), (BOTTOM, TOP));
    drawing.rows(&y, LEFT, WIDTH - 10.0, |tick| match tick {
        tick if tick >= 1000.0 => format!("{} ms", plain(tick / 1e3)),
        tick => format!("{} µs", plain(tick)),
    });
    let mut rates: Vec<f64> = points().map(|point| point.0).collect();
    rates.sort_by(f64::total_cmp);
    rates.dedup();
    for rate in rates {
        drawing.line((x.at(rate), TOP), (x.at(rate), BOTTOM), "grid");
        drawing.text((x.at(rate), BOTTOM + 13.0), Anchor::Middle, "soft num", &number(rate));
    }
    drawing.text((WIDTH - 10.0, BOTTOM + 26.0), Anchor::End, "soft", "requests a second");
    for Curve { network, metric, points } in curves {
        let colour = palette.of(network);
        let dash = if *metric == Metric::P99 { ";stroke-dasharray:5 4" } else { "" };
        let places: Vec<_> = points.iter().map(|point| (x.at(point.0), y.at(point.1))).collect();
        drawing.curve(&places, 2.0, &format!("stroke:{colour}{dash}"));
        for place in places {
            drawing.dot(place, 3.2, &format!("fill:{colour}"));
        }
    }
    drawing.finish()
}
