//! `yard network use`: ask for it, watch it, say how it went.

use std::time::Instant;

use anyhow::bail;
use futures::TryStreamExt as _;
use kube::core::WatchEvent;
use serde_json::json;
use switchyard_api::{Network, Outcome, Swap, SwapPhase, Turn};

use super::{NETWORK, UseArgs, parse, patch, read, replaced, spec, status, title};
use crate::api::{Api, JSON};
use crate::output::{self, Format};
use crate::up::progress::Progress;

pub(super) async fn run(api: &Api, args: &UseArgs) -> anyhow::Result<()> {
    let before = read(api).await?;
    let wanted = replaced(&before, spec(args, super::attempt(&before, args))?);
    let asked = patch(api, &json!({"spec": wanted})).await?;
    let progress = Progress::new(Instant::now());
    let ended = watch(api, asked, &progress).await?;
    drop(progress);
    let status = ended.status.clone().unwrap_or_default();
    let generation = ended.metadata.generation.unwrap_or(0);
    let swap = status.last_swap.filter(|swap| swap.to.generation == generation);
    let is_active = |active: &switchyard_api::ActiveNetwork| active.generation == generation;
    let active = status.active.filter(is_active);
    let for_programs = matches!(args.output, Format::Json | Format::Yaml);
    let text = match (&swap, &active) {
        _ if for_programs => output::document(&swap, args.output)?,
        (Some(swap), _) => status::summary(swap),
        (None, Some(active)) => format!("{} is active already\n", title(active)),
        (None, None) => String::new(),
    };
    let printed = output::print(&text);
    match (swap, active) {
        (Some(swap), _) if swap.outcome != Some(Outcome::Swapped) => bail!("{} goes on", title(&swap.from)),
        (None, None) => bail!("{}", status::ready(&ended)),
        _ => printed,
    }
}

/// Follows the Network until its spec is active or will not become so.
async fn watch(api: &Api, asked: Network, progress: &Progress) -> anyhow::Result<Network> {
    let mut network = asked;
    let mut said = String::new();
    if is_decided(&network) {
        return Ok(network);
    }
    let version = network.metadata.resource_version.clone().unwrap_or_default();
    let list = NETWORK.trim_end_matches("/default");
    let path = format!("{list}?watch=true&fieldSelector=metadata.name%3Ddefault&resourceVersion={version}");
    let mut events = std::pin::pin!(api.watch(&path, JSON).await?);
    while let Some(event) = events.try_next().await? {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => network = parse(object)?,
            WatchEvent::Deleted(_) => bail!("the Network has been deleted"),
            WatchEvent::Bookmark(_) => continue,
            WatchEvent::Error(status) => bail!("watch the Network: {}", status.message),
        }
        if is_decided(&network) {
            return Ok(network);
        }
        if let Some(swap) = network.status.as_ref().and_then(|status| status.swap.as_ref()) {
            let text = line(swap);
            if text != said {
                progress.say(&text);
                said = text;
            }
        }
    }
    bail!("watch the Network: the API server ended it; see how it goes on with: yard network status")
}

fn is_decided(network: &Network) -> bool {
    let status = network.status.clone().unwrap_or_default();
    let generation = network.metadata.generation.unwrap_or(0);
    let at = |found: Option<i64>| found == Some(generation);
    let ended = at(status.last_swap.as_ref().map(|swap| swap.to.generation));
    let active = at(status.active.as_ref().map(|active| active.generation));
    let refused = status.observed_generation == generation && status.swap.is_none() && !active;
    (ended || active || refused) && status.swap.is_none_or(|swap| swap.dry_run)
}

/// One line of progress: the phase, and who is done with it.
fn line(swap: &Swap) -> String {
    let who = match (swap.phase, swap.turn) {
        (_, Turn::Router) => " the upstream device",
        (SwapPhase::Switching | SwapPhase::Withdrawing | SwapPhase::Returning, _) => " the nodes",
        _ => "",
    };
    let concerned: Vec<_> = swap.participants.iter().filter(|(name, _)| swap.concerns(name)).collect();
    let (done, open): (Vec<_>, Vec<_>) = concerned.into_iter().partition(|(_, one)| one.phase == Some(swap.phase));
    let names: Vec<&str> = open.iter().map(|(name, _)| name.as_str()).collect();
    let waiting = if names.is_empty() { String::new() } else { format!(", waiting for {}", output::some(&names)) };
    let why = swap.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    format!("{:?}{who}: {} of {} done{waiting}{why}", swap.phase, done.len(), done.len() + open.len())
}
