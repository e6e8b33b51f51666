//! The way outside: a tier-0 gateway, in a namespace of its own on an edge node, active, and another on a second node, standing by.
//!
//! What a pod sends to anywhere outside goes, on every node, to the active edge node and there into the gateway; that gives it the
//! address of its namespace and sends it on. The upstream device has a route for those addresses to the active edge node. Ports
//! are kept where they are free, so a connection that the standby takes over goes on under the same address and port.
//!
//! Routes by both edge nodes are there at any time, the active one's first: a change is one more route and then one less, and no
//! two nodes' routes are ever the same object. What answers a connection that came in by a node (a node port) goes back that way,
//! and packets for the network under the nodes take the node's address and no detour: the API server is there.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use switchyard_plugin::bridged::{address, any_way_back, default, neighbour, on_link, sysctl};
use switchyard_plugin::netstate::nft::{
    Base, Chain, ChainType, Data, Element, Expr, Family, Hook, NatTarget, Op, Operand, Policy, Rule as NftRule, Set,
    Statement, Table, TableRef, Type, Value,
};
use switchyard_plugin::netstate::{
    Fragment, IfName, Link, LinkKind, Mac, NextHop, Object, PeerEnd, Place, Route, Rule,
};
use switchyard_plugin::{EdgeRole, Facts, NodeFacts, SegmentFacts};

use crate::tunnel::Tunnel;

/// The gateways to the outside.
#[derive(Clone, Debug)]
pub(crate) struct Tier0 {
    /// Addresses that the outside sees.
    pub(crate) pool: Ipv4Net,
    /// Addresses of pods.
    pub(crate) pods: Vec<IpNet>,
}

/// Both ends of the link between a node and its gateway. Known to these two only.
const NODE_END: IpAddr = IpAddr::V4(Ipv4Addr::new(100, 64, 0, 0));
const GATEWAY_END: IpAddr = IpAddr::V4(Ipv4Addr::new(100, 64, 0, 1));
const LINK_LENGTH: u8 = 31;
/// The gateway's name among its node's places, and that of the link to it.
const NAME: &str = "t0";
/// The routing table of packets for the outside.
const OUT: u32 = 4095;
const MAIN: u32 = 254;
/// Metric of the route that says that there is no gateway.
const NO_GATEWAY: u32 = u32::MAX;
/// Mark of answers within a connection that a node has translated.
const TRANSLATED: u32 = 0x0002_0000;
/// IPS_DST_NAT of `ct status` (nf_conntrack_common.h).
const DST_NAT: u32 = 0x20;
/// IP_CT_DIR_REPLY of `ct direction` (nf_conntrack_tuple_common.h).
const REPLY: u32 = 1;
/// After connection tracking, before the translation of Services.
const MANGLE: i32 = -150;
/// After the source translation of Services.
const SRCNAT: i32 = 105;
const NODE_TABLE: &str = "yard-tier0";
const SNAT: &str = "snat";

// === impl Tier0 ===

impl Tier0 {
    /// What sends pods' packets for the outside another way than the node's own; and the gateway, on a node that has one.
    pub(crate) fn node(&self, facts: &Facts, node: &NodeFacts, mtu: u32) -> Fragment {
        let mut fragment = Fragment::new();
        let place = &Place::node(&node.name);
        let rule = |priority, from: Option<IpNet>, to: Option<IpNet>, mark, table| {
            Object::Rule(Rule { priority, from, to, iif: None, mark, table })
        };
        fragment.want(place, rule(1000, None, None, Some((TRANSLATED, TRANSLATED)), MAIN));
        for inside in self.pods.iter().chain([&facts.underlay_cidr.trunc()]) {
            fragment.want(place, rule(1001, None, Some(*inside), None, MAIN));
        }
        for pods in &self.pods {
            fragment.want(place, rule(1002, Some(*pods), None, None, OUT));
        }
        let nowhere = Route::new(default(NODE_END), NextHop { blackhole: true, ..NextHop::default() });
        fragment.want(place, Object::Route(Route { table: OUT, metric: NO_GATEWAY, ..nowhere }));
        fragment.want_all(place, self.translation(facts));
        if let Some(role) = node.edge {
            fragment.merge(self.gateway(node, role, mtu));
        }
        fragment
    }

