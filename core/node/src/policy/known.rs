//! Which policies are known, and as of when: they come by the watch and by requests beside it, which may overtake it.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Versions by name.
    versions: BTreeMap<String, u64>,
    /// Names seen while a list is being received.
    listing: Option<BTreeSet<String>>,
    complete: bool,
}

// === impl Known ===

impl Known {
    /// A list begins.
    pub(crate) fn begin(&mut self) {
        self.listing = Some(BTreeSet::new());
    }

    /// A policy as of a version. Gives whether that is news.
    pub(crate) fn comes(&mut self, name: &str, version: u64) -> bool {
        if let Some(listing) = &mut self.listing {
            listing.insert(name.to_owned());
        }
        match self.versions.get(name) {
            Some(known) if *known >= version && version != u64::MAX => false,
            _ => {
                self.versions.insert(name.to_owned(), version);
                true
            }
        }
    }

    /// It went at a version. Gives whether that is so: one of its name may have come since.
    pub(crate) fn gone(&mut self, name: &str, version: u64) -> bool {
        match self.versions.get(name) {
            Some(known) if *known > version && *known != u64::MAX => false,
            known => {
                let was = known.is_some();
                self.versions.remove(name);
                was
            }
        }
    }

    /// The list is through; gives the names that it did not hold.
    pub(crate) fn listed(&mut self) -> Vec<String> {
        self.complete = true;
        let listed = self.listing.take().unwrap_or_default();
        let gone: Vec<String> = self.versions.keys().filter(|name| !listed.contains(*name)).cloned().collect();
        for name in &gone {
            self.versions.remove(name);
        }
        gone
    }

    /// Whether a list has been received.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_beside_the_watch_is_not_undone_by_its_older_news() {
        let mut known = Known::default();
        known.begin();
        assert!(known.comes("a", 5) && !known.comes("a", 5));
        assert!(known.listed().is_empty() && known.is_complete());
        // Deleted at 7 and made anew at 8: the request tells first.
        assert!(known.comes("a", 8) && !known.gone("a", 7) && !known.comes("a", 6));
        assert!(known.gone("a", 9) && !known.gone("a", 9));
    }

    #[test]
    fn a_list_takes_away_what_it_does_not_hold_but_not_what_came_meanwhile() {
        let mut known = Known::default();
        known.comes("old", 1);
        known.begin();
        known.comes("asked", 9);
        known.comes("listed", 2);
        assert_eq!(known.listed(), ["old"]);
    }
}
