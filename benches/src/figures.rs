//! The README's table of figures, from the same records as `docs/benchmarks.md`: so the two say the same.

use std::fmt::Write as _;

use crate::{Comparison, Record, Series};

/// What stands around the table in the README.
pub const MARKS: [&str; 2] = ["<!-- figures: made by yard-bench-page -->", "<!-- figures end -->"];

/// What is found in records, by the names that the benches give.
struct Found<'a>(&'a [Record]);

/// A row of the table, if what it tells was measured: what, how much, against what.
type Row = Option<[String; 3]>;
/// How a row is made.
type Figure = fn(&Found<'_>) -> Row;

/// The text with the table between its marks made anew; none if it has no marks.
pub fn within(text: &str, records: &[Record]) -> Option<String> {
    let [begin, end] = MARKS;
    let (before, rest) = text.split_once(begin)?;
    let (_, after) = rest.split_once(end)?;
    Some(format!("{before}{begin}\n{}\n{end}{after}", table(records)))
}

/// A row for each thing that was measured.
fn table(records: &[Record]) -> String {
    let found = Found(records);
    let rows: [Figure; 8] = [boot, scale, attach, swap, policy, path, dns, ingress];
    let mut text = String::from("| what | measured | against |\n| --- | --- | --- |");
    for [what, measured, against] in rows.iter().filter_map(|row| row(&found)) {
        let _ = write!(text, "\n| {what} | {measured} | {against} |");
    }
    text
}

fn row(what: &str, measured: String, against: String) -> Row {
    Some([what.to_owned(), measured, against])
}

fn boot(found: &Found<'_>) -> Row {
    let (boot, subject, _) = found.comparison("boot", "first boot", "")?;
    let against =
        format!("{}x the same namespaces, links, addresses and routes made by hand", round(boot.ratio.median));
    row("`yard up` to the first answer, 3 nodes, 8 pods", seconds(subject), against)
}

fn scale(found: &Found<'_>) -> Row {
    let fact = |name| found.fact("scale", name);
    let pod = fact("memory of a pod (pause and one echo), PSS")?;
    let against = format!("{pod} a pod; {} the largest agent", fact("memory of the largest agent, PSS")?);
    row("1,000 pods on 20 nodes ready", fact("1000 pods ready")?, against)
}

fn attach(found: &Found<'_>) -> Row {
    let of = |there, baseline| found.comparison("attach", &format!("kubenet: attach, {there} pods there"), baseline);
    let (hand, subject, _) = of("0", "by hand")?;
    let mut against = format!("{}x by hand", round(hand.ratio.median));
    if let (Some((few, ..)), Some((many, ..))) = (of("0", "CNI"), of("1000", "CNI")) {
        let [few, many] = [few, many].map(|one| round(one.ratio.median));
        let _ = write!(against, ", {few}x the reference CNI plugins; {many}x among 1,000 pods");
    }
    row("attach a pod to kubenet", format!("{} ms", round(subject.median())), against)
}

fn swap(found: &Found<'_>) -> Row {
    let fact = |name: &str| found.fact("swap", name);
    let whole = fact("kubenet, overlay and nsx: whole swap, 200 pods, under load")?;
    let requests = fact("six swaps: requests through the ingress")?;
    let connection = fact("six swaps: one TCP connection between pods")?;
    let forbidden = fact("six swaps: datagrams that a policy forbids")?;
    let against =
        format!("requests: {requests}; one connection: {connection}; datagrams that a policy forbids: {forbidden}");
    row("swap among kubenet, overlay, nsx with 200 pods on 5 nodes, 1,000 requests a second", whole, against)
}

fn policy(found: &Found<'_>) -> Row {
    let (first, subject, _) = found.comparison("policy", "first packet of a connection, 10000 rules", "")?;
    let against = format!("{}x under 10 rules", round(first.ratio.median));
    row(
        "the first packet of a connection under 10,000 policy rules",
        format!("{} ns", round(subject.median())),
        against,
    )
}

fn path(found: &Found<'_>) -> Row {
    let of = |place: &str, wires: &str| {
        found.comparison("path", &format!("kubenet: throughput, {place}, against {wires}"), "")
    };
    let places = ["same node", "other node"];
    let measured = places.map(|place| of(place, "bare wires").map(|(_, subject, _)| round(subject.median())));
    let ratios = |wires| places.map(|place| of(place, wires).map(|(one, ..)| format!("{}x", round(one.ratio.median))));
    let both = |[same, other]: [Option<String>; 2]| Some(format!("{} and {}", same?, other?));
    let (bare, tracked) = (both(ratios("bare wires"))?, both(ratios("tracked ones"))?);
    let against =
        format!("{bare} of bare wires by hand, which carry no Services and no policies; {tracked} of wires that track");
    row("pod to pod, on one node and between two", format!("{} Gbit/s", both(measured)?), against)
}

fn dns(found: &Found<'_>) -> Row {
    let of = |kind: &str, whom: &str| found.comparison("dns", &format!("CPU, {kind}, against {whom}"), "");
    let whom = ["dnsmasq", "unbound"];
    let with = |kind| {
        let all = whom.iter().filter_map(|whom| Some(format!("{}x {whom}", round(of(kind, whom)?.0.ratio.median))));
        all.collect::<Vec<_>>().join(", ")
    };
    let (_, subject, _) = whom.iter().find_map(|whom| of("many at a time", whom))?;
    let measured = format!("{} µs", round(subject.median() / 1e3));
    let against =
        format!("many queries at a time: {}; one at a time: {}", with("many at a time"), with("one at a time"));
    row("a name, processor time", measured, against)
}

fn ingress(found: &Found<'_>) -> Row {
    let (nginx, subject, _) = found.comparison("ingress", "a request, against nginx", "")?;
    let measured = format!("{} µs", round(subject.median()));
    row(
        "an HTTP request through the ingress, processor time",
        measured,
        format!("{}x nginx", round(nginx.ratio.median)),
    )
}

// === impl Found ===

impl Found<'_> {
    /// A comparison of a bench, with both its series; the baseline's name begins with so much.
    fn comparison(&self, bench: &str, name: &str, baseline: &str) -> Option<(&Comparison, &Series, &Series)> {
        let record = self.0.iter().find(|record| record.name == bench)?;
        let is_meant = |one: &&Comparison| one.name == name && one.baseline.starts_with(baseline);
        let comparison = record.comparisons.iter().find(is_meant)?;
        let series = |name: &str| record.series.iter().find(|series| series.name == name);
        Some((comparison, series(&comparison.subject)?, series(&comparison.baseline)?))
    }

    fn fact(&self, bench: &str, name: &str) -> Option<String> {
        let record = self.0.iter().find(|record| record.name == bench)?;
        record.facts.iter().find(|fact| fact.name == name).map(|fact| fact.value.clone())
    }
}

