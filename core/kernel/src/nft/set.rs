//! Sets, maps and their elements.

use std::net::IpAddr;

use switchyard_netstate::nft::{Data, Element, Set, TableRef, Type, Value, Verdict};

use super::message::{family, message, user_data};
use crate::netlink::{Message, align};
use crate::sys;

/// Bytes that the elements of one message may have: a nest's length is 16 bits.
pub(crate) const LIST_BYTES: usize = 48 << 10;

/// Size of a dynamic set that says nothing about it, so that packets cannot fill memory.
const DYNAMIC_SIZE: u32 = 65535;

/// The number nft(8) knows plain numbers by.
const INTEGER: u32 = 4;

/// An element as the kernel wants it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Encoded {
    /// Key, or first key of an interval.
    pub(crate) from: Vec<u8>,
    /// Last key of an interval, included.
    pub(crate) to: Option<Vec<u8>>,
    pub(crate) data: Option<EncodedData>,
}

/// Data of a map's element.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum EncodedData {
    Value(Vec<u8>),
    Verdict(i32, Option<String>),
}

/// How elements of a set are written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One element, one key.
    Plain,
    /// A red-black tree: an interval is a start and an end, each an element.
    Tree,
    /// Concatenated ranges: one element with two keys.
    Ranges,
}

// === sets ===

/// The number nft(8) knows a type by.
fn type_id(kind: Type) -> u32 {
    match kind {
        Type::Verdict => 1,
        Type::Ipv4 => 7,
        Type::Ipv6 => 8,
        Type::Mac => 9,
        Type::Proto => 12,
        Type::Port => 13,
        Type::Mark => 19,
        Type::Ifname => 41,
    }
}

/// Bytes of a value of this type.
pub(crate) fn width(kind: Type) -> usize {
    match kind {
        Type::Proto => 1,
        Type::Port => 2,
        Type::Ipv4 | Type::Mark | Type::Verdict => 4,
        Type::Mac => 6,
        Type::Ipv6 | Type::Ifname => 16,
    }
}

/// Type number and length of one type or a concatenation.
pub(crate) fn concatenated(types: &[Type]) -> (u32, u32) {
    let id = types.iter().fold(0, |id, kind| id << 6 | type_id(*kind));
    let length = match types {
        [one] => width(*one),
        several => several.iter().map(|kind| align(width(*kind))).sum(),
    };
    (id, length as u32)
}

/// How elements of this set are written.
pub(crate) fn shape(set: &Set) -> Shape {
    match (set.interval, set.key.len()) {
        (false, _) => Shape::Plain,
        (true, 1) => Shape::Tree,
        (true, _) => Shape::Ranges,
    }
}

/// NFTA_SET_FLAGS.
pub(crate) fn flags(set: &Set) -> u32 {
    let mut flags = 0;
    if set.interval {
        flags |= sys::NFT_SET_INTERVAL;
        if set.key.len() > 1 {
            flags |= sys::NFT_SET_CONCAT;
        }
    }
    if !set.data.is_empty() {
        flags |= sys::NFT_SET_MAP;
    }
    if set.dynamic {
        flags |= sys::NFT_SET_EVAL | sys::NFT_SET_TIMEOUT;
    }
    flags
}

/// The data type and length of a map.
pub(crate) fn data_type(set: &Set) -> Option<(u32, u32)> {
    match set.data[..] {
        [] => None,
        [Type::Verdict] => Some((sys::NFT_DATA_VERDICT, 0)),
        ref several => Some(concatenated(several)),
    }
}

