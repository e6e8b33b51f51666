//! Ports that move from one bridge to another while packets go on. What is left is an instant in which the kernel has disabled the
//! port and not yet let go of it (net/bridge/br_if.c): a frame that comes from the pod just then is dropped.
//!
//! The kernel takes a port out of its old bridge and puts it into the new one; between the two, and until the bridges' addresses
//! and routes have followed, a frame would find nobody. So for that while the node speaks with the other end of the veth directly:
//! a host route and a neighbour on the port itself lead to it, which no bridge has a part in, and the port takes the hardware
//! address under which the other end knows its gateway, so that what it sends is taken in by either bridge, and by the node's IP
//! layer while there is none. Afterwards all of that goes; routes that are wanted themselves come back as they are wanted.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use switchyard_netstate::{
    Change, IfName, Key, Ledger, Link, LinkKind, Mac, Neighbour, NextHop, Object, Op, Place, Route, RouteScope,
};
use tracing::debug;

use crate::Places;
use crate::engine::Overlay;
use crate::netlink::{Family, Message};
use crate::rtnl::{link, neigh, route};

/// Ports that are about to move, in their places.
#[derive(Default)]
pub(crate) struct Detours {
    owner: u8,
    ports: Vec<Port>,
}

struct Port {
    place: Place,
    name: IfName,
    /// The bridge that it moves to.
    master: Option<IfName>,
    index: u32,
    /// Its own hardware address, to come back to.
    mac: Option<Mac>,
    /// The address under which the other end knows its gateway.
    gateway: Option<Mac>,
    /// The other end: its hardware address, and its addresses.
    other: Option<Mac>,
    addresses: Vec<IpAddr>,
}

// === impl Detours ===

impl Detours {
    /// The ports that these operations move, from what is `now`, besides the ledger, to what is `then`.
    pub(crate) fn of(ops: &[Op], ledger: &Ledger, [now, then]: [&Overlay; 2], places: &mut Places, owner: u8) -> Self {
        let mut detours = Self { owner, ports: Vec::new() };
        for op in ops {
            if let Change::Replace(Object::Link(from), Object::Link(to)) = &op.change
                && from.master != to.master
                && !from.needs_recreation(to)
                && let LinkKind::Veth { peer } = &to.kind
                && let Ok(Some(found)) = places.link(&op.place, &to.name, owner)
            {
                let there = Wanted { place: &peer.place, ledger, overlay: now };
                let mut addresses = there.addresses(&peer.name);
                addresses.extend(Wanted { overlay: then, ..there }.addresses(&peer.name));
                addresses.sort();
                addresses.dedup();
                detours.ports.push(Port {
                    place: op.place.clone(),
                    name: to.name.clone(),
                    master: to.master.clone(),
                    index: found.index,
                    mac: to.mac.or(found.mac),
                    gateway: there.gateway(&peer.name).or_else(|| master_mac(from, &op.place, places, owner)),
                    other: there.mac(&peer.name).or_else(|| mac_of(&peer.place, &peer.name, places, owner)),
                    addresses,
                });
            }
        }
        detours
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }

    /// The ports, whose hardware addresses are as wanted when the detours close, and not before.
    pub(crate) fn ports(&self) -> BTreeSet<(Place, IfName)> {
        let led = self.ports.iter().filter(|port| port.gateway.is_some());
        led.map(|port| (port.place.clone(), port.name.clone())).collect()
    }

    /// Leads packets past the bridges.
    pub(crate) fn open(&self, places: &mut Places) {
        self.send(places, |port| {
            // First, as an interface forgets its neighbours with its hardware address.
            let mut messages: Vec<Message> =
                port.gateway.map(|mac| link::address(&port.name, mac)).into_iter().collect();
            for address in port.addresses.iter().filter(|_| port.other.is_some()) {
                messages.extend(port.neighbour(*address).map(|entry| neigh::add(&entry, port.index, self.owner, true)));
                messages.push(route::add(&port.route(*address), Some(port.index), self.owner, route::IfThere::Replace));
            }
            messages
        });
    }

    /// The ports are in their new bridges: says what a bridge forgets of a port that leaves it, and has bridges that got their first
    /// port carry packets at once.
    pub(crate) fn arrived(&self, ledger: &Ledger, overlay: &Overlay, places: &mut Places) {
        self.send(places, |port| {
            let wanted = Wanted { place: &port.place, ledger, overlay };
            let entries = wanted.all(|key| matches!(key, Key::Fdb(dev, _, None) if *dev == port.name));
            let entries = entries.into_iter().filter(|_| port.master.is_some());
            let entry = |object| match object {
                Object::Fdb(entry) => Some(neigh::add_fdb(&entry, port.index)),
                _ => None,
            };
            entries.filter_map(entry).collect()
        });
        let mut bridges: Vec<(&Place, &IfName)> =
            self.ports.iter().filter_map(|port| Some((&port.place, port.master.as_ref()?))).collect();
        bridges.sort();
        bridges.dedup();
        for (place, bridge) in bridges {
            // A question about a link makes the kernel act on a change of carrier that it has put off (since 6.7).
            let _ = places.link(place, bridge, self.owner);
        }
    }

