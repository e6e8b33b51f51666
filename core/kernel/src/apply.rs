//! Carries out operations: groups them into batches, recognises what is already as wanted, and notes what it changed.

use std::collections::{BTreeMap, BTreeSet};

use switchyard_netstate::nft::{Set, TableRef};
use switchyard_netstate::{Change, IfName, Key, Ledger, Link, LinkKind, Object, Op, Place, Sysctl};

use crate::netlink::{Family, Message, Refusal};
use crate::nft::batch::{Context, Failure, Transaction, table_of};
use crate::places::io_error;
use crate::read::{Truth, Verdict, class_of};
use crate::rtnl::link::{self, FoundLink, Peer, Related, peer_of};
use crate::rtnl::{address, neigh, qdisc, route, rule};
use crate::{Error, Places, sysctl};

/// What is wanted once all operations are done: the ledger and, before it, what is about to change.
pub(crate) struct View<'a> {
    pub(crate) ledger: &'a Ledger,
    /// What differs from the ledger; `None` is wanted no longer.
    pub(crate) overlay: &'a BTreeMap<(Place, Key), Option<Object>>,
    /// Where sets may be looked up besides, for operations that are put back.
    pub(crate) sets: &'a BTreeMap<(Place, Key), Option<Object>>,
}

/// Values from before we changed them, and things we want that somebody else had made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    /// Parameters, and attributes of links that are not ours, as they were.
    pub(crate) originals: BTreeMap<(Place, Key), Object>,
    /// Objects of others that are exactly as we want them; they stay when we want them no longer.
    pub(crate) borrowed: BTreeSet<(Place, Key)>,
}

/// One run over operations.
pub(crate) struct Run<'a> {
    pub(crate) owner: u8,
    pub(crate) places: &'a mut Places,
    pub(crate) view: View<'a>,
    pub(crate) memory: &'a mut Memory,
    /// What has been changed, in order.
    pub(crate) done: Vec<Op>,
    /// Places in which the kernel took more away than was asked for.
    pub(crate) disturbed: BTreeSet<Place>,
    /// Tables to be written anew, whether or not a set of theirs is replaced.
    pub(crate) anew: BTreeMap<(Place, TableRef), bool>,
    made: BTreeSet<(Place, IfName)>,
    gone: BTreeSet<(Place, IfName)>,
}

/// One message of an operation.
struct Request {
    op: usize,
    message: Message,
    /// Refusals that come to the same as success.
    tolerate: &'static [i32],
    makes: bool,
}

const GONE: &[i32] = &[libc::ENOENT, libc::ESRCH, libc::ENODEV, libc::EADDRNOTAVAIL];
/// Deleting a qdisc that is not ours is refused as invalid.
const GONE_QDISC: &[i32] = &[libc::ENOENT, libc::ENODEV, libc::EINVAL];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Channel {
    Rtnl,
    Sysctl,
    Nft,
}

// === impl View ===

impl View<'_> {
    /// What is wanted under this key.
    pub(crate) fn object(&self, place: &Place, key: &Key) -> Option<Object> {
        match self.overlay.get(&(place.clone(), key.clone())) {
            Some(changed) => changed.clone(),
            None => self.ledger.wants(place, key).cloned(),
        }
    }

    fn set(&self, place: &Place, table: &TableRef, name: &str) -> Option<Set> {
        let at = (place.clone(), Key::Set(table.clone(), name.to_owned()));
        let as_set = |object: Option<&Object>| match object {
            Some(Object::Set(set)) => Some(set.clone()),
            _ => None,
        };
        as_set(self.overlay.get(&at).and_then(Option::as_ref))
            .or_else(|| as_set(self.ledger.wants(place, &at.1)))
            .or_else(|| as_set(self.sets.get(&at).and_then(Option::as_ref)))
    }

    /// All that a table is to hold.
    fn content(&self, place: &Place, table: &TableRef) -> Vec<Object> {
        let of_table = |object: &Object| table_of(object) == Some(table);
        let kept = self.ledger.wanted(place);
        let kept = kept
            .iter()
            .filter(|(key, object)| of_table(object) && !self.overlay.contains_key(&(place.clone(), (*key).clone())));
        let changed = self.overlay.iter().filter(|((at, _), _)| at == place).filter_map(|(_, object)| object.as_ref());
        kept.map(|(_, object)| object.clone()).chain(changed.filter(|object| of_table(object)).cloned()).collect()
    }
}

