//! Rules: statements into expressions. Every expression reads and writes 32-bit registers; a concatenation is registers in a row.

use std::net::IpAddr;

use ipnet::IpNet;
use switchyard_netstate::nft::{
    Data, Element, Expr, Family, MarkCopy, NatTarget, Number, Op, Operand, Reject, Rule, Set, Statement, TableRef,
    Type, Value,
};

use super::ops::*;
use super::set::{self, Encoded};
use crate::netlink::Message;
use crate::sys;

/// Registers that there are; a key must fit.
const REGISTERS: usize = 16;

/// Turns rules of one table into messages.
pub(crate) struct Writer<'a> {
    table: &'a TableRef,
    /// The named sets of the table.
    known: &'a dyn Fn(&TableRef, &str) -> Option<Set>,
    /// Messages that make the anonymous sets of the rule at hand; they come before it.
    sets: Vec<Message>,
    /// The next anonymous set's number in this transaction.
    next_set: &'a mut u32,
}

/// What an expression leaves in its register.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Ipv4,
    Ipv6,
    Port,
    Byte,
    /// A number in host order, four bytes.
    Host,
    /// A number in network order, two bytes.
    Net16,
    Ifname,
    Mac,
}

// === impl Writer ===

impl<'a> Writer<'a> {
    pub(crate) fn new(
        table: &'a TableRef,
        known: &'a dyn Fn(&TableRef, &str) -> Option<Set>,
        next_set: &'a mut u32,
    ) -> Self {
        Self { table, known, sets: Vec::new(), next_set }
    }

    /// Writes the expressions of a rule into `message` (an NFT_MSG_NEWRULE) and gives the messages that have to precede it.
    pub(crate) fn rule(&mut self, message: &mut Message, rule: &Rule) -> Result<Vec<Message>, String> {
        let mut outcome = Ok(());
        message.nest(sys::NFTA_RULE_EXPRESSIONS, |list| {
            for statement in &rule.0 {
                if outcome.is_ok() {
                    outcome = self.statement(list, statement);
                }
            }
        });
        outcome?;
        Ok(std::mem::take(&mut self.sets))
    }

