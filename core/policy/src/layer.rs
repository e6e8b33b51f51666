//! All policies on one node, kept as units of desired kernel state that follow every change.
//!
//! ```text
//! policies                    the table, its hook, its maps
//! policies/block/ADDRESS      which class addresses from there on are in, as far as the same blocks hold them
//! policies/pod/ADDRESS        which kinds of subject a pod of this node is
//! policies/peer/ADDRESS       which class a pod of the cluster is in
//! policies/of/SUBJECT         chains and maps of one kind of subject
//! policies/of/SUBJECT/CLASS   what they say about one class
//! ```

mod follow;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use switchyard_netstate::nft::{Data, Value, Verdict};
use switchyard_netstate::{Fragment, Place, UnitId};

use crate::base::{self, BLOCKS, PEERS, SELF, element};
use crate::blocks::{self, Intervals};
use crate::index::Groups;
use crate::peers::{Class, Classes, Interner, PeerId, PortName};
use crate::rules::{Rules, Touched};
use crate::subject::{self, Subject, SubjectId};
use crate::{Direction, Labels, NamedPort, Numbers, Peer, Pod, Policy, Protocol, Tier};

/// Policies in force on a node. Told of changes, it says which units change.
#[derive(Debug)]
pub struct Layer {
    place: Place,
    namespaces: BTreeMap<Arc<str>, Arc<Labels>>,
    pods: BTreeMap<Arc<str>, Arc<Pod>>,
    addresses: BTreeMap<IpAddr, Address>,
    /// Those of this node's pods.
    local: BTreeSet<IpAddr>,
    policies: BTreeMap<String, Arc<Policy>>,
    /// Policies by their subjects.
    by_subjects: Groups<String>,
    /// By their ids.
    subjects: BTreeMap<SubjectId, Subject>,
    peers: Interner<Peer>,
    /// Those of them that are of pods.
    by_pods: Groups<PeerId>,
    names: Interner<PortName>,
    classes: Classes,
    blocks: Intervals,
    /// Their classes, by their first addresses.
    block_classes: BTreeMap<u32, Arc<Class>>,
    dirty: Dirty,
    begun: bool,
}

/// The units that decide what becomes of a pod's packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concern {
    address: IpAddr,
    /// Kinds of subject that it is, by their names.
    subjects: Vec<String>,
}

/// What is to be looked at again.
#[derive(Debug, Default)]
struct Dirty {
    addresses: BTreeSet<IpAddr>,
    policies: BTreeSet<String>,
}

/// An address, and who has it.
#[derive(Debug, Default)]
struct Address {
    /// Uids, the last to come at the end: for a moment one who goes and one who comes may both be known.
    holders: Vec<Arc<str>>,
    class: Option<Arc<Class>>,
    /// The kinds of subject that its pod is, by their ids.
    ingress: Option<SubjectId>,
    egress: Option<SubjectId>,
}

/// Units that are wanted otherwise.
type Units = BTreeMap<UnitId, Option<Fragment>>;

/// Kinds of subject that say something else than before, and about whom.
type Anew = BTreeMap<SubjectId, Touched>;

const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

// === impl Layer ===

impl Layer {
    /// Nobody, and no policies, on this node.
    pub fn new(place: Place) -> Self {
        Self {
            place,
            namespaces: BTreeMap::new(),
            pods: BTreeMap::new(),
            addresses: BTreeMap::new(),
            local: BTreeSet::new(),
            policies: BTreeMap::new(),
            by_subjects: Groups::default(),
            subjects: BTreeMap::new(),
            peers: Interner::default(),
            by_pods: Groups::default(),
            names: Interner::default(),
            classes: Classes::default(),
            blocks: Intervals::default(),
            block_classes: BTreeMap::new(),
            dirty: Dirty::default(),
            begun: false,
        }
    }

    /// A pod came or changed. One whose address is not of IPv4 is left out.
    pub fn pod(&mut self, pod: Pod) {
        if !pod.address.is_ipv4() {
            return self.pod_gone(&pod.uid);
        }
        if self.pods.get(&pod.uid).is_some_and(|known| **known == pod) {
            return;
        }
        let was = self.pods.get(&pod.uid).map(|was| was.address);
        if let Some(was) = was.filter(|was| *was != pod.address) {
            self.leave(was, &pod.uid);
        }
        let address = self.addresses.entry(pod.address).or_default();
        if !address.holders.contains(&pod.uid) {
            address.holders.push(Arc::clone(&pod.uid));
        }
        self.dirty.addresses.insert(pod.address);
        self.pods.insert(Arc::clone(&pod.uid), Arc::new(pod));
    }

