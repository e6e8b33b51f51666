//! The external load balancer: from Services, EndpointSlices, Nodes and health to units of the kernel's wanted state.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::Event;
use switchyard_netstate::{Fragment, IfName, UnitId};
use switchyard_services::{
    Backends, Candidates, NodePort, Protocol, Stale, UdpWays, external, external_addresses, external_candidates,
    external_hold, external_udp_ways,
};

use super::Changes;
use super::health::{Checks, Health, Report, Target};
use super::watch::{Mirror, ObjectName};

/// Label of an EndpointSlice: its Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Label of a Node that asks not to be balanced to.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// State of the load balancer.
#[derive(Debug)]
pub(super) struct Balancer {
    pool: IpNet,
    dev: IfName,
    services: Mirror<Service>,
    slices: Mirror<EndpointSlice>,
    /// Slices by the Service they belong to.
    by_service: BTreeMap<ObjectName, BTreeSet<ObjectName>>,
    checks: Checks,
    /// Services whose addresses are held.
    balanced: BTreeSet<ObjectName>,
    /// Services with a port whose first checks have not ended. What the kernel does for them stays as it was found.
    undecided: BTreeSet<ObjectName>,
    /// Who answers UDP at balanced addresses, as it was decided last.
    udp: BTreeMap<ObjectName, UdpWays>,
    /// UDP flows to be dropped once the kernel does what was decided.
    stale: Stale,
}

// === impl Balancer ===

impl Balancer {
    pub(super) fn new(pool: IpNet, dev: IfName, checks: Checks) -> Self {
        Self {
            pool,
            dev,
            services: Mirror::default(),
            slices: Mirror::default(),
            by_service: BTreeMap::new(),
            checks,
            balanced: BTreeSet::new(),
            undecided: BTreeSet::new(),
            udp: BTreeMap::new(),
            stale: Stale::default(),
        }
    }

    pub(super) fn service(&mut self, event: Event<Service>, nodes: &Mirror<Node>) -> Changes {
        let first = !self.is_complete();
        let touched = self.services.take(event).iter().map(ObjectName::of).collect();
        self.after(first, touched, nodes)
    }

    pub(super) fn slice(&mut self, event: Event<EndpointSlice>, nodes: &Mirror<Node>) -> Changes {
        let first = !self.is_complete();
        let mut touched = BTreeSet::new();
        for version in self.slices.take(event) {
            let Some(service) = service_of(&version) else { continue };
            let slice = ObjectName::of(&version);
            let current = self.slices.get(&slice).and_then(service_of).as_ref() == Some(&service);
            let slices = self.by_service.entry(service.clone()).or_default();
            if current {
                slices.insert(slice);
            } else {
                slices.remove(&slice);
            }
            if slices.is_empty() {
                self.by_service.remove(&service);
            }
            touched.insert(service);
        }
        for service in &touched {
            self.checks.hurry(service);
        }
        self.after(first, touched, nodes)
    }

    /// Nodes have changed in a way that matters here.
    pub(super) fn nodes(&mut self, nodes: &Mirror<Node>) -> Changes {
        let all: BTreeSet<ObjectName> = self.services.iter().map(|(name, _)| name.clone()).collect();
        for service in &all {
            self.checks.hurry(service);
        }
        self.after(false, all, nodes)
    }

    pub(super) fn report(&mut self, report: &Report, nodes: &Mirror<Node>) -> Changes {
        self.checks.note(report);
        self.after(false, [report.service.clone()].into(), nodes)
    }

    /// Whether everything there is has been taken into account.
    pub(super) fn is_settled(&self) -> bool {
        self.is_complete() && self.undecided.is_empty()
    }

    /// UDP flows that the last changes leave behind.
    pub(super) fn take_stale(&mut self) -> Stale {
        std::mem::take(&mut self.stale)
    }

    /// All UDP flows that lead elsewhere than they would now: what changed while no router was there.
    pub(super) fn stale_from_before(&self) -> Stale {
        Stale::all_but(self.udp.values().flatten().map(|(to, ends)| (*to, ends.clone())).collect())
    }

    fn is_complete(&self) -> bool {
        self.services.is_complete() && self.slices.is_complete()
    }

    /// Units of these Services, or of all when the last list has just come in: before that, too little is known.
    fn after(&mut self, first: bool, touched: BTreeSet<ObjectName>, nodes: &Mirror<Node>) -> Changes {
        if !self.is_complete() || !nodes.is_complete() {
            return Changes::new();
        }
        let all = || self.services.iter().map(|(name, _)| name.clone()).collect();
        let touched: BTreeSet<ObjectName> = if first { all() } else { touched };
        touched.iter().flat_map(|service| self.units(service, nodes)).collect()
    }

