//! What is better read than seen: the glance, the costs, the machine, the method.

use std::fmt::Write as _;

use super::plot::escaped;
use crate::analysis::{Analysis, Comparison, Metric, doubts};
use crate::report::text::{mebibytes, number, ratio, with_unit};
use crate::report::wire::encapsulation;
use crate::report::{BY_HAND, Report, Stay};
use crate::stats::{Interval, Statistic, median};
use crate::verdict::Verdict;

/// One row a network: the figure of each load that matters most, to a pod on another node if there is such a path.
pub(super) fn glance(report: &Report, analysis: &Analysis) -> String {
    let spec = &report.experiment.spec;
    let path = spec.paths.iter().find(|path| path.name() == "other-node").or(spec.paths.first());
    let Some(path) = path.map(|path| path.name()) else { return String::new() };
    let mut text = String::from("<div class=scroll><table class=stack><tr><th>network");
    for workload in &spec.workloads {
        let _ = write!(text, "<th>{}, {}", escaped(&workload.name), Metric::main(workload.kind));
    }
    for network in report.contestants().into_iter().filter(|name| *name != BY_HAND) {
        let _ = write!(text, "<tr><td><b>{}</b>", escaped(network));
        for workload in &spec.workloads {
            let (name, metric) = (escaped(&workload.name), Metric::main(workload.kind));
            let found = analysis.find(network, path, &workload.name, metric);
            let _ = write!(text, "<td data-of=\"{name}, {metric}\">{}", found.map_or_else(|| "–".into(), cell));
        }
    }
    let _ = write!(
        text,
        "</table></div><p class=soft>Multiples of the baseline on the path {path}, with their 95 % intervals: what a network costs, or \
         does not.</p>"
    );
    text
}

fn cell(one: &Comparison) -> String {
    let Some(interval) = one.interval else { return "–".into() };
    let (class, word) = match &one.verdict {
        Verdict::Faster => ("faster", "better"),
        Verdict::Slower => ("slower", "worse"),
        Verdict::NoDifferenceShown => ("none", "no difference shown"),
        Verdict::Invalid(_) => ("invalid", "invalid"),
    };
    format!(
        "<span><b class={class}>{}×</b> <small>{} to {}</small><small class={class}>{word}</small></span>",
        ratio(interval.ratio),
        ratio(interval.low),
        ratio(interval.high)
    )
}

/// Why some figures are invalid.
pub(super) fn warnings(analysis: &Analysis) -> String {
    let doubts = doubts::of_comparisons(analysis);
    let total: usize = doubts.iter().map(|doubt| doubt.count).sum();
    if total == 0 {
        return String::new();
    }
    let whole = analysis.comparisons.len();
    let mut text = format!(
        "<div class=warning><b>{} of {whole} comparisons are invalid.</b> They are drawn faintly; do not build on them.<ul>",
        if total == whole { "All".to_owned() } else { total.to_string() }
    )
    .replace("All of", "All");
    for doubt in doubts {
        // A number and its sign stay in one line.
        let reason = escaped(&doubt.reason).replace(" %", "\u{a0}%");
        let figures = escaped(&doubt.figures.join(", "));
        let which = if doubt.count == whole { String::new() } else { format!(" <small>{figures}</small>") };
        let _ = write!(text, "<li><b>{}</b> because {reason}. What helps: {}.{which}</li>", doubt.count, doubt.advice);
    }
    text + "</ul></div>"
}

/// What did not work.
pub(super) fn failures(report: &Report) -> String {
    if report.failures.is_empty() {
        return String::new();
    }
    let items: String =
        report.failures.iter().map(|failure| format!("<li>{}</li>", escaped(&failure.to_string()))).collect();
    format!("<div class=warning><b>Not everything worked.</b> The rest was measured without it.<ul>{items}</ul></div>")
}

/// What it costs to have a network.
const COSTS: [&str; 8] = [
    "pod MTU",
    "bytes added to a packet",
    "by arithmetic",
    "packets for a datagram",
    "processors at rest",
    "memory",
    "swap to it",
    "longest silence",
];

