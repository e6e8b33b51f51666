//! Peers that rules name, and classes of addresses: two addresses are of one class if the same peers hold both.
//!
//! A packet's peer is looked up once for its class, and the class in the subject's maps, however many rules there are. Classes have
//! numbers that follow from what the peers are, so that an agent that starts again finds the kernel as it would make it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::name::digest;
use crate::{NamedPort, Peer, Protocol};

/// Numbers things of one kind for as long as somebody uses them.
#[derive(Debug)]
pub(crate) struct Interner<T> {
    ids: BTreeMap<Arc<T>, u32>,
    slots: BTreeMap<u32, Slot<T>>,
    next: u32,
    /// Ids that came since [`Interner::changes`] was called.
    fresh: BTreeSet<u32>,
    /// Ids that nobody uses any more.
    unused: BTreeSet<u32>,
}

/// What came into use and what went out of it, by its number.
#[derive(Debug)]
pub(crate) struct Changes<T> {
    pub(crate) fresh: BTreeMap<u32, Arc<T>>,
    pub(crate) gone: BTreeMap<u32, Arc<T>>,
}

#[derive(Debug)]
struct Slot<T> {
    value: Arc<T>,
    users: usize,
    digest: u64,
}

/// A peer's number.
pub(crate) type PeerId = u32;
/// The number of a port's name, with its protocol.
pub(crate) type NameId = u32;
/// What a rule calls a port of the pod that is asked.
pub(crate) type PortName = (Protocol, String);

/// Which peers hold an address, and what its pod calls its ports; as far as rules in force ask.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Class {
    /// In order.
    pub(crate) peers: Vec<PeerId>,
    /// In order.
    pub(crate) ports: Vec<(NameId, u16)>,
    /// Some of `peers` is one of pods.
    pub(crate) of_pod: bool,
}

/// The classes that some address is in.
#[derive(Debug, Default)]
pub(crate) struct Classes {
    known: BTreeMap<Arc<Class>, Known>,
    numbers: BTreeMap<u32, Arc<Class>>,
    /// Numbers of the classes that a peer is in.
    by_peer: BTreeMap<PeerId, BTreeSet<u32>>,
    /// Numbers of classes that came since [`Classes::changes`] was called.
    fresh: BTreeSet<u32>,
    empty: BTreeSet<Arc<Class>>,
}

#[derive(Debug)]
struct Known {
    number: u32,
    addresses: usize,
}

// === impl Interner ===

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Self { ids: BTreeMap::new(), slots: BTreeMap::new(), next: 0, fresh: BTreeSet::new(), unused: BTreeSet::new() }
    }
}

impl<T: Clone + Ord + serde::Serialize> Interner<T> {
    /// The number of a value, from now on used once more.
    pub(crate) fn hold(&mut self, value: &T) -> u32 {
        if let Some(id) = self.ids.get(value) {
            let slot = self.slots.get_mut(id).expect("a number has a slot");
            slot.users += 1;
            self.unused.remove(id);
            return *id;
        }
        while self.slots.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let (id, value) = (self.next, Arc::new(value.clone()));
        self.next = self.next.wrapping_add(1);
        let text = serde_json::to_vec(&*value).expect("plain data");
        self.slots.insert(id, Slot { value: Arc::clone(&value), users: 1, digest: digest(&text) });
        self.ids.insert(value, id);
        self.fresh.insert(id);
        id
    }

    /// Used once less.
    pub(crate) fn release(&mut self, id: u32) {
        let slot = self.slots.get_mut(&id).expect("only what is held is released");
        slot.users -= 1;
        if slot.users == 0 {
            self.unused.insert(id);
        }
    }

    /// What changed since this was asked last.
    pub(crate) fn changes(&mut self) -> Changes<T> {
        let mut gone = BTreeMap::new();
        for id in std::mem::take(&mut self.unused) {
            let slot = self.slots.remove(&id).expect("a number has a slot");
            self.ids.remove(&slot.value);
            gone.insert(id, slot.value);
        }
        let fresh = std::mem::take(&mut self.fresh).into_iter();
        let fresh = fresh.filter_map(|id| Some((id, Arc::clone(&self.slots.get(&id)?.value)))).collect();
        Changes { fresh, gone }
    }

