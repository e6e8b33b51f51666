//! The hot pieces on the page: which of criterion's results stand beside which, and what they were.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use crate::{Ratio, folder};

/// How many objects there are, in benches that ask what a small thing costs among many.
pub const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];
/// How many pods a ReplicaSet asks for.
pub const PODS: [usize; 2] = [100, 1_000];
/// How many hear of a write.
pub const WATCHERS: [usize; 4] = [1, 10, 100, 1_000];

/// A section of the page.
pub struct Piece {
    /// What it is.
    pub name: &'static str,
    /// A sentence on it.
    pub about: &'static str,
    /// The command that measures it.
    pub command: &'static str,
    /// Under what name the conditions of the run are kept, if they are.
    pub conditions: Option<&'static str>,
    /// What stands beside what.
    pub rows: Vec<Row>,
}

/// Two results by their names.
pub struct Row {
    /// `GROUP/FUNCTION/VALUE`.
    pub subject: String,
    /// The one it is compared with.
    pub baseline: String,
    /// What we aim at.
    pub aim: &'static str,
}

/// What criterion measured of one thing.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Nanoseconds, the median of the samples.
    pub nanos: f64,
    low: f64,
    high: f64,
    /// When.
    pub taken: SystemTime,
}

#[derive(Deserialize)]
struct Benchmark {
    full_id: String,
}

#[derive(Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    point_estimate: f64,
    confidence_interval: Interval,
}

#[derive(Deserialize)]
struct Interval {
    lower_bound: f64,
    upper_bound: f64,
}

/// Results that are further apart are not of the same run.
const SAME_RUN: Duration = Duration::from_secs(1800);
const PIECES: &str = "cargo bench -p switchyard-benches --bench pieces";
const CONTROL: &str = "cargo bench -p switchyard-control --bench schedule";
const INGRESS: &str = "cargo bench -p switchyard-ingress --bench hot";
const FLAT: &str = "flat: 1x";

/// All sections.
pub fn pieces() -> Vec<Piece> {
    let piece = |name, about, command, rows: Vec<Vec<Row>>| Piece {
        name,
        about,
        command,
        conditions: (command == PIECES).then_some("pieces"),
        rows: rows.into_iter().flatten().collect(),
    };
    vec![
        piece(
            "netstate",
            "Finding a change of one object by comparing two whole states (the audit), and of one unit of ten objects in the ledger \
             (every change of a running cluster); putting changes of all kinds in order.",
            PIECES,
            vec![
                grown("difference/one change", &SIZES, "as many times as there are objects"),
                grown("ledger/one unit", &SIZES, FLAT),
                grown("order/changes", &SIZES, "as many times as there are changes, and log n"),
            ],
        ),
        piece(
            "netlink",
            "Objects written as messages; routes from fragment to the kernel's last word, against the fewest messages by hand.",
            PIECES,
            vec![
                grown("encode/routes", &SIZES, "as many times as there are objects"),
                grown("encode/elements", &SIZES, "as many times as there are objects"),
                versus("apply/routes by the engine", "apply/routes by hand", &SIZES[..3], "at most 2x"),
            ],
        ),
        piece(
            "plugin call",
            "One pod's fragment from kubenet, by hosting: as JSON through the plugin's table and checked, against a call of the function.",
            PIECES,
            vec![
                vec![row("plugin call/static", "plugin call/a function", "")],
                vec![row("plugin call/in process", "plugin call/a function", "")],
                vec![row("plugin call/in process", "plugin call/static", "1x")],
                vec![row("plugin call/child process", "plugin call/in process", "")],
            ],
        ),
        piece(
            "store",
            "The API server's store: one value, ten of a namespace, one write, and from a write to the last of so many watchers.",
            PIECES,
            vec![
                grown("store/get among", &SIZES, FLAT),
                grown("store/list 10 of", &SIZES, FLAT),
                vec![row("store put/relaxed, on disk", "store put/in memory", "")],
                vec![row("store put/strict, on disk", "store put/in memory", "an fsync")],
                grown("store fan-out/watchers", &WATCHERS, "less than as many times as there are watchers"),
            ],
        ),
        piece(
            "ingress",
            "The gate that a request's head passes, the host's and the path's look-up among so many rules.",
            INGRESS,
            vec![
                vec![row("gate/head of 8 fields", "gate/head of 1 field", "")],
                grown("host, exact", &SIZES, FLAT),
                grown("host, one label", &SIZES, FLAT),
                grown("host, partial", &SIZES, ""),
                grown("path, prefix", &SIZES, FLAT),
                grown("table/endpoints only", &[500, 5_000], ""),
                versus("table/endpoints only", "table/compiled whole", &[500, 5_000], "below 1x"),
            ],
        ),
        piece(
            "policies",
            "Compiling all rules anew in a cluster of a thousand pods, and one change from what is told to the kernel's acknowledgement.",
            PIECES,
            vec![
                grown("policies/compiled", &SIZES, "as many times as there are rules"),
                grown("policy change/label of a peer", &SIZES, ""),
                grown("policy change/a pod comes and goes", &SIZES, FLAT),
                grown("policy change/a policy comes and goes", &SIZES, ""),
            ],
        ),
        piece(
            "control",
            "From a ReplicaSet's creation until the last of so many pods is bound to one of twenty nodes and has its address, API \
             server, controllers and scheduler in one process.",
            CONTROL,
            vec![grown("control/pods bound", &PODS, "as many times as there are pods, or less")],
        ),
        piece(
            "names",
            "One query to the bytes of its answer among the records of so many Services, without a socket.",
            PIECES,
            vec![
                grown("dns answer/given before", &SIZES, FLAT),
                grown("dns answer/encoded anew", &SIZES, FLAT),
                grown("dns answer/no such name", &SIZES, FLAT),
                versus("dns answer/encoded anew", "dns answer/given before", &SIZES[2..3], ""),
            ],
        ),
    ]
}

