//! `yard plugin check`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use serde_json::Value;
use switchyard_conformance::{Request, enter, run as check};
use switchyard_plugin::Options;
use switchyard_plugin_host::{ProcessHost, Registry};

use crate::output::{self, Format};

/// Say whether a network plugin keeps its promises.
///
/// Asks the plugin, in a process of its own, about clusters that do not exist; then makes what it wants real between network
/// namespaces and sends packets through. Root is not needed. Exit code 1 if a check failed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A file, or the name of a plugin on the search path.
    plugin: String,
    /// An option of the plugin, NAME=VALUE; the value as JSON, or else as text. May be repeated.
    #[arg(long = "config", value_name = "NAME=VALUE", value_parser = option)]
    config: Vec<(String, Value)>,
    /// Only this check, or this group of checks (`semantics`, `dataplane/mtu`). May be repeated.
    #[arg(long, value_name = "CHECK")]
    only: Vec<String>,
    /// Write a report in JUnit's format, for CI.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

pub(super) fn run(args: &Args, registry: &Registry, format: Format) -> anyhow::Result<()> {
    let file = super::file(&args.plugin, registry)?;
    let mut options = Options::new();
    for (name, value) in &args.config {
        if options.insert(name.clone(), value.clone()).is_some() {
            bail!("--config {name}: is given twice");
        }
    }
    // Before anything starts a thread.
    let lab = enter();
    let request = Request { file, options, only: args.only.clone(), host: ProcessHost::default() };
    let report = check(&request, lab)?;
    if let Some(path) = &args.junit {
        fs::write(path, report.junit()).with_context(|| format!("write {}", path.display()))?;
    }
    let printed = output::print(&match format {
        Format::Json | Format::Yaml => output::document(&report, format)?,
        _ => report.text(),
    });
    match report.failed() {
        0 => printed,
        n => bail!("{n} of {} checks failed", report.checks.len()),
    }
}

fn option(text: &str) -> Result<(String, Value), String> {
    let Some((name, value)) = text.split_once('=').filter(|(name, _)| !name.is_empty()) else {
        return Err(format!("{text:?}: expected NAME=VALUE, such as mtu=1400"));
    };
    Ok((name.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_json_where_they_can_be() {
        for (text, expected) in
            [("mtu=1400", json!(1400)), ("a=x=y", json!("x=y")), ("nets=[\"::/0\"]", json!(["::/0"]))]
        {
            assert_eq!(option(text).unwrap().1, expected);
        }
        assert!(option("mtu").unwrap_err().contains("expected NAME=VALUE"));
        assert!(option("=1").is_err());
    }
}
