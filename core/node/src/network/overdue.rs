//! What is wanted and not in force: the kernel did not take it, or the plugin has not said what it wants.
//!
//! One bad unit keeps nothing else out. It stays here and is tried again, with whatever changes next and after a pause that grows,
//! until it is in force or somebody wants it otherwise.

use std::collections::BTreeMap;

use switchyard_kernel::Engine;
use switchyard_netstate::{Fragment, Place, UnitId};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::network::Units;
use crate::network::again::Again;
use crate::network::extra::Extra;
use crate::network::question::{SEGMENT, is_of_plugin};

/// Units that are not in force.
#[derive(Debug, Default)]
pub(super) struct Overdue {
    units: BTreeMap<UnitId, Entry>,
    again: Again,
}

#[derive(Debug)]
struct Entry {
    wish: Wish,
    /// None for what has not been tried.
    why: Option<String>,
}

#[derive(Debug)]
enum Wish {
    Known(Option<Fragment>),
    /// The plugin has to be asked.
    Open,
}

/// Units that could not be carried out, and why.
pub(super) type Failed = BTreeMap<UnitId, (Option<Fragment>, String)>;

// === impl Overdue ===

impl Overdue {
    /// Keeps units for when the kernel may be touched.
    pub(super) fn hold(&mut self, units: Units) {
        for (unit, wish) in units {
            self.units.insert(unit, Entry { wish: Wish::Known(wish), why: None });
        }
    }

    /// What waits and is known.
    pub(super) fn known(&self) -> Units {
        let known = |(unit, entry): (&UnitId, &Entry)| match &entry.wish {
            Wish::Known(wish) => Some((unit.clone(), wish.clone())),
            Wish::Open => None,
        };
        self.units.iter().filter_map(known).collect()
    }

    /// Units about which the plugin has to be asked.
    pub(super) fn open(&self) -> Vec<UnitId> {
        let open = self.units.iter().filter(|(_, entry)| matches!(entry.wish, Wish::Open));
        open.map(|(unit, _)| unit.clone()).collect()
    }

    /// These have been tried, and some failed.
    pub(super) fn tried(&mut self, units: impl IntoIterator<Item = UnitId>, failed: Failed) {
        units.into_iter().for_each(|unit| drop(self.units.remove(&unit)));
        for (unit, (wish, why)) in failed {
            warn!(%unit, %why, "not in force; trying again later");
            self.units.insert(unit, Entry { wish: Wish::Known(wish), why: Some(why) });
        }
        self.pace();
    }

    /// The plugin did not say what it wants of this unit.
    pub(super) fn unanswered(&mut self, unit: UnitId, why: String) {
        warn!(%unit, %why, "not asked successfully; trying again later");
        self.units.insert(unit, Entry { wish: Wish::Open, why: Some(why) });
        self.pace();
    }

    /// Nobody waits for it any more.
    pub(super) fn forget(&mut self, unit: &UnitId) {
        self.units.remove(unit);
        self.pace();
    }

    /// Another plugin answers. What was to go has to go all the same.
    pub(super) fn forget_plugin(&mut self) {
        self.units.retain(|unit, entry| !is_of_plugin(unit) || matches!(entry.wish, Wish::Known(None)));
        self.pace();
    }

    /// Whether nothing is wanted of a unit that is still there.
    pub(super) fn is_to_go(&self, unit: &UnitId) -> bool {
        matches!(self.units.get(unit), Some(Entry { wish: Wish::Known(None), .. }))
    }

    pub(super) fn len(&self) -> usize {
        self.units.len()
    }

    /// Why those are not in force that `concern` is about.
    pub(super) fn why(&self, concern: impl Fn(&UnitId) -> bool) -> impl Iterator<Item = String> {
        let concerned = self.units.iter().filter(move |(unit, _)| concern(unit));
        concerned.filter_map(|(unit, entry)| match (&entry.wish, entry.why.as_ref()?) {
            (Wish::Known(_), why) => Some(format!("{unit}: {why}")),
            (Wish::Open, why) => Some(why.clone()),
        })
    }

    /// Segments that are not in force, by name, and why.
    pub(super) fn segments(&self) -> BTreeMap<String, String> {
        let of_segments = self.units.iter().filter_map(|(unit, entry)| {
            let name = unit.0.strip_prefix(SEGMENT)?;
            Some((name.to_owned(), entry.why.clone()?))
        });
        of_segments.collect()
    }

    /// When to try again.
    pub(super) fn again(&self) -> &Again {
        &self.again
    }

    /// Something went that may have been in the way.
    pub(super) fn hasten(&mut self) {
        self.again.hasten();
    }

    /// Begins the next pause once the last one is over, so that what fails with every change is not put off by each of them.
    pub(super) fn pace(&mut self) {
        if self.units.is_empty() {
            self.again.succeeded();
        } else if self.again.until().is_none_or(|until| until <= Instant::now()) {
            self.again.failed();
        }
    }
}

/// Has units taken over as they are in the kernel, without touching it: all in one or, if that fails, each for itself. Gives those that
/// cannot be.
pub(super) fn adopt(engine: &mut Engine, extra: &Extra, units: Units) -> Failed {
    in_parts(units, |units| {
        extra.make(engine, &units)?;
        engine.adopt(units).map_err(|error| error.to_string())
    })
}

