//! The cluster as the scheduler sees it: nodes, what is placed on them, which address is whose.
//!
//! It follows the caches by key, never by delta, so a change that is seen twice or late does no harm. A decision that is being
//! written counts as placed (*assumed*) until the cache shows it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use switchyard_api::{Amount, names};
use switchyard_netstate::IfName;
use switchyard_plugin::NodeFacts;

use crate::cache::Key;
use crate::ipam::Addresses;
use crate::{meta, pod};

pub(super) struct Snapshot {
    pub(super) nodes: BTreeMap<String, NodeInfo>,
    pub(super) placed: HashMap<Key, Placed>,
    pub(super) addresses: Addresses,
    held: HashMap<Key, (String, IpAddr)>,
}

/// A node and what is placed on it.
#[derive(Default)]
pub(super) struct NodeInfo {
    /// None for a name that pods are bound to and no Node has.
    pub(super) fixed: Option<Fixed>,
    pub(super) used: Resources,
    /// As `used`, but a container that asks for nothing counts as a small one.
    pub(super) weight: Resources,
    pub(super) ports: HashMap<HostPort, u32>,
    /// Pods of each group.
    pub(super) groups: HashMap<Arc<str>, u32>,
}

/// What a node says about itself.
#[derive(Clone, PartialEq)]
pub(crate) struct Fixed {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) taints: Vec<Taint>,
    pub(super) unschedulable: bool,
    pub(super) ready: bool,
    pub(super) allocatable: Resources,
    /// None until it has an address and a block.
    pub(super) facts: Option<NodeFacts>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Resources {
    pub(super) cpu_milli: i64,
    pub(super) memory_bytes: i64,
    pub(super) pods: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct HostPort {
    pub(super) port: i32,
    pub(super) protocol: String,
    /// Empty for every address.
    pub(super) ip: String,
}

/// What of a pod matters for where it goes.
pub(super) struct PodInfo {
    pub(super) pod: Arc<Pod>,
    pub(super) uid: String,
    pub(super) requests: Resources,
    pub(super) weight: Resources,
    pub(super) ports: Vec<HostPort>,
    /// Pods of one group are spread over nodes: those of one owner, or else of one Service.
    pub(super) group: Option<Arc<str>>,
}

pub(super) struct Placed {
    pub(super) node: String,
    pub(super) info: Arc<PodInfo>,
    assumed: bool,
}

/// What following a change brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Followed {
    /// Nothing that could help a pod that waits.
    Nothing,
    /// Room, perhaps.
    Room,
}

/// What a container counts as that asks for nothing, where nodes are compared.
const SMALL_CPU_MILLI: i64 = 100;
const SMALL_MEMORY_BYTES: i64 = 200 << 20;

// === impl Snapshot ===

impl Snapshot {
    pub(super) fn new() -> Self {
        Self { nodes: BTreeMap::new(), placed: HashMap::new(), addresses: Addresses::new(), held: HashMap::new() }
    }

    pub(super) fn follow_node(&mut self, name: &str, node: Option<&Node>) -> Followed {
        let fixed = node.map(Fixed::of);
        let info = self.nodes.entry(name.into()).or_default();
        if info.fixed == fixed {
            return Followed::Nothing;
        }
        info.fixed = fixed;
        if info.fixed.is_none() && info.used.pods == 0 {
            self.nodes.remove(name);
        }
        Followed::Room
    }

    /// Follows what the cache has for `key`. Also tells of another pod that holds the same address.
    pub(super) fn follow_pod(&mut self, key: &Key, pod: Option<&Arc<Pod>>) -> (Followed, Option<String>) {
        let Some(pod) = pod else {
            let freed = self.remove(key) | self.release(key);
            return (if freed { Followed::Room } else { Followed::Nothing }, None);
        };
        let uid = pod.metadata.uid.as_deref().unwrap_or("");
        let mut freed = false;
        if self.held.get(key).is_some_and(|(holder, _)| holder != uid) {
            freed |= self.release(key);
        }
        if self.placed.get(key).is_some_and(|placed| placed.info.uid != uid) {
            freed |= self.remove(key);
        }
        let other = match address(pod) {
            Some(ip) => self.hold(key, uid, ip),
            // One that has not ended may be about to get what it holds here.
            None => {
                freed |= pod::is_terminal(pod) && self.release(key);
                None
            }
        };
        match pod::node(pod) {
            Some(_) if pod::is_terminal(pod) => freed |= self.remove(key),
            Some(node) if self.placed.get(key).is_none_or(|placed| placed.assumed || placed.node != node) => {
                let group = self.placed.get(key).and_then(|placed| placed.info.group.clone());
                self.remove(key);
                let info = PodInfo::of(pod, group.or_else(|| owner_group(pod)));
                self.place(key.clone(), node, Arc::new(info), false);
            }
            _ => {}
        }
        (if freed { Followed::Room } else { Followed::Nothing }, other)
    }