/// Makes a set. `anonymous`: for one rule, found by its number in the transaction.
pub(crate) fn new_set(set: &Set, id: u32, anonymous: bool) -> Message {
    let mut message = message(sys::NFT_MSG_NEWSET, sys::NLM_F_CREATE, family(set.table.family));
    let (mut key_type, key_length) = concatenated(&set.key);
    if anonymous && !set.data.is_empty() {
        key_type = INTEGER; // the number that chooses a target, not a mark
    }
    let once = if anonymous { sys::NFT_SET_ANONYMOUS | sys::NFT_SET_CONSTANT } else { 0 };
    message
        .text(sys::NFTA_SET_TABLE, &set.table.name)
        .text(sys::NFTA_SET_NAME, &set.name)
        .be32(sys::NFTA_SET_FLAGS, flags(set) | once)
        .be32(sys::NFTA_SET_KEY_TYPE, key_type)
        .be32(sys::NFTA_SET_KEY_LEN, key_length)
        .be32(sys::NFTA_SET_ID, id);
    if let Some((kind, length)) = data_type(set) {
        message.be32(sys::NFTA_SET_DATA_TYPE, kind);
        if length > 0 {
            message.be32(sys::NFTA_SET_DATA_LEN, length);
        }
    }
    let size = set.size.or(set.dynamic.then_some(DYNAMIC_SIZE));
    if size.is_some() || shape(set) == Shape::Ranges {
        message.nest(sys::NFTA_SET_DESC, |desc| {
            if let Some(size) = size {
                desc.be32(sys::NFTA_SET_DESC_SIZE, size);
            }
            if shape(set) == Shape::Ranges {
                desc.nest(sys::NFTA_SET_DESC_CONCAT, |fields| {
                    for kind in &set.key {
                        fields.nest(sys::NFTA_LIST_ELEM, |field| {
                            field.be32(sys::NFTA_SET_FIELD_LEN, width(*kind) as u32);
                        });
                    }
                });
            }
        });
    }
    if set.key == [Type::Mark] || set.key == [Type::Ifname] {
        // nft(8) must be told that the key is in host order, which it takes names for, too.
        message.attr(sys::NFTA_SET_USERDATA, &user_data(0, &1u32.to_ne_bytes()));
    }
    message
}

/// Takes a set away.
pub(crate) fn delete_set(table: &TableRef, name: &str) -> Message {
    let mut message = message(sys::NFT_MSG_DELSET, 0, family(table.family));
    message.text(sys::NFTA_SET_TABLE, &table.name).text(sys::NFTA_SET_NAME, name);
    message
}

// === elements ===

/// First and last key of an element.
pub(crate) type Span = (Vec<u8>, Option<Vec<u8>>);

/// Messages that add (or delete) these elements of one set, each with where in it its elements begin.
pub(crate) fn elements(
    kind: u16,
    table: &TableRef,
    set: &str,
    id: Option<u32>,
    shape: Shape,
    elements: &[Encoded],
) -> Vec<(Message, Vec<usize>)> {
    let mut messages = Vec::new();
    let mut rest = elements;
    while !rest.is_empty() {
        let flags = if kind == sys::NFT_MSG_NEWSETELEM { sys::NLM_F_CREATE } else { 0 };
        let mut one = message(kind, flags, family(table.family));
        one.text(sys::NFTA_SET_ELEM_LIST_TABLE, &table.name).text(sys::NFTA_SET_ELEM_LIST_SET, set);
        if let Some(id) = id {
            one.be32(sys::NFTA_SET_ELEM_LIST_SET_ID, id);
        }
        let mut starts = Vec::new();
        one.nest(sys::NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
            let start = list.len();
            while let Some((element, more)) = rest.split_first().filter(|_| list.len() - start < LIST_BYTES) {
                starts.push(list.len());
                write(list, element, shape);
                rest = more;
            }
        });
        messages.push((one, starts));
    }
    messages
}

fn write(list: &mut Message, element: &Encoded, shape: Shape) {
    list.nest(sys::NFTA_LIST_ELEM, |item| {
        value(item, sys::NFTA_SET_ELEM_KEY, &element.from);
        if shape == Shape::Ranges {
            value(item, sys::NFTA_SET_ELEM_KEY_END, element.to.as_ref().unwrap_or(&element.from));
        }
        match &element.data {
            None => {}
            Some(EncodedData::Value(bytes)) => value(item, sys::NFTA_SET_ELEM_DATA, bytes),
            Some(EncodedData::Verdict(code, chain)) => {
                item.nest(sys::NFTA_SET_ELEM_DATA, |data| verdict(data, *code, chain.as_deref()));
            }
        }
    });
    if shape != Shape::Tree {
        return;
    }
    // The tree's end is the first key after the interval; the last interval of the key space has none.
    if let Some(end) = successor(element.to.as_ref().unwrap_or(&element.from)) {
        list.nest(sys::NFTA_LIST_ELEM, |item| {
            item.be32(sys::NFTA_SET_ELEM_FLAGS, sys::NFT_SET_ELEM_INTERVAL_END);
            value(item, sys::NFTA_SET_ELEM_KEY, &end);
        });
    }
}

