//! A node's part in a swap: it does what the phase asks of it, and says so.
//!
//! While the kernel is half way between two networks, everything else (pods that come and go, Services, nodes) waits: for the
//! moments that a swap takes, or until it is taken back. An agent that is started in the middle of a swap adopts the *old* network's
//! ledger with the phases carried out that have been ordered, and once `Cleaning` is ordered the *new* network's; comparing that
//! with the kernel brings it to where everybody else is.

use std::sync::Arc;
use std::time::Instant;

use switchyard_api::{ActiveNetwork, Operations, Participant, Stage, Swap, SwapPhase, SwapReport};
use switchyard_kernel::{Engine, feature};
use switchyard_netstate::{Key, Ledger, Phase, Place, Plan};
use switchyard_plugin::{NodeFacts, PodFacts};
use switchyard_plugin_host::Plugin;
use switchyard_services::{Entrance, entrances};
use tracing::{info, warn};

use super::Actor;
use super::keeping::Late;
use super::probes::Prober;
use crate::network::Units;
use crate::network::engine::tell;
use crate::network::question::Question;

/// How far this node is in a swap.
pub(super) struct Ongoing {
    id: String,
    to: ActiveNetwork,
    plugin: Arc<dyn Plugin>,
    /// What the kernel holds.
    stage: Stage,
    said: Participant,
    /// Finds out what the swap does to packets; not there if the agent was started in the middle of it.
    prober: Option<Prober>,
    /// Whether the new network carries packets between pods at all; one that does not is wanted as it is.
    carries: bool,
}

/// Lines of a plan that are told; the rest is counted.
const MOST_LINES: usize = 400;

// === impl Actor ===

impl Actor {
    /// Whether the kernel is between two networks.
    pub(super) fn is_halfway(&self) -> bool {
        self.ongoing
            .as_ref()
            .is_some_and(|ongoing| matches!(ongoing.stage, Stage::Prepared | Stage::Switched | Stage::Withdrawn))
    }

    /// Does what the phase asks of this node.
    pub(super) async fn take_part(&mut self, node: &NodeFacts, swap: Swap) {
        if self.ongoing.as_ref().is_none_or(|ongoing| ongoing.id != swap.id) {
            self.conclude(&swap.from).await;
            if let Err(error) = self.join(node, &swap).await {
                warn!(swap = swap.id, phase = ?swap.phase, %error, "cannot take part in a swap");
                // Nothing of it is in the kernel, so there is nothing to take back.
                let phase = Some(swap.phase).filter(|phase| *phase >= SwapPhase::Cleaning);
                let said = Participant { phase, error: Some(error), ..Participant::default() };
                return self.tell(&swap, said);
            }
        }
        let Some(ongoing) = &self.ongoing else { return };
        // Nothing is tried twice; what failed is taken back, and what is taken back and finished is so whatever comes of it.
        let failed = ongoing.said.error.is_some() && swap.phase < SwapPhase::Cleaning;
        if !swap.concerns(&self.name) || failed || ongoing.said.phase == Some(swap.phase) {
            return;
        }
        let begun = Instant::now();
        let outcome = match swap.phase {
            SwapPhase::Planning => self.plan(node, &swap).await,
            SwapPhase::Preparing => {
                self.begin_probes(&swap).await;
                self.prepare(node).await
            }
            SwapPhase::Checking | SwapPhase::Verifying => self.probe().await,
            SwapPhase::Switching => self.switch().await,
            SwapPhase::Withdrawing => self.withdraw().await,
            SwapPhase::Cleaning => {
                let outcome = self.clean().await;
                // There is no way back any more, and all the more reason to say what it did.
                let lost = self.probe().await;
                self.end_probes().await;
                outcome.and(lost)
            }
            SwapPhase::Returning => {
                let outcome = self.go_back().await;
                self.end_probes().await;
                outcome
            }
        };
        let Some(ongoing) = &mut self.ongoing else { return };
        let milliseconds = (begun.elapsed().as_secs_f64() * 1e6).round() / 1e3;
        ongoing.said.milliseconds.insert(swap.phase, milliseconds);
        match outcome {
            Ok(()) => ongoing.said.phase = Some(swap.phase),
            Err(error) => {
                warn!(swap = swap.id, phase = ?swap.phase, %error, "swap");
                if swap.phase >= SwapPhase::Cleaning {
                    ongoing.said.phase = Some(swap.phase);
                }
                ongoing.said.error.get_or_insert(error);
            }
        }
        info!(swap = swap.id, phase = ?swap.phase, milliseconds, "swap");
        let said = ongoing.said.clone();
        self.tell(&swap, said);
    }

