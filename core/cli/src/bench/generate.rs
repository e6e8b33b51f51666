//! `yard generate`: the small programs of experiments, and of the image `yard/bench`.

use switchyard_bench::experiment::{Impairments, Wiring};
use switchyard_bench::load::{agent, server};
use switchyard_bench::wires;

/// Generate load, or answer it.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Take orders on standard input.
    Agent,
    /// Answer load.
    Server,
    /// Make a network by hand, and be an agent in it.
    Wires {
        #[arg(value_parser = word::<Wiring>)]
        wiring: Wiring,
        #[arg(long, default_value_t = 1500)]
        mtu: u32,
        #[arg(long, value_parser = json::<Impairments>, default_value = "{}")]
        impairments: Impairments,
    },
    /// Spoil the card of this node.
    Impair {
        device: String,
        #[arg(long, value_parser = json::<Impairments>)]
        impairments: Impairments,
    },
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    match &args.verb {
        Verb::Agent => agent::run(),
        Verb::Server => server::serve(),
        Verb::Wires { wiring, mtu, impairments } => wires::run(*wiring, *mtu, impairments),
        Verb::Impair { device, impairments } => wires::impair(device, impairments),
    }
}

fn word<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(text.into()).map_err(|error| error.to_string())
}

fn json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}
