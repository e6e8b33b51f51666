//! What is wanted, and what the kernel does not hold all the same: somebody else's has its place, or the kernel refused to have it put
//! right. The keeper goes on trying; who asks is told.

use std::collections::{BTreeMap, BTreeSet};

use switchyard_kernel::Audit;
use switchyard_netstate::{Place, UnitId};

use crate::network::question::SEGMENT;

/// Units that are not as wanted, in which place, and why.
#[derive(Debug, Default)]
pub(super) struct Unrepaired(BTreeMap<(Place, UnitId), String>);

// === impl Unrepaired ===

impl Unrepaired {
    /// Takes in how things stand in some places; false if that is known.
    pub(super) fn note(&mut self, places: &BTreeSet<Place>, audit: &Audit) -> bool {
        let before = self.0.clone();
        self.0.retain(|(place, _), _| !places.contains(place));
        self.0.extend(audit.units.clone());
        self.0 != before
    }

    /// Why those units are not as wanted that `concern` is about. What is wrong in a pod follows from what is wrong on its node.
    pub(super) fn why(&self, concern: impl Fn(&UnitId) -> bool) -> impl Iterator<Item = String> {
        let units: BTreeMap<&UnitId, &String> = self.0.iter().rev().map(|((_, unit), why)| (unit, why)).collect();
        units.into_iter().filter(move |(unit, _)| concern(unit)).map(|(unit, why)| format!("{unit}: {why}"))
    }

    /// Segments that are not as wanted, by name, and why.
    pub(super) fn segments(&self) -> impl Iterator<Item = (String, String)> {
        self.0.iter().filter_map(|((_, unit), why)| Some((unit.0.strip_prefix(SEGMENT)?.to_owned(), why.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_place_holds_until_it_is_looked_at_again() {
        let (here, there) = (Place::node("n1"), Place::pod("a"));
        let audit = |place: &Place| {
            let units = [((place.clone(), UnitId("segment/s".into())), "taken".to_owned())].into();
            Audit { units, ..Audit::default() }
        };
        let mut unrepaired = Unrepaired::default();
        assert!(unrepaired.note(&[here.clone()].into(), &audit(&here)));
        assert!(!unrepaired.note(&[here.clone()].into(), &audit(&here)), "known");
        assert!(unrepaired.note(&[there.clone()].into(), &audit(&there)));
        assert_eq!(unrepaired.why(|_| true).collect::<Vec<_>>(), ["segment/s: taken"], "once, wherever it is");
        assert_eq!(unrepaired.why(|unit| unit.0 != "segment/s").next(), None);
        assert!(unrepaired.note(&[there].into(), &Audit::default()));
        assert_eq!(unrepaired.segments().next(), Some(("s".to_owned(), "taken".to_owned())));
        assert!(unrepaired.note(&[here].into(), &Audit::default()));
        assert_eq!(unrepaired.segments().next(), None);
    }
}
