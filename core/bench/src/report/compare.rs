//! Two reports side by side: what changed between them, relative to the baseline of each.

use std::fmt::Write as _;

use super::table::told;
use super::text::{against, mebibytes, number, titled_grid, with_unit};
use super::wire::NEAR;
use super::{BY_HAND, Report, Stay};
use crate::analysis::{self, Analysis, Comparison, Life, Metric, doubts};
use crate::stats::{Interval, Pair, Statistic, median};
use crate::verdict::{Better, FEWEST, Verdict, difference};

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
    let (before, after) = (&*before.base(), &*after.base());
    text += &absolute(before, after);
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
    let statistic = is.metric.statistic();
    let ratio = |one: &Comparison| against(one.interval.as_ref(), statistic).0;
    let change = Interval::change(&was.pairs, &is.pairs, statistic, seed);
    let (shown, interval) = against(change.as_ref(), statistic);
    let load = format!("{} {}", is.workload, is.metric);
    let verdict = verdict(was, is, change.as_ref());
    let network = format!("  {}", is.network);
    (load, vec![network, is.path.clone(), ratio(was), ratio(is), shown, interval, verdict])
}

/// What is no ratio to a baseline of the same run: it is compared as it is, and says as much about the machines.
fn absolute(before: &Report, after: &Report) -> String {
    let mut rows = Vec::new();
    let (old, new) = (analysis::lives(before), analysis::lives(after));
    for is in &new {
        let same = |was: &&Life| was.network == is.network && was.step == is.step;
        rows.extend(old.iter().find(same).map(|was| life(was, is, after.experiment.spec.seed)));
    }
    let networks = after.contestants().into_iter().filter(|name| *name != BY_HAND);
    for cost in &COSTS {
        rows.extend(networks.clone().filter_map(|network| cost.row(before, after, network)));
    }
    match rows.is_empty() {
        true => String::new(),
        false => {
            format!("\n{}", titled_grid(&["  AS IT IS", "BEFORE", "AFTER", "CHANGE", "INTERVAL", "VERDICT"], rows))
        }
    }
}

fn life(was: &Life, is: &Life, seed: u64) -> (String, Vec<String>) {
    let middle = |life: &Life| median(&life.times().collect::<Vec<_>>());
    let valid = |life: &Life| life.pairs.len() >= FEWEST && life.verdict.as_ref().is_none_or(|one| one.is_valid());
    let change = Interval::change(&was.pairs, &is.pairs, Statistic::MedianRatio, seed);
    let verdict = said(change.as_ref().filter(|_| valid(was) && valid(is)), Statistic::MedianRatio, Better::Lower);
    row_of(
        is.step.name(),
        &is.network,
        [middle(was), middle(is)].map(|one| with_unit(one, "ms")),
        change.as_ref(),
        verdict,
    )
}

fn row_of(
    title: &str,
    network: &str,
    [was, is]: [String; 2],
    change: Option<&Interval>,
    verdict: String,
) -> (String, Vec<String>) {
    let (shown, interval) = against(change, Statistic::MedianRatio);
    (title.to_owned(), vec![format!("  {network}"), was, is, shown, interval, verdict])
}

/// What it costs to have a network, one value each time it was in force or swapped to.
struct Cost {
    title: &'static str,
    /// Headers are counted, not measured: they are the same or they are not.
    counted: bool,
    values: fn(&Report, &str) -> Vec<Pair>,
    shown: fn(f64) -> String,
}

const COSTS: [Cost; 4] = [
    Cost { title: "longest silence in a swap", counted: false, values: gaps, shown: |gap| with_unit(gap, "ms") },
    Cost {
        title: "bytes added to a packet",
        counted: true,
        values: |report, network| of_stays(report, network, |stay| stay.wire.overhead()),
        shown: |bytes| format!("{bytes:.1}"),
    },
    Cost {
        title: "processors at rest",
        counted: false,
        values: |report, network| of_stays(report, network, Stay::processors_at_rest),
        shown: |share| format!("{} cpu", number(share)),
    },
    Cost {
        title: "memory",
        counted: false,
        values: |report, network| of_stays(report, network, |stay| stay.memory_bytes as f64),
        shown: |bytes| mebibytes(bytes as u64),
    },
];

fn gaps(report: &Report, network: &str) -> Vec<Pair> {
    let swaps = report.swaps.iter().filter(|swap| swap.to == network);
    swaps.map(|swap| Pair { block: swap.block, value: swap.flow.longest_gap, base: 1.0 }).collect()
}

fn of_stays(report: &Report, network: &str, of: fn(&Stay) -> f64) -> Vec<Pair> {
    let stays = report.stays.iter().filter(|stay| stay.network == network);
    let pairs = stays.map(|stay| Pair { block: stay.block, value: of(stay), base: 1.0 });
    pairs.filter(|pair| pair.value.is_finite()).collect()
}

