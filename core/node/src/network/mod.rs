//! The node's network: what the active plugin and the Services want, kept in force.
//!
//! One task owns the wishes, so that two of them never meet halfway; it asks the plugin for fragments and hands them to the
//! engine's thread as units `node`, `peer/NAME`, `pod/UID`, `segment/NAME`, `remote/UID`, `services`,
//! `service/NAMESPACE/NAME` and `policies…`. A plugin that fails changes
//! nothing: what is in the kernel stays, and the error goes to the Node. What the plugin does not say, or the kernel does not take,
//! is kept and tried again, and keeps nothing else waiting: after a pause, and at once when an interface of somebody else's goes.

mod actor;
mod again;
mod engine;
mod extra;
mod overdue;
mod question;
mod reach;
mod unrepaired;
mod ways;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use switchyard_api::{ActiveNetwork, NodeNetworkStatus, Swap};
use switchyard_kernel::Counters;
use switchyard_netstate::{Fragment, UnitId};
use switchyard_plugin::{NodeFacts, PodFacts, SegmentFacts};
use switchyard_policy::Concern;
use switchyard_services::Stale;
use tokio::sync::{mpsc, oneshot, watch};

use crate::view::Pod;

pub(crate) use actor::Actor;
pub(crate) use reach::follow_remote;

/// A handle on the node's network; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    calls: mpsc::UnboundedSender<Call>,
    state: watch::Receiver<State>,
}

/// How the network does.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct State {
    /// For the Node's annotation.
    pub(crate) status: NodeNetworkStatus,
    /// Some plugin's network is in force.
    pub(crate) ready: bool,
    /// It needs a route on the upstream device, of which somebody else knows.
    pub(crate) needs_route: bool,
    /// What a swap would change here, in lines; there during a dry run.
    pub(crate) plan: Option<Vec<String>>,
    /// Counts what may help those who wait, so that they try again: not each failure.
    pub(crate) attempts: u64,
    /// Why some policy is not in force.
    pub(crate) policies: Option<String>,
    /// The largest packet that leaves the node by its uplink.
    pub(crate) mtu: Option<u32>,
}

/// Changes of units.
pub(crate) type Units = BTreeMap<UnitId, Option<Fragment>>;

/// Something that keeps a pod from being attached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct AttachError(pub(crate) String);

/// What the network's task is told.
#[derive(Debug)]
pub(crate) enum Call {
    /// A pod whose namespace outlived the agent.
    Adopt {
        pod: PodFacts,
        netns: PathBuf,
    },
    Attach {
        pod: PodFacts,
        netns: PathBuf,
        reply: oneshot::Sender<Result<(), AttachError>>,
    },
    Detach {
        uid: String,
        reply: Option<oneshot::Sender<Result<(), AttachError>>>,
    },
    /// One of the lists that have to be complete before the kernel is touched is.
    Listed(List),
    /// The Network object's active network, and the swap that is under way.
    Network {
        active: Option<Box<ActiveNetwork>>,
        swap: Option<Box<Swap>>,
    },
    /// This node or another.
    Node(Box<NodeFacts>),
    NodeGone(String),
    /// A segment of addresses.
    Segment(Box<SegmentFacts>),
    SegmentGone(String),
    /// A pod that is bound to another node, or is no longer.
    Remote {
        uid: String,
        pod: Option<Arc<Pod>>,
    },
    /// What Services want, and the UDP flows that have to be forgotten then.
    Services {
        units: Units,
        stale: Stale,
    },
    /// What policies want. With a reply if somebody waits for it: a pod for what concerns it, and with its address if it is new to
    /// it; or who has to know of all of them.
    Policies {
        units: Units,
        forget: Option<IpAddr>,
        concern: Option<Concern>,
        reply: Option<oneshot::Sender<Result<(), String>>>,
    },
    /// What the rules of policies have counted, by their chains.
    PolicyCounters(oneshot::Sender<BTreeMap<String, Counters>>),
}

/// Lists that have to be complete before what an earlier agent left is compared with what is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum List {
    Pods,
    Nodes,
    Segments,
    Services,
    Remote,
    Policies,
}

/// Returns true when the state is as wanted, false when there is no network any more.
pub(crate) async fn until(state: &mut watch::Receiver<State>, wanted: impl FnMut(&State) -> bool) -> bool {
    state.wait_for(wanted).await.is_ok()
}

// === impl Network ===

impl Network {
    /// Connects a pod; an error leaves nothing behind.
    pub(crate) async fn attach(&self, pod: PodFacts, netns: PathBuf) -> Result<(), AttachError> {
        let (reply, outcome) = oneshot::channel();
        self.tell(Call::Attach { pod, netns, reply });
        outcome.await.unwrap_or_else(|_| Err(AttachError("the agent is leaving".into())))
    }

    /// What the rules of policies have counted here, by the names of their chains.
    pub(crate) async fn policy_counters(&self) -> BTreeMap<String, Counters> {
        let (reply, counters) = oneshot::channel();
        self.tell(Call::PolicyCounters(reply));
        counters.await.unwrap_or_default()
    }

    /// Takes a pod's connection away.
    pub(crate) async fn detach(&self, uid: &str) -> Result<(), AttachError> {
        let (reply, outcome) = oneshot::channel();
        self.tell(Call::Detach { uid: uid.to_owned(), reply: Some(reply) });
        outcome.await.unwrap_or_else(|_| Err(AttachError("the agent is leaving".into())))
    }

    /// Takes the connection of a pod away whose namespace died; what comes after comes after.
    pub(crate) fn forget(&self, uid: &str) {
        self.tell(Call::Detach { uid: uid.to_owned(), reply: None });
    }

    /// Names a pod that is there from before; before [`Network::begin`].
    pub(crate) fn adopt(&self, pod: PodFacts, netns: PathBuf) {
        self.tell(Call::Adopt { pod, netns });
    }

    /// All pods that are there from before have been named.
    pub(crate) fn begin(&self) {
        self.tell(Call::Listed(List::Pods));
    }

    /// Tells the network's task something.
    pub(crate) fn tell(&self, call: Call) {
        let _ = self.calls.send(call);
    }

    /// The state, to be followed.
    pub(crate) fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }
}
