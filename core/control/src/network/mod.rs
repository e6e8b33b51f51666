//! The Network controller: from what is wanted of the network to what everybody follows.
//!
//! A spec is *checked* by opening its plugin here, with its options. A bad one becomes the condition `Ready=False` with the reason,
//! and nothing else changes. A good one becomes `status.active`, which agents and the router follow: at once if nothing was
//! active before, else by a swap, phase by phase, which is kept in `status.swap` and nowhere else. What agents report on their Node
//! objects is gathered in `status.nodes`.

mod plugins;
mod status;
mod swap;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use kube::api::{ObjectMeta, PostParams};
use switchyard_api::{Network, NetworkSpec, NetworkStatus, NodeNetworkStatus, Outcome, Swap, SwapPhase, Turn, names};
use tokio::time::Instant;

use crate::cache::Key;
use crate::context::Context;
use crate::error::{Result, code};
use crate::queue::{Next, Queue};

pub(crate) use plugins::Opened;
use plugins::{Plugins, Refusal};
pub(crate) use status::node_report;

/// Takes a Network from one spec to the next.
struct Driver {
    context: Arc<Context>,
    plugins: Plugins,
    /// The last spec that was found bad, by its generation. The verdict stands until the spec changes or we start anew.
    refused: Mutex<Option<(i64, Refusal)>>,
    /// The phase that was ordered last, or found ordered, and when.
    phase: Mutex<Option<(Ordered, Instant)>>,
    /// The plugin that is to take over.
    coming: Mutex<Option<Opened>>,
}

/// Identifies a phase: the swap, the phase, whose turn.
type Ordered = (String, SwapPhase, Turn);

/// Everything that was reported.
type Reports = BTreeMap<String, NodeNetworkStatus>;

const NAME: &str = "network-controller";

pub(crate) fn controller(context: &Arc<Context>) -> BoxFuture<'static, ()> {
    let queue = Queue::new();
    let wake = queue.clone();
    context.caches.networks.on_change(move |_, _| wake.add(()));
    let wake = queue.clone();
    context.caches.nodes.on_change(move |old, new| {
        if old.map(|node| status::report(node)) != new.map(|node| status::report(node)) {
            wake.add(());
        }
    });
    let driver = Driver {
        context: context.clone(),
        plugins: Plugins::new(&context.config, queue.clone()),
        refused: Mutex::default(),
        phase: Mutex::default(),
        coming: Mutex::default(),
    };
    Box::pin(async move {
        driver.context.caches.networks.synced().await;
        driver.context.caches.nodes.synced().await;
        queue.add(());
        queue.run(NAME, 1, |()| driver.step()).await;
    })
}

// === impl Driver ===

impl Driver {
    async fn step(&self) -> Result<Next> {
        let Some(network) = self.context.caches.networks.get(&Key::cluster(names::NETWORK)) else {
            self.create().await?;
            return Ok(Next::Change);
        };
        let old = network.status.clone().unwrap_or_default();
        let generation = network.metadata.generation.unwrap_or(0);
        let mut status = old.clone();
        let reports = self.reports(&network);
        let refusal = match self.advance(&reports, &mut status).await {
            true => None,
            false => self.follow(&network, &reports, generation, &mut status).await,
        };
        status.observed_generation = generation;
        let next = self.patience(status.swap.as_ref());
        status.nodes = reports;
        let router = status.nodes.remove(names::ROUTER).and_then(|router| router.error);
        for node in status.nodes.values_mut() {
            node.swap = None;
        }
        let ready = status::ready(refusal.as_ref(), router.as_deref(), &status);
        let swapped = status::swapped(&status);
        let mut said = Vec::new();
        if status::set(&mut status, status::READY, ready.clone()) && (ready.0 == "True" || refusal.is_some()) {
            said.push(ready);
        }
        if let Some(swapped) = swapped
            && status::set(&mut status, status::SWAPPED, swapped.clone())
        {
            said.push(swapped);
        }
        if serde_json::to_value(&status).ok() == serde_json::to_value(&old).ok() {
            return Ok(next);
        }
        self.write(&network, status).await?;
        for (holds, reason, message) in said {
            if holds == "False" {
                self.context.events.warning(NAME, &*network, reason, message);
            } else {
                self.context.events.normal(NAME, &*network, reason, message);
            }
        }
        Ok(next)
    }

    /// What nodes and router have reported. Nodes that nobody hears from are not asked to take part in anything.
    fn reports(&self, network: &Network) -> Reports {
        let mut reports = status::reports(&self.context.caches.nodes.all());
        reports.extend(status::router(network).map(|report| (names::ROUTER.to_owned(), report)));
        reports
    }