    /// A pod went. One that is not known is fine.
    pub fn pod_gone(&mut self, uid: &str) {
        if let Some(pod) = self.pods.remove(uid) {
            self.leave(pod.address, uid);
        }
    }

    /// A namespace has these labels; none: it went.
    pub fn namespace(&mut self, name: Arc<str>, labels: Option<Arc<Labels>>) {
        let of_it = self.pods.values().filter(|pod| pod.namespace == name);
        self.dirty.addresses.extend(of_it.map(|pod| pod.address));
        match labels {
            Some(labels) => drop(self.namespaces.insert(name, labels)),
            None => drop(self.namespaces.remove(&name)),
        }
    }

    /// A policy came or changed. Gives whether it is news.
    pub fn policy(&mut self, policy: Policy) -> bool {
        if self.policies.get(&policy.name).is_some_and(|known| **known == policy) {
            return false;
        }
        self.unlist(&policy.name.clone());
        let name = policy.name.clone();
        for group in &policy.subjects {
            self.by_subjects.enter(group, name.clone());
        }
        self.dirty.policies.insert(name.clone());
        self.policies.insert(name, Arc::new(policy));
        true
    }

    /// A policy went. One that is not known is fine.
    pub fn policy_gone(&mut self, name: &str) {
        if self.policies.contains_key(name) {
            self.unlist(name);
            self.policies.remove(name);
            self.dirty.policies.insert(name.to_owned());
        }
    }

    /// Names of all policies that are known.
    pub fn policies(&self) -> impl Iterator<Item = &str> {
        self.policies.keys().map(String::as_str)
    }

    /// Whether something was told that has not been settled.
    pub fn is_dirty(&self) -> bool {
        !self.begun || !self.dirty.addresses.is_empty() || !self.dirty.policies.is_empty()
    }

    /// Whether some policy is for the pod that has this address, as of [`Layer::settle`].
    pub fn is_subject(&self, address: IpAddr) -> bool {
        self.addresses.get(&address).is_some_and(|known| known.ingress.is_some() || known.egress.is_some())
    }

    /// What concerns the pod that has this address, as of [`Layer::settle`].
    pub fn concern(&self, address: IpAddr) -> Concern {
        let known = self.addresses.get(&address);
        let ids = known.into_iter().flat_map(Address::subjects);
        Concern { address, subjects: ids.map(|id| self.subjects[id].name.clone()).collect() }
    }

    /// Units that are wanted otherwise now (none: nothing any more) because of what was told since this was asked last.
    pub fn settle(&mut self) -> BTreeMap<UnitId, Option<Fragment>> {
        let dirty = std::mem::take(&mut self.dirty);
        let (mut units, mut anew) = (Units::new(), Anew::new());
        if !std::mem::replace(&mut self.begun, true) {
            units.insert(unit(""), Some(base::base(&self.place)));
        }
        let (mut to_select, stale) = self.follow_policies(&dirty, &mut anew);
        to_select.extend(&dirty.addresses);
        let mut selected: BTreeSet<IpAddr> =
            to_select.into_iter().filter(|address| self.select(*address, &mut anew)).collect();
        self.renew(&stale, &mut anew);
        let dropped = self.drop_subjects(&mut units);
        if dropped || !anew.is_empty() {
            selected.extend(self.name_subjects(&mut anew, &mut units));
        }
        for address in selected {
            units.insert(unit(&format!("/pod/{address}")), self.jumps(address));
        }
        let mut to_classify = self.follow_peers(&mut units);
        to_classify.extend(&dirty.addresses);
        for address in to_classify {
            if let Some(fragment) = self.classify(address) {
                units.insert(unit(&format!("/peer/{address}")), fragment);
            }
        }
        self.tell_subjects(&anew, &mut units);
        for address in &dirty.addresses {
            if self.addresses.get(address).is_some_and(|known| known.holders.is_empty()) {
                self.addresses.remove(address);
            }
        }
        units
    }

    fn leave(&mut self, address: IpAddr, uid: &str) {
        if let Some(known) = self.addresses.get_mut(&address) {
            known.holders.retain(|holder| **holder != *uid);
        }
        self.dirty.addresses.insert(address);
    }

    fn unlist(&mut self, name: &str) {
        let Some(policy) = self.policies.get(name) else { return };
        let name = name.to_owned();
        for group in &policy.subjects {
            self.by_subjects.leave(group, &name);
        }
    }

    fn holder(&self, address: IpAddr) -> Option<&Arc<Pod>> {
        self.pods.get(self.addresses.get(&address)?.holders.last()?)
    }