/// An attribute that holds NFTA_DATA_VALUE.
pub(crate) fn value(message: &mut Message, kind: u16, bytes: &[u8]) {
    message.nest(kind, |data| {
        data.attr(sys::NFTA_DATA_VALUE, bytes);
    });
}

/// NFTA_DATA_VERDICT.
pub(crate) fn verdict(data: &mut Message, code: i32, chain: Option<&str>) {
    data.nest(sys::NFTA_DATA_VERDICT, |verdict| {
        verdict.be32(sys::NFTA_VERDICT_CODE, code as u32);
        if let Some(chain) = chain {
            verdict.text(sys::NFTA_VERDICT_CHAIN, chain);
        }
    });
}

/// The kernel's number of a verdict.
pub(crate) fn verdict_code(verdict: &Verdict) -> i32 {
    match verdict {
        Verdict::Drop => 0,
        Verdict::Accept => 1,
        Verdict::Continue => sys::NFT_CONTINUE,
        Verdict::Jump(_) => sys::NFT_JUMP,
        Verdict::Goto(_) => sys::NFT_GOTO,
        Verdict::Return => sys::NFT_RETURN,
    }
}

/// The big-endian number after this one; `None` after the last.
fn successor(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut next = bytes.to_vec();
    for byte in next.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return Some(next);
        }
    }
    None
}

/// The big-endian number before this one.
pub(crate) fn predecessor(bytes: &[u8]) -> Vec<u8> {
    let mut previous = bytes.to_vec();
    for byte in previous.iter_mut().rev() {
        *byte = byte.wrapping_sub(1);
        if *byte != 0xff {
            break;
        }
    }
    previous
}

/// Writes an element's key, which is all that its removal needs.
pub(crate) fn encode_key(element: &Element, set: &Set) -> Result<Encoded, String> {
    let (from, to) = keys(&element.key, &set.key, set.interval)?;
    Ok(Encoded { from, to, data: None })
}

/// Writes an element of `set`; says what does not fit.
pub(crate) fn encode(element: &Element, set: &Set) -> Result<Encoded, String> {
    let (from, to) = keys(&element.key, &set.key, set.interval)?;
    let data = match (&element.data, &set.data[..]) {
        (None, []) => None,
        (Some(Data::Verdict(verdict)), [Type::Verdict]) => {
            Some(EncodedData::Verdict(verdict_code(verdict), verdict.target().map(str::to_owned)))
        }
        (Some(Data::Values(values)), types) if !types.is_empty() && types != [Type::Verdict] => {
            Some(EncodedData::Value(keys(values, types, false)?.0))
        }
        (Some(_), []) => return Err(format!("set {} holds no data", set.name)),
        _ => return Err(format!("the data is not of the type of map {}", set.name)),
    };
    Ok(Encoded { from, to, data })
}

/// First and last key of a (concatenated) value.
pub(crate) fn keys(values: &[Value], types: &[Type], interval: bool) -> Result<(Vec<u8>, Option<Vec<u8>>), String> {
    if values.len() != types.len() {
        return Err(format!("{} values where {} are wanted", values.len(), types.len()));
    }
    let (mut from, mut to) = (Vec::new(), Vec::new());
    for (value, kind) in values.iter().zip(types) {
        let (first, last) = bytes(value, *kind)?;
        if !interval && first != last {
            return Err(format!("{value} is a range, and the set takes single values only"));
        }
        from.extend(first);
        to.extend(last);
        if types.len() > 1 {
            from.resize(align(from.len()), 0);
            to.resize(align(to.len()), 0);
        }
    }
    let to = (interval && from != to).then_some(to);
    Ok((from, to))
}