/// Makes units want this, all in one or, if that fails, each for itself. Gives those that failed.
pub(super) fn carry_out(engine: &mut Engine, extra: &Extra, units: Units) -> Failed {
    let failed = in_parts(units.clone(), |units| apply(engine, extra, units));
    for (unit, _) in units.iter().filter(|(unit, wish)| wish.is_none() && !failed.contains_key(*unit)) {
        // The engine's handle kept a pod's namespace alive until its links were taken out of it.
        if let Some(uid) = unit.0.strip_prefix("pod/") {
            engine.remove_place(&Place::pod(uid));
        }
    }
    failed
}

/// All or nothing.
pub(super) fn apply(engine: &mut Engine, extra: &Extra, units: Units) -> Result<(), String> {
    extra.make(engine, &units)?;
    let outcome = engine.apply(units).map(drop).map_err(|error| error.to_string());
    extra.sweep(engine);
    outcome
}

/// Some need others, in whatever order: round after round, as long as a round brings anything.
fn in_parts(units: Units, mut apply: impl FnMut(Units) -> Result<(), String>) -> Failed {
    let Err(why) = apply(units.clone()) else { return Failed::new() };
    let alone = units.len() == 1;
    let mut left: Failed = units.into_iter().map(|(unit, wish)| (unit, (wish, why.clone()))).collect();
    if alone {
        return left;
    }
    info!(%why, units = left.len(), "trying units one by one");
    loop {
        let before = left.len();
        left.retain(|unit, (wish, why)| match apply([(unit.clone(), wish.clone())].into()) {
            Ok(()) => false,
            Err(error) => {
                *why = error;
                true
            }
        });
        if left.is_empty() || left.len() == before {
            return left;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(names: &[&str]) -> Units {
        names.iter().map(|name| (UnitId((*name).into()), None)).collect()
    }

    fn names<T>(units: &BTreeMap<UnitId, T>) -> Vec<&str> {
        units.keys().map(|unit| unit.0.as_str()).collect()
    }

    #[test]
    fn one_bad_unit_keeps_no_other_out_and_order_does_not_matter() {
        let mut there = Units::new();
        // `a` needs `c`, and nobody takes `b`.
        let failed = in_parts(units(&["a", "b", "c"]), |some| {
            let has = |name: &str| some.keys().chain(there.keys()).any(|unit| unit.0 == name);
            if some.keys().any(|unit| unit.0 == "b") {
                return Err("no such device".into());
            }
            if some.keys().any(|unit| unit.0 == "a") && !has("c") {
                return Err("c is missing".into());
            }
            there.extend(some);
            Ok(())
        });
        assert_eq!((names(&failed), names(&there)), (vec!["b"], vec!["a", "c"]));
        assert_eq!(failed[&UnitId("b".into())].1, "no such device");
    }

    #[test]
    fn what_goes_well_is_one_change_and_what_is_alone_is_tried_once() {
        let mut tries = 0;
        let mut count = |outcome: Result<(), String>| {
            tries += 1;
            outcome
        };
        assert!(in_parts(units(&["a", "b"]), |_| count(Ok(()))).is_empty());
        assert_eq!(in_parts(units(&["a"]), |_| count(Err("no".into()))).len(), 1);
        assert_eq!(tries, 2);
    }

    #[test]
    fn only_what_was_tried_is_complained_about_and_only_what_failed_has_a_time() {
        let mut overdue = Overdue::default();
        overdue.hold(units(&["policies", "service/a/b"]));
        assert_eq!((overdue.why(|_| true).count(), overdue.again().until()), (0, None));
        let failed = [(UnitId("policies".into()), (None, "full".to_owned()))];
        overdue.tried(units(&["policies", "service/a/b"]).into_keys(), failed.into());
        assert_eq!(overdue.why(|_| true).collect::<Vec<_>>(), ["policies: full"]);
        assert_eq!(overdue.why(|unit| unit.0 != "policies").next(), None);
        let due = overdue.again().until();
        overdue.unanswered(UnitId("peer/n2".into()), "peer n2: no".into());
        assert!(due.is_some() && overdue.again().until() == due, "the pause that is on goes on");
        assert_eq!(names(&overdue.known()), ["policies"]);
        assert_eq!(overdue.open(), [UnitId("peer/n2".into())]);
        overdue.tried(units(&["policies"]).into_keys(), Failed::new());
        overdue.forget(&UnitId("peer/n2".into()));
        assert_eq!((overdue.len(), overdue.again().until()), (0, None));
    }

    #[test]
    fn another_plugin_answers_anew_but_what_was_to_go_goes() {
        let mut overdue = Overdue::default();
        let wish = Some(Fragment::new());
        overdue.hold(
            [("remote/a", None), ("remote/b", wish.clone()), ("services", wish)]
                .map(|(unit, wish)| (UnitId(unit.into()), wish))
                .into(),
        );
        overdue.unanswered(UnitId("segment/s".into()), "no".into());
        overdue.forget_plugin();
        assert_eq!(names(&overdue.known()), ["remote/a", "services"]);
        assert!(overdue.open().is_empty());
    }
}
