//! What a run leaves behind.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Ratio, Series, Steal};

/// One bench's outcome.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The bench.
    pub name: String,
    /// What it is about, a sentence.
    pub about: String,
    /// The command that ran it.
    pub command: String,
    /// Processor, cores, kernel.
    pub machine: String,
    /// Seconds since 1970.
    pub taken: u64,
    /// Share of the processors' time that was stolen meanwhile; older records do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stolen: Option<f64>,
    #[serde(skip)]
    since: Steal,
    /// Everything that was measured.
    pub series: Vec<Series>,
    /// What stands beside what.
    pub comparisons: Vec<Comparison>,
    /// Figures that are no comparison.
    pub facts: Vec<Fact>,
    /// What this would be compared with if it were installed, and what to install.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<String>,
}

/// Something against its baseline.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Comparison {
    /// What is compared.
    pub name: String,
    /// Names of the two series.
    pub subject: String,
    /// The one it is compared with.
    pub baseline: String,
    /// How many times the baseline.
    pub ratio: Ratio,
    /// What we aim at.
    pub aim: String,
}

/// A figure on its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fact {
    /// What it says.
    pub name: String,
    /// The figure with its unit.
    pub value: String,
    /// What we aim at.
    pub aim: String,
}

/// Where records are: `target/switchyard`.
pub fn folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target")).join("switchyard")
}

/// Whether this run is to show only that it runs: `-- --test`, as criterion has it.
pub fn testing() -> bool {
    std::env::args().any(|argument| argument == "--test")
}

/// So many rounds, or one if [`testing`].
pub fn turns(rounds: usize) -> usize {
    if testing() { 1 } else { rounds }
}

/// For so long, or a tenth of it if [`testing`].
pub fn lasting(time: Duration) -> Duration {
    if testing() { time / 10 } else { time }
}

// === impl Record ===

impl Record {
    /// An empty one.
    pub fn new(name: &str, about: &str) -> Self {
        let taken = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        Self {
            name: name.into(),
            about: about.into(),
            command: format!("cargo bench -p switchyard-benches --bench {name}"),
            machine: machine(),
            taken,
            stolen: None,
            since: Steal::begin(),
            series: Vec::new(),
            comparisons: Vec::new(),
            facts: Vec::new(),
            absent: Vec::new(),
        }
    }

    /// Takes samples and their baseline, and says how they compare.
    pub fn compare(&mut self, name: &str, subject: &Series, baseline: &Series, aim: &str) {
        let ratio = subject.over(baseline);
        for series in [subject, baseline] {
            if self.series.iter().all(|known| known.name != series.name) {
                self.series.push(series.clone());
            }
        }
        println!(
            "{name:<44} {:>10.3} {unit:<6} against {:>10.3} {unit:<6} {:.3}x [{:.3}, {:.3}]   aim: {aim}",
            subject.median(),
            baseline.median(),
            ratio.median,
            ratio.low,
            ratio.high,
            unit = subject.unit,
        );
        self.comparisons.push(Comparison {
            name: name.into(),
            subject: subject.name.clone(),
            baseline: baseline.name.clone(),
            ratio,
            aim: aim.into(),
        });
    }

    /// Takes a figure.
    pub fn fact(&mut self, name: &str, value: String, aim: &str) {
        println!("{name:<44} {value}   aim: {aim}");
        self.facts.push(Fact { name: name.into(), value, aim: aim.into() });
    }

    /// Says what is not compared because it is not there; once is enough.
    pub fn absent(&mut self, what: &str, package: &str) {
        let said = format!("{what} (apt-get install {package})");
        if !self.absent.contains(&said) {
            println!("not installed, so not compared: {said}");
            self.absent.push(said);
        }
    }

    /// [`Record::save`], but for a run that only shows that it runs.
    pub fn save_unless_testing(&self) -> anyhow::Result<()> {
        if !testing() {
            self.save()?;
        }
        Ok(())
    }

    /// Writes it where the page finds it.
    pub fn save(&self) -> std::io::Result<()> {
        let record = Self { stolen: self.since.share(), ..self.clone() };
        std::fs::create_dir_all(folder())?;
        std::fs::write(folder().join(format!("{}.json", self.name)), serde_json::to_vec_pretty(&record)?)
    }
}

/// Processor, cores, kernel.
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let model = model.trim_start_matches([' ', '\t', ':']);
    format!("{model}, {cores} cores, Linux {}", read("/proc/sys/kernel/osrelease").trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_before_stolen_time_was_kept_can_be_read() {
        let mut record = Record::new("boot", "From nothing to something.");
        assert!(!serde_json::to_string(&record).unwrap().contains("stolen"));
        record.stolen = Some(0.25);
        let text = serde_json::to_string(&record).unwrap();
        let read = |text: &str| serde_json::from_str::<Record>(text).unwrap().stolen;
        assert_eq!(read(&text), Some(0.25));
        assert_eq!(read(&text.replace(r#""stolen":0.25,"#, "")), None);
    }
}
