//! Pods on other nodes that their node's block of addresses does not lead to: those a network needs to be told of one by one.

use std::sync::Arc;

use switchyard_netstate::{Fragment, UnitId};
use switchyard_plugin::{NodeFacts, PodFacts};
use switchyard_plugin_host::Plugin;
use tokio::sync::mpsc;

use super::Actor;
use crate::network::{Call, List, Network, Units};
use crate::view::{Change, Pod};

/// Tells the network's task of pods that are bound elsewhere.
pub(crate) async fn follow_remote(own: String, mut changes: mpsc::UnboundedReceiver<Change>, network: Network) {
    let is_remote = |pod: &&Arc<Pod>| *pod.node != *own && pod.ip.is_some() && !pod.host_network;
    while let Some(change) = changes.recv().await {
        match change {
            Change::Pod { was, now } => {
                let now = now.as_ref().filter(is_remote);
                match (was.as_ref().filter(is_remote), now) {
                    (_, Some(pod)) => network.tell(Call::Remote { uid: pod.uid.to_string(), pod: Some(pod.clone()) }),
                    (Some(pod), None) => network.tell(Call::Remote { uid: pod.uid.to_string(), pod: None }),
                    (None, None) => {}
                }
            }
            Change::Complete => network.tell(Call::Listed(List::Remote)),
            Change::Namespace { .. } => {}
        }
    }
}

// === impl Actor ===

impl Actor {
    pub(super) async fn remote_changed(&mut self, uid: String, pod: Option<Arc<Pod>>) {
        let before = match pod {
            Some(pod) => self.remote.insert(uid.clone(), pod),
            None => self.remote.remove(&uid),
        };
        let Some((_, plugin)) = self.plugin.clone() else { return };
        let was = before.is_some_and(|pod| self.peer_of(&pod).is_some());
        let wish = match self.remote.get(&uid).and_then(|pod| self.remote_wish(&*plugin, pod)) {
            Some(Ok(fragment)) => Some(fragment),
            Some(Err(error)) => return self.report(Some(error)),
            None if was => None,
            None => return,
        };
        self.change(Units::from([(remote_unit(&uid), wish)])).await;
    }

    /// What a plugin wants for all pods elsewhere, or for those of one node.
    pub(super) fn remote_wishes(&self, plugin: &dyn Plugin, of: Option<&str>) -> Result<Units, String> {
        let mut units = Units::new();
        for (uid, pod) in self.remote.iter().filter(|(_, pod)| of.is_none_or(|node| *pod.node == *node)) {
            match self.remote_wish(plugin, pod) {
                Some(wish) => drop(units.insert(remote_unit(uid), Some(wish?))),
                // Its node's block may hold it since the node has another one.
                None if of.is_some() => drop(units.insert(remote_unit(uid), None)),
                None => {}
            }
        }
        Ok(units)
    }

    fn remote_wish(&self, plugin: &dyn Plugin, pod: &Pod) -> Option<Result<Fragment, String>> {
        let peer = self.peer_of(pod)?;
        let facts = facts(pod)?;
        let own = self.node.as_ref()?;
        let wish = plugin.remote(&self.facts, own, peer, &facts);
        Some(wish.map_err(|error| format!("pod {}/{} on {}: {error}", pod.namespace, pod.name, pod.node)))
    }

    /// The node of a pod that this node has to be told of.
    fn peer_of(&self, pod: &Pod) -> Option<&NodeFacts> {
        self.peers.get(&*pod.node).filter(|peer| pod.ip.is_some_and(|ip| !peer.pod_cidr.contains(&ip)))
    }
}

fn remote_unit(uid: &str) -> UnitId {
    UnitId(format!("remote/{uid}"))
}

fn facts(pod: &Pod) -> Option<PodFacts> {
    Some(PodFacts {
        uid: pod.uid.to_string(),
        namespace: pod.namespace.to_string(),
        name: pod.name.to_string(),
        labels: (*pod.labels).clone(),
        ip: pod.ip?,
    })
}