    fn statement(&mut self, list: &mut Message, statement: &Statement) -> Result<(), String> {
        match statement {
            Statement::Match { left, op, right } => self.compare(list, left, *op, right)?,
            Statement::Lookup { key, set, invert } => {
                self.load_all(list, key)?;
                lookup(list, 0, set, None, None, *invert);
            }
            Statement::Vmap { key, map } => {
                self.load_all(list, key)?;
                lookup(list, 0, map, None, Some(sys::NFT_REG_VERDICT), false);
            }
            Statement::Counter => expression(list, "counter", |_| {}),
            Statement::Limit { rate, burst, over } => expression(list, "limit", |data| {
                data.be64(sys::NFTA_LIMIT_RATE, *rate)
                    .be64(sys::NFTA_LIMIT_UNIT, 1)
                    .be32(sys::NFTA_LIMIT_BURST, *burst)
                    .be32(sys::NFTA_LIMIT_TYPE, sys::NFT_LIMIT_PKTS)
                    .be32(sys::NFTA_LIMIT_FLAGS, if *over { sys::NFT_LIMIT_F_INV } else { 0 });
            }),
            Statement::Verdict(verdict) => expression(list, "immediate", |data| {
                data.be32(sys::NFTA_IMMEDIATE_DREG, sys::NFT_REG_VERDICT).nest(sys::NFTA_IMMEDIATE_DATA, |value| {
                    set::verdict(value, set::verdict_code(verdict), verdict.target());
                });
            }),
            Statement::SetMark { value, mask } => {
                meta(list, sys::NFT_META_MARK, 0);
                bitwise(list, 0, &(!(mask | value)).to_ne_bytes(), &value.to_ne_bytes());
                set_meta(list, sys::NFT_META_MARK, 0);
            }
            Statement::SetPriority(number) => {
                match number {
                    Number::Value(value) => immediate(list, 0, &value.to_ne_bytes()),
                    Number::Map { key, map } => {
                        self.load_all(list, key)?;
                        if (self.known)(self.table, map).map(|map| map.data) != Some(vec![Type::Mark]) {
                            return Err(format!("map {map} gives no number"));
                        }
                        lookup(list, 0, map, None, Some(register(0)), false);
                    }
                }
                set_meta(list, sys::NFT_META_PRIORITY, 0);
            }
            Statement::CtMark(MarkCopy::Save) => {
                meta(list, sys::NFT_META_MARK, 0);
                expression(list, "ct", |data| {
                    data.be32(sys::NFTA_CT_KEY, sys::NFT_CT_MARK).be32(sys::NFTA_CT_SREG, register(0));
                });
            }
            Statement::CtMark(MarkCopy::Restore) => {
                ct(list, sys::NFT_CT_MARK, None, 0);
                set_meta(list, sys::NFT_META_MARK, 0);
            }
            Statement::Dnat(target) => self.nat(list, sys::NFT_NAT_DNAT, target, false)?,
            Statement::Snat { target, fully_random } => self.nat(list, sys::NFT_NAT_SNAT, target, *fully_random)?,
            Statement::Masquerade { fully_random } => expression(list, "masq", |data| {
                if *fully_random {
                    data.be32(sys::NFTA_MASQ_FLAGS, sys::NF_NAT_RANGE_PROTO_RANDOM_FULLY);
                }
            }),
            Statement::Reject(reject) => self.reject(list, *reject),
            Statement::Update { set, key, timeout_seconds, data } => {
                let used = self.load_all(list, key)?;
                let mut next = used;
                for value in data.iter().flatten() {
                    let bytes = plain_bytes(value)?;
                    immediate(list, next, &bytes);
                    next += slots(bytes.len());
                    fits(next)?;
                }
                expression(list, "dynset", |dynset| {
                    dynset
                        .text(sys::NFTA_DYNSET_SET_NAME, set)
                        .be32(sys::NFTA_DYNSET_OP, sys::NFT_DYNSET_OP_UPDATE)
                        .be32(sys::NFTA_DYNSET_SREG_KEY, register(0));
                    if data.is_some() {
                        dynset.be32(sys::NFTA_DYNSET_SREG_DATA, register(used));
                    }
                    if let Some(seconds) = timeout_seconds {
                        dynset.be64(sys::NFTA_DYNSET_TIMEOUT, u64::from(*seconds) * 1000);
                    }
                });
            }
            Statement::Notrack => expression(list, "notrack", |_| {}),
        }
        Ok(())
    }

    fn compare(&mut self, list: &mut Message, left: &Expr, op: Op, right: &Operand) -> Result<(), String> {
        let shape = self.load(list, left, 0)?;
        match right {
            Operand::Value(value) => {
                let bytes = shape.bytes(value)?;
                match op {
                    Op::Has => {
                        bitwise(list, 0, &bytes, &vec![0; bytes.len()]);
                        compare(list, sys::NFT_CMP_NEQ, &vec![0; bytes.len()]);
                    }
                    Op::Eq => compare(list, sys::NFT_CMP_EQ, &bytes),
                    Op::Ne => compare(list, sys::NFT_CMP_NEQ, &bytes),
                    ordered => {
                        let bytes = shape.in_network_order(list, bytes);
                        let op = match ordered {
                            Op::Lt => sys::NFT_CMP_LT,
                            Op::Le => sys::NFT_CMP_LTE,
                            Op::Gt => sys::NFT_CMP_GT,
                            _ => sys::NFT_CMP_GTE,
                        };
                        compare(list, op, &bytes);
                    }
                }
            }
            Operand::Prefix(net) => {
                let (mask, network) = match (net, shape) {
                    (IpNet::V4(net), Shape::Ipv4) => (net.netmask().octets().to_vec(), net.network().octets().to_vec()),
                    (IpNet::V6(net), Shape::Ipv6) => (net.netmask().octets().to_vec(), net.network().octets().to_vec()),
                    _ => return Err(format!("{net} cannot be compared with {left:?}")),
                };
                bitwise(list, 0, &mask, &vec![0; mask.len()]);
                compare(list, equality(op, right)?, &network);
            }
            Operand::Range(from, to) => {
                let (from, to) = (shape.bytes(from)?, shape.bytes(to)?);
                let from = shape.in_network_order(list, from);
                let to = shape.swapped(to);
                let op = if equality(op, right)? == sys::NFT_CMP_EQ { sys::NFT_RANGE_EQ } else { sys::NFT_RANGE_NEQ };
                expression(list, "range", |data| {
                    data.be32(sys::NFTA_RANGE_SREG, register(0)).be32(sys::NFTA_RANGE_OP, op);
                    set::value(data, sys::NFTA_RANGE_FROM_DATA, &from);
                    set::value(data, sys::NFTA_RANGE_TO_DATA, &to);
                });
            }
            Operand::Any(values) => {
                let invert = equality(op, right)? != sys::NFT_CMP_EQ;
                let Some(kind) = shape.set_type() else {
                    return Err(format!("{left:?} cannot be compared with several values"));
                };
                let anonymous = Set {
                    table: self.table.clone(),
                    name: "__set%d".into(),
                    key: vec![kind],
                    data: vec![],
                    interval: values
                        .iter()
                        .any(|value| matches!(value, Value::Net(_) | Value::Ips(..) | Value::Ports(..))),
                    dynamic: false,
                    size: None,
                };
                let elements = values.iter().map(|value| self.element(&anonymous, value.clone(), None));
                let elements = elements.collect::<Result<Vec<_>, _>>()?;
                let id = self.anonymous(&anonymous, &elements);
                lookup(list, 0, &anonymous.name, Some(id), None, invert);
            }
        }
        Ok(())
    }

