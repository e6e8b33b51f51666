//! The upstream device as a network finds it: it holds so many routes and no more, takes its time, and at times fails.
//!
//! What the plugin wants of the device passes through here on its way to the kernel. A request is decided when its time has come:
//! refused by chance, which is the seed's and nobody else's, or because the table is full, or let through. One that failed is
//! made again after a pause; one that found the table full is made again when a route goes. A route that is there when this
//! process starts is not asked for again.
//!
//! What a swap wants is asked for *beside* what is held, as the device knows the routes of both networks until the swap is over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use switchyard_api::RouteTable;
use switchyard_netstate::{Fragment, Key, Object, UnitId};
use tokio::time::Instant;

use super::Changes;

/// The device.
pub(super) struct Upstream {
    table: RouteTable,
    units: BTreeMap<UnitId, Unit>,
    /// What a swap asks for; it becomes `units`' own when the swap succeeds.
    beside: BTreeMap<UnitId, Unit>,
    /// Order of arrival.
    next: u64,
}

/// How a node's routes do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The network needs none.
    NotNeeded,
    /// They are asked for.
    Asked,
    /// They are in force.
    Held,
    /// They were refused, and why.
    Refused(String),
}

struct Unit {
    wish: Option<Fragment>,
    /// Places of the table that it needs: one a route; beside another wish, one for each route that the other has not.
    wanted: usize,
    /// Places of the table that it has.
    held: usize,
    /// When the request is decided; none while nothing is asked, or while the table is full.
    due: Option<Instant>,
    /// Who came first is served first.
    turn: u64,
    attempts: u64,
    outcome: Outcome,
}

/// Until a request that failed is made again.
const PAUSE: Duration = Duration::from_secs(1);
/// A swap waits for no more attempts than this: everybody else waits with it.
const MOST_ATTEMPTS: u64 = 3;

// === impl Upstream ===

impl Upstream {
    pub(super) fn new(table: RouteTable) -> Self {
        Self { table, units: BTreeMap::new(), beside: BTreeMap::new(), next: 0 }
    }

    /// Takes what is wanted from now on, and gives what is to be brought into the kernel at once. `there` are units whose routes
    /// are in the kernel from before.
    pub(super) fn ask(&mut self, changes: Changes, now: Instant, there: &BTreeSet<UnitId>) -> Changes {
        let mut through = Changes::new();
        for (id, wish) in changes {
            let wanted = wish.as_ref().map_or(0, routes);
            let known = self.units.get(&id);
            if known.is_some_and(|unit| unit.wish == wish) {
                // Said again: the kernel may need it, the device has decided or will.
                if known.is_some_and(|unit| unit.outcome == Outcome::Held) {
                    through.insert(id, wish);
                }
                continue;
            }
            let adopted = known.is_none() && wanted > 0 && there.contains(&id);
            let held = if adopted { wanted } else { known.map_or(0, |unit| unit.held) };
            let outcome = Outcome::Held;
            let mut unit = Unit { wish, wanted, held, due: None, turn: self.next, attempts: 0, outcome };
            self.next += 1;
            if wanted == 0 {
                // Taking away never fails.
                (unit.held, unit.outcome) = (0, Outcome::NotNeeded);
                through.insert(id.clone(), unit.wish.clone());
            } else if adopted {
                through.insert(id.clone(), unit.wish.clone());
            } else {
                unit.outcome = Outcome::Asked;
                unit.due = Some(now + Duration::from_millis(self.table.delay_milliseconds.into()));
            }
            self.units.insert(id, unit);
        }
        through.extend(self.decide(now));
        through
    }

    /// Decides what is due; gives what is to be brought into the kernel.
    pub(super) fn decide(&mut self, now: Instant) -> Changes {
        let mut through = Changes::new();
        let delay = Duration::from_millis(self.table.delay_milliseconds.into());
        let has_room = self.room().is_none_or(|room| room > 0);
        let mut waiting: Vec<(u64, bool, UnitId)> = Vec::new();
        for (is_beside, units) in [(false, &mut self.units), (true, &mut self.beside)] {
            for (id, unit) in units {
                // Somebody left: those who were sent away ask again.
                if has_room && unit.due.is_none() && matches!(unit.outcome, Outcome::Refused(_)) {
                    unit.due = Some(now + delay);
                }
                if unit.due.is_some_and(|due| due <= now) {
                    waiting.push((unit.turn, is_beside, id.clone()));
                }
            }
        }
        waiting.sort();
        for (_, is_beside, id) in waiting {
            let room = self.room();
            let limit = self.table.limit.unwrap_or_default();
            let units = if is_beside { &mut self.beside } else { &mut self.units };
            let Some(unit) = units.get_mut(&id) else { continue };
            unit.attempts += 1;
            if chance(self.table.seed, &id.0, unit.attempts) < self.table.error_rate {
                unit.due = Some(now + PAUSE + delay);
                unit.outcome = Outcome::Refused(format!("the upstream device failed at attempt {}", unit.attempts));
            } else if room.is_some_and(|room| unit.wanted > room + unit.held) {
                unit.due = None;
                let held = limit as usize - room.unwrap_or_default();
                unit.outcome = Outcome::Refused(format!("the upstream device holds {held} of {limit} routes"));
            } else {
                (unit.due, unit.held, unit.outcome) = (None, unit.wanted, Outcome::Held);
                if !is_beside {
                    through.insert(id, unit.wish.clone());
                }
            }
        }
        through
    }