impl Cost {
    fn row(&self, before: &Report, after: &Report, network: &str) -> Option<(String, Vec<String>)> {
        let [was, is] = [before, after].map(|report| (self.values)(report, network));
        if was.is_empty() || is.is_empty() {
            return None;
        }
        let [from, to] = [&was, &is].map(|all| median(&all.iter().map(|pair| pair.value).collect::<Vec<_>>()));
        let shown = [from, to].map(self.shown);
        if self.counted {
            let verdict = if (to - from).abs() < NEAR { "the same" } else { "not the same" };
            let [was, is] = shown;
            let cells = [format!("  {network}"), was, is, format!("{:+.1}", to - from), "-".into(), verdict.into()];
            return Some((self.title.to_owned(), cells.into()));
        }
        let change = Interval::change(&was, &is, Statistic::MedianRatio, after.experiment.spec.seed);
        let enough = was.len().min(is.len()) >= FEWEST;
        let verdict = match change.filter(|_| enough).map(|one| difference(&one, Statistic::MedianRatio, Better::Lower))
        {
            None => "too few".to_owned(),
            Some(Verdict::Faster) => "less".to_owned(),
            Some(Verdict::Slower) => "more".to_owned(),
            Some(other) => other.to_string(),
        };
        Some(row_of(self.title, network, shown, change.as_ref(), verdict))
    }
}

/// A change of what may be relied on before and after.
fn verdict(was: &Comparison, is: &Comparison, change: Option<&Interval>) -> String {
    let valid = was.verdict.is_valid() && is.verdict.is_valid();
    said(change.filter(|_| valid), is.metric.statistic(), is.metric.better())
}

fn said(change: Option<&Interval>, statistic: Statistic, better: Better) -> String {
    change.map_or_else(|| "invalid".into(), |change| difference(change, statistic, better).to_string())
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
    fn blocks_that_differ_from_each_other_show_no_change() {
        // What a swap leaves behind makes the blocks of one network differ by a fifth either way.
        let of = |up: usize| {
            report(
                |_| 1.0,
                |sample| {
                    let times = if sample.block.is_multiple_of(2) == (up == 0) { 1.2 } else { 0.8 };
                    if sample.network == "overlay" {
                        (sample.measured.cpu.system, sample.measured.latency) =
                            (sample.measured.cpu.system * times, crate::load::Histogram::default());
                        sample.measured.latency.record(std::time::Duration::from_nanos((30_000.0 * times) as u64));
                    }
                },
            )
        };
        let text = compare(&of(0), &of(1));
        for figure in ["\nrr p50\n", "\nrr cpu\n"] {
            let (_, from) = text.split_once(figure).unwrap();
            let lines = from.lines().take_while(|line| line.starts_with("  ")).filter(|line| line.contains("overlay"));
            for line in lines {
                assert!(line.ends_with("no difference shown"), "{line}");
            }
        }
    }

    #[test]
    fn lives_of_pods_and_what_a_network_costs_are_compared_as_they_are() {
        let with = |slow: f64, memory: u64, gap: f64| {
            let mut report = report(|_| slow, |_| ());
            for stay in &mut report.stays {
                (stay.memory_bytes, stay.rest_seconds, stay.rest_cluster) = (memory << 20, 1.0, 0.05);
                stay.wire = crate::report::Wire { datagrams: 10, payload: 1000, packets: 10, bytes: 10_420 };
            }
            for block in [1, 4] {
                let flow = crate::load::Followed { longest_gap: gap, ..Default::default() };
                let to = "overlay".to_owned();
                report.swaps.push(crate::stage::Swapped { to, block, milliseconds: 200.0, flow, ..Default::default() });
            }
            report
        };
        let text = compare(&with(1.0, 100, 10.0), &with(1.5, 150, 20.0));
        let line = |title: &str| {
            let (_, from) = text.split_once(&format!("\n{title}\n")).unwrap_or_else(|| panic!("{title}: {text}"));
            let words = from.lines().find(|line| line.contains("overlay")).unwrap().split_whitespace();
            words.collect::<Vec<_>>().join(" ")
        };
        let detach = line("detach");
        assert!(
            detach.starts_with("overlay 20.") && detach.ends_with("slower") && detach.contains("1.50x"),
            "{detach}"
        );
        assert_eq!(line("memory"), "overlay 100 MiB 150 MiB 1.50x 1.50 to 1.50 too few");
        assert_eq!(line("longest silence in a swap"), "overlay 10.0 ms 20.0 ms 2.00x 2.00 to 2.00 too few");
        assert_eq!(line("bytes added to a packet"), "overlay 0.0 0.0 +0.0 - the same");
        assert!(line("swap").starts_with("overlay 200 ms 200 ms 1.00x"), "{text}");
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
