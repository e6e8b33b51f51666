//! Compares what is wanted with what the kernel holds, and repairs the difference.

use std::collections::{BTreeMap, BTreeSet};

use switchyard_netstate::nft::{Element, Set, Table, TableRef};
use switchyard_netstate::{Change, IfName, Key, Link, LinkKind, Object, Objects, Op, Place, Plan, UnitId};
use tracing::{debug, info, warn};

use crate::apply::{Run, View};
use crate::engine::{Overlay, make_room};
use crate::nft::{self, dump::FoundTable};
use crate::read::{ALL, Class, Truth, Verdict};
use crate::{Engine, Error};

/// Repair is tried so often before what is left is reported.
const ROUNDS: usize = 3;

/// What a comparison found.
#[derive(Debug, Default)]
pub struct Audit {
    /// What had to change, or has to.
    pub changes: Vec<Op>,
    /// What could not be put right.
    pub errors: Vec<Error>,
    /// The units that want what could not be put right, by place, and why it could not.
    pub units: BTreeMap<(Place, UnitId), String>,
}

// === impl Audit ===

impl Audit {
    /// Whether everything was as wanted.
    pub fn is_clean(&self) -> bool {
        self.changes.is_empty() && self.errors.is_empty()
    }

    /// Finds out whose wishes the errors are about.
    fn blame(mut self, engine: &Engine) -> Self {
        for error in &self.errors {
            let (Some(place), Some(key)) = (error.place(), error.key()) else { continue };
            for unit in engine.ledger.holders(place, key) {
                self.units.entry((place.clone(), unit.clone())).or_insert_with(|| error.to_string());
            }
        }
        self
    }
}

/// Looks, and changes nothing.
pub(crate) fn look(engine: &mut Engine, places: &BTreeSet<Place>) -> Result<Audit, Error> {
    let overlay = engine.wanted_overlay();
    let mut audit = Audit::default();
    for place in places {
        let difference = difference(engine, place, &overlay)?;
        audit.changes.extend(difference.plan.ops().iter().cloned());
        audit.errors.extend(difference.errors);
    }
    Ok(audit)
}

/// Looks and repairs, until nothing is left or nothing helps.
pub(crate) fn repair(engine: &mut Engine, places: &BTreeSet<Place>) -> Result<Audit, Error> {
    let overlay = engine.wanted_overlay();
    let mut audit = Audit::default();
    let mut places = places.clone();
    for round in 0..ROUNDS {
        let mut plan = Vec::new();
        let mut anew = BTreeMap::new();
        audit.errors.clear();
        for place in &places {
            let difference = difference(engine, place, &overlay)?;
            plan.push(difference.plan);
            anew.extend(difference.anew.into_iter().map(|table| ((place.clone(), table), true)));
            audit.errors.extend(difference.errors);
        }
        let plan = Plan::merged(plan);
        if plan.is_empty() {
            return Ok(audit.blame(engine));
        }
        info!(operations = plan.ops().len(), places = places.len(), round, "repair");
        for op in plan.ops() {
            debug!(%op, round, "repair");
        }
        let none = Overlay::new();
        // What goes first makes room; one failure does not keep the rest from being repaired.
        let mut disturbed = BTreeSet::new();
        let mut carry_out = |ops: &[Op]| {
            let view = View { ledger: &engine.ledger, overlay: &overlay, sets: &none };
            let mut run = Run::new(engine.owner.protocol, &mut engine.places, view, &mut engine.memory);
            run.anew = anew.clone();
            let outcome = run.run(ops);
            disturbed.extend(run.disturbed);
            outcome
        };
        for batch in batches(&plan) {
            if carry_out(&batch).is_ok() {
                continue;
            }
            for error in alone(&batch).filter_map(|ops| carry_out(ops).err()) {
                warn!(%error, "repair");
                audit.errors.push(error);
            }
        }
        audit.changes.extend(plan.ops().iter().cloned());
        places.extend(disturbed.into_iter().filter(|place| engine.places.contains(place)));
    }
    Ok(audit.blame(engine))
}

struct Difference {
    plan: Plan,
    /// Tables whose content our words cannot mend.
    anew: BTreeSet<TableRef>,
    errors: Vec<Error>,
}

