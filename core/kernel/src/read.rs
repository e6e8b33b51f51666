//! What the kernel holds in a place, and whether it is as wanted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;

use switchyard_netstate::nft::{Base, Element, TableRef};
use switchyard_netstate::{Key, Link, LinkKind, Object, Place};

use crate::netlink::{Connection, Family, Message, Refusal};
use crate::nft::{self, dump::FoundSet};
use crate::places::io_error;
use crate::rtnl::{self, Found, Names, address, link::FoundLink, neigh, qdisc, route, rule};
use crate::{Error, Places, sysctl};

/// Sorts of objects that are listed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    Address,
    Route,
    Rule,
    Neighbour,
    Fdb,
    Qdisc,
    Nft,
}

/// All classes.
pub(crate) const ALL: [Class; 7] =
    [Class::Address, Class::Route, Class::Rule, Class::Neighbour, Class::Fdb, Class::Qdisc, Class::Nft];

/// What is there.
#[derive(Default)]
pub(crate) struct Truth {
    pub(crate) links: HashMap<String, FoundLink>,
    pub(crate) names: Names,
    pub(crate) others: BTreeMap<Key, Vec<Found>>,
    pub(crate) tables: nft::dump::State,
    pub(crate) sysctls: HashMap<String, String>,
}

/// How what is there stands to what is wanted.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// As wanted.
    Right { owned: bool },
    /// Different: what is there.
    Wrong { found: Box<Object>, owned: bool },
    /// Not there.
    Missing,
}

/// The class of an object; `None` for links, which are always read, and parameters, which are read one by one.
pub(crate) fn class_of(object: &Object) -> Option<Class> {
    Some(match object {
        Object::Link(_) | Object::Sysctl(_) => return None,
        Object::Address(_) => Class::Address,
        Object::Route(_) => Class::Route,
        Object::Rule(_) => Class::Rule,
        Object::Neighbour(_) => Class::Neighbour,
        Object::Fdb(_) => Class::Fdb,
        Object::Qdisc(_) => Class::Qdisc,
        Object::Table(_) | Object::Chain(_) | Object::Set(_) | Object::Element(_) => Class::Nft,
    })
}

// === impl Truth ===

impl Truth {
    /// Reads links and what else is asked for.
    pub(crate) fn read(places: &mut Places, place: &Place, owner: u8, classes: &[Class]) -> Result<Self, Error> {
        let mut truth = Self::default();
        let rtnl = places.connection(place, Family::Route, owner)?;
        truth.read_links(rtnl).map_err(|source| io_error(place, "list links", source))?;
        for class in classes.iter().filter(|class| **class != Class::Nft) {
            let outcome = truth.read_class(rtnl, *class, owner);
            outcome.map_err(|source| io_error(place, format!("list {class:?}"), source))?;
        }
        if classes.contains(&Class::Nft) {
            let nft = places.connection(place, Family::Netfilter, owner)?;
            let tables = nft::dump::read(nft, owner).and_then(|read| read.map_err(refused));
            truth.tables = tables.map_err(|source| io_error(place, "list nftables", source))?;
        }
        places.forget_indexes(place);
        for link in truth.links.values() {
            places.learn_index(place, &link.name, link.index);
        }
        Ok(truth)
    }

