//! The upstream device's part in a swap: it knows the new routes before any node uses them, and the old ones until none does.

use std::sync::Arc;

use switchyard_api::names::{NETWORK, ROUTER};
use switchyard_api::{
    ActiveNetwork, Network, NodeNetworkStatus, Operations, Participant, Stage, Swap, SwapPhase, SwapReport,
};
use switchyard_kernel::Engine;
use switchyard_netstate::{Ledger, Phase, Plan};
use switchyard_plugin_host::Plugin;
use tokio::time::Instant;
use tracing::{info, warn};

use super::report::Said;
use super::underlay::UNIT;
use super::watch::ObjectName;
use super::{Changes, Router};

/// How far it is.
pub(super) struct Ongoing {
    id: String,
    to: ActiveNetwork,
    /// The new network's, or why it cannot be opened here.
    plugin: Result<Arc<dyn Plugin>, String>,
    stage: Stage,
    /// What the new network wants of the upstream device, since it was prepared.
    wishes: Changes,
    said: Participant,
    plan: Option<Vec<String>>,
}

/// Lines of a plan that are told; the rest is counted.
const MOST_LINES: usize = 400;

// === impl Router ===

impl Router {
    /// Whether a swap is under way that this router takes part in.
    pub(super) fn is_part_of(&self, network: Option<&Network>) -> bool {
        let swap = network.and_then(|network| network.status.as_ref()?.swap.as_ref());
        swap.is_some_and(|swap| swap.participants.contains_key(ROUTER))
    }

    /// Does what the Network's swap asks of it, if there is one, and says how things are.
    pub(super) async fn take_part(&mut self) {
        let network = self.networks.get(&ObjectName::new("", NETWORK)).cloned();
        let status = network.and_then(|network| network.status).unwrap_or_default();
        let swap = status.swap.filter(|swap| swap.participants.contains_key(ROUTER));
        let stale = |ongoing: &Ongoing| swap.as_ref().is_none_or(|swap| swap.id != ongoing.id);
        if self.ongoing.as_ref().is_some_and(stale) {
            self.conclude(status.active.as_ref()).await;
        }
        if let Some(swap) = &swap {
            let outcome = self.act(swap).await;
            if let (Err(error), Some(ongoing)) = (outcome, &mut self.ongoing) {
                warn!(swap = swap.id, phase = ?swap.phase, %error, "swap");
                ongoing.said.error.get_or_insert(error);
            }
        }
        self.tell(swap.as_ref());
    }

    pub(super) fn tell(&self, swap: Option<&Swap>) {
        let (network, error) = self.underlay.state();
        let ongoing = self.ongoing.as_ref();
        let report = ongoing.map(|ongoing| SwapReport { id: ongoing.id.clone(), participant: ongoing.said.clone() });
        let status = NodeNetworkStatus {
            generation: network.map_or(0, |network| network.generation),
            plugin: network.map(|network| network.plugin.clone()).unwrap_or_default(),
            error,
            swap: report.filter(|_| swap.is_some()),
            ..NodeNetworkStatus::default()
        };
        self.report.say(Said { status, plan: ongoing.and_then(|ongoing| ongoing.plan.clone()) });
    }

