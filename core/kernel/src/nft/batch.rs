//! One transaction: changes in an order in which every reference resolves, sent as one message, applied whole or not at all.
//!
//! New tables, sets and chains come first, then elements that go, then rules, then elements; at last what is removed, rules before
//! chains before sets. An element that changes goes and comes back in one breath.

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
        let mut writer = Writer { context, next_set: 1, parts: Default::default() };
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

    /// Sends it. One that is larger than the socket takes is cut between changes, in order.
    pub(crate) fn send(self, connection: &mut Connection) -> Result<(), Failure> {
        let limit = connection.send_limit();
        let mut parts = self.0.into_iter().peekable();
        while parts.peek().is_some() {
            let (mut size, mut now) = (0, Vec::new());
            while let Some(part) = parts.next_if(|part| now.is_empty() || size + part.size() <= limit) {
                size += part.size();
                now.push(part);
            }
            send(connection, now)?;
        }
        Ok(())
    }
}

// === impl Part ===

impl Part {
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
    ChangedElements,
    Elements,
    GoneRules,
    GoneChains,
    GoneSets,
    GoneTables,
}

struct Writer<'a> {
    context: &'a Context<'a>,
    next_set: u32,
    parts: BTreeMap<Stage, Vec<Part>>,
}

impl Writer<'_> {
    fn put(&mut self, stage: Stage, op: Option<usize>, messages: Vec<Message>) {
        self.parts.entry(stage).or_default().push(Part { op, messages });
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
                let messages = self.element(op, sys::NFT_MSG_NEWSETELEM, element)?;
                self.put(Stage::Elements, op, messages);
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
                let messages = self.element(op, sys::NFT_MSG_DELSETELEM, element)?;
                self.put(Stage::GoneElements, op, messages);
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

    fn element(&self, op: Option<usize>, kind: u16, element: &Element) -> Result<Vec<Message>, Failure> {
        let malformed = |error| Failure::Malformed(op.unwrap_or_default(), error);
        let set = (self.context.set)(&element.table, &element.set);
        let set = set.ok_or_else(|| malformed(format!("set {} is wanted nowhere", element.set)))?;
        let encoded =
            if kind == sys::NFT_MSG_DELSETELEM { set::encode_key(element, &set) } else { set::encode(element, &set) };
        let encoded = encoded.map_err(malformed)?;
        Ok(set::elements(kind, &element.table, &element.set, None, set::shape(&set), &[encoded]))
    }

    fn finish(self) -> Vec<Part> {
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
    for part in &mut parts {
        for message in &mut part.messages {
            sequence += 1;
            origin.push(part.op);
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
        Some((at, refusal)) => Err(Failure::Refused(at.checked_sub(1).and_then(|at| origin[at as usize]), refusal)),
    }
}
