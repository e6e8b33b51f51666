//! Records by name.
//!
//! Who says what is kept by unit (a Service, an EndpointSlice, a Pod, an Ingress), and several units may say the same: a record is there
//! as long as one of them says so. A change costs the difference to what its own unit said before, however many names there are.

mod answer;
mod changes;
mod glob;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use hickory_proto::rr::{LowerName, Name};
use litemap::LiteMap;

use crate::{Data, Entry, Zone};
pub use answer::{Answer, Found};
pub(crate) use changes::{Changes, Marks};
use glob::Glob;

/// Who says something.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Unit {
    /// The kind of object.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// All records, by name.
#[derive(Debug)]
pub struct Index {
    zones: Vec<Zone>,
    names: HashMap<LowerName, Node, foldhash::fast::RandomState>,
    /// No larger than what they hold: most units say one thing, and every pod is one.
    units: HashMap<Unit, Box<[Entry]>, foldhash::fast::RandomState>,
    changes: Changes,
    first_serial: u32,
}

/// What there is at a name, and whether there is anything below it.
#[derive(Debug, Default)]
struct Node {
    data: Counted,
    /// Names with a `*` in the label right below, most specific first.
    globs: BTreeMap<Glob, Counted>,
    /// Entries at this name and below; the name exists while there is one.
    holders: usize,
}

/// Records, and how many units say each. Most names have one, and a cluster has many names, so it is no larger than what it holds.
type Counted = LiteMap<Data, usize>;

/// An index that one writes to while others read. Both are short.
#[derive(Clone, Debug)]
pub struct Shared(Arc<RwLock<Index>>);

// === impl Index ===

impl Index {
    /// An index for some zones.
    pub fn new(zones: Vec<Zone>) -> Self {
        // Serials ascend over restarts as long as changes are fewer than one a second.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let apexes = zones.iter().flat_map(Zone::entries).collect();
        let mut index = Self {
            zones,
            names: HashMap::default(),
            units: HashMap::default(),
            changes: Changes::default(),
            first_serial: now as u32,
        };
        index.set(Unit::new("Zone", "", ""), apexes);
        index
    }

    /// What a unit says from now on; nothing: it is gone. Answers whether that changed anything.
    pub fn set(&mut self, unit: Unit, entries: Vec<Entry>) -> bool {
        let before = self.units.remove(&unit).unwrap_or_default();
        let changed = *before != *entries;
        if changed {
            self.changes.generation += 1;
            let (new, gone) = difference(&before, &entries);
            // New ones first, so that a name that stays is never gone in between.
            new.into_iter().for_each(|entry| self.add(entry));
            gone.into_iter().for_each(|entry| self.take(entry));
        }
        if !entries.is_empty() {
            self.units.insert(unit, entries.into());
        }
        changed
    }

    /// What changed when.
    pub(crate) fn changes(&self) -> &Changes {
        &self.changes
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    fn serial(&self) -> u32 {
        self.first_serial.wrapping_add(self.changes.generation as u32)
    }

    fn add(&mut self, entry: &Entry) {
        let glob = Glob::of(&entry.name);
        let at = if glob.is_some() { entry.name.base_name() } else { entry.name.clone() };
        for name in ancestors(&at) {
            if let Some(node) = self.names.get_mut(&name) {
                node.holders += 1;
            } else {
                self.changes.mark(&name);
                self.names.insert(name, Node { holders: 1, ..Node::default() });
            }
        }
        let Some(data) = &entry.data else { return };
        let node = self.names.entry(at.clone()).or_default();
        let counted = match glob {
            Some(glob) => node.globs.entry(glob).or_default(),
            None => &mut node.data,
        };
        if let Some(count) = counted.get_mut(data) {
            *count += 1;
            return;
        }
        if counted.is_empty() {
            *counted = Counted::with_capacity(1);
        }
        counted.insert(data.clone(), 1);
        self.changes.mark(&at);
    }

    fn take(&mut self, entry: &Entry) {
        let glob = Glob::of(&entry.name);
        let at = if glob.is_some() { entry.name.base_name() } else { entry.name.clone() };
        if let (Some(node), Some(data)) = (self.names.get_mut(&at), &entry.data) {
            let gone = match glob {
                Some(glob) => match node.globs.get_mut(&glob) {
                    Some(counted) => {
                        let gone = less(counted, data);
                        if counted.is_empty() {
                            node.globs.remove(&glob);
                        }
                        gone
                    }
                    None => false,
                },
                None => less(&mut node.data, data),
            };
            if gone {
                self.changes.mark(&at);
            }
        }
        for name in ancestors(&at) {
            if let Some(node) = self.names.get_mut(&name) {
                node.holders -= 1;
                if node.holders == 0 {
                    self.names.remove(&name);
                    self.changes.mark(&name);
                }
            }
        }
    }
}

/// What is new in `after`, and what of `before` is not in it; each as often as it is. The price is that of both once, and of an object
/// that changes in one place little more than of comparing them.
fn difference<'a>(before: &'a [Entry], after: &'a [Entry]) -> (Vec<&'a Entry>, Vec<&'a Entry>) {
    let same = before.iter().zip(after).take_while(|(one, other)| one == other).count();
    let (before, after) = (&before[same..], &after[same..]);
    let same = before.iter().rev().zip(after.iter().rev()).take_while(|(one, other)| one == other).count();
    let (before, after) = (&before[..before.len() - same], &after[..after.len() - same]);
    let mut left: HashMap<&Entry, usize, foldhash::fast::RandomState> = HashMap::default();
    for entry in before {
        *left.entry(entry).or_default() += 1;
    }
    let mut new = Vec::new();
    for entry in after {
        match left.get_mut(entry) {
            Some(count) if *count > 0 => *count -= 1,
            _ => new.push(entry),
        }
    }
    let gone = left.into_iter().flat_map(|(entry, count)| std::iter::repeat_n(entry, count)).collect();
    (new, gone)
}

/// True: nobody says it any more.
fn less(counted: &mut Counted, data: &Data) -> bool {
    let Some(count) = counted.get_mut(data) else { return false };
    *count -= 1;
    let gone = *count == 0;
    if gone {
        counted.remove(data);
    }
    gone
}

/// A name and all above it, without the root.
fn ancestors(name: &LowerName) -> impl Iterator<Item = LowerName> {
    let first = (!name.is_root()).then(|| name.clone());
    std::iter::successors(first, |name| Some(name.base_name()).filter(|above| !above.is_root()))
}

// === impl Unit ===

impl Unit {
    /// An object of a kind.
    pub fn new(kind: &'static str, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into() }
    }
}

// === impl Shared ===

impl Shared {
    /// Shares an index.
    pub fn new(index: Index) -> Self {
        Self(Arc::new(RwLock::new(index)))
    }

    /// Looks at it.
    pub fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a unit says from now on, see [`Index::set`]. What it says is made before anybody has to wait.
    pub fn set(&self, unit: Unit, entries: Vec<Entry>) -> bool {
        self.write(|index| index.set(unit, entries))
    }

    /// Changes it.
    pub fn write<T>(&self, change: impl FnOnce(&mut Index) -> T) -> T {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The domain of a cluster, with its fixed names.
pub(crate) fn cluster_entries(domain: &Name) -> Vec<Entry> {
    let below = |label: &str| domain.prepend_label(label).ok();
    let version = below("dns-version").map(|name| Entry::new(&name, Data::Txt(crate::SPECIFICATION.into())));
    let parents = ["svc", "pod"].into_iter().filter_map(below).map(|name| Entry::bare(&name));
    version.into_iter().chain(parents).collect()
}