// === impl Run ===

impl<'a> Run<'a> {
    pub(crate) fn new(owner: u8, places: &'a mut Places, view: View<'a>, memory: &'a mut Memory) -> Self {
        Self {
            owner,
            places,
            view,
            memory,
            done: Vec::new(),
            disturbed: BTreeSet::new(),
            anew: BTreeMap::new(),
            made: BTreeSet::new(),
            gone: BTreeSet::new(),
        }
    }

    /// Carries out operations in order; stops at the first that fails. `done` says what has been changed, also then.
    pub(crate) fn run(&mut self, ops: &[Op]) -> Result<(), Error> {
        let going = links_that_go(ops);
        let mut at = 0;
        while at < ops.len() {
            let (place, channel) = (&ops[at].place, channel(&ops[at]));
            let same = |op: &&Op| op.place == *place && self::channel(op) == channel;
            let group: Vec<&Op> = ops[at..].iter().take_while(same).collect();
            at += group.len();
            let mut needed = Vec::with_capacity(group.len());
            for op in group {
                if self.needless(op, &going) {
                    self.done.push(op.clone());
                } else {
                    needed.push(op);
                }
            }
            let Some(first) = needed.first() else { continue };
            if !self.places.contains(&first.place) {
                // What was in a namespace that is gone is gone as well.
                if needed.iter().all(|op| matches!(op.change, Change::Remove(_))) {
                    continue;
                }
                return Err(Error::UnknownPlace { place: first.place.clone() });
            }
            match channel {
                Channel::Rtnl => self.rtnl(&needed)?,
                Channel::Sysctl => self.sysctls(&needed)?,
                Channel::Nft => self.nft(&needed)?,
            }
        }
        Ok(())
    }

    /// Whether an operation is done by the removal of a link, which takes all with it that hangs on it.
    fn needless(&self, op: &Op, going: &BTreeSet<(Place, IfName)>) -> bool {
        let Change::Remove(object) = &op.change else { return false };
        let on = |dev: &IfName, links: &BTreeSet<(Place, IfName)>| links.contains(&(op.place.clone(), dev.clone()));
        match object {
            Object::Link(link) => on(&link.name, &self.gone),
            Object::Address(o) => on(&o.dev, going),
            Object::Neighbour(o) => on(&o.dev, going),
            Object::Fdb(o) => on(&o.dev, going),
            Object::Qdisc(o) => on(&o.dev, going),
            Object::Route(o) => o.via.dev.as_ref().is_some_and(|dev| on(dev, going)),
            _ => false,
        }
    }

    // --- rtnetlink ---

    fn rtnl(&mut self, ops: &[&Op]) -> Result<(), Error> {
        let place = ops[0].place.clone();
        let mut pending = Vec::new();
        let mut failed = BTreeMap::new();
        for (number, op) in ops.iter().enumerate() {
            if let Change::Remove(object) = &op.change
                && self.memory.borrowed.remove(&(place.clone(), object.key()))
            {
                continue;
            }
            self.requests(number, op, ops, &mut pending, &mut failed)?;
        }
        self.flush(ops, &mut pending, &mut failed)?;
        for (number, refusal) in failed {
            self.settle(ops[number], refusal)?;
        }
        Ok(())
    }