    fn nat(&mut self, list: &mut Message, kind: u32, target: &NatTarget, fully_random: bool) -> Result<(), String> {
        let (is_v4, with_port) = match target {
            NatTarget::To { address, port } => {
                immediate(list, 0, &plain_bytes(&Value::Ip(*address))?);
                if let Some(port) = port {
                    immediate(list, slots(if address.is_ipv4() { 4 } else { 16 }), &port.to_be_bytes());
                }
                (address.is_ipv4(), port.is_some())
            }
            NatTarget::Choose { by, targets } => {
                let is_v4 = targets.first().is_some_and(|(ip, _)| ip.is_ipv4());
                if by.modulus().map(|modulus| modulus as usize) != Some(targets.len()) || targets.is_empty() {
                    return Err(format!("a choice among {} targets by {by:?}", targets.len()));
                }
                self.load(list, by, 0)?;
                let map = Set {
                    table: self.table.clone(),
                    name: "__map%d".into(),
                    key: vec![Type::Mark],
                    data: vec![if is_v4 { Type::Ipv4 } else { Type::Ipv6 }, Type::Port],
                    interval: false,
                    dynamic: false,
                    size: None,
                };
                let elements = targets.iter().zip(0..).map(|((ip, port), number)| {
                    let data = Data::Values(vec![Value::Ip(*ip), Value::Port(*port)]);
                    self.element(&map, Value::Number(number), Some(data))
                });
                let elements = elements.collect::<Result<Vec<_>, _>>()?;
                let id = self.anonymous(&map, &elements);
                lookup(list, 0, &map.name, Some(id), Some(register(0)), false);
                (is_v4, true)
            }
            NatTarget::Map { key, map } => {
                self.load_all(list, key)?;
                lookup(list, 0, map, None, Some(register(0)), false);
                let data = (self.known)(self.table, map).map(|map| map.data);
                match data.as_deref() {
                    Some([Type::Ipv4, rest @ ..]) => (true, rest == [Type::Port]),
                    Some([Type::Ipv6, rest @ ..]) => (false, rest == [Type::Port]),
                    _ => return Err(format!("map {map} gives no address")),
                }
            }
        };
        let family = if is_v4 { libc::AF_INET } else { libc::AF_INET6 } as u32;
        expression(list, "nat", |data| {
            data.be32(sys::NFTA_NAT_TYPE, kind)
                .be32(sys::NFTA_NAT_FAMILY, family)
                .be32(sys::NFTA_NAT_REG_ADDR_MIN, register(0));
            if with_port {
                data.be32(sys::NFTA_NAT_REG_PROTO_MIN, register(if is_v4 { 1 } else { 4 }));
            }
            if fully_random {
                data.be32(sys::NFTA_NAT_FLAGS, sys::NF_NAT_RANGE_PROTO_RANDOM_FULLY);
            }
        });
        Ok(())
    }

