//! The external load balancer, on the upstream device: an address of a `LoadBalancer` Service leads to the Service's node port
//! on healthy nodes, in turn.
//!
//! It is one-armed: it hides the client's address behind its own, so that answers come back through it. An address is an
//! address of the device itself, so a port without a healthy node is refused by the kernel at once, and `ping` answers.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;
use switchyard_netstate::nft::{
    ChainType, Data, Element, Expr, Family, Hook, Rule, Statement, Table, TableRef, Type, Value, Verdict,
};
use switchyard_netstate::{Address, Fragment, IfName, Object, Place};

use crate::balance::Balance;
use crate::frontend::Frontend;
use crate::name;
use crate::node::{chain, hook, map, mark, masquerade_marked, vmap};

/// The name of the table in the router's namespace.
pub const EXTERNAL_TABLE: &str = "yard-lb";

/// Healthy nodes' addresses, by node port.
pub type Backends = BTreeMap<u16, Vec<Ipv4Addr>>;

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
            hook(&table, "nat-postrouting", ChainType::Nat, Hook::Postrouting, 100, vec![masquerade_marked()]),
        ],
    );
    fragment
}

/// The addresses of one Service within `pool`, on `dev`, and where they lead.
pub fn external(dev: &IfName, pool: &IpNet, service: &Service, backends: &Backends) -> Fragment {
    let mut fragment = Fragment::new();
    let Some(frontend) = Frontend::of(service) else { return fragment };
    let own: Vec<Ipv4Addr> =
        frontend.load_balancer_ips.iter().copied().filter(|ip| pool.contains(&IpAddr::V4(*ip))).collect();
    let table = table();
    for ip in &own {
        let address = IpNet::from(IpAddr::V4(*ip));
        fragment.want(&Place::Router, Object::Address(Address { dev: dev.clone(), address, noprefixroute: false }));
    }
    for port in &frontend.ports {
        let nodes = port.node_port.and_then(|node_port| Some((node_port, backends.get(&node_port)?)));
        let Some((node_port, nodes)) = nodes.filter(|(_, nodes)| !nodes.is_empty() && !own.is_empty()) else {
            continue;
        };
        let mut targets: Vec<_> = nodes.iter().map(|node| (*node, node_port)).collect();
        targets.sort_unstable();
        targets.dedup();
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

fn table() -> TableRef {
    TableRef::new(Family::Ip, EXTERNAL_TABLE)
}

#[cfg(test)]
mod tests;
