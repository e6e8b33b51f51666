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
use std::net::{IpAddr, Ipv4Addr};

use switchyard_netstate::nft::{Data, Element, Expr, Op, Operand, Rule, Statement, TableRef, Value, Verdict};
use switchyard_netstate::{Fragment, Object, Place};

use crate::balance::Balance;
use crate::endpoints::Endpoints;
use crate::frontend::{Frontend, Port, Scope};
use crate::name;
use crate::node::{
    HAIRPIN, NO_ENDPOINT_IPS, NO_ENDPOINT_NODE_PORTS, NODE_PORTS, NodeServiceFacts, REFUSE, SERVICE_IPS, chain,
    from_this_node, mark, table,
};

/// The chains and elements of one Service on one node; `slices` are those of this Service.
///
/// Empty for a Service without a data plane (headless, `ExternalName`). Goes on top of [`crate::node_base`].
pub fn service(facts: &NodeServiceFacts, service: &Service, slices: &[EndpointSlice]) -> Fragment {
    let mut fragment = Fragment::new();
    let Some(frontend) = Frontend::of(service) else { return fragment };
    let place = Place::node(&facts.node);
    for port in &frontend.ports {
        let endpoints = Endpoints::of(port, slices, &facts.node);
        let part = ServicePort { facts, frontend: &frontend, port, endpoints, table: table() };
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
            objects.push(self.no_endpoint(self.frontend.cluster_ip, Refusal::Reject));
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
            (Scope::Cluster, _) => objects.push(self.at_address(self.frontend.cluster_ip, &svc)),
            (Scope::Local, true) => objects.push(self.at_address(self.frontend.cluster_ip, &loc)),
            (Scope::Local, false) => objects.push(self.no_endpoint(self.frontend.cluster_ip, Refusal::Drop)),
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
            objects.extend(self.frontend.external_ips.iter().map(|ip| self.at_address(*ip, &ext)));
            objects.extend(self.port.node_port.map(|port| {
                let key = vec![Value::Proto(self.port.protocol.number()), Value::Port(port)];
                self.element(NODE_PORTS, key, Some(Verdict::Goto(ext.clone())))
            }));
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
        let from_pod_here = self.facts.pod_cidrs.iter().filter(|block| block.addr().is_ipv4()).map(|block| {
            let from = Statement::Match { left: Expr::IpSaddr, op: Op::Eq, right: Operand::Prefix(*block) };
            Rule(vec![from, goto(svc)])
        });
        let mut rules: Vec<Rule> = from_pod_here.collect();
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

    fn at_address(&self, address: Ipv4Addr, chain: &str) -> Object {
        self.element(SERVICE_IPS, self.address_key(address), Some(Verdict::Goto(chain.into())))
    }

    fn no_endpoint(&self, address: Ipv4Addr, refusal: Refusal) -> Object {
        self.element(NO_ENDPOINT_IPS, self.address_key(address), Some(refusal.verdict()))
    }

    fn no_endpoint_outside(&self, refusal: Refusal) -> impl Iterator<Item = Object> {
        let node_port = self.port.node_port.map(|port| {
            let key = vec![Value::Proto(self.port.protocol.number()), Value::Port(port)];
            self.element(NO_ENDPOINT_NODE_PORTS, key, Some(refusal.verdict()))
        });
        self.frontend.external_ips.iter().map(move |ip| self.no_endpoint(*ip, refusal)).chain(node_port)
    }

    /// Pods here that may be given their own connection. A node's own address needs no help: its packets do not leave it.
    fn hairpins(&self) -> impl Iterator<Item = Object> {
        let local = self.endpoints.local.iter().map(|(address, _)| IpAddr::V4(*address));
        local
            .filter(|address| *address != self.facts.address)
            .map(|address| self.element(HAIRPIN, vec![Value::Ip(address), Value::Ip(address)], None))
    }

    fn address_key(&self, address: Ipv4Addr) -> Vec<Value> {
        vec![Value::Ip(address.into()), Value::Proto(self.port.protocol.number()), Value::Port(self.port.port)]
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
