//! Ratios with their intervals: one plot a figure, one row a path of a network.

use super::palette::{Palette, swatch};
use super::plot::{Anchor, Drawing, Scale, WIDTH, range};
use crate::analysis::{Comparison, Metric};
use crate::experiment::{Experiment, LoadKind, Workload};
use crate::report::text::{plain, ratio, with_unit};
use crate::stats::Statistic;
use crate::verdict::Verdict;

const ROW: f64 = 18.0;
const TOP: f64 = 6.0;
const LEFT: f64 = 94.0;
const RIGHT: f64 = WIDTH - 52.0;
/// Intervals that reach so many times further than any ratio are cut off, and marked: a wild one is not to press all others together.
const FURTHER: f64 = 2.5;

/// A card of one figure.
pub(super) fn card(experiment: &Experiment, all: &[&Comparison], palette: &Palette) -> String {
    let Some(first) = all.first() else { return String::new() };
    let Some(workload) = experiment.spec.workloads.iter().find(|workload| workload.name == first.workload) else {
        return String::new();
    };
    let sentence = sentence(workload, first.metric);
    let base = match first.metric.statistic() {
        Statistic::Difference => format!("{:.1} %", first.base * 100.0),
        _ => with_unit(first.base, first.unit),
    };
    // A baseline of which there is no sample has no value.
    let base = if first.base.is_finite() { format!("The baseline is some {base}.") } else { String::new() };
    let title = super::plot::escaped(&format!("{}, {}", first.workload, first.metric));
    format!(
        "<figure><h3>{title}</h3>{}<figcaption>{sentence} {}</figcaption></figure>",
        drawing(&title, all, palette),
        super::plot::escaped(&base)
    )
}

/// What a figure is, and which way is better.
fn sentence(workload: &Workload, metric: Metric) -> String {
    let what = match (workload.kind, metric) {
        (LoadKind::Stream, Metric::Throughput) if workload.connections.unwrap_or(1) > 1 => {
            "How many bits a second all TCP connections carry together"
        }
        (LoadKind::Stream, Metric::Throughput) => "How many bits a second one TCP connection carries",
        (_, Metric::Throughput) => "How many bits of payload a second arrive",
        (_, Metric::Loss) => "The share of all datagrams that did not arrive",
        (LoadKind::Stream, _) => "Processor time for a gigabyte, all processes and softirq of the machine included",
        (LoadKind::Udp | LoadKind::Flood, Metric::Rate) => "How many datagrams a second arrive",
        (LoadKind::Rr, Metric::Rate) => "How many requests follow each other in a second on one connection",
        (LoadKind::Crr, Metric::Rate) => "How many connections, each with one request, follow each other in a second",
        (_, Metric::Rate) => "How many requests are answered in a second when the next follows at once",
        (_, Metric::Cpu) => "Processor time for 10,000 operations, all processes and softirq of the machine included",
        (LoadKind::Rr, Metric::P50) => "A typical round trip on an open connection",
        (LoadKind::Crr, Metric::P50) => "A typical connection from opening to closing, with one request",
        (LoadKind::Http, Metric::P50) => "A typical HTTP answer, counted from the moment the request was due",
        (_, Metric::P90) => "The time that nine of ten do not exceed",
        (_, Metric::P99) => "The time that 99 of 100 do not exceed",
        (_, Metric::P999) => "The time that 999 of 1000 do not exceed",
        (_, Metric::P50) => "The time that half do not exceed",
    };
    let better = match metric {
        Metric::Throughput | Metric::Rate => "further right is better",
        _ => "further left is better",
    };
    let against = match metric.statistic() {
        Statistic::Difference => "less the baseline's",
        _ => "as a multiple of the baseline's",
    };
    format!("{what}, {against}; {better}.")
}