    /// Ends this node's part in a swap that is over, or is another one now. What is half done is finished if the network it leads
    /// to has become the active one, and taken back if not.
    pub(super) async fn conclude(&mut self, active: &ActiveNetwork) {
        let Some(ongoing) = &self.ongoing else { return };
        if self.is_halfway() {
            let outcome = if ongoing.to == *active && ongoing.stage >= Stage::Switched {
                self.clean_at_last().await
            } else {
                self.go_back().await
            };
            if let Err(error) = outcome {
                warn!(%error, "ending a swap");
            }
        }
        self.ongoing = None;
        let extra = self.extra.clone();
        let _ = self.engine.run(move |engine| extra.sweep(engine)).await;
        self.report(None);
    }

    /// Opens the new plugin, and takes over what an earlier agent did in this swap.
    async fn join(&mut self, node: &NodeFacts, swap: &Swap) -> Result<(), String> {
        let mut stage = Stage::Old;
        let is_fresh = self.plugin.is_none();
        if is_fresh {
            stage = swap.stage(&self.name);
            let first = if stage == Stage::New { &swap.to } else { &swap.from };
            let plugin = self.open(first).await?;
            let late = if self.keeper.is_some() {
                let units = self.wishes(node, &plugin).await?;
                self.apply(units).await?;
                Late::default()
            } else {
                self.adopt(node, &plugin).await?
            };
            self.carries(first.clone(), plugin).await;
            self.put_off(late);
            info!(swap = swap.id, phase = ?swap.phase, ?stage, "joins a swap");
        }
        let opened = self.open(&swap.to).await;
        let carries = match &opened {
            Ok(plugin) => self.gives_addresses(node, plugin).await,
            Err(_) => false,
        };
        let through = match stage {
            Stage::Prepared => Some(Phase::Prepare),
            Stage::Switched => Some(Phase::Switch),
            Stage::Withdrawn => Some(Phase::Withdraw),
            Stage::Old | Stage::New => None,
        };
        let resumed = match (&opened, through) {
            (Ok(plugin), Some(through)) => self.resume(node, plugin, through).await,
            _ => Ok(()),
        };
        if is_fresh {
            self.reconcile().await?;
            self.report(None);
        }
        resumed?;
        let (plugin, to, id) = (opened?, swap.to.clone(), swap.id.clone());
        self.ongoing = Some(Ongoing { id, to, plugin, stage, said: Participant::default(), prober: None, carries });
        Ok(())
    }

    /// Whether a pod here would have its address on an interface.
    async fn gives_addresses(&mut self, node: &NodeFacts, plugin: &Arc<dyn Plugin>) -> bool {
        let ip = node.pod_cidr.hosts().last().unwrap_or(node.pod_cidr.addr());
        let (uid, name) = ("none".to_owned(), "none".to_owned());
        let (namespace, labels) = ("default".into(), Default::default());
        let pod = PodFacts { uid: uid.clone(), namespace, name, labels, ip, segment: None };
        let answer = self.answers(plugin, node, vec![Question::pod(pod)]).await.pop();
        let fragment = answer.and_then(|(_, wish)| wish.ok().flatten()).unwrap_or_default();
        let there = fragment.get(&Place::pod(&uid));
        there.is_some_and(|objects| objects.iter().any(|(key, _)| matches!(key, Key::Address(_, at) if *at == ip)))
    }

    /// Has some pods answer probes from elsewhere.
    async fn answer_probes(&mut self, node: &NodeFacts) -> Result<(), String> {
        let mut pods: Vec<_> = self.pods.values().cloned().collect();
        pods.truncate(2);
        let (own, ip) = (Place::node(&self.name), node.address);
        let work = move |engine: &mut Engine| {
            let places = engine.places();
            let of = |pod: &PodFacts| {
                let netns = places.get(&Place::pod(&pod.uid))?.clone();
                Some((format!("{}/{}", pod.namespace, pod.name), netns, pod.ip))
            };
            Ok((places.get(&own).cloned(), pods.iter().filter_map(of).collect::<Vec<_>>()))
        };
        let (netns, pods) = self.on_engine(work).await?;
        if let (Some(netns), Some(ongoing)) = (netns, &mut self.ongoing) {
            let prober = Prober::start((netns, ip), pods);
            ongoing.said.samples.clone_from(&prober.samples);
            ongoing.prober = Some(prober);
        }
        Ok(())
    }

