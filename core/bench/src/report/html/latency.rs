//! Whole distributions: how long the slowest share of all operations takes.

use super::palette::{Palette, swatch};
use super::plot::{Anchor, Drawing, Scale, WIDTH, escaped, range};
use crate::experiment::LoadKind;
use crate::report::text::{count, plain};
use crate::report::{BASELINE, BY_HAND, Report};
use crate::stats::Histogram;

const LEFT: f64 = 44.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 190.0;
/// Shares that have their own tick.
const SHARES: [(f64, &str); 5] = [(0.0, "all"), (0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %")];

/// A card for each path under a load that has latencies.
pub(super) fn cards(report: &Report, palette: &Palette) -> String {
    let spec = &report.experiment.spec;
    let latencies =
        spec.workloads.iter().filter(|workload| workload.kind != LoadKind::Stream && !workload.kind.is_udp());
    let mut text = String::new();
    for workload in latencies {
        for path in spec.paths.iter().filter(|path| path.carries(workload.kind)) {
            text += &card(report, &workload.name, path.name(), palette);
        }
    }
    text
}

fn card(report: &Report, workload: &str, path: &str, palette: &Palette) -> String {
    let mut curves = vec![(BASELINE.to_owned(), merged(report, BASELINE, "veth", workload))];
    for network in report.contestants().into_iter().filter(|network| *network != BY_HAND) {
        curves.push((network.to_owned(), merged(report, network, path, workload)));
    }
    curves.retain(|(_, histogram)| !histogram.is_empty());
    let operations: u64 = curves.iter().map(|(_, histogram)| histogram.len()).sum();
    let title = escaped(&format!("{workload}, {path}"));
    let legend: String = curves.iter().map(|(name, _)| swatch(name, &palette.of(name))).collect();
    format!(
        "<figure><h3>{title}</h3>{}<ul class=legend>{legend}</ul><figcaption>Of {} operations, the share on the x-axis took no \
         longer than the time on the y-axis; to the right stand the slowest ones. Lower is better.</figcaption></figure>",
        drawing(&title, &curves, palette),
        count(operations)
    )
}

fn merged(report: &Report, network: &str, path: &str, workload: &str) -> Histogram {
    let mut whole = Histogram::default();
    let samples = report
        .samples
        .iter()
        .filter(|sample| sample.network == network && sample.path == path && sample.workload == workload);
    for sample in samples {
        whole.merge(&sample.measured.latency);
    }
    whole
}

fn drawing(title: &str, curves: &[(String, Histogram)], palette: &Palette) -> String {
    let mut drawing = Drawing::new(BOTTOM + 18.0, &format!("{title}: distribution of latencies"));
    let nines = |share: f64| -(1.0 - share).log10();
    let fewest = curves.iter().map(|(_, histogram)| histogram.len()).min().unwrap_or(1).max(10);
    // As far as at least a handful of operations speak.
    let last = nines(1.0 - 3.0 / fewest as f64).clamp(1.0, 4.0);
    let x = Scale::linear((0.0, last), (LEFT, WIDTH - 8.0));
    let at = |histogram: &Histogram, nine: f64| histogram.microseconds_at(1.0 - 10f64.powf(-nine));
    let steps: Vec<f64> = (0..=120).map(|step| last * f64::from(step) / 120.0).collect();
    let values = curves.iter().flat_map(|(_, histogram)| steps.iter().map(|&nine| at(histogram, nine)));
    let start = curves.first().map_or(1.0, |(_, histogram)| at(histogram, 0.0));
    let (low, high) = range(values, start);
    let y = Scale::logarithmic((low / 1.15, high * 1.15), (BOTTOM, TOP));
    drawing.rows(&y, LEFT, WIDTH - 8.0, |tick| match tick {
        tick if tick >= 1000.0 => format!("{} ms", plain(tick / 1e3)),
        tick => format!("{} µs", plain(tick)),
    });
    for (share, label) in SHARES.into_iter().filter(|(share, _)| nines(*share) <= last) {
        let place = x.at(nines(share));
        drawing.line((place, TOP), (place, BOTTOM), "grid");
        drawing.text((place, BOTTOM + 13.0), Anchor::Middle, "soft num", label);
    }
    for (name, histogram) in curves {
        let points: Vec<_> = steps.iter().map(|&nine| (x.at(nine), y.at(at(histogram, nine)))).collect();
        drawing.curve(&points, 2.0, &format!("stroke:{}", palette.of(name)));
    }
    drawing.finish()
}