    /// The number of a value, if somebody uses it.
    pub(crate) fn id(&self, value: &T) -> Option<u32> {
        self.ids.get(value).copied()
    }

    pub(crate) fn get(&self, id: u32) -> &T {
        &self.slots[&id].value
    }

    fn digest(&self, id: u32) -> u64 {
        self.slots[&id].digest
    }
}

// === impl Class ===

impl Class {
    /// Only a pod's own class has to be kept for its address; blocks tell of the rest.
    pub(crate) fn is_of_pod(&self) -> bool {
        self.of_pod || !self.ports.is_empty()
    }
}

/// The numbers by which a pod calls a port.
pub(crate) fn numbers<'a>(ports: &'a [NamedPort], name: &'a PortName) -> impl Iterator<Item = u16> + 'a {
    ports.iter().filter(|port| port.protocol == name.0 && port.name == name.1).map(|port| port.port)
}

// === impl Classes ===

impl Classes {
    /// One more address is in this class; its number is above 0.
    pub(crate) fn enter(&mut self, class: &Class, peers: &Interner<Peer>, names: &Interner<PortName>) -> Arc<Class> {
        if let Some((class, known)) = self.known.get_key_value(class) {
            let class = Arc::clone(class);
            if known.addresses == 0 {
                self.empty.remove(&class);
            }
            self.known.get_mut(&class).expect("found above").addresses += 1;
            return class;
        }
        let mut parts: Vec<u64> = class.peers.iter().map(|id| peers.digest(*id)).collect();
        parts.extend(class.ports.iter().map(|(id, port)| names.digest(*id) ^ u64::from(*port)));
        parts.sort_unstable();
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.to_be_bytes()).collect();
        let whole = digest(&bytes);
        let mut number = (whole ^ (whole >> 32)) as u32;
        while number == 0 || self.numbers.contains_key(&number) {
            number = number.wrapping_add(1);
        }
        let class = Arc::new(class.clone());
        self.known.insert(Arc::clone(&class), Known { number, addresses: 1 });
        self.numbers.insert(number, Arc::clone(&class));
        for id in &class.peers {
            self.by_peer.entry(*id).or_default().insert(number);
        }
        self.fresh.insert(number);
        class
    }

    /// One address less.
    pub(crate) fn leave(&mut self, class: &Arc<Class>) {
        let known = self.known.get_mut(class).expect("an address's class is known");
        known.addresses -= 1;
        if known.addresses == 0 {
            self.empty.insert(Arc::clone(class));
        }
    }

    pub(crate) fn number(&self, class: &Class) -> u32 {
        self.known[class].number
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Class)> {
        self.numbers.iter().map(|(number, class)| (*number, &**class))
    }

    /// Classes of addresses that some of these peers hold.
    pub(crate) fn of_peers(&self, peers: &BTreeSet<PeerId>) -> Vec<(u32, Arc<Class>)> {
        let numbers: BTreeSet<u32> = peers.iter().filter_map(|id| self.by_peer.get(id)).flatten().copied().collect();
        numbers.into_iter().map(|number| (number, Arc::clone(&self.numbers[&number]))).collect()
    }

    /// Classes that came, and numbers of those that went, since this was asked last.
    pub(crate) fn changes(&mut self) -> (Vec<(u32, Arc<Class>)>, Vec<u32>) {
        let mut gone = Vec::new();
        for class in std::mem::take(&mut self.empty) {
            let known = self.known.remove(&class).expect("an empty class is known");
            self.numbers.remove(&known.number);
            for id in &class.peers {
                let Some(numbers) = self.by_peer.get_mut(id) else { continue };
                numbers.remove(&known.number);
                if numbers.is_empty() {
                    self.by_peer.remove(id);
                }
            }
            gone.push(known.number);
        }
        let fresh = std::mem::take(&mut self.fresh).into_iter();
        let fresh = fresh.filter_map(|number| Some((number, Arc::clone(self.numbers.get(&number)?)))).collect();
        (fresh, gone)
    }
}