    /// Asks for what a swap wants, once; `there` are units whose routes are in the kernel from before.
    pub(super) fn ask_beside(&mut self, changes: &Changes, now: Instant, there: &BTreeSet<UnitId>) {
        for (id, wish) in changes {
            if wish.as_ref().map_or(0, routes) == 0 || self.beside.contains_key(id) {
                continue;
            }
            let more = self.more(id, wish.as_ref());
            let same = self.units.get(id).is_some_and(|unit| unit.wish == *wish && unit.outcome == Outcome::Held);
            let decided = same || there.contains(id);
            let due = (!decided).then(|| now + Duration::from_millis(self.table.delay_milliseconds.into()));
            let (held, outcome) = if decided { (more, Outcome::Held) } else { (0, Outcome::Asked) };
            let unit = Unit { wish: wish.clone(), wanted: more, held, due, turn: self.next, attempts: 0, outcome };
            self.next += 1;
            self.beside.insert(id.clone(), unit);
        }
    }

    /// Whether a swap has what it asked for, or why it will not have it; none while the device takes its time.
    pub(super) fn answer(&self) -> Option<Result<(), String>> {
        let refused = self.beside.iter().find_map(|(id, unit)| match &unit.outcome {
            Outcome::Refused(why) if unit.due.is_none() || unit.attempts >= MOST_ATTEMPTS => {
                Some(format!("{id}: {why}"))
            }
            _ => None,
        });
        match refused {
            Some(why) => Some(Err(why)),
            None => self.beside.values().all(|unit| unit.due.is_none()).then_some(Ok(())),
        }
    }

    /// The swap has succeeded: what was asked for beside is what there is.
    pub(super) fn take_over(&mut self) {
        for (id, unit) in std::mem::take(&mut self.beside) {
            let wanted = unit.wish.as_ref().map_or(0, routes);
            self.units.insert(id, Unit { wanted, held: wanted, ..unit });
        }
    }

    /// The swap is given up.
    pub(super) fn give_up(&mut self) {
        self.beside.clear();
    }

    /// Ends when the next request is to be decided.
    pub(super) async fn due(&self) {
        match self.units.values().chain(self.beside.values()).filter_map(|unit| unit.due).min() {
            Some(due) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    /// Whether the device keeps this wish back: it has not decided yet, or has refused.
    pub(super) fn keeps_back(&self, id: &UnitId, wish: Option<&Fragment>) -> bool {
        let unit = self.units.get(id).filter(|unit| unit.wish.as_ref() == wish);
        unit.is_some_and(|unit| matches!(unit.outcome, Outcome::Asked | Outcome::Refused(_)))
    }

    /// Every unit that was ever asked for, what it wants, and how it does.
    pub(super) fn units(&self) -> impl Iterator<Item = (&UnitId, Option<&Fragment>, &Outcome)> {
        self.units.iter().map(|(id, unit)| (id, unit.wish.as_ref(), &unit.outcome))
    }

    /// Whether a network that wants this altogether could be had.
    pub(super) fn fits<'a>(&self, wishes: impl IntoIterator<Item = &'a Fragment>) -> Result<(), String> {
        let wanted: usize = wishes.into_iter().map(routes).sum();
        match self.table.limit {
            Some(limit) if wanted > limit as usize => {
                Err(format!("it wants {wanted} routes of the upstream device, which holds {limit} at most"))
            }
            _ => Ok(()),
        }
    }

    /// Whether a swap to a network that wants this could be had: in the end, and on the way there beside what is held.
    pub(super) fn fits_beside(&self, changes: &Changes) -> Result<(), String> {
        self.fits(changes.values().flatten())?;
        let more: usize = changes.iter().map(|(id, wish)| self.more(id, wish.as_ref())).sum();
        match self.room() {
            Some(room) if more > room => {
                let limit = self.table.limit.unwrap_or_default();
                let held = (limit as usize).saturating_sub(room);
                Err(format!(
                    "until the swap is over it wants {more} routes of the upstream device besides the {held} that are there; \
                     the device holds {limit} at most"
                ))
            }
            _ => Ok(()),
        }
    }

    /// Routes of a wish that the device does not hold for the unit as it is.
    fn more(&self, id: &UnitId, wish: Option<&Fragment>) -> usize {
        let unit = self.units.get(id).filter(|unit| unit.held > 0);
        let held: Vec<_> = unit.and_then(|unit| unit.wish.as_ref()).map(keys).into_iter().flatten().collect();
        wish.map_or(0, |wish| keys(wish).filter(|key| !held.contains(key)).count())
    }

    /// Routes that fit in; none: any number.
    fn room(&self) -> Option<usize> {
        let held: usize = self.units.values().chain(self.beside.values()).map(|unit| unit.held).sum();
        self.table.limit.map(|limit| (limit as usize).saturating_sub(held))
    }
}

fn routes(fragment: &Fragment) -> usize {
    keys(fragment).count()
}

/// What tells a fragment's routes from others.
fn keys(fragment: &Fragment) -> impl Iterator<Item = &Key> {
    let objects = fragment.places().flat_map(|(_, objects)| objects.iter());
    objects.filter(|(_, object)| matches!(object, Object::Route(_))).map(|(key, _)| key)
}

/// A number from 0 to below 1 that looks like chance and is the same every time (FNV-1a, then the last steps of splitmix64).
fn chance(seed: u64, name: &str, attempt: u64) -> f64 {
    let bytes = seed.to_le_bytes().into_iter().chain(name.bytes()).chain(attempt.to_le_bytes());
    let mut hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    (hash >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests;