    /// Takes a swap that is under way a step further. False if there is none.
    async fn advance(&self, reports: &Reports, status: &mut NetworkStatus) -> bool {
        let Some(mut swap) = status.swap.take().filter(|swap| !swap.dry_run) else { return false };
        let _ = self.resume(status).await;
        let before = swap.clone();
        swap::hear(&mut swap, reports);
        let took = self.since(&swap);
        let opened = match self.coming(&swap).await {
            Ok(()) => None,
            Err(refusal) => (swap.phase < SwapPhase::Cleaning).then_some(refusal.message),
        };
        let next = match opened {
            Some(why) => swap::Next::Fail(why),
            None => swap::next(&swap, took >= swap::patience(swap.phase)),
        };
        let outcome = match next {
            swap::Next::Wait => {
                // Who is done is worth a write only once somebody keeps the others waiting.
                swap = if took < swap::QUICK { before } else { swap };
                None
            }
            swap::Next::Order(phase, turn) => {
                swap::order(&mut swap, phase, turn, took);
                None
            }
            swap::Next::Fail(reason) => {
                tracing::warn!(swap = swap.id, phase = ?swap.phase, reason, "swap fails");
                swap::fail(&mut swap, reason, took).then_some(Outcome::Refused)
            }
            swap::Next::End(outcome) => Some(outcome),
        };
        match outcome {
            None => status.swap = Some(swap),
            Some(outcome) => self.conclude(swap, outcome, took, status).await,
        }
        true
    }

    async fn conclude(&self, mut swap: Swap, outcome: Outcome, took: Duration, status: &mut NetworkStatus) {
        swap::end(&mut swap, outcome, took);
        tracing::info!(swap = swap.id, ?outcome, milliseconds = swap.milliseconds, "swap ended");
        let coming = self.coming.lock().expect("no panic while locked").take();
        if outcome == Outcome::Swapped {
            status.active = Some(swap.to.clone());
            match coming {
                Some(opened) => self.activate(opened, status),
                None => drop(self.resume(status).await),
            }
        }
        status.last_swap = Some(swap);
    }

    /// Opens the plugin that is to take over, unless that was done before.
    async fn coming(&self, swap: &Swap) -> std::result::Result<(), Refusal> {
        let known = |coming: &Option<Opened>| coming.as_ref().is_some_and(|opened| opened.active == swap.to);
        if known(&self.coming.lock().expect("no panic while locked")) || swap.phase == SwapPhase::Returning {
            return Ok(());
        }
        let opened = self.plugins.resume(&swap.to).await?;
        *self.coming.lock().expect("no panic while locked") = Some(opened);
        Ok(())
    }

    /// How long ago this phase was ordered, as far as this process knows.
    fn since(&self, swap: &Swap) -> Duration {
        let ordered = (swap.id.clone(), swap.phase, swap.turn);
        let mut phase = self.phase.lock().expect("no panic while locked");
        match &*phase {
            Some((known, begun)) if *known == ordered => begun.elapsed(),
            _ => {
                *phase = Some((ordered, Instant::now()));
                Duration::ZERO
            }
        }
    }

    /// When to look again if nothing happens.
    fn patience(&self, swap: Option<&Swap>) -> Next {
        match swap.filter(|swap| !swap.dry_run) {
            Some(swap) => {
                let took = self.since(swap);
                let until = if took < swap::QUICK { swap::QUICK } else { swap::patience(swap.phase) };
                Next::After(until.saturating_sub(took))
            }
            None => Next::Change,
        }
    }

    /// Brings `status.active`, and the plugin that runs here, to what the spec says; or says why not.
    async fn follow(
        &self,
        network: &Network,
        reports: &Reports,
        generation: i64,
        status: &mut NetworkStatus,
    ) -> Option<Refusal> {
        status.swap = None;
        let is_new = status.active.as_ref().is_none_or(|active| active.generation != generation);
        if !is_new {
            let refusal = self.resume(status).await;
            self.dry_run(network, reports, status).await;
            return refusal;
        }
        if let Some(refusal) = self.refusal(generation, status) {
            self.resume(status).await;
            self.dry_run(network, reports, status).await;
            return Some(refusal);
        }
        match self.plugins.check(&network.spec, generation).await {
            Ok(opened) => {
                self.go_over(network, reports, opened, status);
                None
            }
            Err(refusal) => {
                *self.refused.lock().expect("no panic while locked") = Some((generation, refusal.clone()));
                self.resume(status).await;
                Some(refusal)
            }
        }
    }

    /// Why this generation of the spec is not tried again.
    fn refusal(&self, generation: i64, status: &NetworkStatus) -> Option<Refusal> {
        let swap = status.last_swap.as_ref().filter(|swap| swap.to.generation == generation);
        if let Some(swap) = swap.filter(|swap| swap.outcome != Some(Outcome::Swapped)) {
            let message = swap.reason.clone().unwrap_or_default();
            return Some(Refusal { reason: "SwapFailed", message });
        }
        let refused = self.refused.lock().expect("no panic while locked").clone();
        refused.filter(|(refused, _)| *refused == generation).map(|(_, refusal)| refusal)
    }

