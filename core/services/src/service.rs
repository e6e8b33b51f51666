//! What a node carries for one Service.
//!
//! ```text
//! svc/NS/NAME/tcp-80    one of all endpoints, in turn
//! loc/NS/NAME/tcp-80    one of this node's, for a policy of Local
//! ext/NS/NAME/tcp-80    entry for node ports and addresses from outside: hide the source, unless the client is a pod here
//! chk/NS/NAME/tcp-80    health checks of the load balancer: as svc or loc, with a turn of their own
//! ```
//!
//! A pod of this node that asks for an address from outside is served like one that asks inside: its packets never leave for
//! the load balancer, all endpoints answer whatever the policy, and they see the pod's own address.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::net::IpAddr;

use switchyard_netstate::nft::{Data, Element, Expr, Op, Operand, Rule, Statement, TableRef, Value, Verdict};
use switchyard_netstate::{Fragment, Object, Place};

use crate::balance::Balance;
use crate::claims::Taken;
use crate::endpoints::Endpoints;
use crate::frontend::{Entrance, Frontend, Port, Protocol, Scope};
use crate::name;
use crate::node::{
    HAIRPIN, NO_ENDPOINT_IPS, NO_ENDPOINT_NODE_PORTS, NODE_PORTS, NodeServiceFacts, PODS_HERE, REFUSE, SERVICE_IPS,
    chain, from_this_node, mark, table,
};

/// The chains and elements of one Service on one node; `slices` are those of this Service, `taken` the entrances that another
/// Service holds.
///
/// Empty for a Service without a data plane (headless, `ExternalName`). Goes on top of [`crate::node_base`].
pub fn service(facts: &NodeServiceFacts, service: &Service, slices: &[EndpointSlice], taken: &Taken) -> Fragment {
    let mut fragment = Fragment::new();
    let Some(frontend) = Frontend::of(service) else { return fragment };
    let place = Place::node(&facts.node);
    for port in &frontend.ports {
        let endpoints = Endpoints::of(port, slices, &facts.node);
        let part = ServicePort { facts, frontend: &frontend, port, endpoints, taken, table: table() };
        fragment.want_all(&place, part.objects());
    }
    fragment
}

/// One port of a Service on one node.
struct ServicePort<'a> {
    facts: &'a NodeServiceFacts,
    frontend: &'a Frontend,
    port: &'a Port,
    endpoints: Endpoints,
    taken: &'a Taken,
    table: TableRef,
}

/// What becomes of a packet for which no endpoint answers.
#[derive(Clone, Copy)]
enum Refusal {
    /// Nobody answers anywhere: say so.
    Reject,
    /// Nobody answers *here*: be silent, as the sender may find another node.
    Drop,
}

// === impl ServicePort ===

