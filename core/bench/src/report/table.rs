//! The report for a terminal: ratios first, nothing without one.

use std::fmt::Write as _;

use super::text::{mebibytes, number, ratio, times, with_unit};
use super::{BY_HAND, EndedBy, Report};
use crate::analysis::{self, Analysis, Comparison};
use crate::experiment::Route;
use crate::gauge::Part;
use crate::stats::{Interval, median};
use crate::verdict::Verdict;

/// The whole of it.
pub fn table(whole: &Report, analysis: &Analysis) -> String {
    let report = &*whole.base();
    let mut text = String::new();
    let ended = match report.ended_by {
        EndedBy::Precision => "every interval is narrow enough",
        EndedBy::Budget => "the budget is spent",
        EndedBy::Repetitions => "all repetitions are made",
    };
    let _ = writeln!(
        text,
        "{} samples in {} blocks, {:.0} s, seed {}; {ended}\n\
         ratios to a pair of veth devices wired by hand, 95 % intervals; latency and cpu: less is better\n",
        whole.samples.len(),
        whole.blocks.len(),
        report.seconds,
        report.experiment.spec.seed
    );
    text +=
        &grid(&["WORKLOAD", "NETWORK", "PATH", "RATIO", "INTERVAL", "VERDICT", "VALUE", "BASELINE"], &rows(analysis));
    text += "\n";
    text += &processors(report);
    text += &costs(report);
    text += &lives(report);
    text += &swaps(report);
    text += &sweeps(whole);
    text += &invalid(report, analysis);
    text
}

fn rows(analysis: &Analysis) -> Vec<Vec<String>> {
    let mut sorted: Vec<&Comparison> = analysis.comparisons.iter().collect();
    sorted.sort_by_key(|one| (one.workload.clone(), one.metric));
    let mut rows = Vec::new();
    let mut before = String::new();
    for one in sorted {
        let load = format!("{} {}", one.workload, one.metric);
        let shown = if load == before { String::new() } else { load.clone() };
        before = load;
        let (times, interval) = match &one.interval {
            Some(interval) => (times(interval.ratio), format!("{} to {}", ratio(interval.low), ratio(interval.high))),
            None => ("-".into(), "-".into()),
        };
        let verdict = match &one.verdict {
            Verdict::Invalid(_) => "invalid".to_owned(),
            other => other.to_string(),
        };
        let (value, base) = (with_unit(one.value, one.unit), with_unit(one.base, one.unit));
        rows.push(vec![shown, one.network.clone(), one.path.clone(), times, interval, verdict, value, base]);
    }
    rows
}

/// What it costs to have a network, however fast it is.
fn costs(report: &Report) -> String {
    let head = ["NETWORK", "POD MTU", "BYTES ADDED", "AT REST", "MEMORY"];
    let mut rows = Vec::new();
    for name in report.contestants().into_iter().filter(|name| *name != BY_HAND) {
        let stays: Vec<_> = report.stays.iter().filter(|stay| stay.network == name).collect();
        let Some(first) = stays.first() else { continue };
        let middle = |of: &dyn Fn(&super::Stay) -> f64| median(&stays.iter().map(|stay| of(stay)).collect::<Vec<_>>());
        rows.push(vec![
            name.to_owned(),
            first.pod_mtu.to_string(),
            format!("{:.1} a packet", middle(&|stay| stay.wire.overhead())),
            format!("{} cpu", number(middle(&|stay| stay.rest_cluster / stay.rest_seconds))),
            mebibytes(middle(&|stay| stay.memory_bytes as f64) as u64),
        ]);
    }
    grid(&head, &rows)
}

/// Whose processor time a workload costs, on the path that asks most of a network and on the one through the ingress.
fn processors(report: &Report) -> String {
    let all = analysis::breakdowns(report);
    let paths = &report.experiment.spec.paths;
    let main = paths.iter().find(|path| **path == Route::OtherNode).or(paths.first()).map_or("", |path| path.name());
    let shown: Vec<_> =
        all.iter().filter(|one| [main, Route::Ingress.name(), "veth"].contains(&one.path.as_str())).collect();
    if shown.is_empty() {
        return String::new();
    }
    let seen = |part: &Part| shown.iter().any(|one| one.parts.contains_key(part));
    let parts: Vec<Part> = Part::ALL.into_iter().filter(seen).collect();
    let names: Vec<String> = parts.iter().map(|part| part.name().to_uppercase()).collect();
    let mut head = vec!["PROCESSOR TIME", "NETWORK", "PATH", "WHOLE"];
    head.extend(names.iter().map(String::as_str));
    head.push("REST");
    let row = |one: &&analysis::Breakdown| {
        let mut row = vec![format!("{} {}", one.workload, one.unit), one.network.clone(), one.path.clone()];
        row.push(number(one.whole));
        row.extend(parts.iter().map(|part| one.parts.get(part).map_or_else(|| "-".into(), |time| number(*time))));
        row.push(number(one.rest));
        row
    };
    grid(&head, &shown.iter().map(row).collect::<Vec<_>>()) + "\n"
}

