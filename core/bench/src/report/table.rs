//! The report for a terminal: ratios first, nothing without one.

use std::fmt::Write as _;

use super::text::{against, grid, mebibytes, number, ratio, times, titled_grid, with_unit, wrapped};
use super::wire::encapsulation;
use super::{BY_HAND, Report, Stay};
use crate::analysis::doubts::{self, Doubt};
use crate::analysis::{self, Analysis, Comparison, Metric};
use crate::experiment::Route;
use crate::gauge::Part;
use crate::stats::{Interval, median};
use crate::verdict::Verdict;

/// A part of which there is less than this share, everywhere, stands with the others.
const SMALLEST: f64 = 0.02;
/// Parts of a cluster that fit beside each other.
const PARTS: usize = 4;
/// Numbers of a sweep that fit beside each other.
const LEVELS: usize = 3;

/// The whole of it.
pub fn table(whole: &Report, analysis: &Analysis) -> String {
    let report = &*whole.base();
    let mut text = String::new();
    let ended = report.ended_by.words();
    let (elsewhere, stolen) = (whole.elsewhere() * 100.0, whole.stolen() * 100.0);
    let _ = writeln!(
        text,
        "{} samples in {} blocks, {:.0} s, seed {}; {ended}\n\
         other programs used {elsewhere:.0} % of the processors, and {stolen:.1} % of their time was stolen\n\
         ratios to veth devices wired by hand, 95 % intervals; of latency, loss and cpu less is better\n",
        whole.samples.len(),
        whole.blocks.len(),
        report.seconds,
        report.experiment.spec.seed
    );
    text += &comparisons(report, analysis);
    text += "(p90, p999, the rates of rr and crr, the throughput of datagrams: in the page)\n\n";
    text += &processors(report);
    text += &costs(report);
    text += &lives(report);
    text += &swaps(report);
    text += &sweeps(whole);
    text += &invalid(report, analysis);
    for failure in &whole.failures {
        let _ = write!(text, "\n{}\n", wrapped(&format!("did not work, {failure}"), 2));
    }
    text
}

/// Figure by figure, those of each path beside each other.
fn comparisons(report: &Report, analysis: &Analysis) -> String {
    let mut rows = Vec::new();
    for workload in &report.experiment.spec.workloads {
        for &metric in Metric::of(workload.kind).iter().filter(|metric| !metric.is_detail(workload.kind)) {
            let shown = |one: &&Comparison| one.workload == workload.name && one.metric == metric;
            let title = format!("{} {metric}", workload.name);
            rows.extend(analysis.comparisons.iter().filter(shown).map(|one| (title.clone(), row(one))));
        }
    }
    titled_grid(&["  NETWORK", "PATH", "RATIO", "INTERVAL", "VERDICT", "VALUE", "BASELINE"], rows)
}

fn row(one: &Comparison) -> Vec<String> {
    let (times, interval) = against(one.interval.as_ref(), one.metric.statistic());
    let (value, base) = (with_unit(one.value, one.unit), with_unit(one.base, one.unit));
    vec![format!("  {}", one.network), one.path.clone(), times, interval, word(&one.verdict), value, base]
}

/// Without the reason, which stands below.
fn word(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Invalid(_) => "invalid".into(),
        other => other.to_string(),
    }
}