    fn reject(&self, list: &mut Message, reject: Reject) {
        let (kind, code) = match (reject, self.table.family) {
            (Reject::TcpReset, _) => (sys::NFT_REJECT_TCP_RST, 0),
            (Reject::PortUnreachable, Family::Ip) => (sys::NFT_REJECT_ICMP_UNREACH, 3),
            (Reject::PortUnreachable, Family::Ip6) => (sys::NFT_REJECT_ICMP_UNREACH, 4),
            (Reject::PortUnreachable, _) => (sys::NFT_REJECT_ICMPX_UNREACH, 1),
            (Reject::AdminProhibited, Family::Ip) => (sys::NFT_REJECT_ICMP_UNREACH, 13),
            (Reject::AdminProhibited, Family::Ip6) => (sys::NFT_REJECT_ICMP_UNREACH, 1),
            (Reject::AdminProhibited, _) => (sys::NFT_REJECT_ICMPX_UNREACH, 3),
        };
        expression(list, "reject", |data| {
            data.be32(sys::NFTA_REJECT_TYPE, kind).u8(sys::NFTA_REJECT_ICMP_CODE, code);
        });
    }

    /// Loads a key; gives the registers it takes.
    fn load_all(&mut self, list: &mut Message, key: &[Expr]) -> Result<usize, String> {
        let mut next = 0;
        for part in key {
            next += slots(self.load(list, part, next)?.width());
            fits(next)?;
        }
        if next == 0 { Err("an empty key".into()) } else { Ok(next) }
    }