    /// Sends what is pending and notes which operations took effect and which were refused.
    fn flush(
        &mut self,
        ops: &[&Op],
        pending: &mut Vec<Request>,
        failed: &mut BTreeMap<usize, Refusal>,
    ) -> Result<(), Error> {
        if pending.is_empty() {
            return Ok(());
        }
        let place = &ops[0].place;
        let requests = std::mem::take(pending);
        let (meta, mut messages): (Vec<_>, Vec<_>) =
            requests.into_iter().map(|r| ((r.op, r.tolerate, r.makes), r.message)).unzip();
        let connection = self.places.connection(place, Family::Route, self.owner)?;
        let answers = match connection.batch(&mut messages) {
            Ok(answers) => answers,
            Err(source) => {
                // Nobody knows what took effect: count all as done, so that all is put back.
                self.done.extend(meta.iter().map(|(op, ..)| ops[*op].clone()));
                self.places.reset(place);
                return Err(io_error(place, "talk to the kernel", source));
            }
        };
        let mut touched = BTreeSet::new();
        for ((op, tolerate, makes), answer) in meta.into_iter().zip(answers) {
            match answer {
                Ok(echo) => {
                    touched.insert(op);
                    if makes {
                        self.learn(ops[op], echo.as_deref());
                    }
                }
                Err(refusal) if tolerate.contains(&refusal.errno) => {}
                Err(refusal) => drop(failed.entry(op).or_insert(refusal)),
            }
        }
        for number in touched {
            let op = ops[number];
            if self.done.last() != Some(op) {
                self.done.push(op.clone());
            }
            if let Change::Remove(Object::Address(address)) | Change::Replace(Object::Address(address), _) = &op.change
            {
                // A secondary address, or a route that prefers it as source, may have gone with it.
                let _ = address;
                self.disturbed.insert(op.place.clone());
            }
        }
        Ok(())
    }

    /// Keeps the numbers of a new link and of its other end.
    fn learn(&mut self, op: &Op, echo: Option<&[u8]>) {
        let Object::Link(link) = op.object() else { return };
        self.places.forget_index(&op.place, &link.name);
        let found = echo.and_then(FoundLink::parse);
        if let Some(found) = &found {
            self.places.learn_index(&op.place, &link.name, found.index);
        }
        if let Some((peer_place, peer_name)) = peer_of(link) {
            self.places.forget_index(peer_place, peer_name);
            if let Some(found) = found.filter(|found| found.lower != 0) {
                self.places.learn_index(peer_place, peer_name, found.lower);
            }
        }
    }

    /// The number of an interface, which may be about to be made.
    fn index(
        &mut self,
        name: &IfName,
        ops: &[&Op],
        pending: &mut Vec<Request>,
        failed: &mut BTreeMap<usize, Refusal>,
    ) -> Result<Option<u32>, Error> {
        let place = &ops[0].place;
        if let Some(index) = self.places.known_index(place, name) {
            return Ok(Some(index));
        }
        self.flush(ops, pending, failed)?;
        self.places.index(place, name, self.owner)
    }

