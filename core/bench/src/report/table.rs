//! The report for a terminal: ratios first, nothing without one.

use std::fmt::Write as _;

use super::text::{mebibytes, number, times, with_unit};
use super::{BY_HAND, EndedBy, Report};
use crate::analysis::{Analysis, Comparison};
use crate::stats::median;
use crate::verdict::Verdict;

/// The whole of it.
pub fn table(report: &Report, analysis: &Analysis) -> String {
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
        report.samples.len(),
        report.blocks.len(),
        report.seconds,
        report.experiment.spec.seed
    );
    text +=
        &grid(&["WORKLOAD", "NETWORK", "PATH", "RATIO", "INTERVAL", "VERDICT", "VALUE", "BASELINE"], &rows(analysis));
    text += "\n";
    text += &costs(report);
    text += &swaps(report);
    text += &invalid(analysis);
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
        let (ratio, interval) = match &one.interval {
            Some(interval) => (times(interval.ratio), format!("{:.2} to {:.2}", interval.low, interval.high)),
            None => ("-".into(), "-".into()),
        };
        let verdict = match &one.verdict {
            Verdict::Invalid(_) => "invalid".to_owned(),
            other => other.to_string(),
        };
        let (value, base) = (with_unit(one.value, one.unit), with_unit(one.base, one.unit));
        rows.push(vec![shown, one.network.clone(), one.path.clone(), ratio, interval, verdict, value, base]);
    }
    rows
}

/// What it costs to have a network, however fast it is.
fn costs(report: &Report) -> String {
    let head = ["NETWORK", "POD MTU", "BYTES ADDED", "FIRST ANSWER", "AT REST", "MEMORY"];
    let mut rows = Vec::new();
    for name in report.contestants().into_iter().filter(|name| *name != BY_HAND) {
        let stays: Vec<_> = report.stays.iter().filter(|stay| stay.network == name).collect();
        let Some(first) = stays.first() else { continue };
        let middle = |of: &dyn Fn(&super::Stay) -> f64| median(&stays.iter().map(|stay| of(stay)).collect::<Vec<_>>());
        rows.push(vec![
            name.to_owned(),
            first.pod_mtu.to_string(),
            format!("{:.1} a packet", middle(&|stay| stay.wire.overhead())),
            format!("{} ms", number(middle(&|stay| stay.first_answer))),
            format!("{} cpu", number(middle(&|stay| stay.rest_cluster / stay.rest_seconds))),
            mebibytes(middle(&|stay| stay.memory_bytes as f64) as u64),
        ]);
    }
    grid(&head, &rows)
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
            "swap to {name}: {} ms in the middle of {}; longest silence of a running flow {} ms, {lost} of {sent} datagrams lost",
            number(took),
            swaps.len(),
            number(gap)
        );
    }
    text
}

/// Why figures are invalid: one line for all that share a reason.
fn invalid(analysis: &Analysis) -> String {
    let mut reasons: Vec<(String, Vec<String>)> = Vec::new();
    for one in &analysis.comparisons {
        let Verdict::Invalid(reason) = &one.verdict else { continue };
        let reason = reason.to_string();
        let figure = format!("{} {}", one.workload, one.metric);
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
