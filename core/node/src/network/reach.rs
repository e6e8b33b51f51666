//! What a node has to know of others' pods: segments, and pods elsewhere whose addresses say nothing about where they are.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use switchyard_plugin::{NodeFacts, PodFacts, PodSegment, SegmentFacts};
use tokio::sync::mpsc;

use crate::network::question::{Question, remote_unit, segment_unit};
use crate::network::{Call, List, Network};
use crate::view::{Change, Pod};

/// Segments, and pods of other nodes.
#[derive(Debug, Default)]
pub(super) struct Reach {
    segments: BTreeMap<String, SegmentFacts>,
    /// By uid.
    pods: BTreeMap<String, Arc<Pod>>,
}

/// Nodes by name.
pub(super) type Peers = BTreeMap<String, NodeFacts>;

/// Tells the network's task of pods that are bound elsewhere.
pub(crate) async fn follow_remote(own: String, mut changes: mpsc::UnboundedReceiver<Change>, network: Network) {
    let is_remote = |pod: &&Arc<Pod>| *pod.node != *own && pod.ip.is_some() && !pod.host_network;
    while let Some(change) = changes.recv().await {
        match change {
            Change::Pod { was, now } => {
                let now = now.as_ref().filter(is_remote);
                if let Some(pod) = now.or(was.as_ref().filter(is_remote)) {
                    network.tell(Call::Remote { uid: pod.uid.to_string(), pod: now.cloned() });
                }
            }
            Change::Complete => network.tell(Call::Listed(List::Remote)),
            Change::Namespace { .. } => {}
        }
    }
}

// === impl Reach ===

impl Reach {
    /// Takes a segment in; false if it was known so.
    pub(super) fn segment(&mut self, segment: SegmentFacts) -> bool {
        let name = segment.name.clone();
        self.segments.insert(name, segment.clone()).as_ref() != Some(&segment)
    }

    /// Forgets a segment; false if it was not known.
    pub(super) fn segment_gone(&mut self, name: &str) -> bool {
        self.segments.remove(name).is_some()
    }

    /// Takes a pod in, or forgets it; false if a network need not be asked anew.
    pub(super) fn pod(&mut self, uid: &str, pod: Option<Arc<Pod>>) -> bool {
        let same =
            |was: &Arc<Pod>, now: &Arc<Pod>| was.node == now.node && was.ip == now.ip && was.labels == now.labels;
        match pod {
            Some(pod) => {
                let was = self.pods.insert(uid.to_owned(), pod.clone());
                !was.is_some_and(|was| same(&was, &pod))
            }
            None => self.pods.remove(uid).is_some(),
        }
    }

    /// The pod, with the segment of its address.
    pub(super) fn placed(&self, pod: &PodFacts) -> PodFacts {
        PodFacts { segment: self.segment_of(pod.ip), ..pod.clone() }
    }

    /// About all segments and all pods elsewhere.
    pub(super) fn questions(&self, peers: &Peers) -> Vec<Question> {
        let segments = self.segments.values().map(Question::segment);
        let pods = self.pods.keys().map(|uid| self.of_pod(peers, uid));
        segments.chain(pods.filter(|question| !question.is_about_nothing())).collect()
    }

    /// About a segment that changed, its pods elsewhere included.
    pub(super) fn of_segment(&self, peers: &Peers, name: &str) -> Vec<Question> {
        let pods = self.pods.iter().filter(|(_, pod)| pod.ip.is_some_and(|ip| self.is_of(name, ip)));
        std::iter::once(self.segment_itself(name)).chain(pods.map(|(uid, _)| self.of_pod(peers, uid))).collect()
    }

    pub(super) fn segment_itself(&self, name: &str) -> Question {
        match self.segments.get(name) {
            Some(segment) => Question::segment(segment),
            None => Question::nothing(segment_unit(name)),
        }
    }

    /// About the pods on another node that changed, or ended: without the node, nothing is wanted for them.
    pub(super) fn of_peer(&self, peers: &Peers, name: &str) -> Vec<Question> {
        let pods = self.pods.iter().filter(|(_, pod)| *pod.node == *name);
        pods.map(|(uid, _)| self.of_pod(peers, uid)).collect()
    }

    /// About one pod elsewhere: nothing for one that its node's block leads to, or whose node is not known.
    pub(super) fn of_pod(&self, peers: &Peers, uid: &str) -> Question {
        let found = self.pods.get(uid).and_then(|pod| Some((pod, peers.get(&*pod.node)?, pod.ip?)));
        match found.filter(|(_, peer, ip)| !peer.pod_cidr.contains(ip)) {
            Some((pod, peer, ip)) => Question::remote(peer, self.facts(pod, ip)),
            None => Question::nothing(remote_unit(uid)),
        }
    }

    /// Whether an address is of this segment.
    pub(super) fn is_of(&self, name: &str, ip: IpAddr) -> bool {
        self.segments.get(name).is_some_and(|segment| holds(segment, ip))
    }

    fn facts(&self, pod: &Pod, ip: IpAddr) -> PodFacts {
        PodFacts {
            uid: pod.uid.to_string(),
            namespace: pod.namespace.to_string(),
            name: pod.name.to_string(),
            labels: (*pod.labels).clone(),
            ip,
            segment: self.segment_of(ip),
        }
    }

    fn segment_of(&self, ip: IpAddr) -> Option<PodSegment> {
        self.segments.values().find_map(|segment| {
            let subnet = segment.subnets.iter().find(|subnet| subnet.contains(&ip))?;
            Some(PodSegment { name: segment.name.clone(), id: segment.id, subnet: *subnet })
        })
    }
}

fn holds(segment: &SegmentFacts, ip: IpAddr) -> bool {
    segment.subnets.iter().any(|subnet| subnet.contains(&ip))
}
