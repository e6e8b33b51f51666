//! What a plugin is asked on a node. A question is a value, so it can be asked on a thread of its own, which foreign code may keep.

use switchyard_netstate::{Fragment, UnitId};
use switchyard_plugin::{Facts, NodeFacts, PodFacts, SegmentFacts};
use switchyard_plugin_host::{CallError, Plugin};
use switchyard_services::pod_here;

/// A question, and the unit that its answer is the wish of.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) unit: UnitId,
    of: Of,
}

/// What it is about.
#[derive(Clone, Debug)]
enum Of {
    Node,
    Peer(NodeFacts),
    Pod(PodFacts),
    Remote(NodeFacts, PodFacts),
    Segment(SegmentFacts),
    Underlay,
    /// Something of which nothing is wanted, whoever is asked.
    Nothing,
}

/// Why a question has no answer.
#[derive(Clone, Debug)]
pub(super) struct Unanswered {
    pub(super) why: String,
    /// The plugin failed with it. Until it has recovered it answers nothing else either.
    pub(super) is_fault: bool,
}

/// The unit of [`Question::underlay`], which is the router's and is never in this node's kernel.
pub(super) const UNDERLAY: &str = "underlay";

/// How the unit of a segment begins; its name follows.
pub(super) const SEGMENT: &str = "segment/";

// === impl Question ===

impl Question {
    pub(super) fn node() -> Self {
        Self { unit: UnitId("node".into()), of: Of::Node }
    }

    /// What the upstream device needs for this node.
    pub(super) fn underlay() -> Self {
        Self { unit: UnitId(UNDERLAY.into()), of: Of::Underlay }
    }

    pub(super) fn peer(peer: &NodeFacts) -> Self {
        Self { unit: peer_unit(&peer.name), of: Of::Peer(peer.clone()) }
    }

    pub(super) fn pod(pod: PodFacts) -> Self {
        Self { unit: pod_unit(&pod.uid), of: Of::Pod(pod) }
    }

    pub(super) fn remote(peer: &NodeFacts, pod: PodFacts) -> Self {
        Self { unit: remote_unit(&pod.uid), of: Of::Remote(peer.clone(), pod) }
    }

    pub(super) fn segment(segment: &SegmentFacts) -> Self {
        Self { unit: segment_unit(&segment.name), of: Of::Segment(segment.clone()) }
    }

    /// Nothing is wanted of this unit any more.
    pub(super) fn nothing(unit: UnitId) -> Self {
        Self { unit, of: Of::Nothing }
    }

    /// Whether the answer is known.
    pub(super) fn is_about_nothing(&self) -> bool {
        matches!(self.of, Of::Nothing)
    }

    /// Asks, and waits for the answer. An error says what was asked about.
    pub(super) fn ask(
        &self,
        plugin: &dyn Plugin,
        facts: &Facts,
        node: &NodeFacts,
    ) -> Result<Option<Fragment>, Unanswered> {
        // Who wants nothing for a segment or a pod elsewhere has no unit for it.
        let some = |fragment: Fragment| Some(fragment).filter(|fragment| !fragment.is_empty());
        let answer = match &self.of {
            Of::Nothing => Ok(None),
            Of::Node => plugin.node(facts, node).map(Some),
            Of::Peer(peer) => plugin.peer(facts, node, peer).map(Some),
            // Services know a pod that is here by its address.
            Of::Pod(pod) => plugin.pod(facts, node, pod).map(|mut fragment| {
                fragment.merge(pod_here(&node.name, pod.ip));
                Some(fragment)
            }),
            Of::Remote(peer, pod) => plugin.remote(facts, node, peer, pod).map(some),
            Of::Segment(segment) => plugin.segment(facts, node, segment).map(some),
            Of::Underlay => plugin.underlay(facts, node).map(some),
        };
        answer.map_err(|error| Unanswered { why: self.blame(&error), is_fault: error.is_fault() })
    }

    fn blame(&self, error: &CallError) -> String {
        match &self.of {
            Of::Peer(peer) => format!("peer {}: {error}", peer.name),
            Of::Pod(pod) => format!("pod {}/{}: {error}", pod.namespace, pod.name),
            Of::Remote(peer, pod) => format!("pod {}/{} on {}: {error}", pod.namespace, pod.name, peer.name),
            Of::Segment(segment) => format!("segment {}: {error}", segment.name),
            Of::Node | Of::Underlay | Of::Nothing => error.to_string(),
        }
    }
}

pub(super) fn peer_unit(name: &str) -> UnitId {
    UnitId(format!("peer/{name}"))
}

pub(super) fn pod_unit(uid: &str) -> UnitId {
    UnitId(format!("pod/{uid}"))
}

pub(super) fn remote_unit(uid: &str) -> UnitId {
    UnitId(format!("remote/{uid}"))
}

pub(super) fn segment_unit(name: &str) -> UnitId {
    UnitId(format!("{SEGMENT}{name}"))
}

/// Whether a unit's wish is a plugin's answer.
pub(super) fn is_of_plugin(unit: &UnitId) -> bool {
    let kinds = ["peer/", "pod/", "remote/", SEGMENT];
    unit.0 == "node" || unit.0 == UNDERLAY || kinds.iter().any(|kind| unit.0.starts_with(kind))
}