    /// The way to the gateway on `peer`, if it has one, with the MTU of the way there.
    pub(crate) fn peer(&self, peer: &NodeFacts, transit: &Tunnel, mtu: Option<u32>) -> Option<Object> {
        let role = peer.edge?;
        let route = Route { mtu, ..Route::new(default(NODE_END), transit.hop(peer)) };
        Some(Object::Route(Route { table: OUT, metric: metric(peer, role), ..route }))
    }

    /// The address of a segment outside, in the gateway of an edge node.
    pub(crate) fn segment(&self, node: &NodeFacts, segment: &SegmentFacts) -> Fragment {
        let mut fragment = Fragment::new();
        let (Some(outside), Some(_)) = (segment.outside, node.edge) else { return fragment };
        for subnet in &segment.subnets {
            let element = Element {
                table: TableRef::new(Family::Ip, NODE_TABLE),
                set: SNAT.into(),
                key: vec![Value::Net(subnet.trunc())],
                data: Some(Data::Values(vec![Value::Ip(outside)])),
            };
            fragment.want(&self::place(node), Object::Element(element));
        }
        fragment
    }

    /// The upstream device's route to an edge node.
    pub(crate) fn underlay(&self, facts: &Facts, node: &NodeFacts) -> Fragment {
        let mut fragment = Fragment::new();
        if let Some(role) = node.edge {
            let route = Route::new(self.pool.into(), NextHop::gateway(node.address));
            let (metric, mtu) = (metric(node, role), node.narrower(facts));
            fragment.want(&Place::Router, Object::Route(Route { metric, mtu, ..route }));
        }
        fragment
    }

    /// On every node: answers within connections that it has translated are known, and pods' packets for the underlay take its address.
    /// What a pod itself sends to a Service goes on as its first packet went: to a gateway, if an endpoint outside was chosen.
    fn translation(&self, facts: &Facts) -> Vec<Object> {
        let table = TableRef::new(Family::Ip, NODE_TABLE);
        let translated = NftRule(vec![
            Statement::Match { left: Expr::CtStatus, op: Op::Has, right: Operand::Value(Value::Number(DST_NAT)) },
            Statement::eq(Expr::CtDirection, Value::Number(REPLY)),
            Statement::SetMark { value: TRANSLATED, mask: TRANSLATED },
        ]);
        let to_underlay = |pods: &IpNet| {
            NftRule(vec![
                prefix(Expr::IpSaddr, *pods),
                prefix(Expr::IpDaddr, facts.underlay_cidr),
                Statement::Masquerade { fully_random: true },
            ])
        };
        let to_underlay = self.pods.iter().map(to_underlay).collect();
        vec![
            Object::Table(Table { table: table.clone() }),
            chain(&table, "prerouting", ChainType::Filter, Hook::Prerouting, MANGLE, vec![translated]),
            chain(&table, "postrouting", ChainType::Nat, Hook::Postrouting, SRCNAT, to_underlay),
        ]
    }

