//! Time that the hypervisor gave to others while something was measured (proc(5), `/proc/stat`): a figure taken then says as much
//! about the neighbours.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// Readings of the first moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Steal {
    stolen: u64,
    whole: u64,
}

/// Under which conditions criterion's results came about.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Conditions {
    /// Share of the processors' time that was stolen.
    pub stolen: f64,
}

/// Fields of the first line, the name left out: user, nice, system, idle, iowait, irq, softirq, steal. Guests are in user already.
const FIELDS: usize = 8;

// === impl Steal ===

impl Steal {
    /// Begins now.
    pub fn begin() -> Self {
        Self::parse(&std::fs::read_to_string("/proc/stat").unwrap_or_default()).unwrap_or_default()
    }

    /// Of the time since then, summed over processors.
    pub fn share(&self) -> Option<f64> {
        self.until(&Self::begin())
    }

    fn until(&self, now: &Self) -> Option<f64> {
        let whole = now.whole.checked_sub(self.whole).filter(|whole| *whole > 0)?;
        Some(now.stolen.saturating_sub(self.stolen) as f64 / whole as f64)
    }

    fn parse(text: &str) -> Option<Self> {
        let words = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
        let ticks: Vec<u64> = words.take(FIELDS).map_while(|word| word.parse().ok()).collect();
        (ticks.len() == FIELDS).then(|| Self { stolen: ticks[FIELDS - 1], whole: ticks.iter().sum() })
    }
}

// === impl Conditions ===

impl Conditions {
    /// Leaves them beside the records, for a bench that leaves its results to criterion.
    pub fn save(since: &Steal, folder: &Path, name: &str) -> anyhow::Result<()> {
        let Some(stolen) = since.share() else { return Ok(()) };
        let folder = folder.join("conditions");
        std::fs::create_dir_all(&folder)?;
        Ok(std::fs::write(folder.join(format!("{name}.json")), serde_json::to_vec(&Self { stolen })?)?)
    }

    /// Those that were left, if any were.
    pub fn read(folder: &Path, name: &str) -> Option<Self> {
        let text = std::fs::read(folder.join("conditions").join(format!("{name}.json"))).ok()?;
        serde_json::from_slice(&text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_that_of_the_time_between() {
        let before = Steal::parse("cpu  100 0 100 700 0 0 0 100 0 0\ncpu0 1").unwrap();
        let after = Steal::parse("cpu  140 0 110 730 0 0 0 120 7 0\n").unwrap();
        assert_eq!(before.until(&after), Some(0.2));
        assert_eq!(before.until(&before), None);
        assert_eq!(Steal::parse("cpu  1 2 3"), None);
        let folder = tempfile::tempdir().unwrap();
        assert!(Conditions::read(folder.path(), "pieces").is_none());
        Conditions::save(&Steal::default(), folder.path(), "pieces").unwrap();
        assert!((0.0..=1.0).contains(&Conditions::read(folder.path(), "pieces").unwrap().stolen));
    }
}