fn seconds(milliseconds: &Series) -> String {
    format!("{} s", round(milliseconds.median() / 1e3))
}

/// Three significant digits.
pub fn round(value: f64) -> String {
    let digits = 2 - value.abs().max(1e-9).log10().floor() as i32;
    format!("{value:.*}", digits.clamp(0, 6) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_between_the_marks_is_made_of_the_records() {
        let series = |name: &str, value: f64| Series { values: vec![value; 4], ..Series::new(name, "ms") };
        let mut boot = Record::new("boot", "");
        boot.compare("first boot", &series("yard up", 500.0), &series("by hand", 100.0), "");
        let mut attach = Record::new("attach", "");
        attach.compare("kubenet: attach, 0 pods there", &series("kubenet", 1.2), &series("by hand, 0", 1.0), "");
        let [begin, end] = MARKS;
        let readme = format!("before\n\n{begin}\n| old |\n{end}\n\nafter\n");
        let made = within(&readme, &[boot, attach]).unwrap();
        assert!(
            made.starts_with("before\n\n<!--") && made.ends_with("-->\n\nafter\n") && !made.contains("old"),
            "{made}"
        );
        assert!(made.contains("| 0.500 s | 5.00x the same namespaces"), "{made}");
        assert!(made.contains("| attach a pod to kubenet | 1.20 ms | 1.20x by hand |"), "no CNI plugins there: {made}");
        assert_eq!(
            made.lines().filter(|line| line.starts_with('|')).count(),
            4,
            "what was not measured has no row: {made}"
        );
        assert_eq!(within(&made, &[]).map(|text| within(&text, &[]) == Some(text)), Some(true), "again is the same");
        assert_eq!(within("no marks", &[]), None);
    }
}