    /// Reads parameters of a place.
    pub(crate) fn read_sysctls<'a>(
        &mut self,
        places: &Places,
        place: &Place,
        paths: impl Iterator<Item = &'a str>,
    ) -> Result<(), Error> {
        let paths: Vec<&str> = paths.collect();
        if paths.is_empty() {
            return Ok(());
        }
        let read = || paths.iter().filter_map(|path| Some(((*path).to_owned(), sysctl::read(path).ok()?))).collect();
        self.sysctls = places.netns(place)?.visit(read).map_err(|source| io_error(place, "read parameters", source))?;
        Ok(())
    }

    fn read_links(&mut self, rtnl: &mut Connection) -> io::Result<()> {
        for found in list(rtnl, &rtnl::link::list(), FoundLink::parse)? {
            self.names.insert(found.index, found.name.clone());
            self.links.insert(found.name.to_string(), found);
        }
        Ok(())
    }

    fn read_class(&mut self, rtnl: &mut Connection, class: Class, owner: u8) -> io::Result<()> {
        let names = &self.names;
        let ours: BTreeSet<u32> =
            self.links.values().filter(|link| link.group == u32::from(owner)).map(|link| link.index).collect();
        let found = match class {
            Class::Address => list(rtnl, &address::list(), |payload| address::parse(payload, names, owner)),
            Class::Route => list(rtnl, &route::list(), |payload| route::parse(payload, names, owner)),
            Class::Rule => list(rtnl, &rule::list(), |payload| rule::parse(payload, owner)),
            Class::Neighbour => list(rtnl, &neigh::list(), |payload| neigh::parse(payload, names, owner)),
            Class::Fdb => list(rtnl, &neigh::list_fdb(), |payload| {
                neigh::parse_fdb(payload, names, |index| ours.contains(&index))
            }),
            Class::Qdisc => list(rtnl, &qdisc::list(), |payload| qdisc::parse(payload, names, owner)),
            Class::Nft => return Ok(()),
        }?;
        for one in found {
            self.others.entry(one.object.key()).or_default().push(one);
        }
        Ok(())
    }

    /// How things stand with one wanted object. `set` knows the sets.
    pub(crate) fn judge(
        &self,
        wanted: &Object,
        owner: u8,
        set: &dyn Fn(&TableRef, &str) -> Option<switchyard_netstate::nft::Set>,
    ) -> Verdict {
        match wanted {
            Object::Link(wanted) => self.judge_link(wanted, owner),
            Object::Sysctl(wanted) => match self.sysctls.get(&wanted.path) {
                Some(value) if *value == sysctl::normal(&wanted.value) => Verdict::Right { owned: true },
                Some(value) => {
                    let found = switchyard_netstate::Sysctl { path: wanted.path.clone(), value: value.clone() };
                    Verdict::Wrong { found: Box::new(Object::Sysctl(found)), owned: true }
                }
                None => Verdict::Missing,
            },
            Object::Table(_) | Object::Chain(_) | Object::Set(_) | Object::Element(_) => self.judge_nft(wanted, set),
            _ => {
                let found = self.others.get(&wanted.key()).map_or(&[][..], |found| found);
                let right = |one: &&Found| will_do(&one.object, wanted);
                let best = found.iter().filter(right).max_by_key(|one| one.owned);
                match (best, found.iter().max_by_key(|one| one.owned)) {
                    (Some(one), _) => Verdict::Right { owned: one.owned },
                    (None, Some(one)) => Verdict::Wrong { found: Box::new(one.object.clone()), owned: one.owned },
                    (None, None) => Verdict::Missing,
                }
            }
        }
    }

    fn judge_link(&self, wanted: &Link, owner: u8) -> Verdict {
        let Some(found) = self.links.get(wanted.name.as_str()) else { return Verdict::Missing };
        let owned = found.group == u32::from(owner) || wanted.kind == LinkKind::Existing;
        if owned && found.will_do(wanted, &self.names) {
            return Verdict::Right { owned };
        }
        let found = found.as_link(Some(wanted), &self.names);
        Verdict::Wrong { found: Box::new(Object::Link(found)), owned }
    }

    fn judge_nft(
        &self,
        wanted: &Object,
        set: &dyn Fn(&TableRef, &str) -> Option<switchyard_netstate::nft::Set>,
    ) -> Verdict {
        let table = nft::batch::table_of(wanted).expect("called for nftables objects");
        let Some(found) = self.tables.get(table) else { return Verdict::Missing };
        if !found.owned {
            return Verdict::Wrong { found: Box::new(wanted.clone()), owned: false };
        }
        let right = match wanted {
            Object::Chain(wanted) => match found.chains.get(&wanted.name) {
                None => return Verdict::Missing,
                Some(chain) => {
                    let digest = nft::chain::digest(wanted);
                    let mark = |number: usize| nft::chain::mark(digest, number as u32);
                    if !nft::chain::same_base(chain.base.as_ref(), wanted) {
                        // Only what can be changed in place keeps the chain; the old base is not known in our words.
                        let mut other = wanted.clone();
                        other.rules.clear();
                        let elsewhere = |base: &Base| Base { priority: i32::MIN, ..base.clone() };
                        other.base = wanted.base.as_ref().map(elsewhere);
                        return Verdict::Wrong { found: Box::new(Object::Chain(other)), owned: true };
                    }
                    chain.rules.len() == wanted.rules.len()
                        && chain.rules.iter().enumerate().all(|(number, data)| *data == mark(number))
                }
            },
            Object::Set(wanted) => match found.sets.get(&wanted.name) {
                None => return Verdict::Missing,
                Some(set) => same_set(set, wanted),
            },
            Object::Element(element) => {
                let Some(definition) = set(table, &element.set) else { return Verdict::Missing };
                let Some(there) = found.sets.get(&element.set) else { return Verdict::Missing };
                let Ok(encoded) = nft::set::encode(element, &definition) else { return Verdict::Missing };
                match there.elements.get(&(encoded.from, encoded.to)) {
                    None => return Verdict::Missing,
                    Some(data) => *data == encoded.data,
                }
            }
            _ => true,
        };
        if right {
            Verdict::Right { owned: true }
        } else {
            let found = match wanted {
                Object::Chain(chain) => {
                    Object::Chain(switchyard_netstate::nft::Chain { rules: vec![], ..chain.clone() })
                }
                Object::Element(element) => Object::Element(Element { data: None, ..element.clone() }),
                other => other.clone(),
            };
            Verdict::Wrong { found: Box::new(found), owned: true }
        }
    }
}

/// Whether an object read back is as wanted.
fn will_do(found: &Object, wanted: &Object) -> bool {
    match (found, wanted) {
        (Object::Route(found), Object::Route(wanted)) => route::will_do(found, wanted),
        (Object::Qdisc(found), Object::Qdisc(wanted)) => qdisc::will_do(found, wanted),
        _ => found == wanted,
    }
}

pub(crate) fn same_set(found: &FoundSet, wanted: &switchyard_netstate::nft::Set) -> bool {
    found.flags == nft::set::flags(wanted)
        && found.key == nft::set::concatenated(&wanted.key)
        && found.data == nft::set::data_type(wanted)
}

fn list<T>(connection: &mut Connection, message: &Message, parse: impl Fn(&[u8]) -> Option<T>) -> io::Result<Vec<T>> {
    let mut found = Vec::new();
    let fresh = std::cell::Cell::new(false);
    connection
        .dump(
            message,
            || fresh.set(true),
            |_, payload| {
                if fresh.take() {
                    found.clear();
                }
                found.extend(parse(payload));
            },
        )?
        .map_err(refused)?;
    Ok(found)
}

fn refused(refusal: Refusal) -> io::Error {
    io::Error::from_raw_os_error(refusal.errno)
}