    /// Turns an operation into messages.
    fn requests(
        &mut self,
        number: usize,
        op: &Op,
        ops: &[&Op],
        pending: &mut Vec<Request>,
        failed: &mut BTreeMap<usize, Refusal>,
    ) -> Result<(), Error> {
        let owner = self.owner;
        let plain = |message| Request { op: number, message, tolerate: &[], makes: false };
        let removal = |message| Request { op: number, message, tolerate: GONE, makes: false };
        // What hangs on an interface needs its number; with the interface gone, so is the object.
        let index = match op.object() {
            Object::Link(_) => return self.link(number, op, ops, pending, failed),
            Object::Address(_) | Object::Neighbour(_) | Object::Fdb(_) | Object::Qdisc(_) | Object::Route(_) => {
                let key = op.object().key();
                let dev = match op.object() {
                    Object::Route(route) => route.via.dev.as_ref(),
                    _ => key.dev(),
                };
                let index = match dev {
                    Some(dev) => self.index(dev, ops, pending, failed)?,
                    None => None,
                };
                match (dev, index, &op.change) {
                    (Some(_), None, Change::Remove(_)) => return Ok(()),
                    (Some(dev), None, _) => {
                        let text = Some(format!("there is no interface {dev}"));
                        failed.entry(number).or_insert(Refusal { errno: libc::ENODEV, text });
                        return Ok(());
                    }
                    _ => index,
                }
            }
            _ => None,
        };
        let dev = index.unwrap_or_default();
        match &op.change {
            Change::Add(Object::Address(o)) => pending.push(plain(address::add(o, dev, owner))),
            Change::Replace(Object::Address(from), Object::Address(to)) => {
                pending.push(removal(address::remove(from, dev)));
                pending.push(plain(address::add(to, dev, owner)));
            }
            Change::Remove(Object::Address(o)) => pending.push(removal(address::remove(o, dev))),

            Change::Add(Object::Route(o)) => pending.push(plain(route::add(o, index, owner, route::IfThere::Refuse))),
            Change::Replace(_, Object::Route(o)) => {
                pending.push(plain(route::add(o, index, owner, route::IfThere::Replace)));
            }
            Change::Remove(Object::Route(o)) => pending.push(removal(route::remove(o, owner))),

            Change::Add(Object::Rule(o)) => pending.push(plain(rule::add(o, owner))),
            Change::Replace(Object::Rule(from), Object::Rule(to)) => {
                pending.push(plain(rule::add(to, owner)));
                pending.push(removal(rule::remove(from, owner)));
            }
            Change::Remove(Object::Rule(o)) => pending.push(removal(rule::remove(o, owner))),

            Change::Add(Object::Neighbour(o)) => pending.push(plain(neigh::add(o, dev, owner, false))),
            Change::Replace(_, Object::Neighbour(o)) => pending.push(plain(neigh::add(o, dev, owner, true))),
            Change::Remove(Object::Neighbour(o)) => pending.push(removal(neigh::remove(o, dev))),

            Change::Add(Object::Fdb(o)) | Change::Replace(_, Object::Fdb(o)) => {
                pending.push(plain(neigh::add_fdb(o, dev)));
            }
            Change::Remove(Object::Fdb(o)) => pending.push(removal(neigh::remove_fdb(o, dev))),

            Change::Add(Object::Qdisc(o)) => pending.push(plain(qdisc::add(o, dev, owner, false))),
            Change::Replace(_, Object::Qdisc(o)) => pending.push(plain(qdisc::add(o, dev, owner, true))),
            Change::Remove(Object::Qdisc(_)) => {
                let message = qdisc::remove(dev, owner);
                pending.push(Request { op: number, message, tolerate: GONE_QDISC, makes: false });
            }
            _ => unreachable!("links, parameters and nftables have ways of their own"),
        }
        Ok(())
    }

    fn link(
        &mut self,
        number: usize,
        op: &Op,
        ops: &[&Op],
        pending: &mut Vec<Request>,
        failed: &mut BTreeMap<usize, Refusal>,
    ) -> Result<(), Error> {
        let plain = |message| Request { op: number, message, tolerate: &[], makes: false };
        let (from, to) = match &op.change {
            Change::Add(Object::Link(link)) => (None, link),
            Change::Replace(Object::Link(from), Object::Link(to)) => (Some(from), to),
            Change::Remove(Object::Link(link)) => {
                self.remove_link(number, op, link, pending)?;
                return Ok(());
            }
            _ => unreachable!("called for links"),
        };
        let master = match &to.master {
            Some(master) => match self.index(master, ops, pending, failed)? {
                Some(index) => Some(index),
                None => {
                    let text = Some(format!("there is no interface {master}"));
                    failed.entry(number).or_insert(Refusal { errno: libc::ENODEV, text });
                    return Ok(());
                }
            },
            None => None,
        };
        let ports = |from: Option<&Link>| {
            to.master.is_some() && from.is_none_or(|f| f.master != to.master || f.port != to.port)
        };
        match from {
            _ if to.kind == LinkKind::Existing => {
                let found = self.places.link(&op.place, &to.name, self.owner)?;
                let Some(found) = found else {
                    let text = Some("a link of kind existing must be there".to_owned());
                    failed.entry(number).or_insert(Refusal { errno: libc::ENODEV, text });
                    return Ok(());
                };
                let found = self.described(&op.place, &found, to)?;
                self.memory
                    .originals
                    .entry((op.place.clone(), op.object().key()))
                    .or_insert_with(|| Object::Link(Link { kind: LinkKind::Existing, ..found.clone() }));
                pending.extend(link::change(Some(&found), to, master).map(plain));
                if ports(Some(&found)) {
                    pending.push(plain(link::port(&to.name, &to.port)));
                }
            }
            Some(from) if !needs_recreation(from, to) => {
                pending.extend(link::change(Some(from), to, master).map(plain));
                if ports(Some(from)) {
                    pending.push(plain(link::port(&to.name, &to.port)));
                }
            }
            None if self.made.remove(&(op.place.clone(), to.name.clone())) => {
                // Made together with its other end; only what cannot be said there is left.
                let rest = Link { master: None, up: false, ..to.clone() };
                pending.extend(link::change(Some(&rest), to, master).map(plain));
                if ports(None) && to.port != Default::default() {
                    pending.push(plain(link::port(&to.name, &to.port)));
                }
                if pending.last().is_none_or(|last| last.op != number) {
                    self.done.push(op.clone());
                }
            }
            from => {
                if from.is_some() {
                    pending.push(Request { op: number, message: link::remove(&to.name), tolerate: GONE, makes: false });
                    self.disturbed.insert(op.place.clone());
                    if let Some((peer, _)) = peer_of(to) {
                        self.disturbed.insert(peer.clone());
                    }
                }
                self.create_link(number, op, to, master, (ops, pending, failed))?;
                pending.extend(link::pin_mtu(to).into_iter().map(plain));
                if ports(None) && to.port != Default::default() {
                    pending.push(plain(link::port(&to.name, &to.port)));
                }
            }
        }
        Ok(())
    }

