//! Places that could not be put right. What stands in the way may go without a word, so they are looked at again, after pauses that
//! grow; what stood there before is told once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use switchyard_netstate::Place;

use crate::{Audit, Error};

/// All of them.
#[derive(Default)]
pub(super) struct Troubled(BTreeMap<Place, Trouble>);

struct Trouble {
    pause: Duration,
    due: Instant,
    errors: Vec<String>,
}

/// First and longest pause before a place is looked at again; each one is twice as long as the last.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

// === impl Troubled ===

impl Troubled {
    /// Until the next place is due.
    pub(super) fn patience(&self, now: Instant) -> Option<Duration> {
        let next = self.0.values().map(|trouble| trouble.due).min()?;
        Some(next.saturating_duration_since(now))
    }

    pub(super) fn due(&self, now: Instant) -> BTreeSet<Place> {
        self.0.iter().filter(|(_, trouble)| trouble.due <= now).map(|(place, _)| place.clone()).collect()
    }

    pub(super) fn holds(&self, place: &Place) -> bool {
        self.0.contains_key(place)
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Place) -> bool) {
        self.0.retain(|place, _| keep(place));
    }

    /// Takes in how a repair of these places went; false if it only met what it met before.
    pub(super) fn note(&mut self, now: Instant, places: &BTreeSet<Place>, outcome: &Result<Audit, Error>) -> bool {
        let mut is_news = false;
        let mut found = errors(places, outcome);
        for place in places.iter().filter(|place| !found.contains_key(*place)) {
            is_news |= self.0.remove(place).is_some();
        }
        is_news |= found.is_empty();
        while let Some((place, errors)) = found.pop_first() {
            let last = self.0.get(&place);
            is_news |= last.is_none_or(|last| last.errors != errors);
            let pause = last.map_or(FIRST_PAUSE, |last| LONGEST_PAUSE.min(last.pause * 2));
            self.0.insert(place, Trouble { pause, due: now + pause, errors });
        }
        is_news
    }
}

/// What went wrong, by place. One that names no place may be of any.
fn errors(places: &BTreeSet<Place>, outcome: &Result<Audit, Error>) -> BTreeMap<Place, Vec<String>> {
    let all: Vec<&Error> = match outcome {
        Ok(audit) => audit.errors.iter().collect(),
        Err(error) => vec![error],
    };
    let mut found: BTreeMap<Place, Vec<String>> = BTreeMap::new();
    for error in all {
        let at = error.place().map_or_else(|| places.clone(), |place| [place.clone()].into());
        at.into_iter().for_each(|place| found.entry(place).or_default().push(error.to_string()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(place: &Place) -> Result<Audit, Error> {
        Ok(Audit { errors: vec![Error::UnknownPlace { place: place.clone() }], ..Audit::default() })
    }

    #[test]
    fn pauses_grow_to_a_bound_and_end_with_the_trouble() {
        let (here, now) = (Place::node("n1"), Instant::now());
        let all = BTreeSet::from([here.clone()]);
        let mut troubled = Troubled::default();
        assert_eq!(troubled.patience(now), None);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            troubled.note(now, &all, &failed(&here));
            pauses.push(troubled.patience(now).unwrap().as_millis());
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert!(troubled.due(now).is_empty());
        assert_eq!(troubled.due(now + LONGEST_PAUSE), all);
        troubled.note(now, &all, &Ok(Audit::default()));
        assert_eq!(troubled.patience(now), None);
    }

    #[test]
    fn the_same_trouble_is_told_once_and_its_end_too() {
        let (here, there) = (Place::node("n1"), Place::Router);
        let (now, both) = (Instant::now(), BTreeSet::from([here.clone(), there.clone()]));
        let mut troubled = Troubled::default();
        assert!(troubled.note(now, &both, &failed(&here)));
        assert!(!troubled.note(now, &both, &failed(&here)));
        assert!(troubled.note(now, &both, &failed(&there)), "one ends and another begins");
        assert!(troubled.note(now, &both, &Ok(Audit::default())));
        assert!(troubled.note(now, &both, &Ok(Audit::default())), "a repair without trouble is always told");
    }
}
