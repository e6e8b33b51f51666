//! What all units together want: who wants which object, and what has to change when one of them changes its mind.
//!
//! Several units may want the same object (every pod's fragment may name the bridge) as long as they agree on it; it goes when
//! the last of them does. Cost follows the units that change, not the number of units.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Change, Fragment, Key, Object, Objects, Place, Plan};

/// Names a unit: `node`, `peer/n2`, `pod/UID`, `service/NAMESPACE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnitId(pub String);

/// The wanted state of all units.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    units: BTreeMap<UnitId, Fragment>,
    held: BTreeMap<Place, BTreeMap<Key, Held>>,
}

#[derive(Clone, Debug)]
struct Held {
    object: Object,
    by: BTreeSet<UnitId>,
}

/// Two units want different things under one key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {unit} and {other} want {key} differently")]
pub struct Conflict {
    /// Where.
    pub place: Place,
    /// Which object.
    pub key: Box<Key>,
    /// The unit that asked last.
    pub unit: UnitId,
    /// The unit that holds it.
    pub other: UnitId,
}

// === impl Ledger ===

impl Ledger {
    /// What has to change when these units want these fragments (`None`: nothing any more). Changes nothing itself; call
    /// [`Ledger::commit`] once the plan has been applied.
    pub fn plan(&self, changes: &BTreeMap<UnitId, Option<Fragment>>) -> Result<Plan, Conflict> {
        let mut wanted: BTreeMap<(&Place, &Key), (&Object, &UnitId)> = BTreeMap::new();
        for (unit, fragment) in changes {
            for (place, key, object) in fragment.iter().flat_map(entries) {
                match wanted.get(&(place, key)) {
                    Some((same, other)) if *same != object => return Err(conflict(place, key, unit, other)),
                    _ => wanted.insert((place, key), (object, unit)),
                };
            }
        }
        let mut plan = Vec::new();
        for ((place, key), (object, unit)) in &wanted {
            match self.held(place, key) {
                None => plan.push(((*place).clone(), Change::Add((*object).clone()))),
                Some(held) if held.object == **object => {}
                Some(held) => match held.by.iter().find(|by| !changes.contains_key(*by)) {
                    Some(other) => return Err(conflict(place, key, unit, other)),
                    None => {
                        plan.push(((*place).clone(), Change::Replace(held.object.clone(), (*object).clone())));
                    }
                },
            }
        }
        let mut gone = BTreeSet::new();
        for unit in changes.keys() {
            for (place, key, object) in self.units.get(unit).into_iter().flat_map(entries) {
                let stays = wanted.contains_key(&(place, key))
                    || self.held(place, key).is_some_and(|held| held.by.iter().any(|by| !changes.contains_key(by)));
                if !stays && gone.insert((place, key)) {
                    plan.push((place.clone(), Change::Remove(object.clone())));
                }
            }
        }
        Ok(Plan::of(plan))
    }

    /// Notes that these units now have these fragments.
    pub fn commit(&mut self, changes: BTreeMap<UnitId, Option<Fragment>>) {
        for unit in changes.keys() {
            self.release(unit);
        }
        for (unit, fragment) in changes {
            let Some(fragment) = fragment else { continue };
            for (place, key, object) in entries(&fragment) {
                let held = self.held.entry(place.clone()).or_default().entry(key.clone());
                let held = held.or_insert_with(|| Held { object: object.clone(), by: BTreeSet::new() });
                held.object = object.clone();
                held.by.insert(unit.clone());
            }
            self.units.insert(unit, fragment);
        }
    }

    /// What a unit wants.
    pub fn unit(&self, unit: &UnitId) -> Option<&Fragment> {
        self.units.get(unit)
    }

    /// All units.
    pub fn units(&self) -> impl Iterator<Item = (&UnitId, &Fragment)> {
        self.units.iter()
    }