    fn create_link(
        &mut self,
        number: usize,
        op: &Op,
        link: &Link,
        master: Option<u32>,
        (ops, pending, failed): (&[&Op], &mut Vec<Request>, &mut BTreeMap<usize, Refusal>),
    ) -> Result<(), Error> {
        let lower = match &link.kind {
            LinkKind::Macvlan { dev } => Some(dev),
            LinkKind::Vxlan { dev, .. } => dev.as_ref(),
            _ => None,
        };
        let lower = match lower {
            Some(dev) => match self.index(dev, ops, pending, failed)? {
                Some(index) => Some(index),
                None => {
                    let text = Some(format!("there is no interface {dev}"));
                    failed.entry(number).or_insert(Refusal { errno: libc::ENODEV, text });
                    return Ok(());
                }
            },
            None => None,
        };
        let message = match peer_of(link) {
            Some((place, name)) => {
                let netns = self.places.netns(place)?.clone();
                let wanted = match self.view.object(place, &Key::Link(name.clone())) {
                    Some(Object::Link(wanted)) => Some(wanted),
                    _ => None,
                };
                let peer = Peer { name, netns: &netns, link: wanted.as_ref() };
                let message = link::create(link, self.owner, &Related { master, lower, peer: Some(peer) });
                self.made.insert((place.clone(), name.clone()));
                message
            }
            None if link.kind == LinkKind::Tun => {
                self.flush(ops, pending, failed)?;
                let (netns, name) = (self.places.netns(&op.place)?.clone(), link.name.clone());
                let made = netns.run(|| crate::tun::create(&name)).and_then(|made| made);
                made.map_err(|source| io_error(&op.place, format!("make tun interface {}", link.name), source))?;
                self.done.push(op.clone());
                link::change(None, link, master).unwrap_or_else(|| link::get(&link.name))
            }
            None => link::create(link, self.owner, &Related { master, lower, peer: None }),
        };
        self.places.forget_index(&op.place, &link.name);
        pending.push(Request { op: number, message, tolerate: &[], makes: link.kind != LinkKind::Tun });
        Ok(())
    }

    fn remove_link(&mut self, number: usize, op: &Op, link: &Link, pending: &mut Vec<Request>) -> Result<(), Error> {
        self.places.forget_index(&op.place, &link.name);
        if link.kind != LinkKind::Existing {
            if let Some((place, name)) = peer_of(link) {
                self.gone.insert((place.clone(), name.clone()));
                self.places.forget_index(place, name);
            }
            pending.push(Request { op: number, message: link::remove(&link.name), tolerate: GONE, makes: false });
            return Ok(());
        }
        // Not ours: only what we changed goes back.
        let Some(Object::Link(before)) = self.memory.originals.remove(&(op.place.clone(), op.object().key())) else {
            return Ok(());
        };
        let Some(found) = self.places.link(&op.place, &link.name, self.owner)? else { return Ok(()) };
        let now = self.described(&op.place, &found, &before)?;
        let keep = |old: bool, before: Link| if old { before } else { now.clone() };
        let target = Link {
            mtu: link.mtu.and(before.mtu),
            mac: link.mac.and(before.mac),
            master: if link.master.is_some() { before.master.clone() } else { now.master.clone() },
            up: keep(link.up != before.up, before.clone()).up,
            ..before
        };
        let master = match &target.master {
            Some(master) => self.places.index(&op.place, master, self.owner)?,
            None => None,
        };
        if let Some(message) = link::change(Some(&now), &target, master) {
            pending.push(Request { op: number, message, tolerate: GONE, makes: false });
        }
        Ok(())
    }

