//! Whose processor time a workload costs, part by part.

use super::plot::{Anchor, Drawing, Scale, WIDTH, escaped};
use crate::analysis::Breakdown;
use crate::gauge::Part;
use crate::report::text::{number, plain};
use crate::report::{BASELINE, Report};

const ROW: f64 = 18.0;
const BAR: f64 = 11.0;
const TOP: f64 = 4.0;
const LEFT: f64 = 94.0;
const RIGHT: f64 = WIDTH - 44.0;
/// A part of which there is less than this, everywhere, has no entry in the legend.
const SMALLEST: f64 = 0.005;

/// A card for each workload.
pub(super) fn cards(report: &Report, breakdowns: &[Breakdown]) -> String {
    let of = |name: &str| breakdowns.iter().filter(|one| one.workload == name).collect::<Vec<_>>();
    let workloads =
        report.experiment.spec.workloads.iter().map(|workload| (workload.name.as_str(), of(&workload.name)));
    workloads.filter(|(_, all)| !all.is_empty()).map(|(name, all)| card(name, &all)).collect()
}

fn card(workload: &str, all: &[&Breakdown]) -> String {
    let amount = if all[0].unit == "s/GB" { "a gigabyte" } else { "10,000 operations" };
    let softirq = all.iter().map(|one| one.softirq / one.whole).fold(0.0, f64::max) * 100.0;
    let title = escaped(&format!("{workload}, processor time"));
    let seen = |part: &Part| all.iter().any(|one| one.parts.get(part).is_some_and(|time| *time > SMALLEST * one.whole));
    let entry = |name: &str, style: String| format!("<li><i style=\"background:{style}\"></i>{name}</li>");
    let legend: String = Part::ALL.into_iter().filter(seen).map(|part| entry(part.name(), colour(part))).collect();
    format!(
        "<figure><h3>{title}</h3>{}<ul class=legend>{legend}{}</ul><figcaption>Processor seconds for {amount}, by the part of the \
         cluster whose processes were charged with them; the rest is the kernel outside of them, and other programs. Up to {softirq:.0} % of all was softirq, most of it charged \
         to the process that it interrupted. Shorter is better.</figcaption></figure>",
        drawing(&title, all),
        entry("rest", REST.to_owned())
    )
}

const REST: &str = "var(--line)";

fn colour(part: Part) -> String {
    let number = Part::ALL.iter().position(|one| *one == part).unwrap_or(0);
    format!("var(--c{number})")
}

fn drawing(title: &str, all: &[&Breakdown]) -> String {
    let mut names: Vec<&str> = all.iter().map(|one| one.network.as_str()).filter(|name| *name != BASELINE).collect();
    names.dedup();
    let bottom = TOP + (all.len() + names.len()) as f64 * ROW;
    let mut drawing = Drawing::new(bottom + 18.0, &format!("{title} by part, stacked"));
    let most = all.iter().map(|one| one.whole).fold(f64::MIN_POSITIVE, f64::max);
    let scale = Scale::linear((0.0, most * 1.02), (LEFT, RIGHT));
    drawing.columns(&scale, TOP, bottom, plain);
    let (mut y, mut before) = (TOP + ROW / 2.0, BASELINE);
    for one in all {
        if one.network != before {
            drawing.text((0.0, y + 3.8), Anchor::Start, "name", &one.network);
            before = &one.network;
            y += ROW;
        }
        match one.network == BASELINE {
            true => drawing.text((0.0, y + 3.8), Anchor::Start, "name", "baseline"),
            false => drawing.text((8.0, y + 3.8), Anchor::Start, "soft", &one.path),
        }
        let mut from = 0.0;
        let parts = Part::ALL.into_iter().map(|part| (colour(part), one.parts.get(&part).copied().unwrap_or(0.0)));
        for (colour, time) in parts.chain([(REST.to_owned(), one.rest)]).filter(|(_, time)| *time > 0.0) {
            let (left, right) = (scale.at(from), scale.at(from + time));
            drawing.bar((left, y - BAR / 2.0), (right, y + BAR / 2.0), &format!("fill:{colour}"));
            from += time;
        }
        drawing.text((WIDTH, y + 3.8), Anchor::End, "num", &number(one.whole));
        y += ROW;
    }
    drawing.finish()
}