/// What it costs to have a network, however fast it is.
pub(super) fn costs(report: &Report) -> String {
    let mut text = String::from("<div class=scroll><table class=stack><tr><th>network");
    for title in COSTS {
        let _ = write!(text, "<th>{title}");
    }
    for name in report.contestants().into_iter().filter(|name| *name != BY_HAND) {
        let Some(first) = report.stays.iter().find(|stay| stay.network == name) else { continue };
        let overhead = report.middle(name, |stay| stay.wire.overhead());
        let swaps: Vec<_> = report.swaps.iter().filter(|swap| swap.to == name).collect();
        let took = median(&swaps.iter().map(|swap| swap.milliseconds).collect::<Vec<_>>());
        let gap = swaps.iter().map(|swap| swap.flow.longest_gap).fold(f64::NAN, f64::max);
        let values: [String; COSTS.len()] = [
            first.pod_mtu.to_string(),
            if overhead.is_finite() { format!("{overhead:.1}") } else { "–".into() },
            encapsulation(overhead),
            number(report.middle(name, |stay| stay.wire.packets_a_datagram())),
            number(report.middle(name, Stay::processors_at_rest)),
            mebibytes(report.middle(name, |stay| stay.memory_bytes as f64) as u64),
            format!("{} ms", number(took)),
            format!("{} ms", number(gap)),
        ];
        let _ = write!(text, "<tr><td><b>{}</b>", escaped(name));
        for (title, value) in COSTS.iter().zip(values) {
            let _ = write!(text, "<td data-of=\"{title}\">{value}");
        }
    }
    text += "</table></div><p class=soft>Bytes are those that the node's card counted for datagrams of a known size, less Ethernet, IP and UDP; \
             beside them the sum of headers that they are (VXLAN: IP 20, UDP 8, VXLAN 8, inner Ethernet 14). Processors and memory are those of all processes of the cluster, pods and \
             generators included.</p>";
    text
}

/// Where this was, how it was done, how to do it again.
pub(super) fn method(report: &Report) -> String {
    let machine = &report.machine;
    let spec = &report.experiment.spec;
    let plugins: Vec<String> = report
        .plugins
        .iter()
        .map(|plugin| {
            format!(
                "{} ({} {}, sha256 {}…)",
                plugin.network,
                plugin.plugin,
                plugin.version,
                plugin.sha256.get(..12).unwrap_or("")
            )
        })
        .collect();
    let yaml = serde_yaml_ng::to_string(&report.experiment).unwrap_or_default();
    format!(
        "<p>{} processors ({}), {} of memory, Linux {}, yard {}. Networks: {}. While the cluster rested, other programs used {:.0} % of the \
         processors; {:.1} % of all time was stolen by the hypervisor.</p>\
         <p>Every sample of {} ms stands between two samples of the baseline, two namespaces and a pair of veth devices; its ratio is to \
         their middle, so what slows the machine for a while slows both sides. Networks are gone through there and back again in an order \
         that the seed {} decides. Intervals come from 1000 resamples, of blocks first and of pairs within them. A difference is shown \
         when the whole interval says so. Client, server and softirq share this machine, so ratios can be taken elsewhere and absolute \
         values cannot.</p>\
         <details><summary>The experiment, to be made again with <code>yard bench -f</code></summary><pre>{}</pre></details>",
        machine.processors,
        escaped(&machine.processor),
        mebibytes(machine.memory_bytes),
        escaped(&machine.kernel),
        escaped(&report.version),
        escaped(&plugins.join(", ")),
        report.elsewhere() * 100.0,
        report.stolen() * 100.0,
        spec.sample_milliseconds,
        spec.seed,
        escaped(&yaml)
    )
}

/// Every comparison in numbers.
pub(super) fn numbers(analysis: &Analysis) -> String {
    let mut text = String::from(
        "<details><summary>All comparisons in numbers</summary><div class=scroll><table><tr><th>workload<th>network<th>path<th>ratio<th>interval<th>value\
         <th>baseline<th>samples<th>verdict",
    );
    for one in &analysis.comparisons {
        let (ratio, interval) = match one.interval {
            Some(Interval { low, ratio, high }) => match one.metric.statistic() {
                Statistic::Difference => (format!("{ratio:+.4}"), format!("{low:+.4} to {high:+.4}")),
                _ => (format!("{ratio:.3}×"), format!("{low:.3} to {high:.3}")),
            },
            None => ("–".into(), "–".into()),
        };
        let _ = write!(
            text,
            "<tr><td>{} {}<td>{}<td>{}<td>{ratio}<td>{interval}<td>{}<td>{}<td>{}<td>{}",
            escaped(&one.workload),
            one.metric,
            escaped(&one.network),
            one.path,
            escaped(&with_unit(one.value, one.unit)),
            escaped(&with_unit(one.base, one.unit)),
            one.pairs.len(),
            escaped(&one.verdict.to_string())
        );
    }
    text + "</table></div></details>"
}
