//! What a layer does about policies, peers and names of ports that came or went, so that it costs what those say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::{Anew, DIRECTIONS, Dirty, Layer, Units, named_ports, order};
use crate::peers::{Changes, Class, NameId, PeerId, PortName};
use crate::subject::{self, SubjectId};
use crate::{Direction, Peer, Pod, PodGroup, Policy, blocks};

/// Of the policies that came, changed or went, those that concern pods of one kind now, and these pods' addresses.
type Votes = BTreeMap<BTreeSet<String>, Vec<IpAddr>>;

// === impl Layer ===

impl Layer {
    /// Has kinds of subject follow the policies that came, changed or went, as far as those say the same about all pods of a kind. Gives
    /// addresses whose pods have to be looked at one by one, and kinds whose rules have to be made anew.
    pub(super) fn follow_policies(
        &mut self,
        dirty: &Dirty,
        anew: &mut Anew,
    ) -> (BTreeSet<IpAddr>, BTreeSet<SubjectId>) {
        let (mut apart, mut stale) = (BTreeSet::new(), BTreeSet::new());
        if dirty.policies.is_empty() {
            return (apart, stale);
        }
        let mut votes = self.votes(dirty, &mut apart);
        let ids: Vec<SubjectId> = self.subjects.keys().cloned().collect();
        for id in ids {
            let votes = votes.remove(&id).unwrap_or_default();
            let had = self.subjects[&id].policies.iter().filter(|policy| dirty.policies.contains(&policy.name));
            let had: Vec<Arc<Policy>> = had.cloned().collect();
            let mut all = votes.keys();
            let evolves = match (all.next(), all.next()) {
                (Some(names), None) if had.is_empty() && names.is_empty() => continue,
                (Some(names), None) => {
                    let come: Vec<_> = names.iter().map(|name| Arc::clone(&self.policies[name])).collect();
                    self.evolve(&id, &had, &come, anew)
                }
                _ => false,
            };
            if evolves {
                continue;
            }
            let concerned = votes.into_iter().filter(|(names, _)| !(had.is_empty() && names.is_empty()));
            apart.extend(concerned.flat_map(|(_, addresses)| addresses));
            if !had.is_empty() {
                stale.insert(id);
            }
        }
        (apart, stale)
    }

    /// What policies that came, changed or went say about this node's pods, by their kinds of subject; but for pods that are looked at
    /// anyway. Those that none has concerned so far are put apart.
    fn votes(&self, dirty: &Dirty, apart: &mut BTreeSet<IpAddr>) -> BTreeMap<SubjectId, Votes> {
        let mut votes: BTreeMap<SubjectId, Votes> = BTreeMap::new();
        let there: Vec<_> = dirty.policies.iter().filter_map(|name| self.policies.get(name)).collect();
        for address in self.local.difference(&dirty.addresses) {
            let Some((pod, known)) = self.holder(*address).zip(self.addresses.get(address)) else { continue };
            let of_pod: Vec<_> = there.iter().filter(|policy| self.selects(policy, pod)).collect();
            for (direction, id) in DIRECTIONS.into_iter().zip([&known.ingress, &known.egress]) {
                let concern = of_pod.iter().filter(|policy| policy.concerns(direction));
                let names: BTreeSet<String> = concern.map(|policy| policy.name.clone()).collect();
                match id {
                    Some(id) => votes.entry(id.clone()).or_default().entry(names).or_default().push(*address),
                    None if names.is_empty() => {}
                    None => drop(apart.insert(*address)),
                }
            }
        }
        votes
    }

