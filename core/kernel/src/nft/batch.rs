//! One transaction: changes in an order in which every reference resolves, sent as one message, applied whole or not at all.
//!
//! New tables, sets and chains come first, then rules, then elements; at last what is removed, elements before rules before chains
//! before sets. Elements go first only where others need the room: of ranges, and of sets of a certain size. An element that changes
//! goes and comes back in one breath.
//!
//! What the socket does not take at once is cut, and then each piece is a transaction. In this order most packets meet, in between,
//! what they met before or what they meet afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use switchyard_netstate::nft::{Element, Set, TableRef};
use switchyard_netstate::{Change, Object, Op};

use super::{chain, message, set};
use crate::netlink::{Connection, Message, Refusal};
use crate::sys;

/// What a transaction needs to know beyond its changes.
pub(crate) struct Context<'a> {
    pub(crate) owner: u8,
    /// A set as it is wanted now, or was until now.
    pub(crate) set: &'a dyn Fn(&TableRef, &str) -> Option<Set>,
    /// All that a table holds once the changes are made; for a table that has to be written anew.
    pub(crate) content: &'a dyn Fn(&TableRef) -> Vec<Object>,
    /// Tables that are to be written anew, and whether they are there.
    pub(crate) anew: &'a BTreeMap<TableRef, bool>,
}

/// Messages that must not be torn apart, and the change they come from.
struct Part {
    op: Option<usize>,
    messages: Vec<Message>,
    /// Where in its message other changes begin, if it is one message of several.
    at: Vec<(usize, Option<usize>)>,
}

/// Why a transaction was not carried out.
pub(crate) enum Failure {
    /// A change cannot be written.
    Malformed(usize, String),
    /// The kernel refused; the number of the change if it can be told.
    Refused(Option<usize>, Refusal),
    /// The socket failed.
    Io(io::Error),
}

/// A transaction, written.
pub(crate) struct Transaction(Vec<Part>);

// === impl Transaction ===

impl Transaction {
    /// Writes changes. `ops` are changes of nftables objects in one place.
    pub(crate) fn of(ops: &[&Op], context: &Context<'_>) -> Result<Self, Failure> {
        let gone: BTreeSet<&TableRef> = ops
            .iter()
            .filter_map(|op| match &op.change {
                Change::Remove(Object::Table(table)) => Some(&table.table),
                _ => None,
            })
            .collect();
        let mut writer = Writer { context, next_set: 1, parts: BTreeMap::new(), moving: BTreeMap::new() };
        let mut number = 0;
        for (table, there) in context.anew {
            if *there {
                writer.put(Stage::Tables, None, vec![message::delete_table(table)]);
            }
            for object in (context.content)(table) {
                writer.add(None, &object)?;
            }
        }
        for op in ops {
            let at = Some(number);
            number += 1;
            let table = table_of(op.object()).expect("only nftables objects come here");
            if context.anew.contains_key(table) {
                continue;
            }
            match &op.change {
                Change::Add(object) => writer.add(at, object)?,
                Change::Replace(from, to) => writer.replace(at, from, to)?,
                Change::Remove(Object::Table(table)) => {
                    writer.put(Stage::GoneTables, at, vec![message::delete_table(&table.table)]);
                }
                Change::Remove(_) if gone.contains(table) => {}
                Change::Remove(object) => writer.remove(at, object)?,
            }
        }
        Ok(Self(writer.finish()))
    }

    /// All its messages, each whole by itself.
    pub(crate) fn bytes(self) -> Vec<u8> {
        let mut messages: Vec<Message> = self.0.into_iter().flat_map(|part| part.messages).collect();
        messages.iter_mut().flat_map(|message| message.seal(1).to_vec()).collect()
    }

    /// Sends it. One that is larger than the socket takes is cut between changes, in order; `begun` says whether the kernel has taken a
    /// piece of it, or may have.
    pub(crate) fn send(self, connection: &mut Connection, begun: &mut bool) -> Result<(), Failure> {
        for piece in self.pieces(connection.send_limit()) {
            let outcome = send(connection, piece);
            *begun |= !matches!(outcome, Err(Failure::Malformed(..) | Failure::Refused(..)));
            outcome?;
        }
        Ok(())
    }

