//! Makes `docs/benchmarks.md` of the records that the benches left, and the README's table of figures.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use switchyard_benches::figures::{self, round};
use switchyard_benches::pieces::{Measured, Piece, criterion_folder, measured, pieces};
use switchyard_benches::{Conditions, Record, Series, folder, machine};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/benchmarks.md");
const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");

fn main() -> anyhow::Result<()> {
    let mut files: Vec<_> = std::fs::read_dir(folder()).into_iter().flatten().collect::<Result<_, _>>()?;
    files.sort_by_key(std::fs::DirEntry::file_name);
    let found = measured(&criterion_folder())?;
    if files.is_empty() && found.is_empty() {
        anyhow::bail!("nothing has been measured; run: make bench");
    }
    let mut page = String::from(
        "# Benchmarks\n\nMade by `make bench` (`yard-bench-page`) of what the benches measured. The aims are those we set ourselves; a \
         figure that misses its aim stays on the page.\n\n# Whole paths\n\nEvery ratio is against a baseline that ran in the same \
         rounds; the brackets hold its 95 % bootstrap interval. Stolen time is what the \
         hypervisor gave to others during a run, of which the ratio sees little and a time alone all of it.\n",
    );
    let paths = files.iter().map(std::fs::DirEntry::path);
    let paths = paths.filter(|path| path.extension().is_some_and(|ending| ending == "json"));
    let records = paths.map(|path| read(&path)).collect::<anyhow::Result<Vec<_>>>()?;
    for record in &records {
        section(&mut page, record)?;
    }
    if !found.is_empty() {
        page += "\n# Pieces\n\nCriterion measures one thing after the other, so these ratios hold what the machine did in between. The \
                 brackets reach from end to end of\nboth 95 % intervals. The distributions are in `target/criterion/report/index.html`.\n";
    }
    for one in pieces() {
        piece(&mut page, &one, &found)?;
    }
    std::fs::write(PAGE, page)?;
    println!("{}", Path::new(PAGE).canonicalize()?.display());
    let readme = std::fs::read_to_string(README)?;
    match figures::within(&readme, &records) {
        Some(text) => {
            std::fs::write(README, text)?;
            println!("{}", Path::new(README).canonicalize()?.display());
        }
        None => eprintln!("README.md has no table of figures: put {:?} around it", figures::MARKS),
    }
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Record> {
    serde_json::from_slice(&std::fs::read(path)?).with_context(|| path.display().to_string())
}

fn section(page: &mut String, record: &Record) -> std::fmt::Result {
    writeln!(page, "\n## {}\n\n{}\n", record.name, record.about)?;
    writeln!(page, "`{}` on {}, {}; {}.\n", record.command, record.machine, date(record.taken), stolen(record.stolen))?;
    if !record.absent.is_empty() {
        writeln!(page, "Not installed there, so not compared: {}.\n", record.absent.join(", "))?;
    }
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

fn piece(page: &mut String, piece: &Piece, found: &BTreeMap<String, Measured>) -> std::fmt::Result {
    let both = piece.rows.iter().filter_map(|row| Some((row, found.get(&row.subject)?, found.get(&row.baseline)?)));
    let rows: Vec<_> = both.filter_map(|(row, a, b)| Some((row, a, b, a.over(b)?))).collect();
    let Some(taken) = rows.iter().map(|(_, subject, ..)| subject.taken).max() else {
        eprintln!("{}: nothing of the same run; run: {}", piece.name, piece.command);
        return Ok(());
    };
    let taken = taken.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    writeln!(page, "\n## {}\n\n{}\n", piece.name, piece.about)?;
    let conditions = piece.conditions.and_then(|name| Conditions::read(&folder(), name));
    let stolen = stolen(conditions.map(|conditions| conditions.stolen));
    writeln!(page, "`{}` on {}, {}; {stolen}.\n", piece.command, machine(), date(taken))?;
    writeln!(page, "| what | measured | baseline | | ratio | aim |\n| --- | ---: | ---: | --- | --- | --- |")?;
    for (row, subject, baseline, ratio) in rows {
        writeln!(
            page,
            "| {} | {} | {} | {} | {} [{}, {}] | {} |",
            row.subject,
            time(subject.nanos),
            time(baseline.nanos),
            row.baseline,
            round(ratio.median),
            round(ratio.low),
            round(ratio.high),
            row.aim
        )?;
    }
    Ok(())
}

/// How much of the processors' time the hypervisor gave to others.
fn stolen(share: Option<f64>) -> String {
    share.map_or_else(
        || "stolen time not recorded".into(),
        |share| format!("{:.1} % of the processors' time was stolen", share * 100.0),
    )
}

/// In the unit that suits it.
fn time(nanos: f64) -> String {
    let units = [(1e9, "s"), (1e6, "ms"), (1e3, "µs")];
    let (size, unit) = units.into_iter().find(|(size, _)| nanos >= *size).unwrap_or((1.0, "ns"));
    format!("{} {unit}", round(nanos / size))
}

/// The day in UTC.
fn date(seconds: u64) -> String {
    jiff::Timestamp::from_second(seconds as i64).map_or(String::new(), |then| then.strftime("%Y-%m-%d").to_string())
}