impl ServicePort<'_> {
    fn objects(&self) -> Vec<Object> {
        let name = name::of_port(self.frontend, self.port);
        let (svc, loc, ext) = (format!("svc/{name}"), format!("loc/{name}"), format!("ext/{name}"));
        let from_outside = self.port.node_port.is_some() || !self.frontend.external_ips.is_empty();
        let mut objects = Vec::new();
        if self.endpoints.cluster.is_empty() {
            objects.extend(self.no_endpoint(self.inside(), Refusal::Reject));
            objects.extend(self.no_endpoint_outside(Refusal::Reject));
            return objects;
        }
        let balance = Balance { table: &self.table, port: &name, affinity_seconds: self.frontend.affinity_seconds };
        let some_local = !self.endpoints.local.is_empty();
        let needs_local =
            self.frontend.internal == Scope::Local || (from_outside && self.frontend.external == Scope::Local);
        if self.frontend.internal == Scope::Cluster || from_outside {
            objects.extend(balance.chain("svc", &self.endpoints.cluster));
        }
        if needs_local && some_local {
            objects.extend(balance.chain("loc", &self.endpoints.local));
        }
        match (self.frontend.internal, some_local) {
            (Scope::Cluster, _) => objects.extend(self.leads_to(self.inside(), &svc)),
            (Scope::Local, true) => objects.extend(self.leads_to(self.inside(), &loc)),
            (Scope::Local, false) => objects.extend(self.no_endpoint(self.inside(), Refusal::Drop)),
        }
        if from_outside {
            let mut entry = Vec::new();
            let checked = match self.frontend.external {
                Scope::Cluster => &self.endpoints.cluster,
                Scope::Local => &self.endpoints.local,
            };
            if !self.frontend.load_balancer_ips.is_empty() && !checked.is_empty() {
                objects.extend(Balance { affinity_seconds: None, ..balance }.chain("chk", checked));
                entry.push(self.check(&format!("chk/{name}")));
            }
            entry.extend(self.entry(&svc, some_local.then_some(loc.as_str())));
            objects.push(chain(&self.table, &ext, entry));
            objects.extend(self.outside().filter_map(|entrance| self.leads_to(entrance, &ext)));
            if self.frontend.external == Scope::Local && !some_local {
                objects.extend(self.no_endpoint_outside(Refusal::Drop));
            }
        }
        objects.extend(self.hairpins());
        objects
    }

    /// Rules of the entry from outside. What falls through them stays untranslated, and is dropped.
    fn entry(&self, svc: &str, loc: Option<&str>) -> Vec<Rule> {
        let goto = |chain: &str| Statement::Verdict(Verdict::Goto(chain.into()));
        let from_pod_here = Statement::Lookup { key: vec![Expr::IpSaddr], set: PODS_HERE.into(), invert: false };
        let mut rules = vec![Rule(vec![from_pod_here, goto(svc)])];
        match self.frontend.external {
            Scope::Cluster => rules.push(Rule(vec![mark(), goto(svc)])),
            Scope::Local => {
                rules.push(Rule(vec![from_this_node(), mark(), goto(svc)]));
                rules.extend(loc.map(|loc| Rule(vec![goto(loc)])));
            }
        }
        rules
    }

    /// A health check of the load balancer: it comes from the very address that is balanced, which no client does.
    fn check(&self, chk: &str) -> Rule {
        let addresses = self.frontend.load_balancer_ips.iter().map(|ip| Value::Ip((*ip).into())).collect();
        let from = Statement::Match { left: Expr::IpSaddr, op: Op::Eq, right: Operand::Any(addresses) };
        let goto = Statement::Verdict(Verdict::Goto(chk.into()));
        Rule(match self.frontend.external {
            Scope::Cluster => vec![from, mark(), goto],
            Scope::Local => vec![from, goto],
        })
    }

    fn inside(&self) -> Entrance {
        self.port.at(self.frontend.cluster_ip)
    }

    fn outside(&self) -> impl Iterator<Item = Entrance> {
        self.frontend.external_ips.iter().map(|ip| self.port.at(*ip)).chain(self.port.on_nodes())
    }

    fn leads_to(&self, entrance: Entrance, chain: &str) -> Option<Object> {
        self.at(entrance, [SERVICE_IPS, NODE_PORTS], Verdict::Goto(chain.into()))
    }

    fn no_endpoint(&self, entrance: Entrance, refusal: Refusal) -> Option<Object> {
        self.at(entrance, [NO_ENDPOINT_IPS, NO_ENDPOINT_NODE_PORTS], refusal.verdict())
    }

    fn no_endpoint_outside(&self, refusal: Refusal) -> impl Iterator<Item = Object> {
        self.outside().filter_map(move |entrance| self.no_endpoint(entrance, refusal))
    }

    /// An element of the map of addresses or that of node ports; none where another Service holds the entrance.
    fn at(&self, entrance: Entrance, [addresses, node_ports]: [&str; 2], verdict: Verdict) -> Option<Object> {
        if self.taken.contains_key(&entrance) {
            return None;
        }
        let end = |protocol: Protocol, port| [Value::Proto(protocol.number()), Value::Port(port)];
        let (map, key) = match entrance {
            Entrance::Address(ip, protocol, port) => {
                (addresses, [Value::Ip(ip.into())].into_iter().chain(end(protocol, port)).collect())
            }
            Entrance::NodePort(protocol, port) => (node_ports, end(protocol, port).into()),
        };
        Some(self.element(map, key, Some(verdict)))
    }

    /// Pods here that may be given their own connection. A node's own address needs no help: its packets do not leave it.
    fn hairpins(&self) -> impl Iterator<Item = Object> {
        let local = self.endpoints.local.iter().map(|(address, _)| IpAddr::V4(*address));
        local
            .filter(|address| *address != self.facts.address)
            .map(|address| self.element(HAIRPIN, vec![Value::Ip(address), Value::Ip(address)], None))
    }

    fn element(&self, set: &str, key: Vec<Value>, verdict: Option<Verdict>) -> Object {
        let data = verdict.map(Data::Verdict);
        Object::Element(Element { table: self.table.clone(), set: set.into(), key, data })
    }
}

// === impl Refusal ===

impl Refusal {
    fn verdict(self) -> Verdict {
        match self {
            Self::Reject => Verdict::Goto(REFUSE.into()),
            Self::Drop => Verdict::Drop,
        }
    }
}

#[cfg(test)]
mod tests;
