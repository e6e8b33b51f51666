//! The task that owns the wishes.

mod probes;
mod swap;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use switchyard_api::{ActiveNetwork, Swap};
use switchyard_kernel::conntrack::Filter;
use switchyard_kernel::{Engine, Keeper, Netns};
use switchyard_netstate::{Place, UnitId};
use switchyard_plugin::{Facts, NodeFacts, PodFacts};
use switchyard_plugin_host::{Plugin, Registry};
use switchyard_services::StaleFlow;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::network::engine::{EngineThread, tell};
use crate::network::extra::Extra;
use crate::network::reach::{Asked, Reach};
use crate::network::{AttachError, Call, List, Network, State, Units};

/// Protocol number.
const UDP: u8 = 17;

/// Owns what is wanted of the node's network.
pub(crate) struct Actor {
    name: String,
    facts: Facts,
    plugins: Arc<Registry>,
    engine: EngineThread,
    calls: mpsc::UnboundedReceiver<Call>,
    state: watch::Sender<State>,
    node: Option<NodeFacts>,
    peers: BTreeMap<String, NodeFacts>,
    pods: BTreeMap<String, PodFacts>,
    /// Segments, and pods bound elsewhere.
    reach: Reach,
    extra: Extra,
    services: Units,
    /// What policies want and is not in force yet.
    policies: Units,
    active: Option<ActiveNetwork>,
    /// The swap that is under way, as the Network has it.
    swap: Option<Box<Swap>>,
    /// How far this node is in it.
    ongoing: Option<swap::Ongoing>,
    /// What has to wait until the swap is over.
    waiting: VecDeque<Call>,
    /// The plugin whose answers are in the kernel.
    plugin: Option<(ActiveNetwork, Arc<dyn Plugin>)>,
    listed: BTreeSet<List>,
    /// Mends what others change; there once all that is wanted is known.
    keeper: Option<Keeper>,
}

// === impl Actor ===

impl Actor {
    /// The task's value, to be run, and a handle for everyone else.
    ///
    /// `extra` is the directory of namespaces that networks ask for.
    pub(crate) fn new(
        name: &str,
        facts: Facts,
        plugins: Registry,
        engine: Engine,
        extra: PathBuf,
    ) -> std::io::Result<(Self, Network)> {
        let (calls_in, calls) = mpsc::unbounded_channel();
        let (state, state_out) = watch::channel(State::default());
        let actor = Self {
            name: name.to_owned(),
            facts,
            plugins: Arc::new(plugins),
            engine: EngineThread::start(engine)?,
            calls,
            state,
            node: None,
            peers: BTreeMap::new(),
            pods: BTreeMap::new(),
            reach: Reach::default(),
            extra: Extra::new(name, extra),
            services: Units::new(),
            policies: Units::new(),
            active: None,
            swap: None,
            ongoing: None,
            waiting: VecDeque::new(),
            plugin: None,
            listed: BTreeSet::new(),
            keeper: None,
        };
        Ok((actor, Network { calls: calls_in, state: state_out }))
    }

    /// Works until every handle is gone.
    pub(crate) async fn run(mut self) {
        while let Some(call) = self.calls.recv().await {
            self.take(call).await;
        }
    }

    /// Does what it is told, or keeps it for later: while a change of networks is half done, nothing else changes.
    async fn take(&mut self, call: Call) {
        let about_network = matches!(call, Call::Network { .. } | Call::Listed(_));
        if !about_network && self.is_halfway() {
            self.waiting.push_back(call);
            return;
        }
        self.call(call).await;
        while !self.is_halfway() {
            let Some(call) = self.waiting.pop_front() else { return };
            self.call(call).await;
        }
    }

