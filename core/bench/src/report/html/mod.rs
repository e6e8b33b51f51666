//! The report as a page: one file, nothing from elsewhere, no script; readable on a phone, on paper and in the dark.

mod facts;
mod latency;
mod lives;
mod palette;
mod plot;
mod rates;
mod ratios;
mod shares;
mod swaps;
mod sweeps;

use crate::analysis::{self, Analysis, Comparison, Metric};
use crate::report::Report;
use palette::Palette;
use plot::escaped;

const STYLE: &str = include_str!("style.css");

/// The whole page.
pub fn page(whole: &Report, analysis: &Analysis) -> String {
    let report = &*whole.base();
    let contestants = report.contestants();
    let palette = Palette::new(&contestants);
    let name = escaped(&report.experiment.metadata.name);
    let mut text = format!(
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8><meta name=viewport content=\"width=device-width, initial-scale=1\">\
         <title>{name}: what do these networks cost?</title><style>{STYLE}</style></head><body><main>\n"
    );
    text += &head(whole, &name);
    text += &facts::warnings(analysis);
    text += &facts::failures(whole);
    text += "<h2>At a glance</h2>";
    text += &facts::glance(report, analysis);
    text += "<h2>Ratios to the baseline</h2><p>A dot is the middle of all pairs of samples, the line around it the 95 % interval. Lines that \
             cross 1 show no difference.</p>";
    text += &ratios::legend(&palette);
    text += &ratio_cards(report, analysis, &palette);
    titled(&mut text, "Distributions", &latency::cards(report, &palette));
    titled(&mut text, "Latency over rate", &rates::cards(report, analysis, &palette));
    titled(&mut text, "Whose processor time", &shares::cards(report, &analysis::breakdowns(report)));
    let lives = analysis::lives(report);
    if !lives.is_empty() {
        text += "<h2>Lives of pods</h2>";
        text += &lives::introduction(report, &lives);
        text += &section(&lives::cards(report, &lives, &palette));
    }
    text += &sweeps::sections(whole, &palette);
    titled(&mut text, "Swaps under traffic", &swaps::cards(report, &palette));
    text += "<h2>What it costs to be there</h2>";
    text += &facts::costs(report);
    text += "<h2>How this was measured</h2>";
    text += &facts::method(whole);
    text += &facts::numbers(analysis);
    text += "</main></body></html>\n";
    text
}

fn head(report: &Report, name: &str) -> String {
    let ended = report.ended_by.words();
    let when = report.started.replace('T', " ");
    let when = when.split('.').next().unwrap_or_default().trim_end_matches('Z');
    let networks: Vec<&str> = report.experiment.spec.networks.iter().map(|network| network.name.as_str()).collect();
    format!(
        "<header><h1>What do {} cost?</h1><p class=soft>Experiment {name}, {} UTC: {} samples in {:.0} s; {ended}.</p></header>\n",
        escaped(&listed(&networks)),
        escaped(when),
        report.samples.len(),
        report.seconds
    )
}

/// `a, b and c`.
fn listed(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [before @ .., last] => format!("{} and {last}", before.join(", ")),
    }
}

/// Figures that matter most, and the others behind a click.
fn ratio_cards(report: &Report, analysis: &Analysis, palette: &Palette) -> String {
    let (mut first, mut more) = (String::new(), String::new());
    for workload in &report.experiment.spec.workloads {
        for &metric in Metric::of(workload.kind) {
            let of_figure = |one: &&Comparison| one.workload == workload.name && one.metric == metric;
            let all: Vec<&Comparison> = analysis.comparisons.iter().filter(of_figure).collect();
            let side = if metric.is_detail(workload.kind) { &mut more } else { &mut first };
            *side += &ratios::card(&report.experiment, &all, palette);
        }
    }
    let mut text = section(&first);
    if !more.is_empty() {
        text += &format!("<details><summary>More ratios</summary>{}</details>", section(&more));
    }
    text
}

fn section(cards: &str) -> String {
    format!("<div class=cards>{cards}</div>\n")
}

fn titled(text: &mut String, title: &str, cards: &str) {
    if !cards.is_empty() {
        *text += &format!("<h2>{title}</h2>{}", section(cards));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::tests::report;

    #[test]
    fn the_page_stands_alone_and_closes_what_it_opens() {
        let mut report = report(|network| if network == "overlay" { 1.5 } else { 1.0 }, |_| ());
        report.machine.processor = "<script>alert(1)</script>".into();
        let page = page(&report, &Analysis::of(&report));
        for forbidden in ["<script", "http://", "https://", "@import", "url(", "NaN", "inf"] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
        for tag in ["figure", "svg", "table", "ul", "div", "main", "text", "h2"] {
            let (opened, closed) =
                (page.matches(&format!("<{tag}")).count(), page.matches(&format!("</{tag}>")).count());
            assert_eq!(opened, closed, "{tag}");
        }
        assert!(page.matches("<figure>").count() > 12 && page.contains("prefers-color-scheme: dark"));
    }
}
