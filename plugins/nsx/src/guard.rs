//! Guarded ports: a pod sends with its own hardware address and its own IP address, in IP packets and in ARP, or not at all.
//!
//! One table of the bridge family for all bridges of a node; a frame costs two look-ups, whatever the number of ports. What is
//! dropped is counted.

use switchyard_plugin::PodFacts;
use switchyard_plugin::bridged::port;
use switchyard_plugin::netstate::nft::{
    Base, Chain, ChainType, Element, Expr, Family, Hook, Policy, Rule, Set, Statement, Table, TableRef, Type, Value,
    Verdict,
};
use switchyard_plugin::netstate::{Mac, Object};

const TABLE: &str = "yard-guard";
/// Names of ports that are guarded.
const PORTS: &str = "ports";
/// What may come from each.
const BINDINGS: &str = "bindings";
/// Before everything else on a bridge.
const PRIORITY: i32 = -300;
/// Values of `ether type`.
const IPV4: u32 = 0x0800;
const ARP: u32 = 0x0806;

/// The table, empty.
pub(crate) fn table() -> Vec<Object> {
    let set = |name: &str, key: &[Type]| {
        Object::Set(Set {
            table: reference(),
            name: name.into(),
            key: key.to_vec(),
            data: Vec::new(),
            interval: false,
            dynamic: false,
            size: None,
        })
    };
    let bound = |kind: u32, address: Expr| {
        Rule(vec![
            Statement::eq(Expr::EtherType, Value::Number(kind)),
            Statement::Lookup {
                key: vec![Expr::Iifname, Expr::EtherSaddr, address],
                set: BINDINGS.into(),
                invert: false,
            },
            Statement::Verdict(Verdict::Accept),
        ])
    };
    let rules = vec![
        Rule(vec![
            Statement::Lookup { key: vec![Expr::Iifname], set: PORTS.into(), invert: true },
            Statement::Verdict(Verdict::Accept),
        ]),
        bound(IPV4, Expr::IpSaddr),
        bound(ARP, Expr::ArpSaddrIp),
        Rule(vec![Statement::Counter, Statement::Verdict(Verdict::Drop)]),
    ];
    let base =
        Base { kind: ChainType::Filter, hook: Hook::Prerouting, priority: PRIORITY, policy: Policy::Accept, dev: None };
    vec![
        Object::Table(Table { table: reference() }),
        set(PORTS, &[Type::Ifname]),
        set(BINDINGS, &[Type::Ifname, Type::Mac, Type::Ipv4]),
        Object::Chain(Chain { table: reference(), name: "prerouting".into(), base: Some(base), rules }),
    ]
}

/// What may come from a pod's port.
pub(crate) fn port_of(pod: &PodFacts) -> Vec<Object> {
    let element =
        |set: &str, key: Vec<Value>| Object::Element(Element { table: reference(), set: set.into(), key, data: None });
    let port = || Value::Ifname(port(&pod.uid));
    let mut objects = vec![element(PORTS, vec![port()])];
    if pod.ip.is_ipv4() {
        objects.push(element(BINDINGS, vec![port(), Value::Mac(Mac::of_ip(pod.ip)), Value::Ip(pod.ip)]));
    }
    objects
}

fn reference() -> TableRef {
    TableRef::new(Family::Bridge, TABLE)
}