    fn load(&mut self, list: &mut Message, expr: &Expr, at: usize) -> Result<Shape, String> {
        use sys::{
            NFT_PAYLOAD_LL_HEADER as LINK, NFT_PAYLOAD_NETWORK_HEADER as NETWORK,
            NFT_PAYLOAD_TRANSPORT_HEADER as TRANSPORT,
        };
        fits(at + 1)?;
        let mut packet = |base, offset, length| payload(list, base, offset, length, at);
        Ok(match *expr {
            Expr::IpSaddr => {
                packet(NETWORK, 12, 4);
                Shape::Ipv4
            }
            Expr::IpDaddr => {
                packet(NETWORK, 16, 4);
                Shape::Ipv4
            }
            Expr::Ip6Saddr => {
                packet(NETWORK, 8, 16);
                Shape::Ipv6
            }
            Expr::Ip6Daddr => {
                packet(NETWORK, 24, 16);
                Shape::Ipv6
            }
            Expr::Sport => {
                packet(TRANSPORT, 0, 2);
                Shape::Port
            }
            Expr::Dport => {
                packet(TRANSPORT, 2, 2);
                Shape::Port
            }
            Expr::IcmpType => {
                packet(TRANSPORT, 0, 1);
                Shape::Byte
            }
            Expr::EtherDaddr => {
                packet(LINK, 0, 6);
                Shape::Mac
            }
            Expr::EtherSaddr => {
                packet(LINK, 6, 6);
                Shape::Mac
            }
            Expr::EtherType => {
                packet(LINK, 12, 2);
                Shape::Net16
            }
            Expr::ArpSaddrIp => {
                packet(NETWORK, 14, 4);
                Shape::Ipv4
            }
            Expr::ArpDaddrIp => {
                packet(NETWORK, 24, 4);
                Shape::Ipv4
            }
            Expr::Nfproto => {
                meta(list, sys::NFT_META_NFPROTO, at);
                Shape::Byte
            }
            Expr::L4proto => {
                meta(list, sys::NFT_META_L4PROTO, at);
                Shape::Byte
            }
            Expr::Iifname => {
                meta(list, sys::NFT_META_IIFNAME, at);
                Shape::Ifname
            }
            Expr::Oifname => {
                meta(list, sys::NFT_META_OIFNAME, at);
                Shape::Ifname
            }
            Expr::Mark { mask } => {
                meta(list, sys::NFT_META_MARK, at);
                masked(list, at, mask);
                Shape::Host
            }
            Expr::Priority => {
                meta(list, sys::NFT_META_PRIORITY, at);
                Shape::Host
            }
            Expr::CtState => {
                ct(list, sys::NFT_CT_STATE, None, at);
                Shape::Host
            }
            Expr::CtStatus => {
                ct(list, sys::NFT_CT_STATUS, None, at);
                Shape::Host
            }
            Expr::CtDirection => {
                ct(list, sys::NFT_CT_DIRECTION, None, at);
                Shape::Byte
            }
            Expr::CtMark { mask } => {
                ct(list, sys::NFT_CT_MARK, None, at);
                masked(list, at, mask);
                Shape::Host
            }
            Expr::CtOriginalIpDaddr => {
                ct(list, sys::NFT_CT_DST_IP, Some(0), at);
                Shape::Ipv4
            }
            Expr::CtOriginalDport => {
                ct(list, sys::NFT_CT_PROTO_DST, Some(0), at);
                Shape::Port
            }
            Expr::FibDaddrType => {
                fib(list, sys::NFT_FIB_RESULT_ADDRTYPE, sys::NFTA_FIB_F_DADDR, at);
                Shape::Host
            }
            Expr::FibSaddrType => {
                fib(list, sys::NFT_FIB_RESULT_ADDRTYPE, sys::NFTA_FIB_F_SADDR, at);
                Shape::Host
            }
            Expr::FibSaddrOif => {
                fib(list, sys::NFT_FIB_RESULT_OIF, sys::NFTA_FIB_F_SADDR | sys::NFTA_FIB_F_IIF, at);
                Shape::Host
            }
            Expr::NumgenInc { modulus } => {
                numgen(list, sys::NFT_NG_INCREMENTAL, modulus, at)?;
                Shape::Host
            }
            Expr::NumgenRandom { modulus } => {
                numgen(list, sys::NFT_NG_RANDOM, modulus, at)?;
                Shape::Host
            }
            Expr::JhashIpSaddr { modulus, seed } => {
                if modulus == 0 {
                    return Err("a modulus of 0".into());
                }
                let (offset, length) = if self.table.family == Family::Ip6 { (8, 16) } else { (12, 4) };
                fits(at + slots(length as usize))?;
                packet(NETWORK, offset, length);
                expression(list, "hash", |data| {
                    data.be32(sys::NFTA_HASH_SREG, register(at))
                        .be32(sys::NFTA_HASH_DREG, register(at))
                        .be32(sys::NFTA_HASH_LEN, length)
                        .be32(sys::NFTA_HASH_MODULUS, modulus)
                        .be32(sys::NFTA_HASH_SEED, seed)
                        .be32(sys::NFTA_HASH_TYPE, sys::NFT_HASH_JENKINS);
                });
                Shape::Host
            }
        })
    }

    fn element(&self, set: &Set, key: Value, data: Option<Data>) -> Result<Encoded, String> {
        let element = Element { table: set.table.clone(), set: set.name.clone(), key: vec![key], data };
        set::encode(&element, set)
    }

    fn anonymous(&mut self, set: &Set, elements: &[Encoded]) -> u32 {
        let id = *self.next_set;
        *self.next_set += 1;
        self.sets.push(set::new_set(set, id, true));
        let kind = sys::NFT_MSG_NEWSETELEM;
        let written = set::elements(kind, &set.table, &set.name, Some(id), set::shape(set), elements);
        self.sets.extend(written.into_iter().map(|(message, _)| message));
        id
    }
}

// === impl Shape ===

impl Shape {
    fn width(self) -> usize {
        match self {
            Self::Byte => 1,
            Self::Port | Self::Net16 => 2,
            Self::Ipv4 | Self::Host => 4,
            Self::Mac => 6,
            Self::Ipv6 | Self::Ifname => 16,
        }
    }

