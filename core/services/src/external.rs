//! The external load balancer, on the upstream device: an address of a `LoadBalancer` Service leads to the Service's node port
//! on healthy nodes, in turn.
//!
//! It is one-armed: it hides the client's address behind its own, so that answers come back through it. An address is an
//! address of the device itself, so a port without a healthy node is refused by the kernel at once, and `ping` answers.
//!
//! Health checks come from a balanced address of the Service itself. Nodes give them a turn of their own, so that they do not
//! disturb the order in which clients are served.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use switchyard_netstate::nft::{
    ChainType, Data, Element, Expr, Family, Hook, Rule, Statement, Table, TableRef, Type, Value, Verdict,
};
use switchyard_netstate::{Address, Fragment, IfName, Object, Place};

use crate::balance::Balance;
use crate::endpoints::Endpoints;
use crate::frontend::{Frontend, Protocol, Scope};
use crate::name;
use crate::node::{chain, hook, map, mark, marked, vmap};
use crate::stale::UdpWays;

/// The name of the table in the router's namespace.
pub const EXTERNAL_TABLE: &str = "yard-lb";

/// A node port: TCP and UDP may have the same number.
pub type NodePort = (Protocol, u16);

/// Healthy nodes' addresses, by node port.
pub type Backends = BTreeMap<NodePort, Vec<Ipv4Addr>>;

/// Which nodes can answer at a node port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Candidates {
    /// None: there are no endpoints.
    Nobody,
    /// All: each one knows all endpoints.
    EveryNode,
    /// Those with an endpoint of their own, by name (`externalTrafficPolicy: Local`).
    Only(BTreeSet<String>),
}

const EXTERNAL_IPS: &str = "external-ips";

/// The table, hooks and the empty map.
pub fn external_base() -> Fragment {
    let table = table();
    let lookup = || Rule(vec![vmap(EXTERNAL_IPS, &[Expr::IpDaddr, Expr::L4proto, Expr::Dport])]);
    let mut fragment = Fragment::new();
    fragment.want_all(
        &Place::Router,
        [
            Object::Table(Table { table: table.clone() }),
            map(&table, EXTERNAL_IPS, &[Type::Ipv4, Type::Proto, Type::Port], &[Type::Verdict]),
            hook(&table, "nat-prerouting", ChainType::Nat, Hook::Prerouting, -100, vec![lookup()]),
            // For connections that begin in the router's own namespace.
            hook(&table, "nat-output", ChainType::Nat, Hook::Output, -100, vec![lookup()]),
            hook(
                &table,
                "nat-postrouting",
                ChainType::Nat,
                Hook::Postrouting,
                100,
                vec![marked(Statement::Masquerade { fully_random: true })],
            ),
        ],
    );
    fragment
}

/// The balanced addresses of one Service within `pool`. One outside is not this device's to hold.
pub fn external_addresses(pool: &IpNet, service: &Service) -> Vec<Ipv4Addr> {
    let addresses = Frontend::of(service).map(|frontend| frontend.load_balancer_ips).unwrap_or_default();
    addresses.into_iter().filter(|ip| pool.contains(&IpAddr::V4(*ip))).collect()
}

/// These addresses, held by `dev`. A unit of its own: an address is there before a node is, as health checks come from it.
pub fn external_hold(dev: &IfName, addresses: &[Ipv4Addr]) -> Fragment {
    let mut fragment = Fragment::new();
    for ip in addresses {
        let address = IpNet::from(IpAddr::V4(*ip));
        fragment.want(&Place::Router, Object::Address(Address { dev: dev.clone(), address, noprefixroute: false }));
    }
    fragment
}

/// Which nodes can answer for one Service, by node port. `slices` are those of this Service.
pub fn external_candidates(service: &Service, slices: &[EndpointSlice]) -> BTreeMap<NodePort, Candidates> {
    let Some(frontend) = Frontend::of(service) else { return BTreeMap::new() };
    let named = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let nodes: BTreeSet<&str> = named.filter_map(|endpoint| endpoint.node_name.as_deref()).collect();
    let candidates = |port| {
        if Endpoints::of(port, slices, "").cluster.is_empty() {
            return Candidates::Nobody;
        }
        match frontend.external {
            Scope::Cluster => Candidates::EveryNode,
            Scope::Local => {
                let with_own = nodes.iter().filter(|node| !Endpoints::of(port, slices, node).local.is_empty());
                Candidates::Only(with_own.map(|node| (*node).to_owned()).collect())
            }
        }
    };
    let ports = frontend.ports.iter();
    ports.filter_map(|port| Some(((port.protocol, port.node_port?), candidates(port)))).collect()
}

/// Where the balanced addresses of one Service lead.
pub fn external(pool: &IpNet, service: &Service, backends: &Backends) -> Fragment {
    let mut fragment = Fragment::new();
    let Some(frontend) = Frontend::of(service) else { return fragment };
    let own = external_addresses(pool, service);
    let table = table();
    for port in &frontend.ports {
        let Some(node_port) = port.node_port.filter(|_| !own.is_empty()) else { continue };
        let nodes = backends.get(&(port.protocol, node_port)).into_iter().flatten();
        let targets: Vec<_> = nodes.map(|node| (*node, node_port)).collect::<BTreeSet<_>>().into_iter().collect();
        if targets.is_empty() {
            continue;
        }
        let name = name::of_port(&frontend, port);
        let balance = Balance { table: &table, port: &name, affinity_seconds: frontend.affinity_seconds };
        fragment.want_all(&Place::Router, balance.chain("node", &targets));
        let entry = format!("ext/{name}");
        let to_node = Statement::Verdict(Verdict::Goto(format!("node/{name}")));
        fragment.want(&Place::Router, chain(&table, &entry, vec![Rule(vec![mark(), to_node])]));
        for ip in &own {
            let key = vec![Value::Ip((*ip).into()), Value::Proto(port.protocol.number()), Value::Port(port.port)];
            let data = Some(Data::Verdict(Verdict::Goto(entry.clone())));
            let element = Element { table: table.clone(), set: EXTERNAL_IPS.into(), key, data };
            fragment.want(&Place::Router, Object::Element(element));
        }
    }
    fragment
}

/// Who answers UDP at the balanced addresses of one Service.
pub fn external_udp_ways(pool: &IpNet, service: &Service, backends: &Backends) -> UdpWays {
    let mut ways = UdpWays::new();
    let Some(frontend) = Frontend::of(service) else { return ways };
    for port in frontend.ports.iter().filter(|port| port.protocol == Protocol::Udp) {
        let Some(node_port) = port.node_port else { continue };
        let nodes = backends.get(&(port.protocol, node_port)).into_iter().flatten();
        let ends: BTreeSet<_> = nodes.map(|node| (IpAddr::V4(*node), node_port)).collect();
        for ip in external_addresses(pool, service) {
            ways.insert((ip.into(), port.port), ends.clone());
        }
    }
    ways
}

fn table() -> TableRef {
    TableRef::new(Family::Ip, EXTERNAL_TABLE)
}

#[cfg(test)]
mod tests;