/// Runs of operations that can fail on their own: one place and phase each, strays' removal ahead of everything in its way.
fn batches(plan: &Plan) -> Vec<Vec<Op>> {
    let mut batches: Vec<Vec<Op>> = Vec::new();
    let (gone, rest): (Vec<Op>, Vec<Op>) = plan
        .ops()
        .iter()
        .cloned()
        .partition(|op| matches!(&op.change, Change::Remove(object) if nft::batch::table_of(object).is_none()));
    for op in gone.into_iter().chain(rest) {
        match batches.last_mut() {
            Some(batch) if batch[0].place == op.place && batch[0].phase == op.phase => batch.push(op),
            _ => batches.push(vec![op]),
        }
    }
    batches
}

/// A batch operation by operation; what is in one table of nftables goes together.
fn alone(batch: &[Op]) -> impl Iterator<Item = &[Op]> {
    batch.chunk_by(|a, b| {
        let table = nft::batch::table_of(a.object());
        table.is_some() && table == nft::batch::table_of(b.object())
    })
}

/// Interfaces of somebody else's that have the names of ours. What is to hang on ours has no place on theirs.
fn in_the_way(truth: &Truth, wanted: &Objects, owner: u8) -> BTreeSet<IfName> {
    let links = wanted.iter().filter_map(|(_, object)| match object {
        Object::Link(link) => Some(link),
        _ => None,
    });
    let theirs = links.filter(|link| {
        let verdict = truth.judge(&Object::Link((*link).clone()), owner, &|_, _| None);
        matches!(verdict, Verdict::Wrong { owned: false, .. })
    });
    theirs.map(|link| link.name.clone()).collect()
}

/// Takes out the MTUs of links that are there.
fn leave_mtus(wanted: &mut Objects, truth: &Truth) {
    for name in truth.links.values().map(|link| &link.name) {
        if let Some(Object::Link(link)) = wanted.get(&Key::Link(name.clone())) {
            wanted.insert(Object::Link(Link { mtu: None, ..link.clone() }));
        }
    }
}

/// Whether an object hangs on one of these interfaces.
fn hangs_on(object: &Object, links: &BTreeSet<IfName>) -> bool {
    match object {
        Object::Link(link) => link.master.as_ref().is_some_and(|master| links.contains(master)),
        Object::Route(route) => route.via.dev.as_ref().is_some_and(|dev| links.contains(dev)),
        Object::Sysctl(parameter) => parameter.path.split('/').any(|part| links.iter().any(|dev| dev.as_str() == part)),
        other => other.key().dev().is_some_and(|dev| links.contains(dev)),
    }
}

fn difference(engine: &mut Engine, place: &Place, overlay: &Overlay) -> Result<Difference, Error> {
    let owner = engine.owner.protocol;
    let mut wanted: Objects = engine.ledger.wanted(place);
    for ((_, key), object) in overlay.iter().filter(|((at, _), _)| at == place) {
        match object {
            Some(object) => drop(wanted.insert(object.clone())),
            None => drop(wanted.remove(key)),
        }
    }
    // A pod rarely has nftables of ours, and a socket for each of a thousand has its price.
    let is_pod = matches!(place, Place::Pod(_));
    let without_nft = is_pod && !wanted.iter().any(|(_, object)| nft::batch::table_of(object).is_some());
    let classes: Vec<Class> = ALL.into_iter().filter(|class| !(without_nft && *class == Class::Nft)).collect();
    let mut truth = Truth::read(&mut engine.places, place, owner, &classes)?;
    let parameters = wanted.iter().filter_map(|(_, object)| match object {
        Object::Sysctl(parameter) => Some(parameter.path.as_str()),
        _ => None,
    });
    truth.read_sysctls(&engine.places, place, parameters)?;
    if engine.leaves_mtus {
        leave_mtus(&mut wanted, &truth);
    }
    let set = |table: &TableRef, name: &str| match wanted.get(&Key::Set(table.clone(), name.to_owned())) {
        Some(Object::Set(set)) => Some(set.clone()),
        _ => None,
    };

    let mut changes = Vec::new();
    let mut errors = Vec::new();
    let mut anew = BTreeSet::new();
    let theirs = in_the_way(&truth, &wanted, owner);
    for (key, object) in wanted.iter().filter(|(_, object)| !hangs_on(object, &theirs)) {
        match truth.judge(object, owner, &set) {
            Verdict::Right { .. } => {}
            Verdict::Missing => changes.push(Change::Add(object.clone())),
            Verdict::Wrong { owned: false, .. } => {
                errors.push(Error::Foreign { place: place.clone(), key: Box::new(key.clone()) });
            }
            Verdict::Wrong { found, .. } => changes.push(Change::Replace(*found, object.clone())),
        }
    }
    strays(&truth, &wanted, owner, &mut changes);
    for (table, found) in truth.tables.iter().filter(|(_, found)| found.owned) {
        if wanted.get(&Key::Table(table.clone())).is_none() {
            changes.push(Change::Remove(Object::Table(Table { table: table.clone() })));
        } else if !table_strays(table, found, &wanted, &mut changes) {
            anew.insert(table.clone());
            let whole = wanted
                .iter()
                .map(|(_, object)| object)
                .find(|object| matches!(object, Object::Set(set) if set.table == *table));
            // Some change has to carry the table's writing anew.
            changes.extend(whole.map(|set| Change::Replace(set.clone(), set.clone())));
        }
    }
    let plan = Plan::of(changes.into_iter().map(|change| (place.clone(), change)));
    let plan = make_room(plan, |_, key| wanted.get(key).cloned());
    Ok(Difference { plan, anew, errors })
}