    /// Counts a decision that is about to be written.
    pub(super) fn assume(&mut self, key: Key, node: &str, info: Arc<PodInfo>, ip: Option<IpAddr>) {
        if let Some(ip) = ip {
            self.release(&key);
            self.held.insert(key.clone(), (info.uid.clone(), ip));
        }
        // A pod that named its node is there already.
        if !self.placed.contains_key(&key) {
            self.place(key, node, info, true);
        }
    }

    /// Takes back a decision that did not come true.
    pub(super) fn forget(&mut self, key: &Key, uid: &str) {
        let Some(placed) = self.placed.get(key).filter(|placed| placed.info.uid == uid) else { return };
        if placed.assumed {
            self.remove(key);
        }
        self.release(key);
    }

    fn hold(&mut self, key: &Key, uid: &str, ip: IpAddr) -> Option<String> {
        match self.held.get(key) {
            Some((_, held)) if *held == ip => return None,
            Some(_) => {
                self.release(key);
            }
            None => {}
        }
        self.held.insert(key.clone(), (uid.into(), ip));
        self.addresses.hold(ip, uid)
    }

    fn release(&mut self, key: &Key) -> bool {
        let Some((uid, ip)) = self.held.remove(key) else { return false };
        self.addresses.release(ip, &uid);
        true
    }

    fn place(&mut self, key: Key, node: &str, info: Arc<PodInfo>, assumed: bool) {
        self.nodes.entry(node.into()).or_default().count(&info, 1);
        self.placed.insert(key, Placed { node: node.into(), info, assumed });
    }

    fn remove(&mut self, key: &Key) -> bool {
        let Some(placed) = self.placed.remove(key) else { return false };
        if let Some(node) = self.nodes.get_mut(&placed.node) {
            node.count(&placed.info, -1);
            if node.fixed.is_none() && node.used.pods == 0 {
                self.nodes.remove(&placed.node);
            }
        }
        true
    }
}

// === impl NodeInfo ===

impl NodeInfo {
    fn count(&mut self, info: &PodInfo, sign: i64) {
        self.used.add(&info.requests, sign);
        self.weight.add(&info.weight, sign);
        if let Some(group) = &info.group {
            count(&mut self.groups, group, sign);
        }
        for port in &info.ports {
            count(&mut self.ports, port, sign);
        }
    }
}

fn count<K: Clone + Eq + std::hash::Hash>(counts: &mut HashMap<K, u32>, key: &K, sign: i64) {
    let counted = counts.entry(key.clone()).or_default();
    *counted = counted.saturating_add_signed(sign as i32);
    if *counted == 0 {
        counts.remove(key);
    }
}

// === impl Fixed ===

impl Fixed {
    pub(crate) fn of(node: &Node) -> Self {
        let spec = node.spec.clone().unwrap_or_default();
        let status = node.status.as_ref();
        let name = node.metadata.name.clone().unwrap_or_default();
        let allocatable = status.and_then(|status| status.allocatable.as_ref());
        let conditions = status.and_then(|status| status.conditions.as_ref());
        let mut addresses = status.and_then(|status| status.addresses.as_ref()).into_iter().flatten();
        let address =
            addresses.find(|address| address.type_ == "InternalIP").and_then(|address| address.address.parse().ok());
        let block = spec.pod_cidr.as_deref().and_then(|block| block.parse().ok());
        let facts =
            address.zip(block).zip("eth0".parse::<IfName>().ok()).map(|((address, pod_cidr), uplink)| NodeFacts {
                name: name.clone(),
                address,
                pod_cidr,
                uplink,
                mac: None,
                mtu: None,
                edge: switchyard_api::edge_role(node),
            });
        Self {
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: spec.taints.unwrap_or_default(),
            unschedulable: spec.unschedulable == Some(true),
            ready: conditions
                .into_iter()
                .flatten()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True"),
            allocatable: allocatable.map(Resources::of).unwrap_or_default(),
            facts,
            name,
        }
    }
}

// === impl Resources ===

impl Resources {
    fn of(quantities: &BTreeMap<String, Quantity>) -> Self {
        let amount =
            |name: &str| quantities.get(name).and_then(|quantity| Amount::parse(&quantity.0)).unwrap_or_default();
        Self {
            cpu_milli: i64::try_from(amount("cpu").milli()).unwrap_or(i64::MAX),
            memory_bytes: amount("memory").units(),
            pods: amount("pods").units(),
        }
    }

    fn add(&mut self, other: &Self, sign: i64) {
        let plus = |a: i64, b: i64| a.saturating_add(b.saturating_mul(sign));
        self.cpu_milli = plus(self.cpu_milli, other.cpu_milli);
        self.memory_bytes = plus(self.memory_bytes, other.memory_bytes);
        self.pods = plus(self.pods, other.pods);
    }

