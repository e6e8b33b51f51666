//! Links: made, changed, taken away.

use std::collections::BTreeMap;

use switchyard_netstate::{Change, Key, Link, LinkKind, Object, Op, Place};

use super::{GONE, Request, Run};
use crate::Error;
use crate::netlink::{Family, Refusal};
use crate::places::io_error;
use crate::read::Truth;
use crate::rtnl::link::{self, FoundLink, Peer, Related, peer_of};

impl Run<'_> {
    pub(super) fn link(
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
                    failed.entry(number).or_insert(Refusal { errno: libc::ENODEV, text, offset: None });
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
                    failed.entry(number).or_insert(Refusal { errno: libc::ENODEV, text, offset: None });
                    return Ok(());
                };
                let found = self.described(&op.place, &found, to)?;
                let original = Object::Link(Link { kind: LinkKind::Existing, ..found.clone() });
                self.memory.keep(&op.place, op.object().key(), original);
                pending.extend(link::change(Some(&found), to, master).map(plain));
                if ports(Some(&found)) {
                    pending.push(plain(link::port(&to.name, &to.port)));
                }
            }
            Some(from) if !needs_recreation(from, to) => {
                let now = self.with_address(&op.place, from, to)?;
                pending.extend(link::change(Some(&now), to, master).map(plain));
                if from.master.is_some() && from.master != to.master {
                    // A port that leaves its bridge loses its forwarding entries.
                    self.disturbed.insert(op.place.clone());
                }
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
                let pins = link::pin_mtu(to);
                if !pins.is_empty() {
                    // They would change whatever has that name.
                    self.flush(ops, pending, failed)?;
                    if failed.contains_key(&number) {
                        return Ok(());
                    }
                }
                pending.extend(pins.into_iter().map(plain));
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
                    failed.entry(number).or_insert(Refusal { errno: libc::ENODEV, text, offset: None });
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
                let made = netns.visit(|| crate::tun::create(&name)).and_then(|made| made);
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
        let Some(Object::Link(before)) = self.memory.take(&op.place, &op.object().key()) else {
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

    /// What is there, with a hardware address that need not be set: the kernel forgets an interface's neighbours even if it is set
    /// to what it is, and on a detour it would be set too early.
    fn with_address(&mut self, place: &Place, from: &Link, to: &Link) -> Result<Link, Error> {
        let mac = if self.detoured.contains(&(place.clone(), to.name.clone())) {
            to.mac
        } else if from.mac.is_none() && to.mac.is_some() {
            self.places.link(place, &to.name, self.owner)?.and_then(|found| found.mac)
        } else {
            from.mac
        };
        Ok(Link { mac, ..from.clone() })
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

    /// A pair of which only the far end is left has to go before it can be made.
    pub(super) fn clear_other_end(&mut self, link: &Link) -> Result<(), Error> {
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
}

/// Whether a link has to be made anew; a bridge's snooping can be changed in place.
fn needs_recreation(from: &Link, to: &Link) -> bool {
    match (&from.kind, &to.kind) {
        (LinkKind::Bridge { .. }, LinkKind::Bridge { .. }) => false,
        _ => from.needs_recreation(to),
    }
}
