//! Objects as the bytes of netlink messages, without sending them.

use std::collections::BTreeMap;

use switchyard_netstate::nft::{Set, TableRef};
use switchyard_netstate::{Change, Object, Op, Phase, Place, Plan};

use crate::engine::Owner;
use crate::nft::batch::{Context, Failure, Transaction, table_of};
use crate::rtnl::{address, neigh, route};

/// The messages that make these addresses, neighbours, FDB entries, routes and nftables objects, one after the other, as if every
/// interface they name had the number `dev`. Other objects take more than one exchange with the kernel and are left out.
///
/// # Errors
/// An nftables object that cannot be written, with the reason.
pub fn encode(owner: Owner, objects: &[Object], dev: u32) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    for object in objects {
        let mut message = match object {
            Object::Address(o) => address::add(o, dev, owner.protocol),
            Object::Neighbour(o) => neigh::add(o, dev, owner.protocol, false),
            Object::Fdb(o) => neigh::add_fdb(o, dev),
            Object::Route(o) => route::add(o, o.via.dev.as_ref().map(|_| dev), owner.protocol, route::IfThere::Refuse),
            _ => continue,
        };
        bytes.extend_from_slice(message.seal(1));
    }
    let tables = objects.iter().filter(|object| table_of(object).is_some()).cloned();
    let tables = Plan::of(tables.map(|object| (Place::node("encode"), Change::Add(object))));
    let ops: Vec<&Op> = tables.phase(Phase::Switch).collect();
    let sets: BTreeMap<(&TableRef, &str), &Set> = objects
        .iter()
        .filter_map(|object| match object {
            Object::Set(set) => Some(((&set.table, set.name.as_str()), set)),
            _ => None,
        })
        .collect();
    let set = |table: &TableRef, name: &str| sets.get(&(table, name)).map(|set| (*set).clone());
    let (content, anew) = (|_: &TableRef| Vec::new(), BTreeMap::new());
    let context = Context { owner: owner.protocol, set: &set, content: &content, anew: &anew };
    match Transaction::of(&ops, &context) {
        Ok(transaction) => bytes.extend(transaction.bytes()),
        Err(Failure::Malformed(_, why)) => return Err(why),
        Err(Failure::Refused(..) | Failure::Io(_)) => unreachable!("nothing was sent"),
    }
    Ok(bytes)
}