    fn max(&mut self, other: &Self) {
        self.cpu_milli = self.cpu_milli.max(other.cpu_milli);
        self.memory_bytes = self.memory_bytes.max(other.memory_bytes);
    }
}

// === impl PodInfo ===

impl PodInfo {
    pub(super) fn of(pod: &Arc<Pod>, group: Option<Arc<str>>) -> Self {
        let empty = Default::default();
        let spec = pod::spec(pod).unwrap_or(&empty);
        let (requests, weight) = (sum(spec, (0, 0)), sum(spec, (SMALL_CPU_MILLI, SMALL_MEMORY_BYTES)));
        let host_network = spec.host_network == Some(true);
        let ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten()).filter_map(|port| {
            let number = port.host_port.or(host_network.then_some(port.container_port)).filter(|port| *port > 0)?;
            let ip = port.host_ip.clone().filter(|ip| ip != "0.0.0.0" && ip != "::").unwrap_or_default();
            Some(HostPort { port: number, protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()), ip })
        });
        let ports = ports.collect();
        Self { pod: pod.clone(), uid: pod.metadata.uid.clone().unwrap_or_default(), requests, weight, ports, group }
    }
}

/// What a pod asks for: all containers together, or its hungriest init container.
fn sum(spec: &k8s_openapi::api::core::v1::PodSpec, least: (i64, i64)) -> Resources {
    let of = |container: &k8s_openapi::api::core::v1::Container| {
        let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let mut resources = requests.map(Resources::of).unwrap_or_default();
        let asks = |name| requests.is_some_and(|requests| requests.contains_key(name));
        if !asks("cpu") {
            resources.cpu_milli = least.0;
        }
        if !asks("memory") {
            resources.memory_bytes = least.1;
        }
        resources
    };
    let mut total = Resources::default();
    for container in &spec.containers {
        total.add(&of(container), 1);
    }
    // An init container that stays (a sidecar) is there besides all that comes after it.
    let (mut staying, mut peak) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        let mut here = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            staying.add(&here, 1);
            peak.max(&staying);
        } else {
            here.add(&staying, 1);
            peak.max(&here);
        }
    }
    total.add(&staying, 1);
    total.max(&peak);
    if let Some(overhead) = &spec.overhead {
        total.add(&Resources::of(overhead), 1);
    }
    total.pods = 1;
    total
}

/// The address a pod holds: from when it is bound until its node says that it has ended.
pub(super) fn address(pod: &Pod) -> Option<IpAddr> {
    pod.metadata.annotations.as_ref()?.get(names::POD_IP)?.parse().ok()
}

/// The group of a pod with an owner.
pub(super) fn owner_group(pod: &Pod) -> Option<Arc<str>> {
    meta::controller(&pod.metadata).map(|owner| owner.uid.as_str().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(uid: &str, ip: Option<&str>, phase: &str) -> Arc<Pod> {
        let annotations = ip.map(|ip| json!({names::POD_IP: ip}));
        let pod = json!({
            "metadata": {"name": "p", "namespace": "default", "uid": uid, "annotations": annotations},
            "spec": {"nodeName": "n", "containers": []}, "status": {"phase": phase, "podIP": "10.40.1.2"},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn an_address_is_taken_until_the_pods_node_gives_it_back() {
        let mut snapshot = Snapshot::new();
        let key = Key::new("default", "p");
        let ip = Some("10.40.1.2");
        for (pod, held, told) in [
            (pod("a", ip, "Running"), 1, Followed::Nothing),
            // Somebody else says that it has ended; its node does not yet.
            (pod("a", ip, "Failed"), 1, Followed::Room),
            (pod("a", None, "Failed"), 0, Followed::Room),
            (pod("a", None, "Failed"), 0, Followed::Nothing),
        ] {
            assert_eq!(snapshot.follow_pod(&key, Some(&pod)), (told, None));
            assert_eq!((snapshot.addresses.in_use(), snapshot.held.len()), (held, held));
        }
    }

    #[test]
    fn an_address_that_is_about_to_be_written_is_taken() {
        let mut snapshot = Snapshot::new();
        let (key, pending) = (Key::new("default", "p"), pod("a", None, "Pending"));
        let pool = switchyard_plugin::Pool::of("10.40.1.0/30".parse().unwrap());
        let ip = snapshot.addresses.take(&pool, "a");
        snapshot.assume(key.clone(), "n", Arc::new(PodInfo::of(&pending, None)), ip);
        snapshot.follow_pod(&key, Some(&pending));
        assert_eq!((snapshot.addresses.in_use(), snapshot.held.len()), (1, 1));
    }
}