    fn selects(&self, policy: &Policy, pod: &Pod) -> bool {
        let of_namespace = self.namespaces.get(&pod.namespace).map(|labels| &**labels);
        policy.subjects.iter().any(|group| group.holds(&pod.namespace, &pod.labels, of_namespace))
    }

    /// Finds the policies of an address's pod. Gives whether it is of other kinds of subject now.
    fn select(&mut self, address: IpAddr, anew: &mut Anew) -> bool {
        let pod = self.holder(address).filter(|pod| pod.local).cloned();
        match pod {
            Some(_) => self.local.insert(address),
            None => self.local.remove(&address),
        };
        let mut ids = [None, None];
        if let Some(pod) = &pod {
            let names = self.by_subjects.candidates(&pod.namespace, &pod.labels);
            let known = names.into_iter().filter_map(|name| self.policies.get(name));
            let mut policies: Vec<_> = known.filter(|policy| self.selects(policy, pod)).cloned().collect();
            policies.sort_by(|a, b| order(a).cmp(&order(b)));
            for (direction, id) in DIRECTIONS.into_iter().zip(&mut ids) {
                let policies: Vec<_> = policies.iter().filter(|one| one.concerns(direction)).cloned().collect();
                if !policies.is_empty() {
                    *id = Some(self.subject(direction, policies, pod, anew));
                }
            }
        }
        let Some(known) = self.addresses.get_mut(&address) else { return false };
        let [ingress, egress] = ids;
        let old = [std::mem::replace(&mut known.ingress, ingress), std::mem::replace(&mut known.egress, egress)];
        let changed = old.iter().ne([&known.ingress, &known.egress]);
        for id in old.iter().flatten() {
            self.subjects.get_mut(id).expect("a pod's subject is known").pods -= 1;
        }
        changed
    }

    /// What sends an address's packets to the chains of its kinds of subject.
    fn jumps(&self, address: IpAddr) -> Option<Fragment> {
        let known = self.addresses.get(&address)?;
        let mut fragment = Fragment::new();
        let ip = Value::Ip(address);
        for id in known.subjects() {
            let Subject { direction, name, .. } = &self.subjects[id];
            let jump = Data::Verdict(Verdict::Jump(name.clone()));
            fragment.want(&self.place, element(base::subjects(*direction), vec![ip.clone()], Some(jump)));
            fragment.want(&self.place, element(SELF, vec![ip.clone(), ip.clone()], None));
        }
        (!fragment.is_empty()).then_some(fragment)
    }

    /// The kind of subject that a pod is, used once more.
    fn subject(&mut self, direction: Direction, policies: Vec<Arc<Policy>>, pod: &Pod, anew: &mut Anew) -> SubjectId {
        let own_ports = if direction == Direction::Ingress { named(&policies, &pod.ports) } else { Vec::new() };
        let id = subject::id(direction, &policies, &own_ports);
        let known = self.subjects.get_key_value(&*id).map(|(id, _)| Arc::clone(id));
        let id = known.unwrap_or_else(|| id.into());
        match self.subjects.get_mut(&id) {
            Some(subject) => subject.pods += 1,
            None => {
                let rules = Rules::of(direction, own_ports, &policies, &mut self.peers, &mut self.names);
                self.subjects.insert(Arc::clone(&id), Subject::new(direction, policies, rules));
                anew.insert(Arc::clone(&id), Touched::All);
            }
        }
        id
    }

    /// Makes the rules of subjects anew of which somebody still is one.
    fn renew(&mut self, stale: &BTreeSet<SubjectId>, anew: &mut Anew) {
        for id in stale {
            let Some(subject) = self.subjects.get_mut(id).filter(|subject| subject.pods > 0) else { continue };
            let known =
                |policy: &Arc<Policy>| self.policies.get(&policy.name).expect("a policy with subjects is known");
            let policies: Vec<Arc<Policy>> = subject.policies.iter().map(|policy| Arc::clone(known(policy))).collect();
            let (own_ports, peers, names) = (subject.rules.own_ports().to_vec(), &mut self.peers, &mut self.names);
            let rules = Rules::of(subject.direction, own_ports, &policies, peers, names);
            std::mem::replace(&mut subject.rules, rules).release(&subject.policies, peers, names);
            subject.have(policies);
            anew.insert(Arc::clone(id), Touched::All);
        }
    }

