//! What every node carries for Services before there is one: the table, its hooks, and the maps that Services fill.
//!
//! ```text
//! prerouting, output (nat)     -> services: (address, protocol, port) -> chain; node ports if the address is the node's
//! postrouting (nat)            give what is marked, and what comes back to its own sender, the node's address
//! input, forward, output       refuse what no endpoint answers for, at once
//! ```

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use switchyard_netstate::nft::{
    Base, Chain, ChainType, CtState, Element, Expr, Family, Hook, NatTarget, Op, Operand, Policy, Reject, Rule, Set,
    Statement, Table, TableRef, Type, Value, Verdict,
};
use switchyard_netstate::{Fragment, Object, Place, Sysctl};

/// The name of the table in a node's namespace.
pub const NODE_TABLE: &str = "yard-services";

/// Bit of the packet mark: translate the source on the way out.
pub(crate) const MASQUERADE: u32 = 0x4000;

pub(crate) const SERVICES: &str = "services";
pub(crate) const SERVICE_IPS: &str = "service-ips";
pub(crate) const NODE_PORTS: &str = "node-ports";
pub(crate) const NO_ENDPOINT_IPS: &str = "no-endpoint-ips";
pub(crate) const NO_ENDPOINT_NODE_PORTS: &str = "no-endpoint-node-ports";
pub(crate) const HAIRPIN: &str = "hairpin";
pub(crate) const PODS_HERE: &str = "pods-here";
pub(crate) const REFUSE: &str = "refuse";

/// `RTN_LOCAL` (linux/rtnetlink.h): an address of this namespace.
const RTN_LOCAL: u32 = 2;
const DSTNAT: i32 = -100;
const FILTER: i32 = 0;
const SRCNAT: i32 = 100;

/// Constants of a node that Services depend on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeServiceFacts {
    /// The node's name, as EndpointSlices give it.
    pub node: String,
    /// Its address.
    pub address: IpAddr,
    /// Addresses of Services in the whole cluster.
    #[serde(rename = "serviceCIDR")]
    pub service_cidr: IpNet,
}

/// The table, hooks and empty maps. Depends on nothing but the facts.
pub fn node_base(facts: &NodeServiceFacts) -> Fragment {
    let table = table();
    let place = Place::node(&facts.node);
    let mut fragment = Fragment::new();
    // Where br_netfilter is loaded, a bridge runs IP's hooks by itself and then bridges what they translated, past routing, the
    // other hooks and the isolation of ports.
    let bridge = Sysctl { path: "net/bridge/bridge-nf-call-iptables".into(), value: "0".into() };
    fragment.want(&place, Object::Sysctl(bridge));
    fragment.want(&place, Object::Table(Table { table: table.clone() }));
    fragment.want_all(
        &place,
        [
            map(&table, SERVICE_IPS, &[Type::Ipv4, Type::Proto, Type::Port], &[Type::Verdict]),
            map(&table, NODE_PORTS, &[Type::Proto, Type::Port], &[Type::Verdict]),
            map(&table, NO_ENDPOINT_IPS, &[Type::Ipv4, Type::Proto, Type::Port], &[Type::Verdict]),
            map(&table, NO_ENDPOINT_NODE_PORTS, &[Type::Proto, Type::Port], &[Type::Verdict]),
            map(&table, HAIRPIN, &[Type::Ipv4, Type::Ipv4], &[]),
            map(&table, PODS_HERE, &[Type::Ipv4], &[]),
        ],
    );
    fragment.want_all(&place, translation(&table, facts.address));
    fragment.want_all(&place, refusal(&table, facts.service_cidr));
    fragment
}

/// What Services need to know of a pod on this node: that its address is one. The node's block does not tell, as networks give addresses
/// from elsewhere, and pods keep theirs when the network is swapped. Belongs to the pod's own unit, to come and go with it.
pub fn pod_here(node: &str, address: IpAddr) -> Fragment {
    let mut fragment = Fragment::new();
    if address.is_ipv4() {
        let key = vec![Value::Ip(address)];
        let element = Element { table: table(), set: PODS_HERE.into(), key, data: None };
        fragment.want(&Place::node(node), Object::Element(element));
    }
    fragment
}

pub(crate) fn table() -> TableRef {
    TableRef::new(Family::Ip, NODE_TABLE)
}

/// Chains that change addresses. Those of type nat see the first packet of a connection only.
fn translation(table: &TableRef, address: IpAddr) -> [Object; 4] {
    // Not `masquerade`: that forgets its connections when the interface goes, and a swap of networks takes interfaces away.
    let as_node = || Statement::Snat { target: NatTarget::To { address, port: None }, fully_random: true };
    let by_address = vmap(SERVICE_IPS, &[Expr::IpDaddr, Expr::L4proto, Expr::Dport]);
    let loopback = "127.0.0.0/8".parse().expect("a constant prefix");
    let by_node_port = [
        Statement::eq(Expr::FibDaddrType, Value::Number(RTN_LOCAL)),
        // The kernel does not route from loopback to elsewhere, so node ports do not answer there.
        Statement::Match { left: Expr::IpDaddr, op: Op::Ne, right: Operand::Prefix(loopback) },
        vmap(NODE_PORTS, &[Expr::L4proto, Expr::Dport]),
    ];
    let same_ends = Statement::Lookup { key: vec![Expr::IpSaddr, Expr::IpDaddr], set: HAIRPIN.into(), invert: false };
    [
        chain(table, SERVICES, vec![Rule(vec![by_address]), Rule(by_node_port.into())]),
        hook(table, "nat-prerouting", ChainType::Nat, Hook::Prerouting, DSTNAT, vec![jump(SERVICES)]),
        hook(table, "nat-output", ChainType::Nat, Hook::Output, DSTNAT, vec![jump(SERVICES)]),
        hook(
            table,
            "nat-postrouting",
            ChainType::Nat,
            Hook::Postrouting,
            SRCNAT,
            vec![marked(as_node()), Rule(vec![same_ends, as_node()])],
        ),
    ]
}

