//! Reading nf_tables back: the tables that are ours, and what they hold.

use std::collections::BTreeMap;
use std::io;

use switchyard_netstate::nft::TableRef;

use super::message::{COMMENT, family, family_of, message, owner_tag, user_entry};
use super::set::{Encoded, EncodedData, Span, predecessor};
use crate::netlink::{Attributes, Connection, Message, Refusal, be_u32};
use crate::sys;

/// All tables whose name starts as ours do.
pub(crate) type State = BTreeMap<TableRef, FoundTable>;

/// A table and what it holds (nothing is read of one that is not ours).
#[derive(Debug, Default)]
pub(crate) struct FoundTable {
    pub(crate) owned: bool,
    pub(crate) chains: BTreeMap<String, FoundChain>,
    pub(crate) sets: BTreeMap<String, FoundSet>,
}

#[derive(Debug, Default)]
pub(crate) struct FoundChain {
    /// Hook, priority, type, policy of a base chain.
    pub(crate) base: Option<(u32, i32, String, u32)>,
    /// User data of each rule.
    pub(crate) rules: Vec<Vec<u8>>,
}

#[derive(Debug, Default)]
pub(crate) struct FoundSet {
    pub(crate) flags: u32,
    pub(crate) key: (u32, u32),
    pub(crate) data: Option<(u32, u32)>,
    /// Data by first and last key.
    pub(crate) elements: BTreeMap<Span, Option<EncodedData>>,
}

/// Reads all that is ours. Elements of dynamic sets are left out.
pub(crate) fn read(connection: &mut Connection, owner: u8) -> io::Result<Result<State, Refusal>> {
    let state = std::cell::RefCell::new(State::new());
    let list = |kind| message(kind, 0, 0);

    let outcome = connection.dump(
        &list(sys::NFT_MSG_GETTABLE),
        || state.borrow_mut().clear(),
        |_, payload| {
            let attributes = Attributes::after(payload, 4);
            let Some(table) = table_ref(payload, sys::NFTA_TABLE_NAME) else { return };
            let tag = attributes.get(sys::NFTA_TABLE_USERDATA).and_then(|data| user_entry(data, COMMENT));
            let owned = tag == Some(owner_tag(owner).as_bytes());
            state.borrow_mut().insert(table, FoundTable { owned, ..FoundTable::default() });
        },
    )?;
    if let Err(refusal) = outcome {
        return Ok(Err(refusal));
    }
    let mut state = state.into_inner();
    let ours: Vec<TableRef> = state.iter().filter(|(_, found)| found.owned).map(|(table, _)| table.clone()).collect();
    for table in ours {
        match read_table(connection, &table)? {
            Ok(found) => drop(state.insert(table, found)),
            // It went while we were reading.
            Err(refusal) if refusal.errno == libc::ENOENT => drop(state.remove(&table)),
            Err(refusal) => return Ok(Err(refusal)),
        }
    }
    Ok(Ok(state))
}

fn read_table(connection: &mut Connection, table: &TableRef) -> io::Result<Result<FoundTable, Refusal>> {
    let of_table = |kind, attribute| {
        let mut message = message(kind, 0, family(table.family));
        message.text(attribute, &table.name);
        message
    };
    let mine = |payload: &[u8], attribute| table_ref(payload, attribute).is_some_and(|found| found == *table);
    let mut chains: BTreeMap<String, FoundChain> = BTreeMap::new();
    let mut rules: Vec<(String, Vec<u8>)> = Vec::new();
    let mut sets: BTreeMap<String, FoundSet> = BTreeMap::new();

    let fresh = std::cell::Cell::new(false);
    macro_rules! dump {
        ($message:expr, $store:ident, $each:expr) => {{
            let each = $each;
            let outcome = connection.dump(
                &$message,
                || fresh.set(true),
                |_, payload: &[u8]| {
                    if fresh.take() {
                        $store.clear();
                    }
                    each(payload, &mut $store);
                },
            )?;
            if let Err(refusal) = outcome {
                return Ok(Err(refusal));
            }
        }};
    }
    dump!(of_table(sys::NFT_MSG_GETCHAIN, sys::NFTA_CHAIN_TABLE), chains, |payload: &[u8],
                                                                           chains: &mut BTreeMap<
        String,
        FoundChain,
    >| {
        if let Some((name, chain)) = parse_chain(payload).filter(|_| mine(payload, sys::NFTA_CHAIN_TABLE)) {
            chains.insert(name, chain);
        }
    });
    dump!(
        of_table(sys::NFT_MSG_GETRULE, sys::NFTA_RULE_TABLE),
        rules,
        |payload: &[u8], rules: &mut Vec<(String, Vec<u8>)>| {
            let attributes = Attributes::after(payload, 4);
            if let Some(chain) = attributes.text(sys::NFTA_RULE_CHAIN).filter(|_| mine(payload, sys::NFTA_RULE_TABLE)) {
                rules.push((chain, attributes.get(sys::NFTA_RULE_USERDATA).unwrap_or_default().to_vec()));
            }
        }
    );
    dump!(
        of_table(sys::NFT_MSG_GETSET, sys::NFTA_SET_TABLE),
        sets,
        |payload: &[u8], sets: &mut BTreeMap<String, FoundSet>| {
            if let Some((name, set)) = parse_set(payload).filter(|_| mine(payload, sys::NFTA_SET_TABLE)) {
                sets.insert(name, set);
            }
        }
    );
    for (chain, data) in rules {
        if let Some(chain) = chains.get_mut(&chain) {
            chain.rules.push(data);
        }
    }
    for (name, set) in sets.iter_mut().filter(|(_, set)| set.flags & sys::NFT_SET_EVAL == 0) {
        let mut message = of_table(sys::NFT_MSG_GETSETELEM, sys::NFTA_SET_ELEM_LIST_TABLE);
        message.text(sys::NFTA_SET_ELEM_LIST_SET, name);
        match read_elements(connection, &message, set.flags)? {
            Ok(elements) => set.elements = elements.into_iter().map(|e| ((e.from, e.to), e.data)).collect(),
            Err(refusal) => return Ok(Err(refusal)),
        }
    }
    Ok(Ok(FoundTable { owned: true, chains, sets }))
}