    async fn act(&mut self, swap: &Swap) -> Result<(), String> {
        if self.ongoing.is_none() {
            let plugin = self.underlay.open(&swap.to).await;
            let (id, to, said) = (swap.id.clone(), swap.to.clone(), Participant::default());
            let (stage, wishes) = (Stage::Old, Changes::new());
            self.ongoing = Some(Ongoing { id, to, plugin, stage, wishes, said, plan: None });
            // What is being switched is the device's to decide, unless it has.
            let switches = swap.phase == SwapPhase::Switching && swap.concerns(ROUTER);
            self.join(if switches { Stage::Prepared } else { swap.stage(ROUTER) }).await?;
        }
        let Some(ongoing) = &self.ongoing else { return Ok(()) };
        let failed = ongoing.said.error.is_some() && swap.phase < SwapPhase::Cleaning;
        if !swap.concerns(ROUTER) || failed || ongoing.said.phase == Some(swap.phase) {
            return Ok(());
        }
        let begun = Instant::now();
        let outcome = match swap.phase {
            SwapPhase::Planning => self.plan(swap.dry_run).await,
            SwapPhase::Preparing => self.prepare().await,
            SwapPhase::Checking | SwapPhase::Verifying => Ok(()),
            SwapPhase::Switching => match self.ask_device().await {
                // It takes its time; there is news when it has decided.
                None => return Ok(()),
                Some(Ok(())) => self.switch().await,
                Some(Err(why)) => Err(why),
            },
            SwapPhase::Withdrawing => self.withdraw().await,
            SwapPhase::Cleaning => self.clean().await,
            SwapPhase::Returning => self.go_back().await,
        };
        if let Some(ongoing) = &mut self.ongoing {
            let milliseconds = (begun.elapsed().as_secs_f64() * 1e6).round() / 1e3;
            ongoing.said.milliseconds.insert(swap.phase, milliseconds);
            if outcome.is_ok() || swap.phase >= SwapPhase::Cleaning {
                ongoing.said.phase = Some(swap.phase);
            }
        }
        outcome
    }

    /// Whether the upstream device lets the new network's routes in; none while it has not decided.
    async fn ask_device(&mut self) -> Option<Result<(), String>> {
        let wishes = self.ongoing.as_ref().map(|ongoing| ongoing.wishes.clone()).unwrap_or_default();
        let there = self.kernel.left_behind(&wishes).await;
        self.upstream.ask_beside(&wishes, Instant::now(), &there);
        self.upstream.decide(Instant::now());
        self.upstream.answer()
    }

    /// Takes over what an earlier life of this process did in the swap. Its routes are in the kernel, and would be removed.
    async fn join(&mut self, stage: Stage) -> Result<(), String> {
        if stage >= Stage::Prepared {
            self.prepare().await?;
        }
        if stage >= Stage::Switched {
            // The device has let them in before.
            let wishes = self.ongoing.as_ref().map(|ongoing| ongoing.wishes.clone()).unwrap_or_default();
            self.upstream.ask_beside(&wishes, Instant::now(), &wishes.keys().cloned().collect());
            self.switch().await?;
        }
        match stage {
            Stage::Withdrawn => self.withdraw().await,
            Stage::New => self.clean().await,
            _ => Ok(()),
        }
    }

    /// What the new plugin wants, as a change of everything that the old one wanted. What the device keeps back is not part of it.
    async fn changes(&self) -> Result<Changes, String> {
        let Some(ongoing) = &self.ongoing else { return Ok(Changes::new()) };
        let all: Vec<_> = self.nodes.iter().map(|(_, node)| node.clone()).collect();
        let mut changes = Changes::new();
        let plugin = ongoing.plugin.as_ref().map_err(String::clone)?;
        for (unit, wish) in self.underlay.wishes(plugin, &all, &self.nodes).await {
            let wish = wish?;
            if !self.upstream.keeps_back(&unit, wish.as_ref()) {
                changes.insert(unit, wish);
            }
        }
        Ok(changes)
    }

    async fn plan(&mut self, with_lines: bool) -> Result<(), String> {
        let changes = self.changes().await?;
        let fits = self.upstream.fits_beside(&changes);
        let is_halfway = self.kernel.is_halfway();
        let plan = self.kernel.step(is_halfway, move |engine| engine.plan(&whole(engine.ledger(), changes))).await?;
        if let Some(ongoing) = &mut self.ongoing {
            ongoing.said.operations = count(&plan);
            ongoing.plan = with_lines.then(|| lines(&plan));
        }
        fits
    }

    async fn prepare(&mut self) -> Result<(), String> {
        if !self.is_before(Stage::Prepared) {
            return Ok(());
        }
        let changes = self.changes().await?;
        let wishes = changes.clone();
        let work = move |engine: &mut Engine| {
            let changes = whole(engine.ledger(), changes);
            engine.prepare(changes)
        };
        let plan = self.kernel.step(true, work).await?;
        if let Some(ongoing) = &mut self.ongoing {
            (ongoing.stage, ongoing.wishes) = (Stage::Prepared, wishes);
            ongoing.said.operations = count(&plan);
        }
        Ok(())
    }