    /// A link as it is, with its master by name.
    fn described(&mut self, place: &Place, found: &FoundLink, like: &Link) -> Result<Link, Error> {
        let mut names = crate::rtnl::Names::new();
        if found.master != 0 {
            let truth = Truth::read(self.places, place, self.owner, &[])?;
            names = truth.names;
        }
        Ok(found.as_link(Some(like), &names))
    }

    /// Looks at what is there after a refusal: perhaps it is as wanted already, or is ours from another life, or is to be tried again.
    fn settle(&mut self, op: &Op, refusal: Refusal) -> Result<(), Error> {
        const WORTH_A_LOOK: &[i32] = &[libc::EEXIST, libc::ENODEV, libc::ENOENT, libc::ESRCH, libc::EBUSY];
        let (Change::Add(wanted) | Change::Replace(_, wanted)) = &op.change else {
            return Err(self.refused(op, refusal));
        };
        if !WORTH_A_LOOK.contains(&refusal.errno) {
            return Err(self.refused(op, refusal));
        }
        let classes: Vec<_> = class_of(wanted).into_iter().collect();
        let truth = Truth::read(self.places, &op.place, self.owner, &classes)?;
        let change = match truth.judge(wanted, self.owner, &|_, _| None) {
            Verdict::Right { owned } => {
                if !owned {
                    self.memory.borrowed.insert((op.place.clone(), wanted.key()));
                }
                return Ok(());
            }
            Verdict::Wrong { owned: false, .. } => {
                return Err(Error::Foreign { place: op.place.clone(), key: Box::new(wanted.key()) });
            }
            Verdict::Wrong { found, .. } => Change::Replace(*found, wanted.clone()),
            // A neighbour that was learnt stands in the way, and is nobody's.
            Verdict::Missing if matches!(wanted, Object::Neighbour(_)) => {
                Change::Replace(wanted.clone(), wanted.clone())
            }
            Verdict::Missing => {
                if let Object::Link(link) = wanted {
                    self.clear_other_end(link)?;
                }
                Change::Add(wanted.clone())
            }
        };
        let again = Op { phase: op.phase, place: op.place.clone(), change };
        let ops = [&again];
        let (mut pending, mut failed) = (Vec::new(), BTreeMap::new());
        self.requests(0, &again, &ops, &mut pending, &mut failed)?;
        self.flush(&ops, &mut pending, &mut failed)?;
        match failed.remove(&0) {
            None => Ok(()),
            Some(again) if again.errno == refusal.errno => Err(self.refused(op, refusal)),
            Some(again) => Err(self.refused(op, again)),
        }
    }

    /// A pair of which only the far end is left has to go before it can be made.
    fn clear_other_end(&mut self, link: &Link) -> Result<(), Error> {
        let Some((place, name)) = peer_of(link) else { return Ok(()) };
        let Some(found) = self.places.link(place, name, self.owner)? else { return Ok(()) };
        if found.group != u32::from(self.owner) {
            return Err(Error::Foreign { place: place.clone(), key: Box::new(Key::Link(name.clone())) });
        }
        self.places.forget_index(place, name);
        self.disturbed.insert(place.clone());
        let connection = self.places.connection(place, Family::Route, self.owner)?;
        let answer = connection.one(link::remove(name)).map_err(|source| io_error(place, "remove a link", source))?;
        match answer {
            Err(refusal) if !GONE.contains(&refusal.errno) => {
                Err(io_error(place, format!("remove link {name}"), std::io::Error::from_raw_os_error(refusal.errno)))
            }
            _ => Ok(()),
        }
    }