    async fn begin_probes(&mut self, swap: &Swap) {
        let nodes: Vec<_> = self.peers.values().map(|peer| peer.address).collect();
        let services = self.engine.run(|engine| doors(engine.ledger())).await.unwrap_or_default();
        let Some(ongoing) = &mut self.ongoing else { return };
        if let Some(prober) = &mut ongoing.prober {
            prober.begin(&self.name, swap, &nodes, &services).await;
            ongoing.said.probes = prober.found.clone();
        }
    }

    async fn probe(&mut self) -> Result<(), String> {
        let Some(ongoing) = &mut self.ongoing else { return Ok(()) };
        let Some(prober) = &mut ongoing.prober else { return Ok(()) };
        prober.found.untried = !ongoing.carries;
        let outcome = if ongoing.carries { prober.check().await } else { Ok(()) };
        ongoing.said.probes = prober.found.clone();
        outcome
    }

    async fn end_probes(&mut self) {
        let Some(ongoing) = &mut self.ongoing else { return };
        if let Some(prober) = &mut ongoing.prober {
            prober.end().await;
            ongoing.said.probes = prober.found.clone();
        }
    }

    async fn resume(&mut self, node: &NodeFacts, plugin: &Arc<dyn Plugin>, through: Phase) -> Result<(), String> {
        let units = self.wishes(node, plugin).await?;
        self.on_wishes(units, move |engine, units| engine.resume(units, through).map(drop)).await
    }

    /// Works out what would change, and whether anything is in the way of it.
    async fn plan(&mut self, node: &NodeFacts, swap: &Swap) -> Result<(), String> {
        let Some(ongoing) = &self.ongoing else { return Ok(()) };
        let plugin = ongoing.plugin.clone();
        has_what_it_needs(&plugin, &ongoing.to).await?;
        let units = self.wishes(node, &plugin).await?;
        let work = |engine: &mut Engine, units: Units| {
            let plan = engine.plan(&units)?;
            let way = engine.clear_way(&plan).map_err(|error| error.to_string());
            Ok((plan, way))
        };
        let (plan, way) = self.on_wishes(units, work).await?;
        let foreign = self.foreign(node, plugin).await?;
        if swap.dry_run {
            let lines = lines(&plan, &foreign);
            self.state.send_modify(|state| state.plan = Some(lines));
        }
        if let Some(ongoing) = &mut self.ongoing {
            ongoing.said.operations = count(&plan);
            ongoing.said.foreign = u32::try_from(foreign.len()).unwrap_or(u32::MAX);
        }
        way?;
        if swap.dry_run { Ok(()) } else { self.answer_probes(node).await }
    }

    /// Pods whose addresses this plugin would not have given them.
    async fn foreign(&mut self, node: &NodeFacts, plugin: Arc<dyn Plugin>) -> Result<Vec<String>, String> {
        let (facts, node, pods) = (self.facts.clone(), node.clone(), self.pods.clone());
        self.ask(move || {
            let mut foreign = Vec::new();
            for pod in pods.values() {
                let pool = plugin.pool(&facts, &node, pod).map_err(|error| format!("pod {}: {error}", pod.name))?;
                if !pool.block.contains(&pod.ip) {
                    foreign.push(format!("{}/{} {} is outside {}", pod.namespace, pod.name, pod.ip, pool.block));
                }
            }
            Ok(foreign)
        })
        .await
    }

    async fn prepare(&mut self, node: &NodeFacts) -> Result<(), String> {
        let Some(ongoing) = self.ongoing.as_ref().filter(|ongoing| ongoing.stage < Stage::Prepared) else {
            return Ok(());
        };
        let plugin = ongoing.plugin.clone();
        let units = self.wishes(node, &plugin).await?;
        let plan = self.on_wishes(units, Engine::prepare).await?;
        if let Some(ongoing) = &mut self.ongoing {
            ongoing.stage = Stage::Prepared;
            ongoing.said.operations = count(&plan);
        }
        Ok(())
    }

    async fn switch(&mut self) -> Result<(), String> {
        match &self.ongoing {
            Some(ongoing) if ongoing.stage < Stage::Switched => self.on_engine(Engine::switch).await?,
            _ => return Ok(()),
        }
        if let Some(ongoing) = &mut self.ongoing {
            ongoing.stage = Stage::Switched;
        }
        Ok(())
    }

    async fn withdraw(&mut self) -> Result<(), String> {
        match &self.ongoing {
            Some(ongoing) if ongoing.stage < Stage::Withdrawn => self.on_engine(Engine::withdraw).await?,
            _ => return Ok(()),
        }
        if let Some(ongoing) = &mut self.ongoing {
            ongoing.stage = Stage::Withdrawn;
        }
        Ok(())
    }

