//! `yard plugin`.

mod check;
mod new;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use switchyard_plugin_host::{Inspected, Registry};

use crate::output::{self, Format};
use crate::process::plugins;

/// Write, look at and check network plugins.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t, global = true)]
    output: Format,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List the plugins on the search path.
    List,
    New(new::Args),
    Check(check::Args),
    /// Print what a plugin says about itself. None of its code runs.
    Inspect {
        /// A file, or the name of a plugin on the search path.
        plugin: String,
    },
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let registry = Registry::new(plugins::search_path());
    let text = match &args.verb {
        Verb::List => list(&registry, args.output)?,
        Verb::New(args) => return new::run(args),
        Verb::Check(check) => return check::run(check, &registry, args.output),
        Verb::Inspect { plugin } => {
            let inspected = switchyard_plugin_host::inspect(&file(plugin, &registry)?)?;
            let format = if args.output == Format::Json { Format::Json } else { Format::Yaml };
            output::document(&describe(&inspected), format)?
        }
    };
    output::print(&text)?;
    Ok(())
}

/// The file that was meant: a path, or a name on the search path.
fn file(plugin: &str, registry: &Registry) -> anyhow::Result<PathBuf> {
    match plugin.contains('/') || Path::new(plugin).is_file() {
        true => Ok(PathBuf::from(plugin)),
        false => Ok(registry.find(plugin)?),
    }
}

fn list(registry: &Registry, format: Format) -> anyhow::Result<String> {
    let listed = registry.list();
    if matches!(format, Format::Json | Format::Yaml) {
        let all = listed.iter().map(|plugin| match &plugin.inspected {
            Ok(inspected) => describe(inspected),
            Err(error) => json!({"file": plugin.path, "error": error.to_string()}),
        });
        return output::document(&all.collect::<Vec<_>>(), format);
    }
    let rows = listed.iter().map(|plugin| match &plugin.inspected {
        Ok(found) => vec![
            found.manifest.name.clone(),
            found.manifest.version.clone(),
            plugin.path.display().to_string(),
            found.manifest.description.clone(),
        ],
        Err(error) => {
            let file = plugin.path.display().to_string();
            let why = error.to_string().replace(&format!("{file}: "), "");
            vec!["-".into(), "-".into(), file, why]
        }
    });
    if listed.is_empty() {
        eprintln!(
            "no plugins; looked in the folder of yard, $SWITCHYARD_PLUGIN_PATH and ~/.local/share/switchyard/plugins"
        );
    }
    Ok(output::table(&["NAME", "VERSION", "FILE", "DESCRIPTION"], &rows.collect::<Vec<_>>()))
}

fn describe(inspected: &Inspected) -> Value {
    let (major, minor) = inspected.abi;
    json!({
        "file": inspected.path,
        "sha256": inspected.sha256,
        "form": inspected.form,
        "abi": format!("{major}.{minor}"),
        "manifest": inspected.manifest,
    })
}