    fn pieces(self, limit: usize) -> Vec<Vec<Part>> {
        let mut pieces = Vec::new();
        let mut parts = self.0.into_iter().peekable();
        while parts.peek().is_some() {
            let (mut size, mut now) = (0, Vec::new());
            while let Some(part) = parts.next_if(|part| now.is_empty() || size + part.size() <= limit) {
                size += part.size();
                now.push(part);
            }
            pieces.push(now);
        }
        pieces
    }
}

// === impl Part ===

impl Part {
    /// The change that a refusal is about.
    fn op_at(&self, offset: Option<usize>) -> Option<usize> {
        let before = |offset: usize| self.at.iter().rev().find(|(start, _)| *start <= offset);
        offset.and_then(before).map_or(self.op, |(_, op)| *op)
    }

    fn size(&self) -> usize {
        self.messages.iter().map(Message::len).sum()
    }
}

/// The table an object belongs to.
pub(crate) fn table_of(object: &Object) -> Option<&TableRef> {
    match object {
        Object::Table(o) => Some(&o.table),
        Object::Chain(o) => Some(&o.table),
        Object::Set(o) => Some(&o.table),
        Object::Element(o) => Some(&o.table),
        _ => None,
    }
}

/// Sections of a transaction, in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Tables,
    Sets,
    Chains,
    GoneElements,
    Rules,
    Elements,
    ChangedElements,
    SpareElements,
    GoneRules,
    GoneChains,
    GoneSets,
    GoneTables,
}

struct Writer<'a> {
    context: &'a Context<'a>,
    next_set: u32,
    parts: BTreeMap<Stage, Vec<Part>>,
    moving: BTreeMap<(TableRef, String), Moving>,
}

/// What comes into one set and what leaves it, each with the change that it comes from.
struct Moving {
    shape: set::Shape,
    /// It holds no more than so many.
    is_sized: bool,
    come: Vec<(Option<usize>, set::Encoded)>,
    go: Vec<(Option<usize>, set::Encoded)>,
}

// === impl Moving ===

impl Moving {
    /// When elements go: after others have come, unless those need the room.
    fn going(&self) -> Stage {
        let coming: BTreeSet<&[u8]> = self.come.iter().map(|(_, element)| &element.from[..]).collect();
        let again = self.go.iter().any(|(_, element)| coming.contains(&element.from[..]));
        let needs_room = again || self.is_sized || self.shape != set::Shape::Plain;
        if needs_room { Stage::GoneElements } else { Stage::SpareElements }
    }
}

// === impl Writer ===

