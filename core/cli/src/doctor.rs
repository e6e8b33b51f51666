//! `yard doctor`.

use anyhow::bail;
use switchyard_lab::doctor::{self, Health};

use crate::output::{self, Format};

/// Say whether clusters can run here, and how to allow what is missing.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Try things in fresh namespaces.
#[derive(Debug, clap::Args)]
pub struct ProbeArgs {
    /// This process is in them.
    #[arg(long)]
    inside: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let findings = doctor::examine();
    let word = |health| match health {
        Health::Ok => "ok",
        Health::Limited => "limited",
        Health::Missing => "MISSING",
    };
    let text = match args.output {
        Format::Json | Format::Yaml => output::document(&findings, args.output)?,
        _ => {
            let row = |finding: &doctor::Finding| {
                vec![finding.what.clone(), word(finding.health).into(), finding.detail.clone()]
            };
            let mut text = output::table(&["WHAT", "HEALTH", "DETAIL"], &findings.iter().map(row).collect::<Vec<_>>());
            let mends: Vec<_> = findings.iter().filter_map(|finding| finding.mend.as_ref()).collect();
            if !mends.is_empty() {
                text += "\nto mend it:\n";
            }
            for mend in mends {
                text += &format!("    {mend}\n");
            }
            text
        }
    };
    let printed = output::print(&text);
    match findings.iter().filter(|finding| finding.health == Health::Missing).count() {
        0 => printed,
        n => bail!("{n} of {} things are missing; no cluster can run here yet", findings.len()),
    }
}

pub(crate) fn probe(args: &ProbeArgs) -> anyhow::Result<()> {
    doctor::probe(args.inside)
}