    async fn call(&mut self, call: Call) {
        match call {
            Call::Adopt { pod, netns } => {
                if let Err(error) = self.add_place(&pod.uid, netns).await {
                    warn!(pod = %pod.name, %error, "a pod's namespace cannot be opened");
                    return;
                }
                self.pods.insert(pod.uid.clone(), pod);
            }
            Call::Attach { pod, netns, reply } => drop(reply.send(self.attach(pod, netns).await)),
            Call::Detach { uid, reply } => {
                let outcome = self.detach(&uid).await;
                match (reply, outcome) {
                    (Some(reply), outcome) => drop(reply.send(outcome)),
                    (None, Err(error)) => warn!(uid, %error, "detaching failed"),
                    (None, Ok(())) => {}
                }
            }
            Call::Listed(list) => {
                self.listed.insert(list);
                self.follow().await;
            }
            Call::Network { active, swap } => {
                (self.active, self.swap) = (active.map(|active| *active), swap);
                self.follow().await;
            }
            Call::Node(node) => self.node_changed(*node).await,
            Call::NodeGone(name) => {
                if self.peers.remove(&name).is_some() {
                    let mut units = Units::from([(peer_unit(&name), None)]);
                    // Without the node, nothing is wanted for its pods.
                    units.extend(self.reached(|reach, asked| reach.peer_wishes(asked, &name)));
                    self.change(units).await;
                }
            }
            Call::Segment(segment) => {
                let name = segment.name.clone();
                if self.reach.segment(*segment) {
                    self.segment_changed(&name).await;
                }
            }
            Call::SegmentGone(name) => {
                if self.reach.segment_gone(&name) {
                    self.segment_changed(&name).await;
                }
            }
            Call::Remote { uid, pod } => {
                if self.reach.pod(&uid, pod) {
                    let units = self.reached(|reach, asked| reach.pod_wish(asked, &uid));
                    self.change(units).await;
                }
            }
            Call::Services { units, stale } => {
                for (unit, fragment) in &units {
                    match fragment {
                        Some(_) => self.services.insert(unit.clone(), fragment.clone()),
                        None => self.services.remove(unit),
                    };
                }
                if self.keeper.is_some() {
                    self.change(units).await;
                    self.drop_flows(stale).await;
                }
            }
            Call::Policies { units, forget, reply } => {
                self.policies.extend(units);
                let outcome = self.enforce(forget).await;
                match (reply, outcome) {
                    (Some(reply), outcome) => drop(reply.send(outcome)),
                    (None, Err(error)) => {
                        warn!(%error, "policies cannot be enforced");
                        self.report(Some(format!("policies: {error}")));
                    }
                    (None, Ok(())) => {}
                }
            }
            Call::PolicyCounters(reply) => {
                let place = Place::node(&self.name);
                let counters =
                    self.engine.run(move |engine| engine.counters(&place, &switchyard_policy::table())).await;
                match counters.map_err(|gone| gone.to_string()).and_then(|read| read.map_err(|error| error.to_string()))
                {
                    Ok(counters) => drop(reply.send(counters)),
                    Err(error) => warn!(%error, "counters of policies cannot be read"),
                }
            }
        }
    }

    async fn node_changed(&mut self, node: NodeFacts) {
        if node.name == self.name {
            if self.node.as_ref() != Some(&node) {
                let role = self.node.as_ref().is_some_and(|old| NodeFacts { edge: node.edge, ..old.clone() } == node);
                self.node = Some(node.clone());
                // Everything depends on the node itself.
                match self.plugin.clone().filter(|_| role) {
                    Some((active, plugin)) => {
                        let outcome = self.bring_in(&node, &active, plugin).await;
                        self.report(outcome.err());
                    }
                    None => {
                        self.plugin = None;
                        self.follow().await;
                    }
                }
            }
            return;
        }
        let name = node.name.clone();
        if self.peers.insert(name.clone(), node.clone()).as_ref() == Some(&node) {
            return;
        }
        let (Some((_, plugin)), Some(own)) = (&self.plugin, &self.node) else { return };
        match plugin.peer(&self.facts, own, &node) {
            Ok(fragment) => {
                let mut units = Units::from([(peer_unit(&name), Some(fragment))]);
                units.extend(self.reached(|reach, asked| reach.peer_wishes(asked, &name)));
                self.change(units).await;
            }
            Err(error) => self.report(Some(format!("peer {name}: {error}"))),
        }
    }

