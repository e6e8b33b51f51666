//! What a swap left, or took with it: between two times of one network there is to be no difference.

use std::collections::BTreeSet;

use crate::report::{Report, Stay};

/// What there was at one time of a network and not at its first one, or the other way round, each with the network that is to blame: who
/// had that thing before, or else who was in force before.
pub(super) fn residue(report: &Report, network: &str) -> Vec<String> {
    // A time that nobody looked at the end of says nothing.
    let seen: Vec<&Stay> = report.stays.iter().filter(|stay| !stay.left.is_empty()).collect();
    let Some(first) = seen.iter().find(|stay| stay.network == network) else { return Vec::new() };
    let mut found = BTreeSet::new();
    for (at, stay) in seen.iter().enumerate().filter(|(_, stay)| stay.network == network) {
        for (place, now) in &stay.left {
            let Some(then) = first.left.get(place) else { continue };
            let others = || seen[..at].iter().rev().filter(|other| other.network != network);
            let has =
                |other: &&&Stay, thing: &String| other.left.get(place).is_some_and(|things| things.contains(thing));
            let before = others().next().map_or("a swap", |other| other.network.as_str());
            for thing in now.difference(then) {
                let owner = others().find(|other| has(other, thing)).map_or(before, |other| other.network.as_str());
                found.insert(format!("{thing} on {place}, left by {owner}"));
            }
            found.extend(then.difference(now).map(|thing| format!("{thing} on {place}, gone after {before}")));
        }
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::tests::report;

    #[test]
    fn who_left_a_thing_is_named_and_so_is_who_took_one() {
        let mut report = report(|_| 1.0, |_| ());
        assert!(residue(&report, "kubenet").is_empty() && residue(&report, "overlay").is_empty());
        let of = |stay: &mut Stay, place: &str, thing: &str| stay.left.get_mut(place).unwrap().insert(thing.into());
        // kubenet, overlay, by hand twice, overlay, kubenet.
        for stay in [1, 4, 5] {
            of(&mut report.stays[stay], "worker-2", "link vx0");
        }
        report.stays[5].left.get_mut("router").unwrap().remove("route 10.40.1.0/24");
        let wanted = ["link vx0 on worker-2, left by overlay", "route 10.40.1.0/24 on router, gone after overlay"];
        assert_eq!(residue(&report, "kubenet"), wanted);
        assert!(residue(&report, "overlay").is_empty(), "it is its own");
        report.stays[5].left.clear();
        assert!(residue(&report, "kubenet").is_empty(), "nobody looked");
    }
}
