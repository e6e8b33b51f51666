//! Two reports side by side: what changed between them, relative to the baseline of each.

use std::fmt::Write as _;

use super::Report;
use super::table::told;
use super::text::{self, times, titled_grid};
use crate::analysis::{Analysis, Comparison, Metric, doubts};
use crate::stats::{Interval, Random, median};
use crate::verdict::{Better, Verdict};

const RESAMPLES: usize = 1000;
/// Changes smaller than this are no changes.
const SMALLEST: f64 = 0.01;

/// What changed, as a table. Figures that only one of them has are named below it.
pub fn compare(before: &Report, after: &Report) -> String {
    let (old, new) = (Analysis::of(before), Analysis::of(after));
    let mut text = format!("before: {}\nafter:  {}\n", title(before), title(after));
    for line in differences(before, after) {
        let _ = writeln!(text, "other:  {line}");
    }
    text.push('\n');
    let mut rows = Vec::new();
    let mut alone = Vec::new();
    let mut sorted: Vec<&Comparison> = new.comparisons.iter().collect();
    // Stable: contestants and paths keep their order.
    sorted.sort_by_key(|one| place(after, one));
    for one in sorted {
        match old.find(&one.network, &one.path, &one.workload, one.metric) {
            Some(was) => rows.push(row(was, one, after.experiment.spec.seed)),
            None => alone.push(one),
        }
    }
    text += &titled_grid(&["  NETWORK", "PATH", "BEFORE", "AFTER", "CHANGE", "INTERVAL", "VERDICT"], rows);
    for (word, analysis) in [("invalid before", &old), ("invalid after", &new)] {
        text += &told(word, &doubts::of_comparisons(analysis), analysis.comparisons.len());
    }
    for one in alone {
        let _ = writeln!(text, "only after: {} {} {} {}", one.workload, one.metric, one.network, one.path);
    }
    for was in &old.comparisons {
        if new.find(&was.network, &was.path, &was.workload, was.metric).is_none() {
            let _ = writeln!(text, "only before: {} {} {} {}", was.workload, was.metric, was.network, was.path);
        }
    }
    text
}

/// Of a figure in its experiment: by workload, and by metric there.
fn place(report: &Report, one: &Comparison) -> Option<(usize, usize)> {
    let mut workloads = report.experiment.spec.workloads.iter().enumerate();
    let (at, workload) = workloads.find(|(_, workload)| workload.name == one.workload)?;
    Some((at, Metric::of(workload.kind).iter().position(|metric| *metric == one.metric)?))
}

fn title(report: &Report) -> String {
    let machine = &report.machine;
    format!(
        "{}, {}, yard {}, kernel {}, {} x {}",
        report.experiment.metadata.name,
        report.started.split('.').next().unwrap_or_default(),
        report.version,
        machine.kernel,
        machine.processors,
        machine.processor
    )
}

/// What is not the same beside the figures, so that nobody is surprised.
fn differences(before: &Report, after: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    if before.machine != after.machine {
        lines.push("the machines are not the same: only ratios can be compared, and they with care".to_owned());
    }
    if before.experiment.spec != after.experiment.spec {
        lines.push("the experiments are not the same".to_owned());
    }
    for plugin in &after.plugins {
        let was = before.plugins.iter().find(|was| was.network == plugin.network);
        if let Some(was) = was.filter(|was| was.sha256 != plugin.sha256) {
            let old = format!("{} {}", was.plugin, was.version);
            let new = format!("{} {}", plugin.plugin, plugin.version);
            lines.push(match old == new {
                true => format!("{}: another build of {new}", plugin.network),
                false => format!("{}: {old} became {new}", plugin.network),
            });
        }
    }
    lines
}

fn row(was: &Comparison, is: &Comparison, seed: u64) -> (String, Vec<String>) {
    let ratio = |one: &Comparison| one.interval.map_or_else(|| "-".into(), |interval| times(interval.ratio));
    let change = change(&was.ratios, &is.ratios, seed);
    let (shown, interval) = match &change {
        Some(change) => (times(change.ratio), format!("{} to {}", text::ratio(change.low), text::ratio(change.high))),
        None => ("-".into(), "-".into()),
    };
    let load = format!("{} {}", is.workload, is.metric);
    let verdict = verdict(was, is, change.as_ref());
    let network = format!("  {}", is.network);
    (load, vec![network, is.path.clone(), ratio(was), ratio(is), shown, interval, verdict.into()])
}

fn verdict(was: &Comparison, is: &Comparison, change: Option<&Interval>) -> &'static str {
    let invalid = |one: &Comparison| matches!(one.verdict, Verdict::Invalid(_));
    let Some(change) = change.filter(|_| !invalid(was) && !invalid(is)) else { return "invalid" };
    let matters = change.low < 1.0 - SMALLEST || change.high > 1.0 + SMALLEST;
    match (change.contains(1.0) || !matters, change.low > 1.0, is.metric.better()) {
        (true, ..) => "no difference shown",
        (_, true, Better::Higher) | (_, false, Better::Lower) => "faster",
        _ => "slower",
    }
}

/// How many times the ratio of before the ratio of after is. The two experiments are independent, so each is drawn for itself.
fn change(before: &[f64], after: &[f64], seed: u64) -> Option<Interval> {
    if before.is_empty() || after.is_empty() {
        return None;
    }
    let mut random = Random::new(seed);
    let mut draw = |values: &[f64]| {
        let drawn: Vec<f64> = (0..values.len()).map(|_| values[random.below(values.len())]).collect();
        median(&drawn)
    };
    let mut changes: Vec<f64> =
        (0..RESAMPLES).map(|_| draw(after) / draw(before)).filter(|one| one.is_finite()).collect();
    changes.sort_by(f64::total_cmp);
    let ratio = median(after) / median(before);
    let at = |share: f64| changes.get((changes.len().saturating_sub(1) as f64 * share).round() as usize).copied();
    Some(Interval { low: at(0.025)?.min(ratio), ratio, high: at(0.975)?.max(ratio) }).filter(|_| ratio.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::tests::report;

    #[test]
    fn what_became_slower_is_called_slower_and_nothing_else_is() {
        let before = report(|_| 1.0, |_| ());
        let after = report(|network| if network == "overlay" { 1.2 } else { 1.0 }, |_| ());
        let text = compare(&before, &after);
        let (_, from) = text.split_once("\nrr p50\n").unwrap();
        let lines: Vec<&str> = from.lines().take_while(|line| line.starts_with("  ")).collect();
        for line in &lines {
            let wanted = if line.contains("overlay") { "slower" } else { "no difference shown" };
            assert!(line.ends_with(wanted), "{line}");
        }
        assert!(lines.len() == 8 && lines.iter().any(|line| line.contains("1.20x")), "{text}");
        assert!(!text.contains("only ") && !text.contains("other:"), "{text}");
    }

    #[test]
    fn what_only_one_report_has_is_named() {
        let before = report(|_| 1.0, |_| ());
        let mut after = report(|_| 1.0, |sample| sample.measured.cpu.steal = 0.1);
        after.samples.retain(|sample| sample.network != "overlay");
        after.machine.processors = 64;
        let text = compare(&before, &after);
        assert!(text.contains("only before: rr p50 overlay same-node") && text.contains("machines are not the same"));
        assert!(
            text.contains("invalid after, all ") && text.contains("stolen") && !text.contains("invalid before"),
            "{text}"
        );
    }
}