/// What carries our mark and is wanted by nobody.
fn strays(truth: &Truth, wanted: &Objects, owner: u8, changes: &mut Vec<Change>) {
    for link in truth.links.values().filter(|link| link.group == u32::from(owner)) {
        let known = wanted.get(&Key::Link(link.name.clone()));
        if !matches!(known, Some(Object::Link(_))) {
            let mut link = link.as_link(None, &truth.names);
            if link.kind == LinkKind::Existing {
                link.kind = LinkKind::Tun;
            }
            changes.push(Change::Remove(Object::Link(link)));
        }
    }
    for (key, found) in &truth.others {
        let known = wanted.get(key);
        for one in found.iter().filter(|one| one.owned) {
            // Of several under one key (an address with two lengths) one may be the wanted one; the only one is compared above.
            let compared = found.iter().filter(|one| one.owned).count() == 1;
            if known.is_none_or(|known| !compared && *known != one.object) {
                changes.push(Change::Remove(one.object.clone()));
            }
        }
    }
}

/// What one of our tables holds too much of. False if it can only be mended by writing the table anew.
fn table_strays(table: &TableRef, found: &FoundTable, wanted: &Objects, changes: &mut Vec<Change>) -> bool {
    for name in found.chains.keys() {
        if wanted.get(&Key::Chain(table.clone(), name.clone())).is_none() {
            let chain = switchyard_netstate::nft::Chain {
                table: table.clone(),
                name: name.clone(),
                base: None,
                rules: Vec::new(),
            };
            changes.push(Change::Remove(Object::Chain(chain)));
        }
    }
    let mut expected: BTreeMap<&str, BTreeSet<nft::set::Span>> = BTreeMap::new();
    let definition = |name: &str| match wanted.get(&Key::Set(table.clone(), name.to_owned())) {
        Some(Object::Set(set)) => Some(set),
        _ => None,
    };
    for (_, object) in wanted.iter() {
        if let Object::Element(element) = object
            && element.table == *table
            && let Some(set) = definition(&element.set)
            && let Ok(encoded) = nft::set::encode(element, set)
        {
            expected.entry(&element.set).or_default().insert((encoded.from, encoded.to));
        }
    }
    for (name, there) in &found.sets {
        let Some(set) = definition(name) else {
            let set = Set {
                table: table.clone(),
                name: name.clone(),
                key: Vec::new(),
                data: Vec::new(),
                interval: false,
                dynamic: false,
                size: None,
            };
            changes.push(Change::Remove(Object::Set(set)));
            continue;
        };
        if set.dynamic {
            continue;
        }
        let known = expected.get(name.as_str());
        for (from, to) in there.elements.keys() {
            if known.is_some_and(|known| known.contains(&(from.clone(), to.clone()))) {
                continue;
            }
            let last = to.as_ref().unwrap_or(from);
            let Some(key) = nft::set::decode(from, last, &set.key) else { return false };
            let element = Element { table: table.clone(), set: name.clone(), key, data: None };
            changes.push(Change::Remove(Object::Element(element)));
        }
    }
    true
}