/// First and last of a value of this type, as bytes of the kernel.
fn bytes(value: &Value, kind: Type) -> Result<(Vec<u8>, Vec<u8>), String> {
    let same = |bytes: &[u8]| Ok((bytes.to_vec(), bytes.to_vec()));
    match (value, kind) {
        (Value::Ip(IpAddr::V4(ip)), Type::Ipv4) => same(&ip.octets()),
        (Value::Ip(IpAddr::V6(ip)), Type::Ipv6) => same(&ip.octets()),
        (Value::Net(ipnet::IpNet::V4(net)), Type::Ipv4) => {
            Ok((net.network().octets().to_vec(), net.broadcast().octets().to_vec()))
        }
        (Value::Net(ipnet::IpNet::V6(net)), Type::Ipv6) => {
            Ok((net.network().octets().to_vec(), net.broadcast().octets().to_vec()))
        }
        (Value::Ips(IpAddr::V4(from), IpAddr::V4(to)), Type::Ipv4) if from <= to => {
            Ok((from.octets().to_vec(), to.octets().to_vec()))
        }
        (Value::Ips(IpAddr::V6(from), IpAddr::V6(to)), Type::Ipv6) if from <= to => {
            Ok((from.octets().to_vec(), to.octets().to_vec()))
        }
        (Value::Port(port), Type::Port) => same(&port.to_be_bytes()),
        (Value::Ports(from, to), Type::Port) if from <= to => {
            Ok((from.to_be_bytes().to_vec(), to.to_be_bytes().to_vec()))
        }
        (Value::Proto(proto), Type::Proto) => same(&[*proto]),
        (Value::Number(number), Type::Mark) => same(&number.to_ne_bytes()),
        (Value::Ifname(name), Type::Ifname) => same(&padded(name.as_str())),
        (Value::Mac(mac), Type::Mac) => same(&mac.0),
        _ => Err(format!("{value} is no {kind:?}")),
    }
}

/// An interface name in its sixteen bytes.
pub(crate) fn padded(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    let length = name.len().min(15);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    bytes
}

/// The values that an element read back has; `None` if the vocabulary cannot name them.
pub(crate) fn decode(from: &[u8], to: &[u8], types: &[Type]) -> Option<Vec<Value>> {
    let mut at = 0;
    let several = types.len() > 1;
    let mut values = Vec::with_capacity(types.len());
    for kind in types {
        let width = width(*kind);
        values.push(value_of(from.get(at..at + width)?, to.get(at..at + width)?, *kind)?);
        at += if several { align(width) } else { width };
    }
    Some(values)
}

fn value_of(from: &[u8], to: &[u8], kind: Type) -> Option<Value> {
    let net = |from: IpAddr, to: IpAddr| {
        if from == to {
            return Some(Value::Ip(from));
        }
        let bits = if from.is_ipv4() { 32 } else { 128 };
        let prefix = (0..=bits)
            .filter_map(|length| ipnet::IpNet::new(from, length).ok())
            .find(|net| net.network() == from && net.broadcast() == to);
        Some(prefix.map_or(Value::Ips(from, to), Value::Net))
    };
    match kind {
        Type::Ipv4 => net(<[u8; 4]>::try_from(from).ok()?.into(), <[u8; 4]>::try_from(to).ok()?.into()),
        Type::Ipv6 => net(<[u8; 16]>::try_from(from).ok()?.into(), <[u8; 16]>::try_from(to).ok()?.into()),
        Type::Port => {
            let (from, to) = (u16::from_be_bytes(from.try_into().ok()?), u16::from_be_bytes(to.try_into().ok()?));
            Some(if from == to { Value::Port(from) } else { Value::Ports(from, to) })
        }
        _ if from != to => None,
        Type::Proto => Some(Value::Proto(*from.first()?)),
        Type::Mark => Some(Value::Number(u32::from_ne_bytes(from.try_into().ok()?))),
        Type::Mac => Some(Value::Mac(switchyard_netstate::Mac(from.try_into().ok()?))),
        Type::Ifname => switchyard_netstate::IfName::new(crate::netlink::text(from)).ok().map(Value::Ifname),
        Type::Verdict => None,
    }
}
