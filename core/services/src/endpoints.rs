//! Which endpoints answer for a port, in the order in which they take turns.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::frontend::{Port, Protocol};

/// An endpoint's address and port.
pub(crate) type Target = (Ipv4Addr, u16);

/// Who answers for one port of a Service. Each list is ordered and free of doubles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Endpoints {
    /// In the whole cluster.
    pub(crate) cluster: Vec<Target>,
    /// On this node.
    pub(crate) local: Vec<Target>,
}

/// How fit an endpoint is; the fittest there are take all connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fitness {
    /// On its way out, but still answering: used when nobody else is left.
    Leaving,
    /// Ready.
    Ready,
}

// === impl Endpoints ===

impl Endpoints {
    /// Those of `port` in `slices`, seen from `node`.
    pub(crate) fn of(port: &Port, slices: &[EndpointSlice], node: &str) -> Self {
        let mut cluster: BTreeMap<Target, Fitness> = BTreeMap::new();
        let mut local = BTreeMap::new();
        for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
            let Some(number) = port_number(port, slice) else { continue };
            for endpoint in slice.endpoints.iter().flatten() {
                // Kubernetes gives an endpoint one address; further ones have no meaning.
                let address = endpoint.addresses.first().and_then(|ip| ip.parse::<Ipv4Addr>().ok());
                let (Some(address), Some(fitness)) = (address, Fitness::of(endpoint)) else { continue };
                let target = (address, number);
                let seen = cluster.entry(target).or_insert(fitness);
                *seen = fitness.max(*seen);
                if endpoint.node_name.as_deref() == Some(node) {
                    local.insert(target, *seen);
                }
            }
        }
        Self { cluster: fittest(cluster), local: fittest(local) }
    }
}

fn fittest(targets: BTreeMap<Target, Fitness>) -> Vec<Target> {
    let best = targets.values().copied().max();
    targets.into_iter().filter(|(_, fitness)| Some(*fitness) == best).map(|(target, _)| target).collect()
}

fn port_number(port: &Port, slice: &EndpointSlice) -> Option<u16> {
    let same = slice.ports.iter().flatten().find(|candidate| {
        candidate.name.as_deref().unwrap_or_default() == port.name
            && Protocol::of(candidate.protocol.as_deref()) == Some(port.protocol)
    })?;
    same.port.and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0)
}

// === impl Fitness ===

impl Fitness {
    fn of(endpoint: &Endpoint) -> Option<Self> {
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        // An unknown state counts as ready. `ready` is never set on a pod that is leaving, unless the Service publishes such pods.
        let ready = conditions.ready.unwrap_or(true);
        let leaving = conditions.terminating.unwrap_or(false);
        match (ready, leaving && conditions.serving.unwrap_or(ready)) {
            (true, _) => Some(Self::Ready),
            (false, true) => Some(Self::Leaving),
            (false, false) => None,
        }
    }
}