    /// The places in which something is wanted.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.held.keys()
    }

    /// All that is wanted in one place.
    pub fn wanted(&self, place: &Place) -> Objects {
        self.held.get(place).into_iter().flatten().map(|(_, held)| held.object.clone()).collect()
    }

    /// All that is wanted in one place, by key.
    pub fn in_place(&self, place: &Place) -> impl Iterator<Item = (&Key, &Object)> {
        self.held.get(place).into_iter().flatten().map(|(key, held)| (key, &held.object))
    }

    /// Whether an object with this key is wanted in this place, and how.
    pub fn wants(&self, place: &Place, key: &Key) -> Option<&Object> {
        self.held(place, key).map(|held| &held.object)
    }

    /// The units that want an object.
    pub fn holders(&self, place: &Place, key: &Key) -> impl Iterator<Item = &UnitId> {
        self.held(place, key).into_iter().flat_map(|held| &held.by)
    }

    fn held(&self, place: &Place, key: &Key) -> Option<&Held> {
        self.held.get(place)?.get(key)
    }

    fn release(&mut self, unit: &UnitId) {
        let Some(fragment) = self.units.remove(unit) else { return };
        for (place, key, _) in entries(&fragment) {
            let Some(objects) = self.held.get_mut(place) else { continue };
            if let Some(held) = objects.get_mut(key) {
                held.by.remove(unit);
                if held.by.is_empty() {
                    objects.remove(key);
                }
            }
            if objects.is_empty() {
                self.held.remove(place);
            }
        }
    }
}

fn entries(fragment: &Fragment) -> impl Iterator<Item = (&Place, &Key, &Object)> {
    fragment.places().flat_map(|(place, objects)| objects.iter().map(move |(key, object)| (place, key, object)))
}

fn conflict(place: &Place, key: &Key, unit: &UnitId, other: &UnitId) -> Conflict {
    Conflict { place: place.clone(), key: Box::new(key.clone()), unit: unit.clone(), other: other.clone() }
}

impl fmt::Display for UnitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sysctl;

    fn unit(name: &str) -> UnitId {
        UnitId(name.into())
    }

    fn wants(values: &[(&str, &str)]) -> Option<Fragment> {
        let mut fragment = Fragment::new();
        for (path, value) in values {
            fragment.want(&Place::Router, Object::Sysctl(Sysctl { path: (*path).into(), value: (*value).into() }));
        }
        Some(fragment)
    }

    fn set(ledger: &mut Ledger, changes: &[(&str, Option<Fragment>)]) -> Result<Vec<String>, Conflict> {
        let changes: BTreeMap<_, _> = changes.iter().map(|(name, fragment)| (unit(name), fragment.clone())).collect();
        let plan = ledger.plan(&changes)?;
        ledger.commit(changes);
        Ok(plan.ops().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_shared_object_stays_until_its_last_unit_goes() {
        let mut ledger = Ledger::default();
        assert_eq!(set(&mut ledger, &[("a", wants(&[("net/x", "1")]))]).unwrap(), ["+ router: sysctl net/x"]);
        assert!(set(&mut ledger, &[("b", wants(&[("net/x", "1")]))]).unwrap().is_empty());
        assert!(set(&mut ledger, &[("a", None)]).unwrap().is_empty());
        assert_eq!(set(&mut ledger, &[("b", None)]).unwrap(), ["- router: sysctl net/x"]);
        assert_eq!(ledger.places().count(), 0);
    }

    #[test]
    fn disagreement_is_refused_and_names_both() {
        let mut ledger = Ledger::default();
        set(&mut ledger, &[("a", wants(&[("net/x", "1")]))]).unwrap();
        let error = set(&mut ledger, &[("b", wants(&[("net/x", "2")]))]).unwrap_err();
        assert_eq!(error.to_string(), "router: b and a want sysctl net/x differently");
        assert_eq!(ledger.wanted(&Place::Router).len(), 1);
    }

    #[test]
    fn units_that_change_together_may_agree_on_something_new() {
        let mut ledger = Ledger::default();
        set(&mut ledger, &[("a", wants(&[("net/x", "1")])), ("b", wants(&[("net/x", "1"), ("net/y", "1")]))]).unwrap();
        let both = [("a", wants(&[("net/x", "2")])), ("b", wants(&[("net/x", "2")]))];
        assert_eq!(set(&mut ledger, &both).unwrap(), ["~ router: sysctl net/x", "- router: sysctl net/y"]);
    }
}