    async fn clean(&mut self) -> Result<(), String> {
        if self.is_halfway() {
            self.on_engine(Engine::clean).await?;
        }
        self.arrive().await;
        Ok(())
    }

    /// Cleans what failed to be cleaned before. What the kernel still keeps is left to repairs: the swap is over, and nothing else
    /// may change here until it is over for this node, too.
    async fn clean_at_last(&mut self) -> Result<(), String> {
        let Err(error) = self.clean().await else { return Ok(()) };
        warn!(%error, "cleaning after a swap; the rest is left to repairs");
        let finished = self.on_engine(|engine| engine.finish().map(|audit| tell(&audit))).await;
        self.arrive().await;
        finished
    }

    /// The new network is the one that is in force here.
    async fn arrive(&mut self) {
        let Some(ongoing) = &mut self.ongoing else { return };
        ongoing.stage = Stage::New;
        let (to, plugin) = (ongoing.to.clone(), ongoing.plugin.clone());
        self.carries(to, plugin).await;
        self.report(None);
    }

    async fn go_back(&mut self) -> Result<(), String> {
        let halfway = self.is_halfway();
        if let Some(ongoing) = &mut self.ongoing {
            ongoing.stage = Stage::Old;
        }
        if halfway { self.on_engine(Engine::abort).await } else { Ok(()) }
    }

    /// Says how far this node is.
    fn tell(&self, swap: &Swap, participant: Participant) {
        let report = SwapReport { id: swap.id.clone(), participant };
        self.state.send_modify(|state| state.status.swap = Some(report));
    }

    /// Does something about all that the new plugin wants, the places there that it speaks about.
    async fn on_wishes<T: Send + 'static>(
        &self,
        units: Units,
        work: impl FnOnce(&mut Engine, Units) -> Result<T, switchyard_kernel::Error> + Send + 'static,
    ) -> Result<T, String> {
        let extra = self.extra.clone();
        let work = move |engine: &mut Engine| {
            extra.make(engine, &units)?;
            let units = whole(engine.ledger(), units);
            work(engine, units).map_err(|error| error.to_string())
        };
        self.engine.run(work).await.map_err(|gone| gone.to_string())?
    }

    async fn on_engine<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Engine) -> Result<T, switchyard_kernel::Error> + Send + 'static,
    ) -> Result<T, String> {
        self.engine.run(work).await.map_err(|gone| gone.to_string())?.map_err(|error| error.to_string())
    }
}

/// Whether this node's kernel can do what a plugin with these options cannot do without.
async fn has_what_it_needs(plugin: &Arc<dyn Plugin>, network: &ActiveNetwork) -> Result<(), String> {
    let needs: Vec<String> = plugin.manifest().needs_with(&network.options).into_iter().map(str::to_owned).collect();
    // It makes a namespace and waits for the kernel, the first time.
    let tried = tokio::task::spawn_blocking(move || feature::require(needs.iter().map(String::as_str)));
    let missing = tried.await.map_err(|error| format!("trying what the plugin needs: {error}"))?;
    missing.map_err(|missing| format!("plugin {} {missing}", plugin.manifest().name))
}

/// Where each Service that is answered here lets connections in.
fn doors(ledger: &Ledger) -> Vec<Vec<Entrance>> {
    let services = ledger.units().filter(|(unit, _)| unit.0.starts_with("service/"));
    services.map(|(_, fragment)| entrances(fragment)).filter(|all| !all.is_empty()).collect()
}

/// A plugin's wishes as a change of everything that plugins want: what is not wished for goes.
fn whole(ledger: &Ledger, mut wishes: Units) -> Units {
    for (unit, _) in ledger.units() {
        let of_plugin =
            unit.0 == "node" || ["peer/", "pod/", "remote/", "segment/"].iter().any(|kind| unit.0.starts_with(kind));
        if of_plugin && !wishes.contains_key(unit) {
            wishes.insert(unit.clone(), None);
        }
    }
    wishes
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
fn lines(plan: &Plan, foreign: &[String]) -> Vec<String> {
    let all = plan.ops().len() + foreign.len();
    let ops = plan.ops().iter().map(|op| format!("{:<9}{op}", format!("{:?}", op.phase).to_lowercase()));
    let foreign = foreign.iter().map(|pod| format!("foreign {pod}"));
    let mut lines: Vec<String> = foreign.chain(ops).take(MOST_LINES).collect();
    if all > lines.len() {
        lines.push(format!("and {} more", all - lines.len()));
    }
    lines
}