    fn units(&mut self, name: &ObjectName, nodes: &Mirror<Node>) -> Changes {
        let hold = UnitId(format!("external-address/{}/{}", name.namespace, name.name));
        let lead = UnitId(format!("external/{}/{}", name.namespace, name.name));
        let service = self.services.get(name);
        let addresses = service.map(|service| external_addresses(&self.pool, service)).unwrap_or_default();
        let (Some(service), Some(source)) = (service, addresses.first()) else {
            self.checks.want(name, Ipv4Addr::UNSPECIFIED, &BTreeSet::new());
            self.undecided.remove(name);
            let was_balanced = self.balanced.remove(name);
            self.leads(name, UdpWays::new());
            return if was_balanced { [(hold, None), (lead, None)].into() } else { Changes::new() };
        };
        self.balanced.insert(name.clone());
        let slices: Vec<EndpointSlice> = self.slices_of(name).cloned().collect();
        let able = able(&external_candidates(service, &slices), nodes);
        let ports = able.iter().map(|(port, addresses)| addresses.iter().map(|ip| target(*ip, *port)));
        let ports: Vec<Vec<Target>> = ports.map(Iterator::collect).collect();
        self.checks.want(name, *source, &ports.iter().flatten().copied().collect());
        let mut changes = Changes::from([(hold, Some(external_hold(&self.dev, &addresses)))]);
        // Each port for itself: one that is known to be well says nothing of another.
        let health = |target: &Target| self.checks.health(name, target);
        let is_undecided = |port: &Vec<Target>| {
            let known: Vec<Health> = port.iter().map(health).collect();
            known.contains(&Health::Unknown) && !known.contains(&Health::Up)
        };
        if ports.iter().any(is_undecided) {
            self.undecided.insert(name.clone());
        } else {
            self.undecided.remove(name);
            let backends = self.healthy(name, able);
            let fragment = external(&self.pool, service, &backends);
            let ways = external_udp_ways(&self.pool, service, &backends);
            changes.insert(lead, Some(fragment).filter(|fragment: &Fragment| !fragment.is_empty()));
            self.leads(name, ways);
        }
        changes
    }

    /// Notes who answers UDP from now on.
    fn leads(&mut self, name: &ObjectName, ways: UdpWays) {
        let old = self.udp.remove(name).unwrap_or_default();
        self.stale.add(Stale::between(&old, &ways));
        if !ways.is_empty() {
            self.udp.insert(name.clone(), ways);
        }
    }

    /// The nodes among `able` that answer.
    fn healthy(&self, service: &ObjectName, mut able: Backends) -> Backends {
        for (port, addresses) in &mut able {
            addresses.retain(|ip| self.checks.health(service, &target(*ip, *port)) == Health::Up);
        }
        able
    }

    fn slices_of(&self, service: &ObjectName) -> impl Iterator<Item = &EndpointSlice> {
        self.by_service.get(service).into_iter().flatten().filter_map(|slice| self.slices.get(slice))
    }
}

/// What has to answer for a node port.
fn target(node: Ipv4Addr, (protocol, port): NodePort) -> Target {
    match protocol {
        Protocol::Tcp => Target::Port(SocketAddrV4::new(node, port)),
        Protocol::Udp | Protocol::Sctp => Target::Node(node),
    }
}

/// What of a node matters here: its address, if it takes traffic at all.
pub(super) fn able_address(node: &Node) -> Option<Ipv4Addr> {
    let excluded = node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(EXCLUDED));
    let status = node.status.as_ref()?;
    let mut conditions = status.conditions.iter().flatten();
    let ready = conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let internal = status.addresses.iter().flatten().filter(|address| address.type_ == "InternalIP");
    let address = internal.filter_map(|address| address.address.parse().ok()).next();
    address.filter(|_| ready && !excluded)
}

fn able(candidates: &BTreeMap<NodePort, Candidates>, nodes: &Mirror<Node>) -> Backends {
    let on = |allowed: &dyn Fn(&str) -> bool| -> Vec<Ipv4Addr> {
        let allowed = nodes.iter().filter(|(name, _)| allowed(&name.name));
        allowed.filter_map(|(_, node)| able_address(node)).collect()
    };
    let addresses = |candidates: &Candidates| match candidates {
        Candidates::Nobody => Vec::new(),
        Candidates::EveryNode => on(&|_| true),
        Candidates::Only(names) => on(&|name| names.contains(name)),
    };
    candidates.iter().map(|(port, candidates)| (*port, addresses(candidates))).collect()
}

fn service_of(slice: &EndpointSlice) -> Option<ObjectName> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_LABEL)?;
    Some(ObjectName::new(slice.metadata.namespace.as_deref().unwrap_or_default(), name))
}

#[cfg(test)]
mod tests;
