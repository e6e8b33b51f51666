//! `yard network`.

mod dry_run;
mod status;
mod swap;

use anyhow::{Context as _, bail};
use serde_json::{Map, Value, json};
use switchyard_api::{Hosting, Network, names};

use crate::api::{Api, Ask, JSON, block_on};
use crate::output::Format;
use crate::which::Which;

/// Change the network under a running cluster, and see how that goes.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Swap to another network, or to other options, while traffic goes on. Pods, addresses and connections stay.
    Use(UseArgs),
    /// Show the network, how each node does, and how the last swap went.
    Status(StatusArgs),
}

#[derive(Debug, clap::Args)]
struct UseArgs {
    /// Name of a plugin, or path to its file.
    plugin: String,
    /// An option of the plugin; the value is JSON, or else text. Options that are not given take their defaults.
    #[arg(long = "config", value_name = "NAME=VALUE", value_parser = option)]
    config: Vec<(String, Value)>,
    /// Where the plugin's code runs: in-process or process.
    #[arg(long, default_value = "in-process", value_parser = hosting)]
    hosting: Hosting,
    /// Change nothing; print what would change in the kernel of every place, and what would be in the way.
    #[arg(long)]
    dry_run: bool,
    /// How to print the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, clap::Args)]
struct StatusArgs {
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Where the cluster's network is.
const NETWORK: &str = "/apis/switchyard.dev/v1alpha1/networks/default";
const MERGE_PATCH: &str = "application/merge-patch+json";

pub(crate) fn run(args: &Args, cluster: &Which) -> anyhow::Result<()> {
    block_on(async {
        let api = Api::of(cluster).await?;
        match &args.verb {
            Verb::Use(args) if args.dry_run => dry_run::run(&api, args).await,
            Verb::Use(args) => swap::run(&api, args).await,
            Verb::Status(args) => status::run(&api, args).await,
        }
    })
}

async fn read(api: &Api) -> anyhow::Result<Network> {
    parse(api.get(NETWORK, JSON).await?)
}

fn parse(network: Value) -> anyhow::Result<Network> {
    serde_json::from_value(network).context("read the Network")
}

async fn patch(api: &Api, patch: &Value) -> anyhow::Result<Network> {
    let body = Some((MERGE_PATCH, serde_json::to_vec(patch)?));
    let ask = Ask { method: http::Method::PATCH, path: NETWORK, accept: JSON, body };
    parse(api.call(ask).await?.1)
}

/// The network's name for people.
fn title(network: &switchyard_api::ActiveNetwork) -> String {
    format!("{} {}", network.plugin, network.version)
}

/// How often the same was tried, and failed, if that is what is asked for again.
fn attempt(network: &Network, args: &UseArgs) -> u32 {
    let last = network.status.as_ref().and_then(|status| status.last_swap.as_ref());
    let failed = last.is_some_and(|swap| {
        swap.outcome != Some(switchyard_api::Outcome::Swapped)
            && Some(swap.to.generation) == network.metadata.generation
    });
    network.spec.attempt + u32::from(failed && network.spec.plugin == args.plugin)
}

/// `spec` as asked for.
fn spec(args: &UseArgs, attempt: u32) -> anyhow::Result<Value> {
    let mut options = Map::new();
    for (name, value) in &args.config {
        if options.insert(name.clone(), value.clone()).is_some() {
            bail!("--config {name}: given twice");
        }
    }
    // A plugin's file is named from where the command stands, and opened elsewhere.
    let plugin = match args.plugin.contains('/') {
        true => std::fs::canonicalize(&args.plugin).with_context(|| args.plugin.clone())?.display().to_string(),
        false => args.plugin.clone(),
    };
    let mut spec = json!({"plugin": plugin, "options": options, "hosting": args.hosting});
    if attempt > 0 {
        spec["attempt"] = json!(attempt);
    }
    Ok(spec)
}

fn option(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    if name.is_empty() {
        return Err("expected NAME=VALUE, with a name".into());
    }
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    Ok((name.to_owned(), value))
}

fn hosting(text: &str) -> Result<Hosting, String> {
    serde_json::from_value(json!(text)).map_err(|_| "expected in-process or process".into())
}

/// A JSON patch is a merge: what is not named stays, so a replaced list of options has to name what goes.
fn replaced(old: &Network, mut spec: Value) -> Value {
    for name in old.spec.options.keys() {
        if spec["options"].get(name).is_none() {
            spec["options"][name] = Value::Null;
        }
    }
    spec
}

/// The annotation by which somebody asks what a swap would change.
fn question(spec: Option<&Value>) -> Value {
    json!({"metadata": {"annotations": {names::DRY_RUN: spec.map(Value::to_string)}}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_json_or_else_text() {
        assert_eq!(option("mtu=1400"), Ok(("mtu".into(), json!(1400))));
        assert_eq!(option("bridge=cbr1"), Ok(("bridge".into(), json!("cbr1"))));
        assert_eq!(option("nets=[\"10.0.0.0/8\"]"), Ok(("nets".into(), json!(["10.0.0.0/8"]))));
        assert!(option("mtu").is_err() && option("=1").is_err());
    }
}