impl Writer<'_> {
    fn put(&mut self, stage: Stage, op: Option<usize>, messages: Vec<Message>) {
        self.parts.entry(stage).or_default().push(Part { op, messages, at: Vec::new() });
    }

    fn add(&mut self, op: Option<usize>, object: &Object) -> Result<(), Failure> {
        match object {
            Object::Table(table) => {
                self.put(Stage::Tables, op, vec![message::new_table(&table.table, self.context.owner)])
            }
            Object::Set(set) => {
                let id = self.next_set;
                self.next_set += 1;
                self.put(Stage::Sets, op, vec![set::new_set(set, id, false)]);
            }
            Object::Chain(chain) => {
                self.put(Stage::Chains, op, vec![chain::new_chain(chain)]);
                self.rules(op, chain)?;
            }
            Object::Element(element) => {
                let (encoded, moving) = self.moving(op, sys::NFT_MSG_NEWSETELEM, element)?;
                moving.come.push((op, encoded));
            }
            _ => unreachable!("only nftables objects come here"),
        }
        Ok(())
    }

    fn replace(&mut self, op: Option<usize>, from: &Object, to: &Object) -> Result<(), Failure> {
        match (from, to) {
            (Object::Chain(from), Object::Chain(to)) => {
                if !chain::same_hook(from.base.as_ref(), to.base.as_ref()) {
                    let old = [chain::flush(&from.table, &from.name), chain::delete_chain(&from.table, &from.name)];
                    self.put(Stage::Chains, op, old.into());
                }
                self.put(Stage::Chains, op, vec![chain::new_chain(to)]);
                self.rules(op, to)?;
            }
            (Object::Element(from), Object::Element(to)) => {
                let mut messages = self.element(op, sys::NFT_MSG_DELSETELEM, from)?;
                messages.extend(self.element(op, sys::NFT_MSG_NEWSETELEM, to)?);
                self.put(Stage::ChangedElements, op, messages);
            }
            // A table has nothing to change; a set that changes makes its whole table new, which the caller asks for.
            _ => {}
        }
        Ok(())
    }

    fn remove(&mut self, op: Option<usize>, object: &Object) -> Result<(), Failure> {
        match object {
            Object::Chain(chain) => {
                self.put(Stage::GoneRules, op, vec![chain::flush(&chain.table, &chain.name)]);
                self.put(Stage::GoneChains, op, vec![chain::delete_chain(&chain.table, &chain.name)]);
            }
            Object::Set(set) => self.put(Stage::GoneSets, op, vec![set::delete_set(&set.table, &set.name)]),
            Object::Element(element) => {
                let (encoded, moving) = self.moving(op, sys::NFT_MSG_DELSETELEM, element)?;
                moving.go.push((op, encoded));
            }
            _ => {}
        }
        Ok(())
    }

    /// Flushing first makes writing a chain that is there already come to the same.
    fn rules(&mut self, op: Option<usize>, chain: &switchyard_netstate::nft::Chain) -> Result<(), Failure> {
        let mut messages = vec![chain::flush(&chain.table, &chain.name)];
        let written = chain::rules(chain, self.context.set, &mut self.next_set);
        messages.extend(written.map_err(|error| Failure::Malformed(op.unwrap_or_default(), error))?);
        self.put(Stage::Rules, op, messages);
        Ok(())
    }

    fn moving(
        &mut self,
        op: Option<usize>,
        kind: u16,
        element: &Element,
    ) -> Result<(set::Encoded, &mut Moving), Failure> {
        let (set, encoded) = self.encoded(op, kind, element)?;
        let (shape, is_sized) = (set::shape(&set), set.size.is_some() || set.dynamic);
        let new = || Moving { shape, is_sized, come: Vec::new(), go: Vec::new() };
        let at = (element.table.clone(), element.set.clone());
        Ok((encoded, self.moving.entry(at).or_insert_with(new)))
    }

    fn element(&self, op: Option<usize>, kind: u16, element: &Element) -> Result<Vec<Message>, Failure> {
        let (set, encoded) = self.encoded(op, kind, element)?;
        let written = set::elements(kind, &element.table, &element.set, None, set::shape(&set), &[encoded]);
        Ok(written.into_iter().map(|(message, _)| message).collect())
    }

    fn encoded(&self, op: Option<usize>, kind: u16, element: &Element) -> Result<(Set, set::Encoded), Failure> {
        let malformed = |error| Failure::Malformed(op.unwrap_or_default(), error);
        let set = (self.context.set)(&element.table, &element.set);
        let set = set.ok_or_else(|| malformed(format!("set {} is wanted nowhere", element.set)))?;
        let encoded =
            if kind == sys::NFT_MSG_DELSETELEM { set::encode_key(element, &set) } else { set::encode(element, &set) };
        encoded.map(|encoded| (set, encoded)).map_err(malformed)
    }

    /// Elements of one set go into one message, as many as fit.
    fn finish(mut self) -> Vec<Part> {
        for ((table, name), moving) in std::mem::take(&mut self.moving) {
            let (going, shape) = (moving.going(), moving.shape);
            let (go, come) = ((going, sys::NFT_MSG_DELSETELEM), (Stage::Elements, sys::NFT_MSG_NEWSETELEM));
            for ((stage, kind), elements) in [(go, moving.go), (come, moving.come)] {
                let (ops, elements): (Vec<_>, Vec<_>) = elements.into_iter().unzip();
                let mut ops = ops.into_iter();
                for (message, starts) in set::elements(kind, &table, &name, None, shape, &elements) {
                    let at: Vec<_> = starts.into_iter().zip(ops.by_ref()).collect();
                    let op = at.first().and_then(|(_, op)| *op);
                    self.parts.entry(stage).or_default().push(Part { op, messages: vec![message], at });
                }
            }
        }
        self.parts.into_values().flatten().collect()
    }
}