    fn set_type(self) -> Option<Type> {
        Some(match self {
            Self::Ipv4 => Type::Ipv4,
            Self::Ipv6 => Type::Ipv6,
            Self::Port => Type::Port,
            Self::Byte => Type::Proto,
            Self::Host => Type::Mark,
            Self::Ifname => Type::Ifname,
            Self::Mac => Type::Mac,
            Self::Net16 => return None,
        })
    }

    fn bytes(self, value: &Value) -> Result<Vec<u8>, String> {
        let mismatch = || format!("{value} does not fit what it is compared with");
        Ok(match (self, value) {
            (Self::Ipv4, Value::Ip(IpAddr::V4(ip))) => ip.octets().to_vec(),
            (Self::Ipv6, Value::Ip(IpAddr::V6(ip))) => ip.octets().to_vec(),
            (Self::Port, Value::Port(port)) => port.to_be_bytes().to_vec(),
            (Self::Byte, Value::Proto(number)) => vec![*number],
            (Self::Byte, Value::Number(number)) => vec![u8::try_from(*number).map_err(|_| mismatch())?],
            (Self::Host, Value::Number(number)) => number.to_ne_bytes().to_vec(),
            (Self::Host, Value::State(state)) => {
                let bits = [
                    (state.invalid, 1),
                    (state.established, 2),
                    (state.related, 4),
                    (state.new, 8),
                    (state.untracked, 64),
                ];
                let number: u32 = bits.iter().filter(|(set, _)| *set).map(|(_, bit)| *bit).sum();
                number.to_ne_bytes().to_vec()
            }
            (Self::Net16, Value::Number(number)) => {
                u16::try_from(*number).map_err(|_| mismatch())?.to_be_bytes().to_vec()
            }
            (Self::Ifname, Value::Ifname(name)) => set::padded(name.as_str()).to_vec(),
            (Self::Mac, Value::Mac(mac)) => mac.0.to_vec(),
            _ => return Err(mismatch()),
        })
    }

    /// The kernel compares bytes from left to right, so numbers in host order are turned round for `<` and ranges.
    fn in_network_order(self, list: &mut Message, bytes: Vec<u8>) -> Vec<u8> {
        if self == Self::Host && cfg!(target_endian = "little") {
            expression(list, "byteorder", |data| {
                data.be32(sys::NFTA_BYTEORDER_SREG, register(0))
                    .be32(sys::NFTA_BYTEORDER_DREG, register(0))
                    .be32(sys::NFTA_BYTEORDER_OP, sys::NFT_BYTEORDER_HTON)
                    .be32(sys::NFTA_BYTEORDER_LEN, 4)
                    .be32(sys::NFTA_BYTEORDER_SIZE, 4);
            });
        }
        self.swapped(bytes)
    }

    fn swapped(self, mut bytes: Vec<u8>) -> Vec<u8> {
        if self == Self::Host && cfg!(target_endian = "little") {
            bytes.reverse();
        }
        bytes
    }
}

fn equality(op: Op, right: &Operand) -> Result<u32, String> {
    match op {
        Op::Eq => Ok(sys::NFT_CMP_EQ),
        Op::Ne => Ok(sys::NFT_CMP_NEQ),
        _ => Err(format!("{op:?} with {right:?}: only eq and ne have a meaning")),
    }
}

fn fits(registers: usize) -> Result<(), String> {
    if registers <= REGISTERS { Ok(()) } else { Err(format!("a key of more than {} bytes", REGISTERS * 4)) }
}

fn plain_bytes(value: &Value) -> Result<Vec<u8>, String> {
    Ok(match value {
        Value::Ip(IpAddr::V4(ip)) => ip.octets().to_vec(),
        Value::Ip(IpAddr::V6(ip)) => ip.octets().to_vec(),
        Value::Port(port) => port.to_be_bytes().to_vec(),
        Value::Proto(number) => vec![*number],
        Value::Number(number) => number.to_ne_bytes().to_vec(),
        Value::Ifname(name) => set::padded(name.as_str()).to_vec(),
        Value::Mac(mac) => mac.0.to_vec(),
        Value::Net(_) | Value::Ips(..) | Value::Ports(..) | Value::State(_) => return Err(format!("{value} as data")),
    })
}
