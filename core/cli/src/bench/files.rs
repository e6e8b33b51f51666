//! What an experiment leaves behind, also when it is interrupted: whole files at any moment, of the blocks that were measured until then.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use switchyard_bench::{Analysis, Report};

/// A report and its page.
pub(super) struct Files {
    json: PathBuf,
    html: PathBuf,
    state: Mutex<State>,
}

/// Held while files are written, so that nobody ends the process in between.
#[derive(Default)]
struct State {
    written: bool,
    closed: bool,
}

// === impl Files ===

impl Files {
    /// In a folder, which is made.
    pub(super) fn new(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let (json, html) = (folder.join("report.json"), folder.join("report.html"));
        Ok(Self { json, html, state: Mutex::default() })
    }

    /// Writes both, in place of those that were there.
    pub(super) fn put(&self, report: &Report) -> anyhow::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Ok(());
        }
        write(&self.json, &serde_json::to_string(report)?)?;
        write(&self.html, &switchyard_bench::page(report, &Analysis::of(report)))?;
        state.written = true;
        Ok(())
    }

    /// Nothing is written from now on; whether anything was.
    pub(super) fn close(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed = true;
        state.written
    }
}

impl fmt::Display for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.html.display(), self.json.display())
    }
}

/// Writes a file beside, which then takes the other one's place: who reads sees one or the other.
pub(super) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).with_context(|| format!("write {}", beside.display()))?;
    std::fs::rename(&beside, path).with_context(|| format!("write {}", path.display()))
}
