//! `yard network use --dry-run`: what would change, from those who would have to change it.

use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::TryStreamExt as _;
use kube::core::WatchEvent;
use serde_json::{Value, json};
use switchyard_api::{Network, Swap, SwapPhase, names};

use super::{NETWORK, UseArgs, parse, patch, question, spec, title};
use crate::api::{Api, JSON};
use crate::output::{self, Format};

/// Longest that everybody may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn run(api: &Api, args: &UseArgs) -> anyhow::Result<()> {
    let wanted = spec(args, 0)?;
    let asked = patch(api, &question(Some(&wanted))).await?;
    let answers = tokio::time::timeout(PATIENCE, answers(api, asked)).await;
    let answers = match answers {
        Ok(Ok(network)) => plans(api, &network).await.map(|plans| (network, plans)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(anyhow::anyhow!("not everybody answered within {} s", PATIENCE.as_secs())),
    };
    // Nobody has to remember the answer.
    patch(api, &question(None)).await?;
    let (network, plans) = answers?;
    let swap = network.status.and_then(|status| status.swap).context("the answer is gone")?;
    if let Some(reason) = &swap.reason {
        bail!("{reason}");
    }
    let text = match args.output {
        Format::Json | Format::Yaml => output::document(&json!({"swap": swap, "plans": plans}), args.output)?,
        _ => people(&swap, &plans),
    };
    let printed = output::print(&text);
    let failed = swap.participants.iter().find_map(|(name, one)| Some(format!("{name}: {}", one.error.as_ref()?)));
    match failed {
        Some(failed) => bail!("the swap would not begin: {failed}"),
        None => printed,
    }
}

/// Waits until everybody has planned, or cannot.
async fn answers(api: &Api, mut network: Network) -> anyhow::Result<Network> {
    let wanted = network.metadata.annotations.as_ref().and_then(|all| all.get(names::DRY_RUN).cloned());
    let before = network.status.as_ref().and_then(|status| status.swap.as_ref()).map(|swap| swap.id.clone());
    let version = network.metadata.resource_version.clone().unwrap_or_default();
    let list = NETWORK.trim_end_matches("/default");
    let path = format!("{list}?watch=true&fieldSelector=metadata.name%3Ddefault&resourceVersion={version}");
    let mut events = std::pin::pin!(api.watch(&path, JSON).await?);
    loop {
        let swap = network.status.as_ref().and_then(|status| status.swap.as_ref());
        if network.metadata.annotations.as_ref().and_then(|all| all.get(names::DRY_RUN)) != wanted.as_ref() {
            bail!("somebody else asks something else");
        }
        match swap {
            Some(swap) if !swap.dry_run => bail!("a swap is under way: see yard network status"),
            Some(swap) if Some(&swap.id) != before.as_ref() && is_answered(swap) => return Ok(network),
            _ => {}
        }
        let event = events.try_next().await?.context("the API server ended the watch")?;
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => network = parse(object)?,
            WatchEvent::Deleted(_) => bail!("the Network has been deleted"),
            WatchEvent::Bookmark(_) => {}
            WatchEvent::Error(status) => bail!("watch the Network: {}", status.message),
        }
    }
}

fn is_answered(swap: &Swap) -> bool {
    let answered = |one: &switchyard_api::Participant| one.phase == Some(SwapPhase::Planning) || one.error.is_some();
    swap.reason.is_some() || swap.participants.values().all(answered)
}

/// Everybody's plan, line by line.
async fn plans(api: &Api, network: &Network) -> anyhow::Result<Vec<(String, Vec<String>)>> {
    let lines = |annotations: &Value| -> Vec<String> {
        let text = annotations[names::SWAP_PLAN].as_str();
        text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    };
    let mut plans = Vec::new();
    let list = api.get("/api/v1/nodes", JSON).await?;
    for node in list["items"].as_array().into_iter().flatten() {
        let name = node["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        plans.push((name, lines(&node["metadata"]["annotations"])));
    }
    let annotations = json!(network.metadata.annotations);
    plans.push((names::ROUTER.to_owned(), lines(&annotations)));
    Ok(plans)
}

fn people(swap: &Swap, plans: &[(String, Vec<String>)]) -> String {
    let mut text = format!("from {} to {}; nothing has been changed\n", title(&swap.from), title(&swap.to));
    for (name, lines) in plans {
        let Some(one) = swap.participants.get(name) else { continue };
        let operations = one.operations;
        text += &format!(
            "\n{name}: {} to prepare, {} to switch, {} to withdraw, {} to clean, {} foreign pods\n",
            operations.prepare, operations.switch, operations.withdraw, operations.clean, one.foreign
        );
        if let Some(error) = &one.error {
            text += &format!("  cannot: {error}\n");
        }
        for line in lines {
            text += &format!("  {line}\n");
        }
    }
    text
}
