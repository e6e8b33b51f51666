//! UDP flows that outlive what they were made for. A flow is translated once, by its first packet; as long as the client goes on
//! sending, conntrack goes on sending it where that packet went, whether somebody is there or not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::endpoints::{Endpoints, Target};
use crate::frontend::{Frontend, Protocol};
use crate::node::NodeServiceFacts;

/// UDP flows to be dropped from conntrack.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StaleFlow {
    /// Destination of the flow's original direction.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Source of its reply direction, where it was translated to. `None`: flows that were not translated at all, made before the
    /// Service had endpoints (their reply comes from `address` itself).
    pub endpoint: Option<(IpAddr, u16)>,
}

/// The flows that a change from `old` to `new` leaves behind on this node. A Service that is gone, or was not there, is `None`.
pub fn stale_udp(
    facts: &NodeServiceFacts,
    old: Option<(&Service, &[EndpointSlice])>,
    new: Option<(&Service, &[EndpointSlice])>,
) -> Vec<StaleFlow> {
    let (old, new) = (entrances(facts, old), entrances(facts, new));
    let mut stale = Vec::new();
    for ((address, port), before) in &old {
        let after = new.get(&(*address, *port));
        for (ip, number) in before.iter().filter(|target| !after.is_some_and(|after| after.contains(*target))) {
            let endpoint = Some((IpAddr::V4(*ip), *number));
            stale.push(StaleFlow { address: (*address).into(), port: *port, endpoint });
        }
    }
    for ((address, port), after) in &new {
        let had_some = old.get(&(*address, *port)).is_some_and(|before| !before.is_empty());
        if !after.is_empty() && !had_some {
            stale.push(StaleFlow { address: (*address).into(), port: *port, endpoint: None });
        }
    }
    stale
}

/// Each UDP address and port of a Service on this node, and who answers there.
fn entrances(
    facts: &NodeServiceFacts,
    state: Option<(&Service, &[EndpointSlice])>,
) -> BTreeMap<(Ipv4Addr, u16), BTreeSet<Target>> {
    let mut entrances = BTreeMap::new();
    let Some((service, slices)) = state else { return entrances };
    let Some(frontend) = Frontend::of(service) else { return entrances };
    for port in frontend.ports.iter().filter(|port| port.protocol == Protocol::Udp) {
        let endpoints = Endpoints::of(port, slices, &facts.node);
        // Local endpoints may be leaving ones that the whole cluster does without.
        let targets: BTreeSet<Target> = endpoints.cluster.into_iter().chain(endpoints.local).collect();
        for ip in std::iter::once(&frontend.cluster_ip).chain(&frontend.external_ips) {
            entrances.insert((*ip, port.port), targets.clone());
        }
        if let (Some(node_port), IpAddr::V4(address)) = (port.node_port, facts.address) {
            entrances.insert((address, node_port), targets);
        }
    }
    entrances
}

#[cfg(test)]
mod tests;
