//! Which namespace a place is, and the sockets opened in it.
//!
//! A socket belongs to the namespace it was opened in, so one thread serves all places and leaves its own only to open one. Sockets of
//! nodes and the router are kept; of those of pods, which may be a thousand, only the latest few.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::Arc;

use switchyard_netstate::{IfName, Place};

use crate::netlink::{Connection, Family};
use crate::rtnl::link::{self, FoundLink};
use crate::{Error, Netns};

/// Pod places whose sockets are kept.
const KEPT_PODS: usize = 16;

/// The network namespaces that this process looks after.
#[derive(Default)]
pub struct Places {
    entries: BTreeMap<Place, Entry>,
    /// Pods with sockets.
    open: BTreeSet<Place>,
    clock: u64,
}

struct Entry {
    netns: Arc<Netns>,
    route: Option<Connection>,
    netfilter: Option<Connection>,
    indexes: HashMap<IfName, u32>,
    used: u64,
}

// === impl Places ===

impl Places {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says which namespace a place is. One known before is replaced.
    pub fn add(&mut self, place: Place, netns: Netns) {
        let entry =
            Entry { netns: Arc::new(netns), route: None, netfilter: None, indexes: HashMap::new(), used: self.clock };
        self.open.remove(&place);
        self.entries.insert(place, entry);
    }

    /// Forgets a place and closes its sockets.
    pub fn remove(&mut self, place: &Place) -> Option<Arc<Netns>> {
        self.open.remove(place);
        self.entries.remove(place).map(|entry| entry.netns)
    }

    /// The namespace of a place.
    pub fn get(&self, place: &Place) -> Option<&Arc<Netns>> {
        self.entries.get(place).map(|entry| &entry.netns)
    }

    /// All places.
    pub fn iter(&self) -> impl Iterator<Item = (&Place, &Arc<Netns>)> {
        self.entries.iter().map(|(place, entry)| (place, &entry.netns))
    }

    /// Whether a place is known.
    pub fn contains(&self, place: &Place) -> bool {
        self.entries.contains_key(place)
    }

    pub(crate) fn netns(&self, place: &Place) -> Result<&Arc<Netns>, Error> {
        self.get(place).ok_or_else(|| Error::UnknownPlace { place: place.clone() })
    }

    /// A socket in a place, opened if need be.
    pub(crate) fn connection(&mut self, place: &Place, family: Family, owner: u8) -> Result<&mut Connection, Error> {
        self.clock += 1;
        let Some(entry) = self.entries.get_mut(place) else {
            return Err(Error::UnknownPlace { place: place.clone() });
        };
        entry.used = self.clock;
        let slot = match family {
            Family::Route => &mut entry.route,
            Family::Netfilter => &mut entry.netfilter,
        };
        if slot.is_none() {
            let opened = entry.netns.visit(|| Connection::open(family, owner)).and_then(|opened| opened);
            *slot = Some(opened.map_err(|source| io_error(place, "open a netlink socket", source))?);
            if matches!(place, Place::Pod(_)) {
                self.open.insert(place.clone());
            }
        }
        Ok(slot.as_mut().expect("filled above"))
    }

    /// Closes sockets after a failure, so that the next use starts afresh.
    pub(crate) fn reset(&mut self, place: &Place) {
        if let Some(entry) = self.entries.get_mut(place) {
            (entry.route, entry.netfilter) = (None, None);
            entry.indexes.clear();
        }
    }

    /// Closes sockets of pods beyond the latest few.
    pub(crate) fn trim(&mut self) {
        if self.open.len() <= KEPT_PODS {
            return;
        }
        let mut latest: Vec<Place> = std::mem::take(&mut self.open).into_iter().collect();
        latest.sort_by_key(|place| Reverse(self.entries.get(place).map(|entry| entry.used)));
        for place in latest.drain(KEPT_PODS..) {
            if let Some(entry) = self.entries.get_mut(&place) {
                (entry.route, entry.netfilter) = (None, None);
            }
        }
        self.open = latest.into_iter().collect();
    }

    /// The number of an interface, if it is known.
    pub(crate) fn known_index(&self, place: &Place, name: &IfName) -> Option<u32> {
        self.entries.get(place)?.indexes.get(name).copied()
    }

    /// The number of an interface; `None` if there is none of that name.
    pub(crate) fn index(&mut self, place: &Place, name: &IfName, owner: u8) -> Result<Option<u32>, Error> {
        if let Some(index) = self.known_index(place, name) {
            return Ok(Some(index));
        }
        let found = self.link(place, name, owner)?.map(|link| link.index);
        if let Some(index) = found {
            self.learn_index(place, name, index);
        }
        Ok(found)
    }

    /// An interface as it is; `None` if there is none of that name.
    pub(crate) fn link(&mut self, place: &Place, name: &IfName, owner: u8) -> Result<Option<FoundLink>, Error> {
        let connection = self.connection(place, Family::Route, owner)?;
        match connection.get(link::get(name)).map_err(|source| io_error(place, "ask for a link", source))? {
            Ok(payload) => Ok(FoundLink::parse(&payload)),
            Err(refusal) if refusal.errno == libc::ENODEV => Ok(None),
            Err(refusal) => Err(io_error(place, "ask for a link", io::Error::from_raw_os_error(refusal.errno))),
        }
    }

    pub(crate) fn learn_index(&mut self, place: &Place, name: &IfName, index: u32) {
        if let Some(entry) = self.entries.get_mut(place) {
            entry.indexes.insert(name.clone(), index);
        }
    }

    pub(crate) fn forget_index(&mut self, place: &Place, name: &IfName) {
        if let Some(entry) = self.entries.get_mut(place) {
            entry.indexes.remove(name);
        }
    }

    pub(crate) fn forget_indexes(&mut self, place: &Place) {
        if let Some(entry) = self.entries.get_mut(place) {
            entry.indexes.clear();
        }
    }
}

pub(crate) fn io_error(place: &Place, what: impl Into<String>, source: io::Error) -> Error {
    Error::Io { place: place.clone(), what: what.into(), source }
}