/// Chains that answer for Services without endpoints. A packet that was translated no longer matches here.
fn refusal(table: &TableRef, service_cidr: IpNet) -> [Object; 4] {
    let new = || Statement::Match {
        left: Expr::CtState,
        op: Op::Has,
        right: Operand::Value(Value::State(CtState { new: true, ..CtState::default() })),
    };
    let no_endpoint_ips = || {
        let key = [Expr::IpDaddr, Expr::L4proto, Expr::Dport];
        Rule(vec![new(), vmap(NO_ENDPOINT_IPS, &key)])
    };
    let no_endpoint_node_ports = Rule(vec![new(), vmap(NO_ENDPOINT_NODE_PORTS, &[Expr::L4proto, Expr::Dport])]);
    // What is still on its way to an address of a Service has found no port there, unless the node has the address itself (the cluster's
    // DNS).
    let no_such_port = || {
        let to_service = Statement::Match { left: Expr::IpDaddr, op: Op::Eq, right: Operand::Prefix(service_cidr) };
        let elsewhere =
            Statement::Match { left: Expr::FibDaddrType, op: Op::Ne, right: Operand::Value(Value::Number(RTN_LOCAL)) };
        Rule(vec![new(), to_service, elsewhere, Statement::Verdict(Verdict::Goto(REFUSE.into()))])
    };
    let reset = [Statement::eq(Expr::L4proto, Value::Proto(6)), Statement::Reject(Reject::TcpReset)];
    let reject = vec![Rule(reset.into()), Rule(vec![Statement::Reject(Reject::PortUnreachable)])];
    let filter = |name, at, rules| hook(table, name, ChainType::Filter, at, FILTER, rules);
    [
        chain(table, REFUSE, reject),
        filter("filter-input", Hook::Input, vec![no_endpoint_ips(), no_endpoint_node_ports]),
        filter("filter-forward", Hook::Forward, vec![no_endpoint_ips(), no_such_port()]),
        filter("filter-output", Hook::Output, vec![no_endpoint_ips(), no_such_port()]),
    ]
}

/// The source was marked to be hidden: take the mark off, so that a second pass (a tunnel) does not do it again.
pub(crate) fn marked(hide: Statement) -> Rule {
    Rule(vec![
        Statement::eq(Expr::Mark { mask: MASQUERADE }, Value::Number(MASQUERADE)),
        Statement::SetMark { value: 0, mask: MASQUERADE },
        hide,
    ])
}

pub(crate) fn mark() -> Statement {
    Statement::SetMark { value: MASQUERADE, mask: MASQUERADE }
}

pub(crate) fn from_this_node() -> Statement {
    Statement::eq(Expr::FibSaddrType, Value::Number(RTN_LOCAL))
}

pub(crate) fn chain(table: &TableRef, name: impl Into<String>, rules: Vec<Rule>) -> Object {
    Object::Chain(Chain { table: table.clone(), name: name.into(), base: None, rules })
}

pub(crate) fn hook(
    table: &TableRef,
    name: &str,
    kind: ChainType,
    hook: Hook,
    priority: i32,
    rules: Vec<Rule>,
) -> Object {
    let base = Base { kind, hook, priority, policy: Policy::Accept, dev: None };
    Object::Chain(Chain { table: table.clone(), name: name.into(), base: Some(base), rules })
}

pub(crate) fn map(table: &TableRef, name: &str, key: &[Type], data: &[Type]) -> Object {
    Object::Set(Set {
        table: table.clone(),
        name: name.into(),
        key: key.to_vec(),
        data: data.to_vec(),
        interval: false,
        dynamic: false,
        size: None,
    })
}

pub(crate) fn vmap(map: &str, key: &[Expr]) -> Statement {
    Statement::Vmap { key: key.to_vec(), map: map.into() }
}

fn jump(to: &str) -> Rule {
    Rule(vec![Statement::Verdict(Verdict::Jump(to.into()))])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{facts, lines};

    #[test]
    fn the_base_hangs_on_every_hook_and_names_only_what_it_holds() {
        let base = node_base(&facts());
        let text = lines(&base, &Place::node("n1")).join("\n");
        for hook in
            ["nat-prerouting", "nat-output", "nat-postrouting", "filter-input", "filter-forward", "filter-output"]
        {
            assert!(text.contains(&format!("chain {hook}:")), "{hook} in {text}");
        }
        for map in [SERVICE_IPS, NODE_PORTS, NO_ENDPOINT_IPS, NO_ENDPOINT_NODE_PORTS, HAIRPIN, PODS_HERE] {
            assert!(text.contains(&format!("set ip {NODE_TABLE} {map}")), "{map} in {text}");
        }
    }
}