/// The same thing, larger and larger, against the smallest.
fn grown(what: &str, sizes: &[usize], aim: &'static str) -> Vec<Row> {
    let at = |size: &usize| format!("{what}/{size}");
    sizes[1..].iter().map(|size| row(&at(size), &at(&sizes[0]), aim)).collect()
}

/// Two things at the same sizes.
fn versus(subject: &str, baseline: &str, sizes: &[usize], aim: &'static str) -> Vec<Row> {
    sizes.iter().map(|size| row(&format!("{subject}/{size}"), &format!("{baseline}/{size}"), aim)).collect()
}

fn row(subject: &str, baseline: &str, aim: &'static str) -> Row {
    Row { subject: subject.into(), baseline: baseline.into(), aim }
}

/// Where criterion leaves its results.
pub fn criterion_folder() -> PathBuf {
    let beside = || folder().with_file_name("criterion");
    std::env::var_os("CRITERION_HOME").map_or_else(beside, PathBuf::from)
}

/// All results there are, by their names.
pub fn measured(folder: &Path) -> anyhow::Result<BTreeMap<String, Measured>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten() {
            let path = entry?.path();
            if !path.is_dir() {
                continue;
            }
            if !path.ends_with("new") {
                waiting.push(path);
                continue;
            }
            let file = path.join("estimates.json");
            // A run that was cut short leaves a folder without results.
            if !file.exists() || !path.join("benchmark.json").exists() {
                continue;
            }
            let benchmark: Benchmark = serde_json::from_slice(&std::fs::read(path.join("benchmark.json"))?)?;
            let Estimates { median } = serde_json::from_slice(&std::fs::read(&file)?)?;
            let Interval { lower_bound: low, upper_bound: high } = median.confidence_interval;
            let taken = file.metadata()?.modified()?;
            found.insert(benchmark.full_id, Measured { nanos: median.point_estimate, low, high, taken });
        }
    }
    Ok(found)
}

// === impl Measured ===

impl Measured {
    /// How many times the baseline; from end to end of both 95 % intervals. None if they are not of the same run.
    pub fn over(&self, baseline: &Self) -> Option<Ratio> {
        let apart = self.taken.duration_since(baseline.taken).unwrap_or_else(|before| before.duration());
        let (low, high) = (self.low / baseline.high, self.high / baseline.low);
        (apart <= SAME_RUN).then_some(Ratio { median: self.nanos / baseline.nanos, low, high })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_found_by_their_names_and_compared_within_a_run() {
        let folder = tempfile::tempdir().unwrap();
        let leave = |directory: &str, id: &str, nanos: f64| {
            let path = folder.path().join(directory).join("new");
            std::fs::create_dir_all(&path).unwrap();
            let interval =
                serde_json::json!({"confidence_level": 0.95, "lower_bound": nanos * 0.9, "upper_bound": nanos * 1.1});
            let estimate =
                serde_json::json!({"point_estimate": nanos, "confidence_interval": interval, "standard_error": 1.0});
            std::fs::write(path.join("estimates.json"), serde_json::json!({"median": estimate}).to_string()).unwrap();
            std::fs::write(path.join("benchmark.json"), serde_json::json!({"full_id": id}).to_string()).unwrap();
        };
        leave("ledger/one unit/10", "ledger/one unit/10", 100.0);
        leave("ledger/one unit/100", "ledger/one unit/100", 200.0);
        let found = measured(folder.path()).unwrap();
        let (few, many) = (found["ledger/one unit/10"], found["ledger/one unit/100"]);
        let ratio = many.over(&few).unwrap();
        assert!((ratio.median - 2.0).abs() < 1e-9 && ratio.low < 1.7 && ratio.high > 2.4, "{ratio:?}");
        let earlier = Measured { taken: few.taken - SAME_RUN * 2, ..few };
        assert!(many.over(&earlier).is_none());
    }

    #[test]
    fn every_row_names_two_different_results() {
        for row in pieces().iter().flat_map(|piece| &piece.rows) {
            assert_ne!(row.subject, row.baseline);
        }
    }
}