/// Figures by the number of something.
fn sweeps(report: &Report) -> String {
    let all = analysis::curves(report);
    let mut text = String::new();
    for (of, numbers) in report.experiment.spec.sweep.lists().into_iter().filter(|(_, numbers)| !numbers.is_empty()) {
        // A question mark is an invalid figure.
        let title = format!("BY {}", of.name().to_uppercase());
        let columns: Vec<String> = numbers.iter().map(u16::to_string).collect();
        let head: Vec<&str> =
            [title.as_str(), "NETWORK"].into_iter().chain(columns.iter().map(String::as_str)).collect();
        let row = |curve: &analysis::Curve| {
            let unit = curve.figure.unit();
            let cell = |wanted: &u16| {
                let Some(point) = curve.points.iter().find(|point| point.number == *wanted) else { return "-".into() };
                let (one, mark) = (point.interval, if point.valid { "" } else { " ?" });
                match unit {
                    "x" => format!("{} [{} to {}]{mark}", times(one.ratio), ratio(one.low), ratio(one.high)),
                    unit => format!("{} {unit}{mark}", number(one.ratio)),
                }
            };
            let start = [curve.figure.title(), curve.network.clone()];
            start.into_iter().chain(numbers.iter().map(cell)).collect::<Vec<_>>()
        };
        let rows: Vec<_> = all.iter().filter(|curve| curve.of == of).map(row).collect();
        text += &format!("\n{}", grid(&head, &rows));
    }
    text
}

/// Lives of pods, against those under the first network.
fn lives(report: &Report) -> String {
    let lives = analysis::lives(report);
    if lives.is_empty() {
        return String::new();
    }
    let row = |life: &analysis::Life| {
        let range = |interval: &Interval| format!("{} to {}", number(interval.low), number(interval.high));
        let most = life.times.iter().copied().fold(0.0, f64::max);
        vec![
            life.step.to_string(),
            life.network.clone(),
            life.middle.map_or_else(|| "-".into(), |middle| format!("{} ms", number(middle.ratio))),
            life.middle.as_ref().map_or_else(|| "-".into(), range),
            format!("{} ms", number(most)),
            life.times.len().to_string(),
            life.ratio.map_or_else(|| "-".into(), |interval| times(interval.ratio)),
            life.ratio.map_or_else(|| "-".into(), |one| format!("{} to {}", ratio(one.low), ratio(one.high))),
            match &life.verdict {
                None => "reference".into(),
                Some(Verdict::Invalid(_)) => "invalid".into(),
                Some(other) => other.to_string(),
            },
        ]
    };
    let head = ["LIFE OF A POD", "NETWORK", "MEDIAN", "INTERVAL", "MOST", "TIMES", "RATIO", "INTERVAL", "VERDICT"];
    format!("\n{}\n", grid(&head, &lives.iter().map(row).collect::<Vec<_>>()))
}

fn swaps(report: &Report) -> String {
    let mut text = String::new();
    for name in report.contestants() {
        let swaps: Vec<_> = report.swaps.iter().filter(|swap| swap.to == name).collect();
        if swaps.is_empty() {
            continue;
        }
        let took = median(&swaps.iter().map(|swap| swap.milliseconds).collect::<Vec<_>>());
        let gap = swaps.iter().map(|swap| swap.flow.longest_gap).fold(0.0, f64::max);
        let lost: u64 = swaps.iter().map(|swap| swap.flow.sent.saturating_sub(swap.flow.answered)).sum();
        let sent: u64 = swaps.iter().map(|swap| swap.flow.sent).sum();
        let _ = writeln!(
            text,
            "swap to {name}: {} ms (median of {}); longest silence of a running flow {} ms, {lost} of {sent} datagrams lost",
            number(took),
            swaps.len(),
            number(gap)
        );
    }
    text
}

/// Why figures are invalid: one line for all that share a reason.
fn invalid(report: &Report, analysis: &Analysis) -> String {
    let mut reasons: Vec<(String, Vec<String>)> = Vec::new();
    let figures =
        analysis.comparisons.iter().map(|one| (format!("{} {}", one.workload, one.metric), one.verdict.clone()));
    let lives = analysis::lives(report).into_iter();
    for (figure, verdict) in figures.chain(lives.filter_map(|life| Some((life.step.to_string(), life.verdict?)))) {
        let Verdict::Invalid(reason) = verdict else { continue };
        let reason = reason.to_string();
        match reasons.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, figures)) if figures.contains(&figure) => {}
            Some((_, figures)) => figures.push(figure),
            None => reasons.push((reason, vec![figure])),
        }
    }
    let lines = reasons.into_iter().map(|(reason, figures)| format!("invalid: {}: {reason}\n", figures.join(", ")));
    lines.collect()
}

/// Columns as wide as their widest cell.
pub(super) fn grid(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&head).chain(rows).collect();
    let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for row in all {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}   ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}
