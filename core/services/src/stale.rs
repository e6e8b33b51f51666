//! UDP flows that outlive what they were made for. A flow is translated once, by its first packet; as long as the client goes on
//! sending, conntrack goes on sending it where that packet went, whether somebody is there or not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::claims::Taken;
use crate::endpoints::Endpoints;
use crate::frontend::{Frontend, Protocol};
use crate::node::NodeServiceFacts;

/// An address and a port.
pub type End = (IpAddr, u16);

/// Who answers UDP, by where clients send it to.
pub type UdpWays = BTreeMap<End, BTreeSet<End>>;

/// UDP flows to be dropped from conntrack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stale {
    /// Where the client sends to, and where answers come from. Both are the same where nothing was translated: for a flow that began
    /// before anybody answered.
    gone: BTreeSet<(End, End)>,
    /// All but those that lead where they would lead now.
    all_but: Option<UdpWays>,
}

// === impl Stale ===

impl Stale {
    /// The flows that a change leaves behind.
    pub fn between(old: &UdpWays, new: &UdpWays) -> Self {
        let mut gone = BTreeSet::new();
        for (to, before) in old {
            let after = new.get(to);
            let left = before.iter().filter(|end| !after.is_some_and(|after| after.contains(*end)));
            gone.extend(left.map(|end| (*to, *end)));
        }
        for (to, _) in new.iter().filter(|(_, after)| !after.is_empty()) {
            if old.get(to).is_none_or(BTreeSet::is_empty) {
                gone.insert((*to, *to));
            }
        }
        Self { gone, all_but: None }
    }

    /// The flows that lead elsewhere than they would now, for whoever does not know what was before.
    pub fn all_but(ways: UdpWays) -> Self {
        Self { gone: BTreeSet::new(), all_but: Some(ways) }
    }

    /// Whether there is nothing to drop.
    pub fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.all_but.is_none()
    }

    /// Adds those of a later change.
    pub fn add(&mut self, later: Self) {
        self.gone.extend(later.gone);
        self.all_but = later.all_but.or(self.all_but.take());
    }

    /// Whether a flow is one of them. `to` is the destination of its original direction, `from` the source of its reply direction.
    pub fn takes(&self, to: End, from: End) -> bool {
        let leads_elsewhere = |ways: &UdpWays| match ways.get(&to) {
            Some(ends) if !ends.is_empty() => !ends.contains(&from),
            // Nobody translates it now.
            _ => from != to,
        };
        self.gone.contains(&(to, from)) || self.all_but.as_ref().is_some_and(leads_elsewhere)
    }
}

/// Who answers UDP of one Service, seen from a node.
pub fn udp_ways(facts: &NodeServiceFacts, service: &Service, slices: &[EndpointSlice], taken: &Taken) -> UdpWays {
    let mut ways = UdpWays::new();
    let Some(frontend) = Frontend::of(service) else { return ways };
    for port in frontend.ports.iter().filter(|port| port.protocol == Protocol::Udp) {
        let endpoints = Endpoints::of(port, slices, &facts.node);
        // Local endpoints may be leaving ones that the whole cluster does without.
        let ends = endpoints.cluster.into_iter().chain(endpoints.local);
        let ends: BTreeSet<End> = ends.map(|(ip, number)| (ip.into(), number)).collect();
        let is_free = |ip: &&std::net::Ipv4Addr| !taken.contains_key(&port.at(**ip));
        for ip in std::iter::once(&frontend.cluster_ip).chain(&frontend.external_ips).filter(is_free) {
            ways.insert(((*ip).into(), port.port), ends.clone());
        }
        let on_nodes = port.on_nodes().filter(|entrance| !taken.contains_key(entrance));
        if let (Some(_), Some(node_port)) = (on_nodes, port.node_port) {
            ways.insert((facts.address, node_port), ends);
        }
    }
    ways
}

#[cfg(test)]
mod tests;
