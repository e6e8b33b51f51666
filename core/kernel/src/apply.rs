//! Carries out operations: groups them into batches, recognises what is already as wanted, and notes what it changed.

mod link;
mod nft;
mod sysctl;

use std::collections::{BTreeMap, BTreeSet};

use switchyard_netstate::nft::{Set, TableRef};
use switchyard_netstate::{Change, IfName, Key, Ledger, LinkKind, Object, Op, Place};

use crate::netlink::{Family, Message, Refusal};
use crate::nft::batch::table_of;
use crate::places::io_error;
use crate::read::{Truth, Verdict, class_of};
use crate::rtnl::link::{FoundLink, peer_of};
use crate::rtnl::{address, neigh, qdisc, route, rule};
use crate::{Error, Places};

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
    originals: BTreeMap<Place, BTreeMap<Key, Object>>,
    /// Objects of others that are exactly as we want them; they stay when we want them no longer.
    borrowed: BTreeMap<Place, BTreeSet<Key>>,
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
    /// Ports that are led past their bridges: what leads them sets their hardware addresses.
    pub(crate) detoured: BTreeSet<(Place, IfName)>,
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

// === impl Memory ===

impl Memory {
    /// Keeps what there was, unless something from before that is known.
    fn keep(&mut self, place: &Place, key: Key, original: Object) {
        self.originals.entry(place.clone()).or_default().entry(key).or_insert(original);
    }

    /// Takes out what there was.
    fn take(&mut self, place: &Place, key: &Key) -> Option<Object> {
        self.originals.get_mut(place)?.remove(key)
    }

    fn borrows(&mut self, place: &Place, key: Key) {
        self.borrowed.entry(place.clone()).or_default().insert(key);
    }

    /// Whether it was borrowed, which it is no longer.
    fn gives_back(&mut self, place: &Place, key: &Key) -> bool {
        self.borrowed.get_mut(place).is_some_and(|keys| keys.remove(key))
    }

    /// The place is no more.
    pub(crate) fn forget(&mut self, place: &Place) {
        self.originals.remove(place);
        self.borrowed.remove(place);
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
            detoured: BTreeSet::new(),
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

    fn rtnl(&mut self, ops: &[&Op]) -> Result<(), Error> {
        let place = ops[0].place.clone();
        let mut pending = Vec::new();
        let mut failed = BTreeMap::new();
        for (number, op) in ops.iter().enumerate() {
            if let Change::Remove(object) = &op.change
                && self.memory.gives_back(&place, &object.key())
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
        let (mut touched, mut in_the_way) = (BTreeSet::new(), BTreeSet::new());
        for ((op, tolerate, makes), answer) in meta.into_iter().zip(answers) {
            match answer {
                Ok(echo) => {
                    touched.insert(op);
                    if makes {
                        self.learn(ops[op], echo.as_deref());
                    }
                }
                Err(refusal) if tolerate.contains(&refusal.errno) => {}
                Err(refusal) => {
                    if makes && refusal.errno == libc::EEXIST {
                        in_the_way.insert(op);
                    }
                    failed.entry(op).or_insert(refusal);
                }
            }
        }
        // What has that name instead is somebody else's, and must not be put back.
        touched.retain(|op| !in_the_way.contains(op));
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
                        failed.entry(number).or_insert(Refusal { errno: libc::ENODEV, text, offset: None });
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
            // The kernel holds an IPv4 address with several lengths: the new one comes first, and it is never gone.
            Change::Replace(Object::Address(from), Object::Address(to))
                if to.address.addr().is_ipv4() && from.address.prefix_len() != to.address.prefix_len() =>
            {
                pending.push(plain(address::add(to, dev, owner)));
                pending.push(removal(address::remove(from, dev)));
            }
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
                    self.memory.borrows(&op.place, wanted.key());
                }
                // It is wanted from now on all the same, and not to be taken for a stray between two phases.
                self.done.push(op.clone());
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
