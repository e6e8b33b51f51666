//! A chain that gives each new connection to one of several targets.
//!
//! Without affinity it is one rule: `dnat to numgen inc mod N map { 0: .., 1: .. }`, strictly in turn. With affinity there is a
//! chain and a dynamic set for each target: a client found in a target's set goes there again and its time starts anew; one
//! found nowhere gets the next target. Sets belong to targets, so a target that goes takes its clients with it, and one that
//! comes disturbs nobody.

use std::net::{IpAddr, Ipv4Addr};

use switchyard_netstate::Object;
use switchyard_netstate::nft::{
    Chain, Data, Element, Expr, NatTarget, Rule, Set, Statement, TableRef, Type, Value, Verdict,
};

use crate::endpoints::Target;

/// Clients that one target remembers at most.
const CLIENTS_MAX: u32 = 65_536;

/// Makes the chains of one service port.
pub(crate) struct Balance<'a> {
    /// Where they live.
    pub(crate) table: &'a TableRef,
    /// The port's name, from [`crate::name::of_port`].
    pub(crate) port: &'a str,
    /// Seconds of affinity.
    pub(crate) affinity_seconds: Option<u32>,
}

impl Balance<'_> {
    /// The chain `PREFIX/PORT` and what it needs. Two chains of one port share what belongs to their targets.
    pub(crate) fn chain(&self, prefix: &str, targets: &[Target]) -> Vec<Object> {
        let name = format!("{prefix}/{}", self.port);
        match self.affinity_seconds {
            None => vec![self.object(name, vec![dnat(targets)])],
            Some(seconds) => self.sticky(name, targets, seconds),
        }
    }

    fn sticky(&self, name: String, targets: &[Target], seconds: u32) -> Vec<Object> {
        let pick = format!("pick/{name}");
        let mut objects = vec![Object::Set(Set {
            table: self.table.clone(),
            name: pick.clone(),
            key: vec![Type::Mark],
            data: vec![Type::Verdict],
            interval: false,
            dynamic: false,
            size: None,
        })];
        let mut rules = Vec::new();
        for (index, target) in (0u32..).zip(targets) {
            let end = format!("{}/{}-{}", self.port, target.0, target.1);
            let (chain, clients) = (format!("ep/{end}"), format!("clients/{end}"));
            rules.push(Rule(vec![
                Statement::Lookup { key: vec![Expr::IpSaddr], set: clients.clone(), invert: false },
                Statement::Verdict(Verdict::Goto(chain.clone())),
            ]));
            objects.push(Object::Element(Element {
                table: self.table.clone(),
                set: pick.clone(),
                key: vec![Value::Number(index)],
                data: Some(Data::Verdict(Verdict::Goto(chain.clone()))),
            }));
            objects.push(Object::Set(Set {
                table: self.table.clone(),
                name: clients.clone(),
                key: vec![Type::Ipv4],
                data: Vec::new(),
                interval: false,
                dynamic: true,
                size: Some(CLIENTS_MAX),
            }));
            let remember = Statement::Update {
                set: clients,
                key: vec![Expr::IpSaddr],
                timeout_seconds: Some(seconds),
                data: None,
            };
            // In two rules: a full set must not keep a connection from its target.
            objects.push(self.object(chain, vec![Rule(vec![remember]), dnat(&[*target])]));
        }
        let modulus = u32::try_from(targets.len()).expect("targets are counted in u32 above");
        rules.push(Rule(vec![Statement::Vmap { key: vec![Expr::NumgenInc { modulus }], map: pick }]));
        objects.push(self.object(name, rules));
        objects
    }

    fn object(&self, name: String, rules: Vec<Rule>) -> Object {
        Object::Chain(Chain { table: self.table.clone(), name, base: None, rules })
    }
}

fn dnat(targets: &[Target]) -> Rule {
    let ip = |address: Ipv4Addr| IpAddr::V4(address);
    Rule(vec![Statement::Dnat(match targets {
        [(address, port)] => NatTarget::To { address: ip(*address), port: Some(*port) },
        several => NatTarget::Choose {
            by: Expr::NumgenInc { modulus: u32::try_from(several.len()).unwrap_or(u32::MAX) },
            targets: several.iter().map(|(address, port)| (ip(*address), *port)).collect(),
        },
    })])
}