    /// A segment came, changed or went, and with it what its pods want, here and elsewhere.
    async fn segment_changed(&mut self, name: &str) {
        let mut units = self.reached(|reach, asked| reach.segment_wishes(asked, name));
        if let (Some((_, plugin)), Some(node)) = (&self.plugin, &self.node) {
            for (uid, pod) in self.pods.iter().filter(|(_, pod)| self.reach.is_of(name, pod.ip)) {
                match plugin.pod(&self.facts, node, &self.reach.placed(pod)) {
                    Ok(fragment) => drop(units.insert(pod_unit(uid), Some(fragment))),
                    Err(error) => self.report(Some(format!("pod {}: {error}", pod.name))),
                }
            }
        }
        if self.keeper.is_none() {
            return;
        }
        let failed = self.apply(units).await.err();
        if let Some(error) = &failed {
            warn!(segment = name, %error, "a segment's change failed");
        }
        self.state.send_modify(|state| match &failed {
            Some(error) => drop(state.status.segments.insert(name.to_owned(), error.clone())),
            None => drop(state.status.segments.remove(name)),
        });
        if failed.is_some() {
            self.report(failed);
        }
    }

    /// Asks the plugin, if there is one, about segments and others' pods.
    fn reached(&self, ask: impl FnOnce(&Reach, &Asked<'_>) -> Result<Units, String>) -> Units {
        let (Some((_, plugin)), Some(node)) = (&self.plugin, &self.node) else { return Units::new() };
        ask(&self.reach, &self.asked(node, &**plugin)).unwrap_or_else(|error| {
            self.report(Some(error));
            Units::new()
        })
    }

    fn asked<'a>(&'a self, node: &'a NodeFacts, plugin: &'a dyn Plugin) -> Asked<'a> {
        Asked { facts: &self.facts, node, peers: &self.peers, plugin }
    }

    /// Brings the active network into force, if it is not and can be; or takes part in a swap.
    async fn follow(&mut self) {
        let complete = [List::Pods, List::Nodes, List::Segments, List::Services, List::Remote, List::Policies]
            .iter()
            .all(|list| self.listed.contains(list));
        let (true, Some(active), Some(node)) = (complete, self.active.clone(), self.node.clone()) else {
            return;
        };
        if let Some(swap) = self.swap.clone().filter(|swap| swap.participants.contains_key(&self.name)) {
            return self.take_part(&node, *swap).await;
        }
        self.conclude(&active).await;
        if let Some((current, _)) = self.plugin.as_mut().filter(|(current, _)| current.is_same(&active)) {
            if *current != active {
                *current = active;
                self.report(None);
            }
            return;
        }
        let outcome = match self.open(&active).await {
            Ok(plugin) => self.bring_in(&node, &active, plugin).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => {
                info!(plugin = %active.plugin, generation = active.generation, "network in force");
                self.report(None);
            }
            Err(error) => {
                warn!(plugin = %active.plugin, generation = active.generation, %error, "network refused");
                self.report(Some(error));
            }
        }
    }

    /// The very file that the control plane has checked, where it can be seen from here; else the plugin of that name.
    async fn open(&self, network: &ActiveNetwork) -> Result<Arc<dyn Plugin>, String> {
        let (plugins, network) = (self.plugins.clone(), network.clone());
        // It reads files and runs foreign code.
        let opening = tokio::task::spawn_blocking(move || {
            let file = Some(&network.file).filter(|file| !file.is_empty() && Path::new(file).exists());
            let name = file.unwrap_or(&network.plugin);
            plugins.open(name, &network.options, network.hosting).map_err(|error| error.to_string())
        });
        opening.await.unwrap_or_else(|error| Err(format!("opening the plugin: {error}")))
    }

    /// Asks a plugin for everything and makes it so, all or nothing.
    async fn bring_in(
        &mut self,
        node: &NodeFacts,
        active: &ActiveNetwork,
        plugin: Arc<dyn Plugin>,
    ) -> Result<(), String> {
        let units = self.wishes(node, &*plugin)?;
        if self.keeper.is_some() {
            self.apply(units).await?;
        } else {
            self.adopt(units).await?;
        }
        if self.plugin.is_none() {
            self.reconcile().await?;
        }
        // All of it is in the kernel now, segments included.
        self.state.send_modify(|state| state.status.segments.clear());
        self.plugin = Some((active.clone(), plugin));
        Ok(())
    }

    /// All that a plugin wants here.
    fn wishes(&self, node: &NodeFacts, plugin: &dyn Plugin) -> Result<Units, String> {
        let own = plugin.node(&self.facts, node).map_err(|error| error.to_string())?;
        let mut units = Units::from([(node_unit(), Some(own))]);
        for (name, peer) in &self.peers {
            let fragment = plugin.peer(&self.facts, node, peer).map_err(|error| format!("peer {name}: {error}"))?;
            units.insert(peer_unit(name), Some(fragment));
        }
        for (uid, pod) in &self.pods {
            let placed = self.reach.placed(pod);
            let fragment =
                plugin.pod(&self.facts, node, &placed).map_err(|error| format!("pod {}: {error}", pod.name))?;
            units.insert(pod_unit(uid), Some(fragment));
        }
        units.extend(self.reach.wishes(&self.asked(node, plugin))?);
        Ok(units)
    }

    /// Takes over what an earlier agent left. Nothing is touched yet; [`Self::reconcile`] follows, and touches nothing that is right.
    async fn adopt(&mut self, mut units: Units) -> Result<(), String> {
        units.extend(self.services.clone());
        units.extend(self.policies.clone());
        let (extra, in_swap) = (self.extra.clone(), self.swap.is_some());
        let work = move |engine: &mut Engine| {
            extra.adopt(engine);
            extra.make(engine, &units)?;
            engine.adopt(units).map_err(|error| error.to_string())?;
            if !in_swap {
                extra.sweep(engine);
            }
            Ok(())
        };
        self.engine.run(work).await.unwrap_or_else(|gone| Err(gone.to_string()))?;
        self.policies.clear();
        // First the ears, then the look, so that nothing is missed in between.
        self.keeper = Some(self.engine.keep().map_err(|error| format!("watch the kernel: {error}"))?);
        Ok(())
    }

    async fn reconcile(&self) -> Result<(), String> {
        let audit = self.engine.run(Engine::reconcile).await.map_err(|gone| gone.to_string())?;
        tell(&audit.map_err(|error| error.to_string())?);
        Ok(())
    }

    async fn attach(&mut self, pod: PodFacts, netns: PathBuf) -> Result<(), AttachError> {
        let (Some((_, plugin)), Some(node)) = (self.plugin.clone(), self.node.clone()) else {
            let why = self.state.borrow().status.error.clone();
            let why = why.unwrap_or_else(|| "no network is active yet".into());
            return Err(AttachError(format!("the node's network is not ready: {why}")));
        };
        let placed = self.reach.placed(&pod);
        let fragment = plugin.pod(&self.facts, &node, &placed).map_err(|error| AttachError(error.to_string()))?;
        let known = self.pods.contains_key(&pod.uid);
        if !known {
            self.add_place(&pod.uid, netns).await.map_err(AttachError)?;
        }
        let uid = pod.uid.clone();
        match self.apply(Units::from([(pod_unit(&uid), Some(fragment))])).await {
            Ok(()) => {
                self.pods.insert(uid, pod);
                Ok(())
            }
            Err(error) => {
                if !known {
                    let _ = self.engine.run(move |engine| engine.remove_place(&Place::Pod(uid))).await;
                }
                Err(AttachError(error))
            }
        }
    }

    async fn detach(&mut self, uid: &str) -> Result<(), AttachError> {
        if self.pods.remove(uid).is_none() {
            return Ok(());
        }
        let (unit, place) = (pod_unit(uid), Place::Pod(uid.to_owned()));
        let work = move |engine: &mut Engine| {
            let outcome = engine.remove(unit);
            // The engine's handle kept the namespace alive until its links were taken out of it.
            engine.remove_place(&place);
            outcome
        };
        let outcome = self.engine.run(work).await.map_err(|gone| AttachError(gone.to_string()))?;
        outcome.map_err(|error| AttachError(error.to_string()))
    }

    async fn add_place(&self, uid: &str, netns: PathBuf) -> Result<(), String> {
        let opened = Netns::open(&netns).map_err(|error| format!("{}: {error}", netns.display()))?;
        let place = Place::Pod(uid.to_owned());
        self.engine.run(move |engine| engine.add_place(place, opened)).await.map_err(|gone| gone.to_string())
    }

    /// A change that nobody waits for; its failure is the node's.
    async fn change(&self, units: Units) {
        if self.keeper.is_none() {
            return;
        }
        if let Err(error) = self.apply(units).await {
            warn!(%error, "a change of the network failed");
            self.report(Some(error));
        }
    }

    /// Puts what policies want into force. What fails is tried again with the next change, as others may depend on it.
    async fn enforce(&mut self, forget: Option<IpAddr>) -> Result<(), String> {
        if self.keeper.is_none() {
            return Ok(());
        }
        if !self.policies.is_empty() {
            self.apply(self.policies.clone()).await?;
            self.policies.clear();
        }
        let Some(address) = forget else { return Ok(()) };
        let place = Place::node(&self.name);
        let filter = Filter { party: Some(address), ..Filter::default() };
        let outcome = self.engine.run(move |engine| engine.drop_flows(&place, &filter)).await;
        outcome.map_err(|gone| gone.to_string())?.map(drop).map_err(|error| error.to_string())
    }

    /// Lets UDP flows find their way anew that led to an endpoint that is gone.
    async fn drop_flows(&self, stale: Vec<StaleFlow>) {
        if stale.is_empty() {
            return;
        }
        let place = Place::node(&self.name);
        let work = move |engine: &mut Engine| {
            for flow in stale {
                // A flow that was not translated is answered from the address it was sent to.
                let (ip, port) = flow.endpoint.unwrap_or((flow.address, flow.port));
                let filter = Filter {
                    proto: Some(UDP),
                    to: Some(flow.address),
                    to_port: Some(flow.port),
                    from_endpoint: Some(ip),
                    from_endpoint_port: Some(port),
                    party: None,
                };
                if let Err(error) = engine.drop_flows(&place, &filter) {
                    warn!(%error, "UDP flows of an endpoint that is gone stay");
                }
            }
        };
        let _ = self.engine.run(work).await;
    }

    async fn apply(&self, units: Units) -> Result<(), String> {
        let extra = self.extra.clone();
        let work = move |engine: &mut Engine| {
            extra.make(engine, &units)?;
            let outcome = engine.apply(units).map(drop).map_err(|error| error.to_string());
            extra.sweep(engine);
            outcome
        };
        self.engine.run(work).await.unwrap_or_else(|gone| Err(gone.to_string()))
    }

    fn report(&self, error: Option<String>) {
        self.state.send_modify(|state| {
            if let (Some((_, plugin)), Some(node)) = (&self.plugin, &self.node) {
                let routes = plugin.underlay(&self.facts, node);
                state.needs_route = routes.is_ok_and(|routes| !routes.is_empty());
            }
            if let Some((active, _)) = &self.plugin {
                state.status.generation = active.generation;
                state.status.plugin = active.plugin.clone();
            }
            if self.ongoing.is_none() {
                (state.status.swap, state.plan) = (None, None);
            }
            state.ready = self.plugin.is_some();
            state.status.error = error;
            state.attempts += 1;
        });
    }
}

fn node_unit() -> UnitId {
    UnitId("node".into())
}

fn peer_unit(name: &str) -> UnitId {
    UnitId(format!("peer/{name}"))
}

fn pod_unit(uid: &str) -> UnitId {
    UnitId(format!("pod/{uid}"))
}
