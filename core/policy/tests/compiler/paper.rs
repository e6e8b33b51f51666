//! As much of nf_tables as the layer uses, on paper.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use switchyard_netstate::nft::{Chain, Data, Expr, Number, Op, Operand, Statement, Value, Verdict};
use switchyard_netstate::{Object, Objects};

use super::common::Packet;

/// Chains, sets and maps.
#[derive(Debug, Default)]
pub(crate) struct Kernel {
    chains: BTreeMap<String, Chain>,
    sets: BTreeMap<String, Elements>,
    /// Of the packet that is under way.
    priority: Cell<u32>,
}

#[derive(Debug, Default)]
struct Elements {
    exact: BTreeMap<Vec<Value>, Option<Data>>,
    ranges: Vec<(Vec<Value>, Option<Data>)>,
}

enum End {
    Accept,
    Drop,
    /// Back to where it was jumped from.
    Return,
}

// === impl Kernel ===

impl Kernel {
    pub(crate) fn new(objects: Objects) -> Self {
        let mut kernel = Self::default();
        for (_, object) in objects.iter() {
            match object {
                Object::Chain(chain) => drop(kernel.chains.insert(chain.name.clone(), chain.clone())),
                Object::Set(set) => drop(kernel.sets.entry(set.name.clone()).or_default()),
                _ => {}
            }
        }
        for (_, object) in objects.iter() {
            if let Object::Element(element) = object {
                let set = kernel.sets.get_mut(&element.set).unwrap_or_else(|| panic!("no set {}", element.set));
                let range = |value: &Value| matches!(value, Value::Net(_) | Value::Ips(..) | Value::Ports(..));
                if element.key.iter().any(range) {
                    set.ranges.push((element.key.clone(), element.data.clone()));
                } else {
                    set.exact.insert(element.key.clone(), element.data.clone());
                }
            }
        }
        kernel
    }

    /// Whether a forwarded packet, the first of its connection, passes.
    pub(crate) fn passes(&self, packet: &Packet) -> bool {
        self.priority.set(6);
        let end = self.chain("forward", packet);
        !matches!(end, End::Drop)
    }

    fn chain(&self, name: &str, packet: &Packet) -> End {
        let chain = self.chains.get(name).unwrap_or_else(|| panic!("no chain {name}"));
        'rules: for rule in &chain.rules {
            for statement in &rule.0 {
                let verdict = match statement {
                    Statement::Match { left: Expr::CtState, .. } => continue 'rules,
                    Statement::Match { left, op, right: Operand::Value(right) } => match self.load(left, packet) {
                        Some(left) if (left == *right) == (*op == Op::Eq) => continue,
                        _ => continue 'rules,
                    },
                    Statement::Lookup { key, set, invert: false } => match self.find(key, set, packet) {
                        Some(_) => continue,
                        None => continue 'rules,
                    },
                    Statement::Vmap { key, map } => match self.find(key, map, packet) {
                        Some(Some(Data::Verdict(verdict))) => verdict,
                        Some(other) => panic!("{other:?} is no verdict"),
                        None => continue 'rules,
                    },
                    Statement::Counter => continue,
                    Statement::SetPriority(Number::Value(number)) => {
                        self.priority.set(*number);
                        continue;
                    }
                    Statement::SetPriority(Number::Map { key, map }) => match self.find(key, map, packet) {
                        Some(Some(Data::Values(values))) => {
                            let [Value::Number(number)] = values[..] else { panic!("{values:?} is no number") };
                            self.priority.set(number);
                            continue;
                        }
                        Some(other) => panic!("{other:?} is no number"),
                        None => continue 'rules,
                    },
                    Statement::Reject(_) => return End::Drop,
                    Statement::Verdict(verdict) => verdict,
                    other => panic!("{other:?} is not known here"),
                };
                match verdict {
                    Verdict::Accept => return End::Accept,
                    Verdict::Drop => return End::Drop,
                    Verdict::Return => return End::Return,
                    Verdict::Goto(next) => return self.chain(next, packet),
                    Verdict::Continue => {}
                    Verdict::Jump(next) => match self.chain(next, packet) {
                        End::Return => {}
                        end => return end,
                    },
                }
            }
        }
        End::Return
    }

    fn find(&self, key: &[Expr], set: &str, packet: &Packet) -> Option<&Option<Data>> {
        let values: Vec<Value> = key.iter().map(|part| self.load(part, packet)).collect::<Option<_>>()?;
        let set = self.sets.get(set).unwrap_or_else(|| panic!("no set {set}"));
        let fits = |key: &[Value]| key.iter().zip(&values).all(|(key, value)| within(key, value));
        let mut ranges = set.ranges.iter().filter(|(key, _)| fits(key)).map(|(_, data)| data);
        let found = set.exact.get(&values).or_else(|| ranges.next());
        assert!(ranges.next().is_none(), "{values:?} is in {set:?} twice");
        found
    }

    fn load(&self, expr: &Expr, packet: &Packet) -> Option<Value> {
        let address = |ip: Ipv4Addr| Value::Ip(ip.into());
        Some(match expr {
            Expr::IpSaddr => address(packet.from),
            Expr::IpDaddr => address(packet.to),
            Expr::L4proto => Value::Proto(match packet.protocol {
                "TCP" => 6,
                "UDP" => 17,
                "SCTP" => 132,
                _ => 1,
            }),
            Expr::Dport => Value::Port(packet.port),
            Expr::Priority => Value::Number(self.priority.get()),
            other => panic!("{other:?} is not known here"),
        })
    }
}

fn within(key: &Value, value: &Value) -> bool {
    match (key, value) {
        (Value::Net(net), Value::Ip(ip)) => net.contains(ip),
        (Value::Ips(from, to), Value::Ip(ip)) => number(*from) <= number(*ip) && number(*ip) <= number(*to),
        (Value::Ports(from, to), Value::Port(port)) => (from..=to).contains(&port),
        _ => key == value,
    }
}

fn number(ip: IpAddr) -> u32 {
    match ip {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(_) => panic!("no IPv6 here"),
    }
}