    /// Makes a network the active one, by a swap if another one is active and somebody carries it.
    fn go_over(&self, network: &Network, reports: &Reports, opened: Opened, status: &mut NetworkStatus) {
        let Some(from) = status.active.clone().filter(|from| !from.is_same(&opened.active)) else {
            return self.activate(opened, status);
        };
        let swap = swap::begin(identity(network), from, opened.active.clone(), &self.hearing(reports), false);
        if swap.participants.is_empty() {
            return self.activate(opened, status);
        }
        tracing::info!(swap = swap.id, from = swap.from.plugin, to = swap.to.plugin, "swap begins");
        *self.coming.lock().expect("no panic while locked") = Some(opened);
        status.swap = Some(swap);
    }

    /// Asks everybody what a network would change, if somebody wants to know.
    async fn dry_run(&self, network: &Network, reports: &Reports, status: &mut NetworkStatus) {
        let wanted = network.metadata.annotations.as_ref().and_then(|all| all.get(names::DRY_RUN));
        let (Some(wanted), Some(from)) = (wanted, status.active.clone()) else { return };
        let asked = network.status.as_ref().and_then(|status| status.swap.clone()).filter(|swap| swap.dry_run);
        let spec: serde_json::Result<NetworkSpec> = serde_json::from_str(wanted);
        let opened = match spec {
            Ok(spec) => self.plugins.check(&spec, from.generation).await.map_err(|refusal| refusal.message),
            Err(error) => Err(format!("annotation {}: {error}", names::DRY_RUN)),
        };
        status.swap = Some(match opened {
            Ok(opened) => match asked.filter(|asked| asked.to == opened.active && asked.from == from) {
                Some(mut asked) => {
                    swap::hear(&mut asked, reports);
                    asked
                }
                None => swap::begin(identity(network), from, opened.active, &self.hearing(reports), true),
            },
            Err(reason) => {
                let id = asked.map_or_else(|| identity(network), |asked| asked.id);
                let mut swap = swap::begin(id, from.clone(), from, &Reports::new(), true);
                swap.reason = Some(reason);
                swap.started.clear();
                swap
            }
        });
    }

    /// Reports of those who are heard from.
    fn hearing(&self, reports: &Reports) -> Reports {
        let silent = |name: &str| {
            let node = self.context.caches.nodes.get(&Key::cluster(name));
            let conditions = node.as_ref().and_then(|node| node.status.as_ref()?.conditions.as_ref());
            conditions.into_iter().flatten().any(|one| one.type_ == "Ready" && one.status == "Unknown")
        };
        reports.iter().filter(|(name, _)| !silent(name)).map(|(name, report)| (name.clone(), report.clone())).collect()
    }

    /// What was active goes on, also after a start; a file that is another one by now is a new plugin.
    async fn resume(&self, status: &mut NetworkStatus) -> Option<Refusal> {
        let active = status.active.clone()?;
        let running = self.context.network.borrow().clone();
        if let Some(running) = running.filter(|running| running.active == active) {
            return running.fault();
        }
        match self.plugins.resume(&active).await {
            Ok(opened) => {
                self.activate(opened, status);
                None
            }
            Err(refusal) => Some(refusal),
        }
    }

    fn activate(&self, opened: Opened, status: &mut NetworkStatus) {
        let active = &opened.active;
        tracing::info!(plugin = active.plugin, version = active.version, file = active.file, "network");
        status.active = Some(active.clone());
        self.context.network.send_replace(Some(Arc::new(opened)));
    }

    async fn create(&self) -> Result<()> {
        let network = Network {
            api_version: format!("{}/{}", names::GROUP, names::VERSION),
            kind: "Network".into(),
            metadata: ObjectMeta { name: Some(names::NETWORK.into()), ..ObjectMeta::default() },
            spec: self.context.config.network.clone(),
            status: None,
        };
        match self.context.cluster_api().create(&PostParams::default(), &network).await {
            Ok(network) => self.context.caches.networks.wrote(network),
            Err(error) if code(&error) == Some(409) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    async fn write(&self, network: &Network, status: NetworkStatus) -> Result<()> {
        let network = Network { status: Some(status), ..network.clone() };
        let api = self.context.cluster_api::<Network>();
        let written = api.replace_status(names::NETWORK, &PostParams::default(), &network).await?;
        self.context.caches.networks.wrote(written);
        Ok(())
    }
}

/// A name for a swap that no other has: of all writes to an object in one version only one succeeds.
fn identity(network: &Network) -> String {
    network.metadata.resource_version.clone().unwrap_or_default()
}
