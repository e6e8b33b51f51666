//! The task that owns the wishes.

mod around;
mod asking;
mod attaching;
mod changing;
mod following;
mod keeping;
mod probes;
mod swap;
mod telling;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use switchyard_api::{ActiveNetwork, Swap};
use switchyard_kernel::{Engine, Keeper, Repair};
use switchyard_netstate::Place;
use switchyard_plugin::{Facts, NodeFacts, PodFacts};
use switchyard_plugin_host::{Plugin, Registry};
use switchyard_services::Stale;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use crate::network::again::Again;
use crate::network::engine::EngineThread;
use crate::network::extra::Extra;
use crate::network::overdue::Overdue;
use crate::network::question::Question;
use crate::network::reach::Reach;
use crate::network::unrepaired::Unrepaired;
use crate::network::ways::Ways;
use crate::network::{Call, List, Network, State};

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
}