    async fn switch(&mut self) -> Result<(), String> {
        if self.is_before(Stage::Switched) {
            self.kernel.step(true, Engine::switch).await?;
            self.reach(Stage::Switched);
        }
        Ok(())
    }

    async fn withdraw(&mut self) -> Result<(), String> {
        if self.is_before(Stage::Withdrawn) {
            self.kernel.step(true, Engine::withdraw).await?;
            self.reach(Stage::Withdrawn);
        }
        Ok(())
    }

    async fn clean(&mut self) -> Result<(), String> {
        if self.kernel.is_halfway() {
            self.kernel.step(false, Engine::clean).await?;
        }
        self.arrive().await
    }

    /// Cleans what failed to be cleaned before. What the kernel still keeps is left to repairs.
    async fn clean_at_last(&mut self) -> Result<(), String> {
        let Err(error) = self.clean().await else { return Ok(()) };
        warn!(%error, "cleaning after a swap; the rest is left to repairs");
        let finished = self.kernel.finish().await;
        self.arrive().await.and(finished)
    }

    /// The new network's routes are those that are in force.
    async fn arrive(&mut self) -> Result<(), String> {
        self.reach(Stage::New);
        let Some(ongoing) = &self.ongoing else { return Ok(()) };
        let plugin = ongoing.plugin.clone()?;
        info!(plugin = %ongoing.to.plugin, generation = ongoing.to.generation, "underlay has swapped");
        self.underlay.swapped(ongoing.to.clone(), plugin);
        self.upstream.take_over();
        // What waited was said by the plugin of before.
        self.kernel.forget(|unit| unit.0.starts_with(UNIT));
        let mut all = self.underlay.all(&self.nodes).await;
        // Nodes that went meanwhile want nothing.
        for (unit, ..) in self.upstream.units() {
            all.entry(unit.clone()).or_insert(None);
        }
        let all = self.through_upstream(all).await;
        self.kernel.set(all).await;
        Ok(())
    }

    async fn go_back(&mut self) -> Result<(), String> {
        self.reach(Stage::Old);
        self.upstream.give_up();
        if self.kernel.is_halfway() {
            self.kernel.step(false, Engine::abort).await?;
            self.kernel.set(Changes::new()).await;
        }
        Ok(())
    }

    /// Ends its part in a swap that is over: finishes what leads to the network that is active now, takes back anything else.
    async fn conclude(&mut self, active: Option<&ActiveNetwork>) {
        let Some(ongoing) = &self.ongoing else { return };
        if self.kernel.is_halfway() {
            let outcome = match active == Some(&ongoing.to) && ongoing.stage >= Stage::Switched {
                true => self.clean_at_last().await,
                false => self.go_back().await,
            };
            if let Err(error) = outcome {
                warn!(%error, "ending a swap");
            }
        }
        self.upstream.give_up();
        self.ongoing = None;
    }

    fn is_before(&self, stage: Stage) -> bool {
        self.ongoing.as_ref().is_some_and(|ongoing| ongoing.stage < stage)
    }

    fn reach(&mut self, stage: Stage) {
        if let Some(ongoing) = &mut self.ongoing {
            ongoing.stage = stage;
        }
    }
}

fn whole(ledger: &Ledger, mut changes: Changes) -> Changes {
    for (unit, _) in ledger.units().filter(|(unit, _)| unit.0.starts_with(UNIT)) {
        changes.entry(unit.clone()).or_insert(None);
    }
    changes
}

fn count(plan: &Plan) -> Operations {
    let of = |phase| u32::try_from(plan.phase(phase).count()).unwrap_or(u32::MAX);
    Operations {
        prepare: of(Phase::Prepare),
        switch: of(Phase::Switch),
        withdraw: of(Phase::Withdraw),
        clean: of(Phase::Clean),
    }
}

/// A plan for people.
fn lines(plan: &Plan) -> Vec<String> {
    let ops = plan.ops().iter().map(|op| format!("{:<9}{op}", format!("{:?}", op.phase).to_lowercase()));
    let mut lines: Vec<String> = ops.take(MOST_LINES).collect();
    if plan.ops().len() > lines.len() {
        lines.push(format!("and {} more", plan.ops().len() - lines.len()));
    }
    lines
}