    // --- parameters ---

    fn sysctls(&mut self, ops: &[&Op]) -> Result<(), Error> {
        let place = ops[0].place.clone();
        let mut work: Vec<(&Op, String, Option<String>)> = Vec::new();
        for op in ops {
            let key = (place.clone(), op.object().key());
            let Object::Sysctl(parameter) = op.object() else { unreachable!("called for parameters") };
            let value = match &op.change {
                Change::Remove(_) => match self.memory.originals.remove(&key) {
                    Some(Object::Sysctl(original)) => Some(original.value),
                    _ => None,
                },
                _ => Some(parameter.value.clone()),
            };
            work.push((op, parameter.path.clone(), value));
        }
        let netns = self.places.netns(&place)?.clone();
        let outcomes = netns.run(|| {
            let write = |path: &str, value: &str| -> std::io::Result<Option<String>> {
                let before = sysctl::read(path)?;
                if before == sysctl::normal(value) {
                    return Ok(Some(before));
                }
                sysctl::write(path, value).map(|()| Some(before))
            };
            let mut outcomes = Vec::new();
            for (_, path, value) in &work {
                let outcome = value.as_ref().map_or(Ok(None), |value| write(path, value));
                let failed = outcome.is_err();
                outcomes.push(outcome);
                if failed {
                    break;
                }
            }
            outcomes
        });
        let outcomes = outcomes.map_err(|source| io_error(&place, "enter the namespace", source))?;
        for ((op, path, _), outcome) in work.into_iter().zip(outcomes) {
            let removal = matches!(op.change, Change::Remove(_));
            match outcome {
                Ok(Some(before)) if !removal => {
                    let original = Object::Sysctl(Sysctl { path, value: before });
                    self.memory.originals.entry((place.clone(), op.object().key())).or_insert(original);
                    self.done.push(op.clone());
                }
                Ok(_) => self.done.push(op.clone()),
                // The interface it belongs to is gone, and the parameter with it.
                Err(error) if removal && error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    let text = Some(error.to_string());
                    let errno = error.raw_os_error().unwrap_or(libc::EIO);
                    return Err(self.refused(op, Refusal { errno, text }));
                }
            }
        }
        Ok(())
    }

    // --- nftables ---

    fn nft(&mut self, ops: &[&Op]) -> Result<(), Error> {
        let place = &ops[0].place;
        let mut anew = BTreeMap::new();
        for ((at, table), there) in &self.anew {
            if at == place {
                anew.insert(table.clone(), *there);
            }
        }
        for op in ops {
            if let Change::Replace(Object::Set(set), _) = &op.change {
                anew.entry(set.table.clone()).or_insert(true);
            }
        }
        match self.transact(place, ops, &anew) {
            Ok(()) => {}
            Err(Failure::Refused(_, refusal)) if [libc::ENOENT, libc::EEXIST, libc::EBUSY].contains(&refusal.errno) => {
                tracing::debug!(%place, %refusal, "nftables are not as remembered");
                let (left, anew) = self.nft_truth(place, ops, anew)?;
                let left: Vec<&Op> = left.iter().collect();
                self.transact(place, &left, &anew).map_err(|failure| self.nft_error(place, &left, failure))?;
            }
            Err(failure) => return Err(self.nft_error(place, ops, failure)),
        }
        self.done.extend(ops.iter().map(|op| (*op).clone()));
        Ok(())
    }

    fn transact(&mut self, place: &Place, ops: &[&Op], anew: &BTreeMap<TableRef, bool>) -> Result<(), Failure> {
        let (view, owner) = (&self.view, self.owner);
        let set = |table: &TableRef, name: &str| view.set(place, table, name);
        let content = |table: &TableRef| view.content(place, table);
        let context = Context { owner, set: &set, content: &content, anew };
        let transaction = Transaction::of(ops, &context)?;
        let unusable = |error: Error| match error {
            Error::Io { source, .. } => Failure::Io(source),
            other => Failure::Io(std::io::Error::other(other.to_string())),
        };
        let connection = self.places.connection(place, Family::Netfilter, owner).map_err(unusable)?;
        let outcome = transaction.send(connection);
        if matches!(outcome, Err(Failure::Io(_))) {
            self.places.reset(place);
        }
        outcome
    }

    /// What is left to do once one has looked: what is gone needs no removal, what is missing is made anew.
    fn nft_truth(
        &mut self,
        place: &Place,
        ops: &[&Op],
        mut anew: BTreeMap<TableRef, bool>,
    ) -> Result<(Vec<Op>, BTreeMap<TableRef, bool>), Error> {
        let truth = Truth::read(self.places, place, self.owner, &[crate::read::Class::Nft])?;
        let set = |table: &TableRef, name: &str| self.view.set(place, table, name);
        let mut left = Vec::new();
        for op in ops {
            let object = op.object();
            let table = table_of(object).expect("only nftables objects come here");
            match truth.tables.get(table) {
                Some(found) if !found.owned => {
                    return Err(Error::Foreign {
                        place: place.clone(),
                        key: Box::new(Object::Table(switchyard_netstate::nft::Table { table: table.clone() }).key()),
                    });
                }
                None => {
                    let wanted = self.view.object(place, &Key::Table(table.clone())).is_some();
                    if wanted && !matches!(op.change, Change::Remove(_)) {
                        anew.insert(table.clone(), false);
                    } else {
                        anew.remove(table);
                    }
                    continue;
                }
                Some(_) => {}
            }
            let change = match (&op.change, truth.judge(object, self.owner, &set)) {
                (Change::Remove(_), Verdict::Missing) => continue,
                (Change::Remove(object), _) => Change::Remove(object.clone()),
                (_, Verdict::Missing) => Change::Add(object.clone()),
                (_, Verdict::Right { .. }) => continue,
                (_, Verdict::Wrong { found, .. }) => Change::Replace(*found, object.clone()),
            };
            left.push(Op { phase: op.phase, place: place.clone(), change });
        }
        Ok((left, anew))
    }

    fn nft_error(&self, place: &Place, ops: &[&Op], failure: Failure) -> Error {
        match failure {
            Failure::Malformed(number, reason) => {
                let key = ops.get(number).map_or_else(|| ops[0].object().key(), |op| op.object().key());
                Error::Invalid { place: place.clone(), key: Box::new(key), reason }
            }
            Failure::Refused(number, refusal) => match number.and_then(|number| ops.get(number)).or(ops.first()) {
                Some(op) => self.refused(op, refusal),
                None => io_error(place, "write nftables", std::io::Error::from_raw_os_error(refusal.errno)),
            },
            Failure::Io(source) => io_error(place, "write nftables", source),
        }
    }

    fn refused(&self, op: &Op, refusal: Refusal) -> Error {
        Error::Refused {
            place: op.place.clone(),
            key: Box::new(op.object().key()),
            action: match op.change {
                Change::Add(_) => "add",
                Change::Replace(..) => "change",
                Change::Remove(_) => "remove",
            },
            errno: refusal.errno,
            message: refusal.text,
        }
    }
}

/// Whether a link has to be made anew; a bridge's snooping can be changed in place.
fn needs_recreation(from: &Link, to: &Link) -> bool {
    match (&from.kind, &to.kind) {
        (LinkKind::Bridge { .. }, LinkKind::Bridge { .. }) => false,
        _ => from.needs_recreation(to),
    }
}

fn channel(op: &Op) -> Channel {
    match op.object() {
        Object::Sysctl(_) => Channel::Sysctl,
        Object::Table(_) | Object::Chain(_) | Object::Set(_) | Object::Element(_) => Channel::Nft,
        _ => Channel::Rtnl,
    }
}

/// Links that operations remove, and the far ends that go with them.
fn links_that_go(ops: &[Op]) -> BTreeSet<(Place, IfName)> {
    let mut links = BTreeSet::new();
    for op in ops {
        if let Change::Remove(Object::Link(link)) = &op.change
            && link.kind != LinkKind::Existing
        {
            links.insert((op.place.clone(), link.name.clone()));
            links.extend(peer_of(link).map(|(place, name)| (place.clone(), name.clone())));
        }
    }
    links
}
