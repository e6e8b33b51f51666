//! The task that owns the wishes.

mod asking;
mod keeping;
mod probes;
mod swap;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use switchyard_api::{ActiveNetwork, Swap};
use switchyard_kernel::conntrack::{Filter, Flow};
use switchyard_kernel::{Engine, Keeper, Netns, Repair};
use switchyard_netstate::{Place, UnitId};
use switchyard_plugin::{Facts, NodeFacts, PodFacts};
use switchyard_plugin_host::{Plugin, Registry};
use switchyard_policy::Concern;
use switchyard_services::Stale;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use self::keeping::Late;
use crate::network::again::Again;
use crate::network::engine::EngineThread;
use crate::network::extra::Extra;
use crate::network::overdue::{self, Failed, Overdue};
use crate::network::question::{Question, peer_unit, pod_unit};
use crate::network::reach::Reach;
use crate::network::unrepaired::Unrepaired;
use crate::network::ways::Ways;
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
    ways: Ways,
    node: Option<NodeFacts>,
    peers: BTreeMap<String, NodeFacts>,
    pods: BTreeMap<String, PodFacts>,
    /// Segments, and pods bound elsewhere.
    reach: Reach,
    extra: Extra,
    /// What is wanted and not in force.
    overdue: Overdue,
    /// What is to be in force and is not as wanted.
    unrepaired: Unrepaired,
    /// UDP flows to be dropped once what Services want is in force.
    stale: Stale,
    /// Pods that the plugin does not attach, by uid, and why.
    unattached: BTreeMap<String, String>,
    needs_route: bool,
    active: Option<ActiveNetwork>,
    /// The swap that is under way, as the Network has it.
    swap: Option<Box<Swap>>,
    /// How far this node is in it.
    ongoing: Option<swap::Ongoing>,
    /// What has to wait until the swap is over.
    waiting: VecDeque<Call>,
    /// What has to wait until a plugin has answered.
    aside: VecDeque<Call>,
    /// Why the active network is not in force, and when it is tried again.
    refused: Option<(ActiveNetwork, String)>,
    again: Again,
    /// A plugin whose answers are not in the kernel yet.
    opened: Option<(ActiveNetwork, Arc<dyn Plugin>)>,
    /// The plugin whose answers are in the kernel.
    plugin: Option<(ActiveNetwork, Arc<dyn Plugin>)>,
    listed: BTreeSet<List>,
    /// Mends what others change; there once all that is wanted is known.
    keeper: Option<Keeper>,
    /// What the keeper tells.
    repairs: (mpsc::UnboundedSender<Repair>, mpsc::UnboundedReceiver<Repair>),
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
            ways: Ways::new(name, &facts, engine.owner())?,
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
            overdue: Overdue::default(),
            unrepaired: Unrepaired::default(),
            stale: Stale::default(),
            unattached: BTreeMap::new(),
            needs_route: false,
            active: None,
            swap: None,
            ongoing: None,
            waiting: VecDeque::new(),
            aside: VecDeque::new(),
            refused: None,
            again: Again::default(),
            opened: None,
            plugin: None,
            listed: BTreeSet::new(),
            keeper: None,
            repairs: mpsc::unbounded_channel(),
        };
        Ok((actor, Network { calls: calls_in, state: state_out }))
    }

    /// Works until every handle is gone.
    pub(crate) async fn run(mut self) {
        loop {
            if let Some(call) = self.aside.pop_front() {
                self.take(call).await;
                continue;
            }
            let due = self.due();
            let again = async {
                match due {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                call = self.calls.recv() => match call {
                    Some(call) => self.take(call).await,
                    None => return,
                },
                () = self.ways.changed(), if !self.is_halfway() => self.look_again().await,
                Some(repair) = self.repairs.1.recv(), if !self.is_halfway() => self.repaired(repair).await,
                () = again => self.try_again().await,
            }
        }
    }

    /// When something is tried again. Not in the middle of a change of networks, which has to end first.
    fn due(&self) -> Option<Instant> {
        let refused = self.refused.as_ref().and_then(|_| self.again.until());
        refused.into_iter().chain(self.overdue.again().until()).min().filter(|_| !self.is_halfway())
    }

    async fn try_again(&mut self) {
        if self.refused.is_some() && self.again.is_due() {
            self.follow().await;
            if self.again.is_due() {
                // Now was not the time to try.
                self.again.failed();
            }
        }
        if self.overdue.again().is_due() {
            let open: Vec<Question> = self.overdue.open().iter().map(|unit| self.question(unit)).collect();
            self.renew(open).await;
            self.overdue.pace();
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
        let Some(call) = self.beside(call).await else { return };
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
                self.ways.gone(&name);
                if self.peers.remove(&name).is_some() {
                    self.peer_changed(&name).await;
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
                    self.renew(vec![self.reach.of_pod(&self.peers, &uid)]).await;
                }
            }
            Call::Services { .. } | Call::Policies { .. } | Call::PolicyCounters(_) => {}
        }
    }

    /// Does what has nothing to do with plugins; gives back what has.
    async fn beside(&mut self, call: Call) -> Option<Call> {
        match call {
            Call::Services { units, stale } => {
                self.stale.add(stale);
                self.change(units).await;
                if self.keeper.is_some() {
                    self.drop_flows().await;
                }
            }
            Call::Policies { units, forget, concern, reply } => {
                self.change(units).await;
                let outcome = self.enforced(forget, concern).await;
                match (reply, outcome) {
                    (Some(reply), outcome) => drop(reply.send(outcome)),
                    (None, Err(error)) => warn!(%error, "policies cannot be enforced"),
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
            other => return Some(other),
        }
        None
    }

    /// Some way carries less or more than it did, or may.
    async fn look_again(&mut self) {
        for node in self.ways.told() {
            self.node_changed(node).await;
        }
    }

    async fn node_changed(&mut self, node: NodeFacts) {
        let node = self.ways.seen(node);
        if node.name == self.name {
            let own = self.ways.own();
            self.facts.underlay_mtu = own;
            self.state.send_if_modified(|state| state.mtu.replace(own) != Some(own));
            if self.node.as_ref() != Some(&node) {
                let as_before = |old: &NodeFacts| NodeFacts { edge: node.edge, mtu: node.mtu, ..old.clone() };
                let in_place = self.node.as_ref().is_some_and(|old| as_before(old) == node);
                self.node = Some(node.clone());
                // Everything depends on the node itself.
                if in_place && self.plugin.is_some() {
                    let mut questions = self.questions();
                    questions.push(Question::underlay());
                    self.renew(questions).await;
                } else {
                    self.plugin = None;
                    self.follow().await;
                }
            }
            return;
        }
        let name = node.name.clone();
        if self.peers.insert(name.clone(), node.clone()).as_ref() != Some(&node) {
            self.peer_changed(&name).await;
        }
    }

    /// Another node came, changed or went, and with it what its pods want.
    async fn peer_changed(&mut self, name: &str) {
        let mut questions = vec![self.question(&peer_unit(name))];
        questions.extend(self.reach.of_peer(&self.peers, name));
        self.renew(questions).await;
    }

    /// A segment came, changed or went, and with it what its pods want, here and elsewhere.
    async fn segment_changed(&mut self, name: &str) {
        let mut questions = self.reach.of_segment(&self.peers, name);
        let pods = self.pods.values().filter(|pod| self.reach.is_of(name, pod.ip));
        questions.extend(pods.map(|pod| Question::pod(self.reach.placed(pod))));
        self.renew(questions).await;
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
        let is_refused = self.refused.as_ref().is_some_and(|(refused, _)| refused.is_same(&active));
        if is_refused && !self.again.is_due() {
            return;
        }
        let outcome = match self.open_once(&active).await {
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
                if !is_refused {
                    self.again.succeeded();
                }
                self.again.failed();
                self.report(Some((active, error)));
            }
        }
    }

    /// The one of the last attempt, which knows what it failed with.
    async fn open_once(&mut self, network: &ActiveNetwork) -> Result<Arc<dyn Plugin>, String> {
        if let Some((_, plugin)) = self.opened.as_ref().filter(|(opened, _)| opened.is_same(network)) {
            return Ok(plugin.clone());
        }
        let plugin = self.open(network).await?;
        self.opened = Some((network.clone(), plugin.clone()));
        Ok(plugin)
    }

    /// The very file that the control plane has checked, where it can be seen from here; else the plugin of that name.
    async fn open(&mut self, network: &ActiveNetwork) -> Result<Arc<dyn Plugin>, String> {
        let (plugins, network) = (self.plugins.clone(), network.clone());
        self.ask(move || {
            let file = Some(&network.file).filter(|file| !file.is_empty() && Path::new(file).exists());
            let name = file.unwrap_or(&network.plugin);
            plugins.tend(name, &network.options, network.hosting).map_err(|error| error.to_string())
        })
        .await
    }

    /// Asks a plugin for everything and makes it so: all or nothing, unless an earlier agent's is taken over, which goes unit by unit.
    async fn bring_in(
        &mut self,
        node: &NodeFacts,
        active: &ActiveNetwork,
        plugin: Arc<dyn Plugin>,
    ) -> Result<(), String> {
        let late = if self.keeper.is_some() {
            let units = self.wishes(node, &plugin).await?;
            let names: Vec<UnitId> = units.keys().cloned().collect();
            self.apply(units).await?;
            self.overdue.tried(names, Failed::new());
            Late::default()
        } else {
            self.adopt(node, &plugin).await?
        };
        if self.plugin.is_none() {
            self.reconcile().await?;
        }
        self.carries(active.clone(), plugin).await;
        self.put_off(late);
        Ok(())
    }

    /// This plugin's answers are in the kernel now.
    async fn carries(&mut self, network: ActiveNetwork, plugin: Arc<dyn Plugin>) {
        self.plugin = Some((network, plugin));
        self.opened = None;
        self.overdue.forget_plugin();
        self.unattached.clear();
        self.renew(vec![Question::underlay()]).await;
    }

    async fn attach(&mut self, pod: PodFacts, netns: PathBuf) -> Result<(), AttachError> {
        let (Some((_, plugin)), Some(node)) = (self.plugin.clone(), self.node.clone()) else {
            let why = self.state.borrow().status.error.clone();
            let why = why.unwrap_or_else(|| "no network is active yet".into());
            return Err(AttachError(format!("the node's network is not ready: {why}")));
        };
        if self.overdue.is_to_go(&pod_unit(&pod.uid)) {
            // What it was connected with in another namespace has to go first.
            self.detach(&pod.uid).await?;
        }
        let question = Question::pod(self.reach.placed(&pod));
        let fragment = match self.answers(&plugin, &node, vec![question]).await.pop() {
            Some((_, Ok(fragment))) => fragment,
            Some((_, Err(error))) => {
                // The first error says what is wrong, later ones that it was not tried again.
                self.unattached.entry(pod.uid.clone()).or_insert_with(|| error.clone());
                self.publish();
                return Err(AttachError(error));
            }
            None => None,
        };
        if self.unattached.remove(&pod.uid).is_some() {
            self.publish();
        }
        let known = self.pods.contains_key(&pod.uid);
        if !known {
            self.add_place(&pod.uid, netns).await.map_err(AttachError)?;
        }
        let uid = pod.uid.clone();
        match self.apply(Units::from([(pod_unit(&uid), fragment)])).await {
            Ok(()) => {
                self.overdue.forget(&pod_unit(&uid));
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
        let was_attached = self.pods.remove(uid).is_some();
        if self.unattached.remove(uid).is_some() {
            self.publish();
        }
        let unit = pod_unit(uid);
        if !was_attached && !self.overdue.is_to_go(&unit) {
            return Ok(());
        }
        let failed = self.carry_out(Units::from([(unit.clone(), None)])).await;
        let outcome = failed.get(&unit).map_or(Ok(()), |(_, why)| Err(AttachError(why.clone())));
        self.overdue.tried([unit], failed);
        self.publish();
        outcome
    }

    async fn add_place(&self, uid: &str, netns: PathBuf) -> Result<(), String> {
        let opened = Netns::open(&netns).map_err(|error| format!("{}: {error}", netns.display()))?;
        let place = Place::Pod(uid.to_owned());
        self.engine.run(move |engine| engine.add_place(place, opened)).await.map_err(|gone| gone.to_string())
    }

    /// A change, with what is overdue. What fails of it is overdue from now on.
    async fn change(&mut self, units: Units) {
        if self.keeper.is_none() {
            return self.overdue.hold(units);
        }
        let mut all = self.overdue.known();
        all.extend(units);
        if all.is_empty() {
            return;
        }
        let (names, before): (Vec<UnitId>, _) = (all.keys().cloned().collect(), self.overdue.len());
        let failed = self.carry_out(all).await;
        self.overdue.tried(names, failed);
        if self.overdue.len() < before {
            self.state.send_modify(|state| state.attempts += 1);
        }
        self.publish();
    }

    /// Whether policies are in force as far as somebody is concerned; if so, and for a new pod, forgets the flows of its address.
    async fn enforced(&mut self, forget: Option<IpAddr>, concern: Option<Concern>) -> Result<(), String> {
        if self.keeper.is_none() {
            // Nothing can be attached either, but what is not forgotten now never is.
            return forget.map_or(Ok(()), |_| Err("the network is not in force yet".into()));
        }
        if let Some(why) = self.complaints(|unit| concerns(concern.as_ref(), unit)).next() {
            return Err(why);
        }
        let Some(address) = forget else { return Ok(()) };
        let place = Place::node(&self.name);
        let filter = Filter { party: Some(address), ..Filter::default() };
        let outcome = self.engine.run(move |engine| engine.drop_flows(&place, &filter)).await;
        outcome.map_err(|gone| gone.to_string())?.map(drop).map_err(|error| error.to_string())
    }

    /// Lets UDP flows find their way anew that lead where nobody is.
    async fn drop_flows(&mut self) {
        let stale = std::mem::take(&mut self.stale);
        if stale.is_empty() {
            return;
        }
        let place = Place::node(&self.name);
        let work = move |engine: &mut Engine| {
            let is_stale = |flow: &Flow| {
                let (to, from) = (flow.original, flow.reply);
                stale.takes((to.destination, to.destination_port), (from.source, from.source_port))
            };
            let filter = Filter { proto: Some(UDP), ..Filter::default() };
            if let Err(error) = engine.drop_flows_if(&place, &filter, is_stale) {
                warn!(%error, "UDP flows of an endpoint that is gone stay");
            }
        };
        let _ = self.engine.run(work).await;
    }

    /// All or nothing.
    async fn apply(&self, units: Units) -> Result<(), String> {
        let extra = self.extra.clone();
        let work = move |engine: &mut Engine| overdue::apply(engine, &extra, units);
        self.engine.run(work).await.unwrap_or_else(|gone| Err(gone.to_string()))
    }

    async fn carry_out(&self, units: Units) -> Failed {
        let (extra, wanted) = (self.extra.clone(), units.clone());
        let work = move |engine: &mut Engine| overdue::carry_out(engine, &extra, wanted);
        let all = |gone: String| units.into_iter().map(|(unit, wish)| (unit, (wish, gone.clone()))).collect();
        self.engine.run(work).await.unwrap_or_else(|gone| all(gone.to_string()))
    }

    /// Why units are not as wanted that `concern` is about.
    fn complaints(&self, concern: impl Fn(&UnitId) -> bool + Copy) -> impl Iterator<Item = String> {
        self.overdue.why(concern).chain(self.unrepaired.why(concern))
    }

    /// The active network is in force, or is refused, or something else may help those who wait.
    fn report(&mut self, refused: Option<(ActiveNetwork, String)>) {
        self.refused = refused;
        self.state.send_modify(|state| {
            if let Some((active, _)) = &self.plugin {
                state.status.generation = active.generation;
                state.status.plugin = active.plugin.clone();
            }
            if self.ongoing.is_none() {
                (state.status.swap, state.plan) = (None, None);
            }
            state.ready = self.plugin.is_some();
            state.attempts += 1;
        });
        self.publish();
    }

    /// Says what is wrong. This wakes nobody who waits: he may be what is wrong.
    fn publish(&self) {
        let refused = self.refused.iter().map(|(_, why)| why.clone());
        let mut all = refused.chain(self.unattached.values().cloned()).chain(self.complaints(|_| true));
        let (first, more) = (all.next(), all.count());
        let error = first.map(|first| if more == 0 { first } else { format!("{first} (and {more} more)") });
        let policies = self.complaints(|unit| concerns(None, unit)).next();
        let mut segments = self.overdue.segments();
        segments.extend(self.unrepaired.segments());
        self.state.send_if_modified(|state| {
            let was = (&state.status.error, &state.status.segments, state.needs_route, &state.policies);
            let changed = was != (&error, &segments, self.needs_route, &policies);
            (state.status.error, state.status.segments) = (error, segments);
            (state.needs_route, state.policies) = (self.needs_route, policies);
            changed
        });
    }
}

/// Whether a unit is one of policies, and one that matters to a pod.
fn concerns(concern: Option<&Concern>, unit: &UnitId) -> bool {
    match concern {
        Some(concern) => concern.includes(unit),
        None => unit.0.starts_with("policies"),
    }
}