    /// Ends it; what is wanted of the same name takes its place.
    pub(crate) fn close(&self, ledger: &Ledger, overlay: &Overlay, places: &mut Places) {
        let indexes: Vec<_> = self.ports.iter().map(|port| self.back(port, ledger, overlay, places)).collect();
        let mut indexes = indexes.into_iter();
        self.send(places, |port| {
            let mut messages = Vec::new();
            let wanted = indexes.next().unwrap_or_default();
            for (address, wanted) in port.addresses.iter().zip(wanted) {
                messages.push(match wanted {
                    Some((own, index)) => route::add(&own, index, self.owner, route::IfThere::Replace),
                    None => route::remove(&port.route(*address), self.owner),
                });
                let is_wanted = |entry: &Neighbour| {
                    let wanted = Wanted { place: &port.place, ledger, overlay };
                    wanted.object(&Key::Neighbour(entry.dev.clone(), entry.address)).is_some()
                };
                let entry = port.neighbour(*address).filter(|entry| !is_wanted(entry));
                messages.extend(entry.map(|entry| neigh::remove(&entry, port.index)));
            }
            messages.extend(port.mac.filter(|_| port.gateway.is_some()).map(|mac| link::address(&port.name, mac)));
            messages
        });
    }

    /// The routes that are wanted in place of a port's host routes, with the numbers of their interfaces.
    fn back(
        &self,
        port: &Port,
        ledger: &Ledger,
        overlay: &Overlay,
        places: &mut Places,
    ) -> Vec<Option<(Route, Option<u32>)>> {
        let wanted = Wanted { place: &port.place, ledger, overlay };
        let own =
            port.addresses.iter().map(|address| match wanted.object(&Object::Route(port.route(*address)).key()) {
                Some(Object::Route(route)) => {
                    let dev = route.via.dev.clone();
                    let index = dev.and_then(|dev| places.index(&port.place, &dev, self.owner).ok().flatten());
                    Some((route, index))
                }
                _ => None,
            });
        own.collect()
    }

    /// Sends messages for all ports of a place in one batch. What is refused is left to the audit.
    fn send(&self, places: &mut Places, mut messages: impl FnMut(&Port) -> Vec<Message>) {
        for ports in self.ports.chunk_by(|a, b| a.place == b.place) {
            let mut batch: Vec<Message> = ports.iter().flat_map(&mut messages).collect();
            let place = &ports[0].place;
            if batch.is_empty() {
                continue;
            }
            match places.connection(place, Family::Route, self.owner).map(|connection| connection.batch(&mut batch)) {
                Ok(Ok(answers)) => {
                    for refusal in answers.into_iter().filter_map(Result::err) {
                        debug!(%place, %refusal, "on the way past the bridges");
                    }
                }
                Ok(Err(error)) => {
                    debug!(%place, %error, "on the way past the bridges");
                    places.reset(place);
                }
                Err(error) => debug!(%place, %error, "on the way past the bridges"),
            }
        }
    }
}

// === impl Port ===

impl Port {
    fn route(&self, address: IpAddr) -> Route {
        Route { scope: Some(RouteScope::Link), ..Route::new(IpNet::from(address), NextHop::dev(self.name.clone())) }
    }

    fn neighbour(&self, address: IpAddr) -> Option<Neighbour> {
        Some(Neighbour { dev: self.name.clone(), address, mac: self.other? })
    }
}

/// What is wanted in one place: what changes, before what stays.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    place: &'a Place,
    ledger: &'a Ledger,
    overlay: &'a Overlay,
}

// === impl Wanted ===

impl Wanted<'_> {
    fn object(&self, key: &Key) -> Option<Object> {
        match self.overlay.get(&(self.place.clone(), key.clone())) {
            Some(changed) => changed.clone(),
            None => self.ledger.wants(self.place, key).cloned(),
        }
    }

    fn all(&self, of_interest: impl Fn(&Key) -> bool) -> Vec<Object> {
        let kept = self.ledger.in_place(self.place).map(|(key, _)| key.clone());
        let changed = self.overlay.keys().filter(|(place, _)| place == self.place).map(|(_, key)| key.clone());
        let mut keys: Vec<Key> = kept.chain(changed).filter(of_interest).collect();
        keys.sort();
        keys.dedup();
        keys.iter().filter_map(|key| self.object(key)).collect()
    }

    /// All addresses on an interface.
    fn addresses(&self, dev: &IfName) -> Vec<IpAddr> {
        let all = self.all(|key| matches!(key, Key::Address(on, _) if on == dev));
        let address = |object| match object {
            Object::Address(address) => Some(address.address.addr()),
            _ => None,
        };
        all.into_iter().filter_map(address).collect()
    }

    fn mac(&self, dev: &IfName) -> Option<Mac> {
        match self.object(&Key::Link(dev.clone())) {
            Some(Object::Link(link)) => link.mac,
            _ => None,
        }
    }

    /// The hardware address that leads to the gateway.
    fn gateway(&self, dev: &IfName) -> Option<Mac> {
        let gateway = self.all(|key| matches!(key, Key::Route(..))).into_iter().find_map(|object| match object {
            Object::Route(route) if route.via.dev.as_ref() == Some(dev) => route.via.gateway,
            _ => None,
        })?;
        match self.object(&Key::Neighbour(dev.clone(), gateway)) {
            Some(Object::Neighbour(neighbour)) => Some(neighbour.mac),
            _ => None,
        }
    }
}

fn master_mac(from: &Link, place: &Place, places: &mut Places, owner: u8) -> Option<Mac> {
    mac_of(place, from.master.as_ref()?, places, owner)
}

fn mac_of(place: &Place, name: &IfName, places: &mut Places, owner: u8) -> Option<Mac> {
    places.link(place, name, owner).ok().flatten()?.mac
}