    /// The gateway's namespace and the link to it.
    fn gateway(&self, node: &NodeFacts, role: EdgeRole, mtu: u32) -> Fragment {
        let mut fragment = Fragment::new();
        let (here, there) = (&Place::node(&node.name), &place(node));
        let (near, far) = (&name(NAME), &name("eth0"));
        let end = |at: &Place, dev: &IfName| LinkKind::Veth { peer: PeerEnd { place: at.clone(), name: dev.clone() } };
        let link = |dev: &IfName, ip, kind| {
            Object::Link(Link { mtu: Some(mtu), mac: Some(Mac::of_ip(ip)), ..Link::new(dev.clone(), kind) })
        };
        let via = |gateway, dev: &IfName| NextHop { dev: Some(dev.clone()), ..NextHop::gateway(gateway) };

        fragment.want(here, link(near, NODE_END, end(there, far)));
        fragment.want(here, address(near, NODE_END, LINK_LENGTH));
        fragment.want(here, neighbour(near, GATEWAY_END, Mac::of_ip(GATEWAY_END)));
        fragment.want(here, on_link(near, GATEWAY_END));
        fragment.want_all(here, any_way_back(near));
        fragment.want(here, Object::Route(Route::new(self.pool.into(), via(GATEWAY_END, near))));
        let out = Route::new(default(NODE_END), via(GATEWAY_END, near));
        fragment.want(here, Object::Route(Route { table: OUT, metric: metric(node, role), ..out }));

        fragment.want(there, Object::Link(Link::new(name("lo"), LinkKind::Existing)));
        fragment.want(there, link(far, GATEWAY_END, end(here, near)));
        fragment.want(there, address(far, GATEWAY_END, LINK_LENGTH));
        fragment.want(there, neighbour(far, NODE_END, Mac::of_ip(NODE_END)));
        fragment.want(there, on_link(far, NODE_END));
        fragment.want_all(there, any_way_back(far));
        fragment.want(there, sysctl("net/ipv4/ip_forward", "1"));
        // Packets come and go by the same link.
        fragment.want(there, sysctl("net/ipv4/conf/all/send_redirects", "0"));
        fragment.want(there, Object::Route(Route::new(default(NODE_END), via(NODE_END, far))));
        // What answers nothing that was asked ends here, instead of going round.
        let nobody = NextHop { blackhole: true, ..NextHop::default() };
        fragment.want(there, Object::Route(Route::new(self.pool.into(), nobody)));
        fragment.want_all(there, self.addresses());
        fragment
    }

    /// In the gateway: the map from subnets to addresses outside. Pods without a segment share the pool's first address.
    fn addresses(&self) -> Vec<Object> {
        let table = TableRef::new(Family::Ip, NODE_TABLE);
        let first = self.pool.hosts().next().unwrap_or(self.pool.addr());
        let snat = |target| Statement::Snat { target, fully_random: false };
        let mut rules = vec![NftRule(vec![snat(NatTarget::Map { key: vec![Expr::IpSaddr], map: SNAT.into() })])];
        rules.extend(self.pods.iter().map(|pods| {
            let to = NatTarget::To { address: first.into(), port: None };
            NftRule(vec![prefix(Expr::IpSaddr, *pods), snat(to)])
        }));
        vec![
            Object::Table(Table { table: table.clone() }),
            Object::Set(Set {
                table: table.clone(),
                name: SNAT.into(),
                key: vec![Type::Ipv4],
                data: vec![Type::Ipv4],
                interval: true,
                dynamic: false,
                size: None,
            }),
            chain(&table, "postrouting", ChainType::Nat, Hook::Postrouting, SRCNAT, rules),
        ]
    }
}

/// Where the gateway of a node is.
fn place(node: &NodeFacts) -> Place {
    Place::Extra { node: node.name.clone(), name: NAME.into() }
}

/// Routes to an active gateway go before those to one that stands by; and no two nodes' are the same.
fn metric(node: &NodeFacts, role: EdgeRole) -> u32 {
    let order = match role {
        EdgeRole::Active => 1,
        EdgeRole::Standby => 2,
    };
    let low = match node.address {
        IpAddr::V4(ip) => u32::from(ip),
        IpAddr::V6(ip) => u128::from(ip) as u32,
    };
    (order << 24) | (low & 0x00ff_ffff)
}

fn chain(table: &TableRef, name: &str, kind: ChainType, hook: Hook, priority: i32, rules: Vec<NftRule>) -> Object {
    let base = Base { kind, hook, priority, policy: Policy::Accept, dev: None };
    Object::Chain(Chain { table: table.clone(), name: name.into(), base: Some(base), rules })
}

fn prefix(left: Expr, net: IpNet) -> Statement {
    Statement::Match { left, op: Op::Eq, right: Operand::Prefix(net.trunc()) }
}

fn name(constant: &str) -> IfName {
    IfName::new(constant).expect("a valid constant name")
}