/// What it costs to have a network, however fast it is.
fn costs(report: &Report) -> String {
    let head = ["  NETWORK", "POD MTU", "BYTES ADDED", "BY ARITHMETIC", "PACKETS", "AT REST", "MEMORY"];
    let mut rows = Vec::new();
    for name in report.contestants().into_iter().filter(|name| *name != BY_HAND) {
        let Some(first) = report.stays.iter().find(|stay| stay.network == name) else { continue };
        let overhead = report.middle(name, |stay| stay.wire.overhead());
        rows.push(vec![
            format!("  {name}"),
            first.pod_mtu.to_string(),
            if overhead.is_finite() { format!("{overhead:.1} a packet") } else { "-".into() },
            encapsulation(overhead),
            format!("{} a datagram", number(report.middle(name, |stay| stay.wire.packets_a_datagram()))),
            format!("{} cpu", number(report.middle(name, Stay::processors_at_rest))),
            mebibytes(report.middle(name, |stay| stay.memory_bytes as f64) as u64),
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
    // What is next to nothing everywhere stands with the others, and so does what finds no room.
    let most = |part: Part| {
        shown.iter().map(|one| one.parts.get(&part).map_or(0.0, |time| time / one.whole)).fold(0.0, f64::max)
    };
    let mut parts: Vec<Part> =
        Part::ALL.into_iter().filter(|part| *part != Part::Others && most(*part) > SMALLEST).collect();
    parts.sort_by(|a, b| most(*b).total_cmp(&most(*a)));
    parts.truncate(PARTS);
    parts.sort();
    let names: Vec<String> = parts.iter().map(|part| part.name().to_uppercase()).collect();
    let mut head = vec!["  NETWORK", "PATH", "CPU TIME"];
    head.extend(names.iter().map(String::as_str));
    head.extend(["OTHERS", "REST"]);
    let row = |one: &&analysis::Breakdown| {
        let mut row =
            vec![format!("  {}", one.network), one.path.clone(), format!("{} {}", number(one.whole), one.unit)];
        row.extend(parts.iter().map(|part| one.parts.get(part).map_or_else(|| "-".into(), |time| number(*time))));
        let others: f64 = one.parts.iter().filter(|(part, _)| !parts.contains(part)).map(|(_, time)| time).sum();
        row.extend([number(others), number(one.rest)]);
        (one.workload.clone(), row)
    };
    titled_grid(&head, shown.iter().map(row).collect()) + "\n"
}

/// Figures by the number of something.
fn sweeps(report: &Report) -> String {
    let all = analysis::curves(report);
    let mut text = String::new();
    for (of, numbers) in report.experiment.spec.sweep.lists().into_iter().filter(|(_, numbers)| !numbers.is_empty()) {
        // A question mark is an invalid figure.
        for numbers in numbers.chunks(LEVELS) {
            let columns: Vec<String> = numbers.iter().map(u16::to_string).collect();
            let title = format!("  BY {}", of.name().to_uppercase());
            let head: Vec<&str> = std::iter::once(title.as_str()).chain(columns.iter().map(String::as_str)).collect();
            let row = |curve: &analysis::Curve| {
                let start = [format!("  {}", curve.network)];
                (curve.figure.title(), start.into_iter().chain(numbers.iter().map(|one| cell(curve, *one))).collect())
            };
            text += &format!("\n{}", titled_grid(&head, all.iter().filter(|curve| curve.of == of).map(row).collect()));
        }
    }
    text
}

/// A figure at one number.
fn cell(curve: &analysis::Curve, at: u16) -> String {
    let Some(point) = curve.points.iter().find(|point| point.number == at) else { return "-".into() };
    let (one, mark) = (point.interval, if point.valid { "" } else { " ?" });
    match curve.figure.unit() {
        "x" => format!("{} [{} to {}]{mark}", times(one.ratio), ratio(one.low), ratio(one.high)),
        unit => format!("{} {unit}{mark}", number(one.ratio)),
    }
}

/// Lives of pods, against those under the first network.
fn lives(report: &Report) -> String {
    let lives = analysis::lives(report);
    if lives.is_empty() {
        return String::new();
    }
    let row = |life: &analysis::Life| {
        let range = |interval: &Interval| format!("{} to {}", number(interval.low), number(interval.high));
        let dash = || "-".to_owned();
        let row = vec![
            format!("  {}", life.network),
            life.middle.map_or_else(dash, |middle| format!("{} ms", number(middle.ratio))),
            life.middle.as_ref().map_or_else(dash, range),
            format!("{} ms", number(life.most())),
            life.pairs.len().to_string(),
            life.ratio.map_or_else(dash, |interval| times(interval.ratio)),
            life.ratio.map_or_else(dash, |one| format!("{} to {}", ratio(one.low), ratio(one.high))),
            life.verdict.as_ref().map_or_else(|| "reference".into(), word),
        ];
        (life.step.to_string(), row)
    };
    let head = ["  LIFE OF A POD", "MEDIAN", "INTERVAL", "MOST", "TIMES", "RATIO", "INTERVAL", "VERDICT"];
    format!("\n{}", titled_grid(&head, lives.iter().map(row).collect()))
}

/// How long each took, and what a flow that went on saw of it.
fn swaps(report: &Report) -> String {
    let mut rows = Vec::new();
    for name in report.contestants() {
        let swaps: Vec<_> = report.swaps.iter().filter(|swap| swap.to == name).collect();
        if swaps.is_empty() {
            continue;
        }
        let took = median(&swaps.iter().map(|swap| swap.milliseconds).collect::<Vec<_>>());
        let worst = swaps.iter().max_by(|a, b| a.flow.longest_gap.total_cmp(&b.flow.longest_gap));
        let (gap, stall) = worst.map_or((0.0, 0.0), |swap| (swap.flow.longest_gap, swap.flow.longest_stall));
        let lost: u64 = swaps.iter().map(|swap| swap.flow.lost()).sum();
        let sent: u64 = swaps.iter().map(|swap| swap.flow.sent).sum();
        rows.push(vec![
            format!("  {name}"),
            swaps.len().to_string(),
            format!("{} ms", number(took)),
            format!("{} ms", number(gap)),
            format!("{} ms", number(stall)),
            format!("{lost} of {sent}"),
        ]);
    }
    if rows.is_empty() {
        return String::new();
    }
    let head = ["  SWAP TO", "TIMES", "MEDIAN", "LONGEST SILENCE", "SENDER HELD UP", "DATAGRAMS LOST"];
    format!("\n{}", grid(&head, &rows))
}

/// Why figures are invalid.
fn invalid(report: &Report, analysis: &Analysis) -> String {
    let lives = analysis::lives(report);
    told("invalid", &doubts::of_all(analysis, &lives), analysis.comparisons.len() + lives.len())
}

/// One paragraph for all figures that share a kind of reason.
pub(super) fn told(word: &str, doubts: &[Doubt], whole: usize) -> String {
    let mut text = String::new();
    for Doubt { reason, advice, count, figures } in doubts {
        let said = match *count == whole {
            true => format!("{word}, all {whole} figures: {reason}; what helps: {advice}"),
            false => {
                format!("{word}, {count} of {whole} figures: {reason} ({}); what helps: {advice}", figures.join(", "))
            }
        };
        let _ = write!(text, "\n{}\n", wrapped(&said, 2));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::text::COLUMNS;
    use super::*;
    use crate::analysis::tests::report;

    #[test]
    fn it_fits_a_terminal_however_much_is_wrong() {
        let report = report(
            |network| if network == "overlay" { 12.5 } else { 1.0 },
            |sample| {
                sample.measured.cpu.steal = sample.at / 1000.0;
                sample.measured.late = sample.block as u64;
            },
        );
        let text = table(&report, &Analysis::of(&report));
        let longest = text.lines().max_by_key(|line| line.chars().count()).unwrap();
        assert!(longest.chars().count() <= COLUMNS, "{longest}");
        assert!(text.contains("invalid, ") && text.contains(" of the processors was stolen"), "{text}");
        assert!(text.lines().filter(|line| line.starts_with("invalid")).count() <= 4, "{text}");
        assert!(text.contains("\nrr p50\n  kubenet"), "{text}");
    }
}
