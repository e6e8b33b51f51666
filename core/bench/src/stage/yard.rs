//! The command `yard`, with a home of its own: an experiment does nothing to a cluster that a person could not do.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use serde_json::Value;

/// How `yard` is called.
#[derive(Clone, Debug)]
pub(crate) struct Yard {
    program: PathBuf,
    home: PathBuf,
}

/// The cluster's name.
pub(crate) const CLUSTER: &str = "bench";

// === impl Yard ===

impl Yard {
    pub(crate) fn new(program: &Path, home: &Path) -> Self {
        Self { program: program.to_owned(), home: home.to_owned() }
    }

    /// The folder of its clusters.
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--cluster", CLUSTER]).args(arguments).env("SWITCHYARD_HOME", &self.home).stdin(Stdio::null());
        command
    }

    /// Runs it to its end; gives its standard output.
    pub(crate) fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.command(arguments).output().context("start yard")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let last = said.lines().last().unwrap_or_default().trim_start_matches("yard: ");
            bail!("yard {}: {last}", arguments.join(" "));
        }
        String::from_utf8(output.stdout).context("yard's output")
    }

    /// Writes a file into its home.
    pub(crate) fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let file = self.home.join(name);
        std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        Ok(file)
    }

    /// Asks for what a text describes.
    pub(crate) fn apply(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let file = self.write(name, text)?;
        self.run(&["apply", "-f", &file.to_string_lossy()]).map(drop)
    }

    /// The same with `-o json`.
    pub(crate) fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let text = self.run(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("yard {}: no JSON", arguments.join(" ")))
    }
}
