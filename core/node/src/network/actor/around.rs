//! What is around: the node itself, other nodes, segments. What of it changes is asked about anew.

use switchyard_plugin::NodeFacts;

use super::Actor;
use crate::network::question::{Question, peer_unit};

// === impl Actor ===

impl Actor {
    /// Some way carries less or more than it did, or may.
    pub(super) async fn look_again(&mut self) {
        for node in self.ways.told() {
            self.node_changed(node).await;
        }
    }

    pub(super) async fn node_changed(&mut self, node: NodeFacts) {
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
    pub(super) async fn peer_changed(&mut self, name: &str) {
        let mut questions = vec![self.question(&peer_unit(name))];
        questions.extend(self.reach.of_peer(&self.peers, name));
        self.renew(questions).await;
    }

    /// A segment came, changed or went, and with it what its pods want, here and elsewhere.
    pub(super) async fn segment_changed(&mut self, name: &str) {
        let mut questions = self.reach.of_segment(&self.peers, name);
        let pods = self.pods.values().filter(|pod| self.reach.is_of(name, pod.ip));
        questions.extend(pods.map(|pod| Question::pod(self.reach.placed(pod))));
        self.renew(questions).await;
    }
}
