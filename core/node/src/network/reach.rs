//! What a node has to know of others' pods: segments, and pods elsewhere whose addresses say nothing about where they are.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use switchyard_netstate::{Fragment, UnitId};
use switchyard_plugin::{Facts, NodeFacts, PodFacts, PodSegment, SegmentFacts};
use switchyard_plugin_host::{CallError, Plugin};
use tokio::sync::mpsc;

use crate::network::{Call, List, Network, Units};
use crate::view::{Change, Pod};

/// Segments, and pods of other nodes.
#[derive(Debug, Default)]
pub(super) struct Reach {
    segments: BTreeMap<String, SegmentFacts>,
    /// By uid.
    pods: BTreeMap<String, Arc<Pod>>,
}

/// Whom a plugin is asked about others' pods, and on whose behalf.
pub(super) struct Asked<'a> {
    pub(super) facts: &'a Facts,
    pub(super) node: &'a NodeFacts,
    pub(super) peers: &'a BTreeMap<String, NodeFacts>,
    pub(super) plugin: &'a dyn Plugin,
}

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

    /// Units of all segments and of all pods elsewhere.
    pub(super) fn wishes(&self, asked: &Asked<'_>) -> Result<Units, String> {
        let mut units = Units::new();
        for name in self.segments.keys() {
            units.extend(self.segment_wish(asked, name)?);
        }
        for uid in self.pods.keys() {
            units.extend(self.pod_wish(asked, uid)?);
        }
        units.retain(|_, wish| wish.is_some());
        Ok(units)
    }

    /// What a change of a segment brings, its pods elsewhere included.
    pub(super) fn segment_wishes(&self, asked: &Asked<'_>, name: &str) -> Result<Units, String> {
        let mut units = self.segment_wish(asked, name)?;
        for (uid, _) in self.pods.iter().filter(|(_, pod)| pod.ip.is_some_and(|ip| self.is_of(name, ip))) {
            units.extend(self.pod_wish(asked, uid)?);
        }
        Ok(units)
    }

    /// What a change of another node, or its end, brings to the pods on it.
    pub(super) fn peer_wishes(&self, asked: &Asked<'_>, name: &str) -> Result<Units, String> {
        let mut units = Units::new();
        for (uid, _) in self.pods.iter().filter(|(_, pod)| *pod.node == *name) {
            units.extend(self.pod_wish(asked, uid)?);
        }
        Ok(units)
    }

    /// The unit of one pod elsewhere: nothing for one that its node's block leads to, or whose node is not known.
    pub(super) fn pod_wish(&self, asked: &Asked<'_>, uid: &str) -> Result<Units, String> {
        let unit = UnitId(format!("remote/{uid}"));
        let found = self.pods.get(uid).and_then(|pod| Some((pod, asked.peers.get(&*pod.node)?, pod.ip?)));
        let Some((pod, peer, ip)) = found.filter(|(_, peer, ip)| !peer.pod_cidr.contains(ip)) else {
            return Ok(Units::from([(unit, None)]));
        };
        let answer = asked.plugin.remote(asked.facts, asked.node, peer, &self.facts(pod, ip));
        wish(unit, answer, || format!("pod {}/{} on {}", pod.namespace, pod.name, pod.node))
    }

    /// Whether an address is of this segment.
    pub(super) fn is_of(&self, name: &str, ip: IpAddr) -> bool {
        self.segments.get(name).is_some_and(|segment| holds(segment, ip))
    }

    fn segment_wish(&self, asked: &Asked<'_>, name: &str) -> Result<Units, String> {
        let unit = UnitId(format!("segment/{name}"));
        match self.segments.get(name) {
            None => Ok(Units::from([(unit, None)])),
            Some(segment) => {
                wish(unit, asked.plugin.segment(asked.facts, asked.node, segment), || format!("segment {name}"))
            }
        }
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

/// A plugin's answer as a unit. One that wants nothing is no unit.
fn wish(unit: UnitId, answer: Result<Fragment, CallError>, what: impl Fn() -> String) -> Result<Units, String> {
    let fragment = answer.map_err(|error| format!("{}: {error}", what()))?;
    Ok(Units::from([(unit, Some(fragment).filter(|fragment| !fragment.is_empty()))]))
}