fn read_elements(
    connection: &mut Connection,
    message: &Message,
    flags: u32,
) -> io::Result<Result<Vec<Encoded>, Refusal>> {
    let mut raw: Vec<(Encoded, bool)> = Vec::new();
    let fresh = std::cell::Cell::new(false);
    let outcome = connection.dump(
        message,
        || fresh.set(true),
        |_, payload| {
            if fresh.take() {
                raw.clear();
            }
            for (_, item) in Attributes::after(payload, 4).nest(sys::NFTA_SET_ELEM_LIST_ELEMENTS) {
                raw.extend(parse_element(Attributes(item)));
            }
        },
    )?;
    if let Err(refusal) = outcome {
        return Ok(Err(refusal));
    }
    if flags & sys::NFT_SET_INTERVAL == 0 || flags & sys::NFT_SET_CONCAT != 0 {
        return Ok(Ok(raw.into_iter().map(|(element, _)| element).collect()));
    }
    // A tree gives starts and ends; an end is the first key after its interval. Ends sort before starts of the same key.
    raw.sort_by(|(a, a_end), (b, b_end)| a.from.cmp(&b.from).then(b_end.cmp(a_end)));
    let mut elements: Vec<Encoded> = Vec::new();
    let mut open = false;
    for (element, end) in raw {
        match elements.last_mut() {
            Some(last) if end && open => {
                let to = predecessor(&element.from);
                last.to = (to != last.from).then_some(to);
                open = false;
            }
            _ if end => {}
            _ => {
                elements.push(element);
                open = true;
            }
        }
    }
    if let Some(last) = elements.last_mut().filter(|_| open) {
        let to = vec![0xff; last.from.len()];
        last.to = (to != last.from).then_some(to);
    }
    Ok(Ok(elements))
}

fn table_ref(payload: &[u8], attribute: u16) -> Option<TableRef> {
    let name = Attributes::after(payload, 4).text(attribute)?;
    let family = family_of(*payload.first()?)?;
    name.starts_with(TableRef::PREFIX).then(|| TableRef::new(family, name))
}

fn parse_chain(payload: &[u8]) -> Option<(String, FoundChain)> {
    let attributes = Attributes::after(payload, 4);
    let hook = attributes.nest(sys::NFTA_CHAIN_HOOK);
    let base = hook.be32(sys::NFTA_HOOK_HOOKNUM).map(|number| {
        (
            number,
            hook.be32(sys::NFTA_HOOK_PRIORITY).unwrap_or_default() as i32,
            attributes.text(sys::NFTA_CHAIN_TYPE).unwrap_or_default(),
            attributes.be32(sys::NFTA_CHAIN_POLICY).unwrap_or_default(),
        )
    });
    Some((attributes.text(sys::NFTA_CHAIN_NAME)?, FoundChain { base, rules: Vec::new() }))
}

/// Reads a set; `None` for one without a name of its own, which belongs to a rule.
fn parse_set(payload: &[u8]) -> Option<(String, FoundSet)> {
    let attributes = Attributes::after(payload, 4);
    let flags = attributes.be32(sys::NFTA_SET_FLAGS).unwrap_or_default();
    if flags & sys::NFT_SET_ANONYMOUS != 0 {
        return None;
    }
    let number = |kind| attributes.get(kind).and_then(be_u32);
    let data = number(sys::NFTA_SET_DATA_TYPE);
    let set = FoundSet {
        flags,
        key: (number(sys::NFTA_SET_KEY_TYPE)?, number(sys::NFTA_SET_KEY_LEN)?),
        data: data.map(|kind| {
            let length = number(sys::NFTA_SET_DATA_LEN).unwrap_or_default();
            (kind, if kind == sys::NFT_DATA_VERDICT { 0 } else { length })
        }),
        elements: BTreeMap::new(),
    };
    Some((attributes.text(sys::NFTA_SET_NAME)?, set))
}

/// Reads an element, and whether it ends an interval.
fn parse_element(item: Attributes<'_>) -> Option<(Encoded, bool)> {
    let key = |kind| item.nest(kind).get(sys::NFTA_DATA_VALUE).map(<[u8]>::to_vec);
    let from = key(sys::NFTA_SET_ELEM_KEY)?;
    let to = key(sys::NFTA_SET_ELEM_KEY_END).filter(|to| *to != from);
    let data = item.nest(sys::NFTA_SET_ELEM_DATA);
    let verdict = data.nest(sys::NFTA_DATA_VERDICT);
    let data = match (data.get(sys::NFTA_DATA_VALUE), verdict.be32(sys::NFTA_VERDICT_CODE)) {
        (Some(value), _) => Some(EncodedData::Value(value.to_vec())),
        (None, Some(code)) => Some(EncodedData::Verdict(code as i32, verdict.text(sys::NFTA_VERDICT_CHAIN))),
        (None, None) => None,
    };
    let flags = item.be32(sys::NFTA_SET_ELEM_FLAGS).unwrap_or_default();
    Some((Encoded { from, to, data }, flags & sys::NFT_SET_ELEM_INTERVAL_END != 0))
}
