//! Makes `docs/benchmarks.md` of the records that the benches left.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use switchyard_benches::{Record, Series, folder};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/benchmarks.md");

fn main() -> anyhow::Result<()> {
    let mut files: Vec<_> =
        std::fs::read_dir(folder()).context("no records; run: make bench")?.collect::<Result<_, _>>()?;
    files.sort_by_key(std::fs::DirEntry::file_name);
    let mut page = String::from(
        "# Benchmarks\n\nMade by `make bench` (`yard-bench-page`) of what the benches measured. Every ratio is against a baseline \
         that ran in the same rounds;\nthe brackets hold its 95 % bootstrap interval. The aims are those we set ourselves; a figure \
         that misses its aim stays on the page.\n",
    );
    for file in files {
        let path = file.path();
        if path.extension().is_some_and(|ending| ending == "json") {
            let record: Record =
                serde_json::from_slice(&std::fs::read(&path)?).with_context(|| path.display().to_string())?;
            section(&mut page, &record)?;
        }
    }
    std::fs::write(PAGE, page)?;
    println!("{}", Path::new(PAGE).canonicalize()?.display());
    Ok(())
}

fn section(page: &mut String, record: &Record) -> std::fmt::Result {
    writeln!(page, "\n## {}\n\n{}\n", record.name, record.about)?;
    writeln!(page, "`{}` on {}, {}.\n", record.command, record.machine, date(record.taken))?;
    if !record.comparisons.is_empty() {
        writeln!(page, "| what | measured | baseline | | ratio | aim |\n| --- | ---: | ---: | --- | --- | --- |")?;
    }
    for comparison in &record.comparisons {
        let find = |name: &str| record.series.iter().find(|series| series.name == name);
        let show =
            |series: Option<&Series>| series.map_or(String::new(), |s| format!("{} {}", round(s.median()), s.unit));
        let ratio = comparison.ratio;
        writeln!(
            page,
            "| {} | {} | {} | {} | {} [{}, {}] | {} |",
            comparison.name,
            show(find(&comparison.subject)),
            show(find(&comparison.baseline)),
            comparison.baseline,
            round(ratio.median),
            round(ratio.low),
            round(ratio.high),
            comparison.aim
        )?;
    }
    if !record.facts.is_empty() {
        writeln!(page, "\n| what | measured | aim |\n| --- | ---: | --- |")?;
    }
    for fact in &record.facts {
        writeln!(page, "| {} | {} | {} |", fact.name, fact.value, fact.aim)?;
    }
    Ok(())
}

/// Three significant digits.
fn round(value: f64) -> String {
    let digits = 2 - value.abs().max(1e-9).log10().floor() as i32;
    format!("{value:.*}", digits.clamp(0, 6) as usize)
}

/// The day in UTC.
fn date(seconds: u64) -> String {
    jiff::Timestamp::from_second(seconds as i64).map_or(String::new(), |then| then.strftime("%Y-%m-%d").to_string())
}