fn send(connection: &mut Connection, mut parts: Vec<Part>) -> Result<(), Failure> {
    let count = parts.iter().map(|part| part.messages.len()).sum::<usize>() as u32;
    if count == 0 {
        return Ok(());
    }
    let begin = connection.sequences(count + 2);
    let last = begin + count;
    let mut bytes = message::bracket(sys::NFNL_MSG_BATCH_BEGIN).seal(begin).to_vec();
    let mut sequence = begin;
    let mut origin = Vec::with_capacity(count as usize);
    for (number, part) in parts.iter_mut().enumerate() {
        for message in &mut part.messages {
            sequence += 1;
            origin.push(number);
            // One acknowledgement, of the last message, is enough: a refusal is always answered.
            let acknowledge = if sequence == last { sys::NLM_F_ACK } else { 0 };
            message.add_flags(sys::NLM_F_REQUEST | acknowledge);
            bytes.extend_from_slice(message.seal(sequence));
        }
    }
    bytes.extend_from_slice(message::bracket(sys::NFNL_MSG_BATCH_END).seal(last + 1));
    connection.send(&bytes).map_err(Failure::Io)?;

    let mut refusal: Option<(u32, Refusal)> = None;
    let mut done = false;
    while !done {
        connection
            .receive(|sequence, kind, flags, payload| {
                let at = sequence.wrapping_sub(begin);
                if at > count || kind != sys::NLMSG_ERROR {
                    return;
                }
                if let Err(error) = crate::netlink::acknowledgement(payload, flags) {
                    // A refusal of the whole comes with the number of its begin, and is the last word.
                    done |= at == 0;
                    refusal.get_or_insert((at, error));
                }
                done |= at == count;
            })
            .map_err(Failure::Io)?;
    }
    match refusal {
        None => Ok(()),
        Some((at, refusal)) => {
            let part = at.checked_sub(1).map(|at| &parts[origin[at as usize]]);
            Err(Failure::Refused(part.and_then(|part| part.op_at(refusal.offset)), refusal))
        }
    }
}

#[cfg(test)]
mod tests {
    use switchyard_netstate::nft::{Family, Type, Value};
    use switchyard_netstate::{Phase, Place};

    use super::*;

    /// Types of messages, piece by piece, when all addresses of one network in a set are exchanged for those of another.
    fn exchanged(set: &Set, count: u32, limit: usize) -> Vec<Vec<u16>> {
        let element = |network: u32, number: u32| {
            let key = vec![Value::Ip(std::net::Ipv4Addr::from(network + 2 * number).into())];
            Object::Element(Element { table: set.table.clone(), set: set.name.clone(), key, data: None })
        };
        let gone = (0..count).map(|number| Change::Remove(element(0x0a00_0000, number)));
        let come = (0..count).map(|number| Change::Add(element(0x0b00_0000, number)));
        let op = |change| Op { phase: Phase::Switch, place: Place::node("n1"), change };
        let ops: Vec<Op> = gone.chain(come).map(op).collect();
        let known = |_: &TableRef, _: &str| Some(set.clone());
        let (content, anew) = (|_: &TableRef| Vec::new(), BTreeMap::new());
        let context = Context { owner: 83, set: &known, content: &content, anew: &anew };
        let Ok(transaction) = Transaction::of(&ops.iter().collect::<Vec<_>>(), &context) else { panic!("written") };
        let kind = |message: &Message| u16::from_ne_bytes(message.clone().seal(0)[4..6].try_into().unwrap()) & 0xff;
        let kinds = |piece: &Vec<Part>| piece.iter().flat_map(|part| &part.messages).map(kind).collect();
        transaction.pieces(limit).iter().map(kinds).collect()
    }

    #[test]
    fn elements_share_messages_and_go_after_others_have_come_where_there_is_room() {
        let table = TableRef { family: Family::Inet, name: "yard-t".into() };
        let plain = Set {
            table,
            name: "s".into(),
            key: vec![Type::Ipv4],
            data: Vec::new(),
            interval: false,
            dynamic: false,
            size: None,
        };
        let (come, go) = (sys::NFT_MSG_NEWSETELEM, sys::NFT_MSG_DELSETELEM);
        assert_eq!(exchanged(&plain, 1000, 1 << 20), [[come, go]], "all of it in one transaction");
        assert_eq!(exchanged(&plain, 1000, 1), [[come], [go]], "or cut, and never without either");
        assert!(exchanged(&plain, 10_000, 1 << 20).concat().len() < 20);
        for needs_room in [Set { interval: true, ..plain.clone() }, Set { size: Some(1000), ..plain.clone() }] {
            assert_eq!(exchanged(&needs_room, 500, 1), [[go], [come]]);
        }
    }
}