    /// Has a kind of subject, all pods of which agree, have some policies instead of others. False if it has to be another kind.
    fn evolve(&mut self, id: &SubjectId, gone: &[Arc<Policy>], come: &[Arc<Policy>], anew: &mut Anew) -> bool {
        let subject = &self.subjects[id];
        let direction = subject.direction;
        let names_ports =
            |policy: &Arc<Policy>| direction == Direction::Ingress && named_ports(policy).next().is_some();
        if gone.iter().chain(come).any(names_ports) {
            return false;
        }
        let stay = subject.policies.iter().filter(|policy| !gone.iter().any(|one| one.name == policy.name));
        let mut policies: Vec<Arc<Policy>> = stay.chain(come).cloned().collect();
        policies.sort_by(|a, b| order(a).cmp(&order(b)));
        let new = subject::id(direction, &policies, subject.rules.own_ports());
        if policies.is_empty() || *new != **id && self.subjects.contains_key(&*new) {
            return false;
        }
        let mut subject = self.subjects.remove(id).expect("looked at above");
        let touched = subject.rules.replace(gone, come, &mut self.peers, &mut self.names);
        subject.have(policies);
        let new = SubjectId::from(new);
        self.subjects.insert(Arc::clone(&new), subject);
        for address in &self.local {
            let Some(known) = self.addresses.get_mut(address) else { continue };
            for of_pod in [&mut known.ingress, &mut known.egress] {
                if of_pod.as_ref() == Some(id) {
                    *of_pod = Some(Arc::clone(&new));
                }
            }
        }
        anew.insert(new, touched);
        true
    }

    /// Notes which peers and names of ports rules in force have come to name, and name no longer. Gives addresses that may be of another
    /// class because of that.
    pub(super) fn follow_peers(&mut self, units: &mut Units) -> BTreeSet<IpAddr> {
        let (peers, names) = (self.peers.changes(), self.names.changes());
        for (id, peer) in &peers.gone {
            match &**peer {
                Peer::Pods(group) => self.by_pods.leave(group, id),
                Peer::Block { .. } => self.blocks.leave(*id, peer),
            }
        }
        for (id, peer) in &peers.fresh {
            match &**peer {
                Peer::Pods(group) => self.by_pods.enter(group, *id),
                Peer::Block { .. } => self.blocks.enter(*id, peer),
            }
        }
        self.cut_blocks(units);
        let mut touched = self.pods_of(&peers, &names);
        for peer in peers.fresh.values().chain(peers.gone.values()) {
            for (first, last) in blocks::parts(peer) {
                touched.extend(self.addresses.range(blocks::ip(first)..=blocks::ip(last)).map(|(address, _)| *address));
            }
        }
        touched
    }

    /// Addresses of pods that peers hold, or that have ports of names, that came or went.
    fn pods_of(&self, peers: &Changes<Peer>, names: &Changes<PortName>) -> BTreeSet<IpAddr> {
        let group = |peer: &Arc<Peer>| match &**peer {
            Peer::Pods(group) => Some(group.clone()),
            Peer::Block { .. } => None,
        };
        let fresh: Vec<PodGroup> = peers.fresh.values().filter_map(group).collect();
        let gone: BTreeSet<PeerId> =
            peers.gone.iter().filter(|(_, peer)| group(peer).is_some()).map(|(id, _)| *id).collect();
        if fresh.is_empty() && gone.is_empty() && names.fresh.is_empty() && names.gone.is_empty() {
            return BTreeSet::new();
        }
        let comes = |pod: &Pod| {
            let of_namespace = self.namespaces.get(&pod.namespace).map(|labels| &**labels);
            let named =
                |name: &Arc<PortName>| pod.ports.iter().any(|port| (port.protocol, &port.name) == (name.0, &name.1));
            fresh.iter().any(|group| group.holds(&pod.namespace, &pod.labels, of_namespace))
                || names.fresh.values().any(named)
        };
        let goes = |class: &Arc<Class>| {
            let has_gone = |id: &NameId| names.gone.contains_key(id);
            class.peers.iter().any(|id| gone.contains(id)) || class.ports.iter().any(|(id, _)| has_gone(id))
        };
        let touched = self.addresses.iter().filter(|(_, known)| {
            let pod = known.holders.last().and_then(|uid| self.pods.get(uid));
            known.class.as_ref().is_some_and(goes) || pod.is_some_and(|pod| comes(pod))
        });
        touched.map(|(address, _)| *address).collect()
    }
}