    /// Forgets kinds of subject that nobody is. Gives whether there were any.
    fn drop_subjects(&mut self, units: &mut Units) -> bool {
        let empty = self.subjects.iter().filter(|(_, subject)| subject.pods == 0);
        let empty: Vec<SubjectId> = empty.map(|(id, _)| id.clone()).collect();
        for id in &empty {
            let subject = self.subjects.remove(id).expect("found above");
            subject.rules.release(&subject.policies, &mut self.peers, &mut self.names);
            units.extend(units_of(&subject).map(|unit| (unit, None)));
        }
        !empty.is_empty()
    }

    /// Names kinds of subject. Gives addresses of those that have another name now. What one no longer wants under its old name another may
    /// want, and says so later.
    fn name_subjects(&mut self, anew: &mut Anew, units: &mut Units) -> Vec<IpAddr> {
        let names = subject::names(&self.subjects).into_iter();
        let renamed: BTreeMap<SubjectId, String> = names.filter(|(id, name)| self.subjects[id].name != *name).collect();
        for (id, name) in &renamed {
            let subject = self.subjects.get_mut(id).expect("named above");
            if !subject.name.is_empty() {
                units.extend(units_of(subject).map(|unit| (unit, None)));
            }
            subject.classes.clear();
            subject.name.clone_from(name);
            anew.insert(Arc::clone(id), Touched::All);
        }
        let is_renamed = |address: &&IpAddr| {
            let known = self.addresses.get(address).into_iter();
            known.flat_map(Address::subjects).any(|id| renamed.contains_key(id))
        };
        self.local.iter().filter(is_renamed).copied().collect()
    }

    /// Finds the class of an address. Gives its unit if that changed.
    fn classify(&mut self, address: IpAddr) -> Option<Option<Fragment>> {
        let mut class = Class::default();
        if let Some(pod) = self.holder(address) {
            let of_namespace = self.namespaces.get(&pod.namespace).map(|labels| &**labels);
            for id in self.by_pods.candidates(&pod.namespace, &pod.labels) {
                let Peer::Pods(group) = self.peers.get(*id) else { continue };
                if group.holds(&pod.namespace, &pod.labels, of_namespace) {
                    class.peers.push(*id);
                }
            }
            class.of_pod = !class.peers.is_empty();
            class.peers.extend(self.blocks_of(address));
            class.peers.sort_unstable();
            let named = pod.ports.iter().filter_map(|port| {
                let id = self.names.id(&(port.protocol, port.name.clone()))?;
                Some((id, port.port))
            });
            class.ports.extend(named);
            class.ports.sort_unstable();
            class.ports.dedup();
        }
        let class = class.is_of_pod().then(|| self.classes.enter(&class, &self.peers, &self.names));
        let known = self.addresses.get_mut(&address)?;
        let old = std::mem::replace(&mut known.class, class.clone());
        if let Some(old) = &old {
            self.classes.leave(old);
        }
        if old == class {
            return None;
        }
        Some(class.map(|class| {
            let number = Value::Number(self.classes.number(&class));
            let mut fragment = Fragment::new();
            fragment.want(&self.place, element(PEERS, vec![Value::Ip(address)], Some(Data::Values(vec![number]))));
            fragment
        }))
    }

    /// The blocks that hold an address.
    fn blocks_of(&self, address: IpAddr) -> &[PeerId] {
        match address {
            IpAddr::V4(address) => self.blocks.of(address.into()),
            IpAddr::V6(_) => &[],
        }
    }

    /// Finds the classes of blocks that came, changed or went.
    fn cut_blocks(&mut self, units: &mut Units) {
        for first in self.blocks.changes() {
            let now = self.blocks.get(first).map(|interval| {
                let class = Class { peers: interval.peers.clone(), ..Class::default() };
                let class = self.classes.enter(&class, &self.peers, &self.names);
                let number = Data::Values(vec![Value::Number(self.classes.number(&class))]);
                let mut fragment = Fragment::new();
                let key = blocks::key((first, interval.last));
                fragment.want(&self.place, element(BLOCKS, vec![key], Some(number)));
                (class, fragment)
            });
            let (class, fragment) = now.unzip();
            let old = match class {
                Some(class) => self.block_classes.insert(first, class),
                None => self.block_classes.remove(&first),
            };
            if let Some(old) = &old {
                self.classes.leave(old);
            }
            if old.is_some() || fragment.is_some() {
                units.insert(unit(&format!("/block/{}", blocks::ip(first))), fragment);
            }
        }
    }