fn drawing(title: &str, all: &[&Comparison], palette: &Palette) -> String {
    let mut names: Vec<&str> = all.iter().map(|one| one.network.as_str()).collect();
    names.dedup();
    let bottom = TOP + (all.len() + names.len()) as f64 * ROW;
    let mut drawing = Drawing::new(bottom + 18.0, &format!("{title}: ratios to the baseline with intervals"));
    let statistic = all.first().map_or(Statistic::MedianRatio, |one| one.metric.statistic());
    let scale = scale(all, statistic);
    drawing.columns(&scale, TOP, bottom, |tick| match statistic {
        Statistic::Difference => format!("{}%", plain(tick * 100.0)),
        _ => format!("{}×", plain(tick)),
    });
    let alike = scale.at(statistic.alike());
    drawing.line((alike, TOP - 2.0), (alike, bottom), "one");
    let (mut y, mut before) = (TOP + ROW / 2.0, "");
    for comparison in all {
        if comparison.network != before {
            drawing.dot((5.0, y), 4.0, &format!("fill:{}", palette.of(&comparison.network)));
            drawing.text((14.0, y + 3.8), Anchor::Start, "name", &comparison.network);
            before = &comparison.network;
            y += ROW;
        }
        row(&mut drawing, &scale, comparison, y, palette);
        y += ROW;
    }
    drawing.finish()
}

/// Ratios keep their distances as such, differences as what they are.
fn scale(all: &[&Comparison], statistic: Statistic) -> Scale {
    let intervals = || all.iter().filter_map(|one| one.interval);
    if statistic == Statistic::Difference {
        let (low, high) = range(intervals().flat_map(|one| [one.low, one.high]), 0.0);
        let aside = ((high - low) * 0.06).max(0.001);
        return Scale::linear((low - aside, high + aside), (LEFT, RIGHT));
    }
    // Nothing at all has no place on a scale of ratios.
    let (least, most) = range(intervals().map(|one| one.ratio).filter(|ratio| *ratio > 0.0), 1.0);
    let within = |end: f64| end.clamp(least / FURTHER, most * FURTHER);
    let (low, high) = range(intervals().flat_map(|one| [within(one.low), within(one.high)]), 1.0);
    Scale::logarithmic(((low / 1.08).min(0.9), (high * 1.08).max(1.1)), (LEFT, RIGHT))
}

fn row(drawing: &mut Drawing, scale: &Scale, one: &Comparison, y: f64, palette: &Palette) {
    let colour = palette.of(&one.network);
    drawing.text((14.0, y + 3.8), Anchor::Start, "soft", &one.path);
    let Some(interval) = one.interval else {
        drawing.text((WIDTH, y + 3.8), Anchor::End, "soft", "–");
        return;
    };
    let faint = if one.verdict.is_valid() { "" } else { ";opacity:.4" };
    let stroke = format!("stroke:{colour}{faint}");
    drawing.stroke((scale.at(interval.low), y), (scale.at(interval.high), y), 2.5, &stroke);
    if scale.begins_after(interval.low) {
        drawing.text((LEFT - 3.0, y + 3.8), Anchor::End, "soft", "‹");
    }
    if scale.ends_before(interval.high) {
        drawing.text((RIGHT + 3.0, y + 3.8), Anchor::Start, "soft", "›");
    }
    let fill = match one.verdict {
        Verdict::Faster | Verdict::Slower => colour.clone(),
        _ => "var(--card)".to_owned(),
    };
    let dot = format!("fill:{fill};stroke:{colour};stroke-width:2{faint}");
    drawing.dot((scale.at(interval.ratio), y), 4.2, &dot);
    let said = match one.metric.statistic() {
        Statistic::Difference => format!("{:+.1}%", interval.ratio * 100.0),
        _ => format!("{}×", ratio(interval.ratio)),
    };
    drawing.text((WIDTH, y + 3.8), Anchor::End, "num", &said);
}

/// What the marks mean.
pub(super) fn legend(palette: &Palette) -> String {
    let networks: String = palette.names().map(|name| swatch(name, &palette.of(name))).collect();
    format!(
        "<ul class=legend>{networks}<li>● a difference is shown</li><li>○ none is shown</li><li style=\"opacity:.5\">○ invalid</li><li>‹ › goes on</li></ul>"
    )
}