    /// Says what subjects want whose rules, or whose peers' classes, have changed.
    fn tell_subjects(&mut self, anew: &Anew, units: &mut Units) {
        let (fresh, gone) = self.classes.changes();
        for (id, subject) in &mut self.subjects {
            for number in &gone {
                if subject.classes.remove(number) {
                    units.insert(of_class(&subject.name, *number), None);
                }
            }
            let mut say = |subject: &mut Subject, number: u32, class: &Class| {
                let concerned = subject.rules.concern(class);
                let fragment = concerned.then(|| subject.class(&self.place, number, class));
                let fragment = fragment.filter(|fragment| !fragment.is_empty());
                let known = match fragment {
                    Some(_) => !subject.classes.insert(number),
                    None => subject.classes.remove(&number),
                };
                if known || fragment.is_some() {
                    units.insert(of_class(&subject.name, number), fragment);
                }
            };
            match anew.get(id) {
                Some(Touched::All) => {
                    self.classes.iter().for_each(|(number, class)| say(subject, number, class));
                }
                Some(Touched::Peers(peers)) => {
                    let touched = self.classes.of_peers(peers);
                    touched.iter().chain(&fresh).for_each(|(number, class)| say(subject, *number, class));
                }
                None => fresh.iter().for_each(|(number, class)| say(subject, *number, class)),
            }
            if anew.contains_key(id) {
                units.insert(of_subject(&subject.name), Some(subject.fragment(&self.place)));
            }
        }
    }
}

// === impl Address ===

impl Address {
    fn subjects(&self) -> impl Iterator<Item = &SubjectId> {
        [&self.ingress, &self.egress].into_iter().flatten()
    }
}

// === impl Concern ===

impl Concern {
    /// Whether a unit matters to the pod. Those that say who is who matter to every subject.
    pub fn includes(&self, unit: &UnitId) -> bool {
        let Some(rest) = unit.0.strip_prefix("policies") else { return false };
        let (kind, of) = rest.trim_start_matches('/').split_once('/').unwrap_or((rest, ""));
        match kind {
            "" => true,
            "pod" => self.address.to_string() == of,
            "of" => {
                let mut rests = self.subjects.iter().filter_map(|id| of.strip_prefix(id.as_str()));
                rests.any(|class| class.is_empty() || class.starts_with('/'))
            }
            _ => !self.subjects.is_empty(),
        }
    }
}

/// What a pod calls those of its ports that policies name for what is sent to it.
fn named(policies: &[Arc<Policy>], ports: &[NamedPort]) -> Vec<NamedPort> {
    let mut own = BTreeSet::new();
    for (protocol, name) in policies.iter().flat_map(|policy| named_ports(policy)) {
        own.extend(ports.iter().filter(|one| one.protocol == protocol && one.name == *name).cloned());
    }
    own.into_iter().collect()
}

/// Names of ports in what a policy says about what is sent to its subjects.
fn named_ports(policy: &Policy) -> impl Iterator<Item = (Protocol, &String)> {
    let rules = policy.rules.iter().filter(|rule| rule.direction == Direction::Ingress);
    rules.flat_map(|rule| &rule.ports).filter_map(|port| match &port.numbers {
        Numbers::Named(name) => Some((port.protocol, name)),
        _ => None,
    })
}

/// A policy's place among all.
fn order(policy: &Policy) -> (Tier, u32, &str) {
    (policy.tier, policy.priority, &policy.name)
}

fn unit(rest: &str) -> UnitId {
    UnitId(format!("policies{rest}"))
}

fn of_subject(name: &str) -> UnitId {
    unit(&format!("/of/{name}"))
}

fn of_class(name: &str, number: u32) -> UnitId {
    unit(&format!("/of/{name}/{number:08x}"))
}

fn units_of(subject: &Subject) -> impl Iterator<Item = UnitId> {
    let classes = subject.classes.iter().map(|number| of_class(&subject.name, *number));
    std::iter::once(of_subject(&subject.name)).chain(classes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_concerned_by_its_own_units_and_a_subject_by_who_is_who() {
        let address = "10.40.1.5".parse().expect("an address");
        let free = Concern { address, subjects: Vec::new() };
        let subject = Concern { address, subjects: vec!["in/web-1".into()] };
        for (rest, is_free, is_subject) in [
            ("", true, true),
            ("/pod/10.40.1.5", true, true),
            ("/pod/10.40.1.50", false, false),
            ("/of/in/web-1", false, true),
            ("/of/in/web-1/0000000a", false, true),
            ("/of/in/web-12", false, false),
            ("/of/out/web-1", false, false),
            ("/peer/10.40.2.9", false, true),
            ("/block/172.16.0.0", false, true),
        ] {
            let unit = unit(rest);
            assert_eq!((free.includes(&unit), subject.includes(&unit)), (is_free, is_subject), "{unit}");
        }
        assert!(!free.includes(&UnitId("service/a/b".into())));
    }
}
