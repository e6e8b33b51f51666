//! How much one client may ask, so that another gets its turn.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Limits. A client is an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// UDP queries answered a second, and at once. Default 50 000. What comes above is dropped.
    pub queries_per_second: u32,
    /// Queries of one client that others are asked about at a time. Default 64; what comes above is answered SERVFAIL.
    pub forwarded: usize,
    /// The same, of all clients. Default 1024.
    pub forwarded_in_all: usize,
    /// Connections of one client. Default 32; what comes above is closed.
    pub connections: usize,
    /// Connections of all clients. Default 512; what comes above waits.
    pub connections_in_all: usize,
    /// How long a connection may be idle, or take for one message. Default 10 s.
    pub idle: Duration,
}

/// What each client has left.
#[derive(Debug)]
pub(super) struct Budgets {
    per_second: f64,
    batch: u64,
    young: HashMap<IpAddr, Budget, foldhash::fast::RandomState>,
    old: HashMap<IpAddr, Budget, foldhash::fast::RandomState>,
}

#[derive(Clone, Copy, Debug)]
struct Budget {
    left: f64,
    since: Instant,
    /// The batch it asked in last, and how much in that.
    batch: u64,
    asked: usize,
}

/// Clients that are remembered twice over.
const CLIENTS_MAX: usize = 4096;

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            queries_per_second: 50_000,
            forwarded: 64,
            forwarded_in_all: 1024,
            connections: 32,
            connections_in_all: 512,
            idle: Duration::from_secs(10),
        }
    }
}

// === impl Budgets ===

impl Budgets {
    pub(super) fn new(limits: &Limits) -> Self {
        let per_second = f64::from(limits.queries_per_second);
        Self { per_second, batch: 0, young: HashMap::default(), old: HashMap::default() }
    }

    /// What is asked from now on came together.
    pub(super) fn begin_batch(&mut self) {
        self.batch += 1;
    }

    /// Whether a client may ask one more, and how many it has asked in this batch before.
    pub(super) fn spend(&mut self, client: IpAddr, now: Instant) -> Option<usize> {
        let (per_second, batch) = (self.per_second, self.batch);
        if !self.young.contains_key(&client) {
            let budget = self.old.remove(&client).unwrap_or(Budget { left: per_second, since: now, batch, asked: 0 });
            if self.young.len() >= CLIENTS_MAX {
                self.old = std::mem::take(&mut self.young);
            }
            self.young.insert(client, budget);
        }
        let budget = self.young.get_mut(&client)?;
        let earned = now.saturating_duration_since(budget.since).as_secs_f64() * per_second;
        budget.left = (budget.left + earned).min(per_second);
        budget.since = now;
        if budget.left < 1.0 {
            return None;
        }
        budget.left -= 1.0;
        if budget.batch != batch {
            (budget.batch, budget.asked) = (batch, 0);
        }
        budget.asked += 1;
        Some(budget.asked - 1)
    }

    /// Takes more from a client that has asked.
    pub(super) fn charge(&mut self, client: IpAddr, queries: u32) {
        if let Some(budget) = self.young.get_mut(&client) {
            budget.left -= f64::from(queries);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_spends_its_own_budget_only() {
        let limits = Limits { queries_per_second: 10, ..Limits::default() };
        let (mut budgets, now) = (Budgets::new(&limits), Instant::now());
        let [one, two] = ["10.0.0.1", "10.0.0.2"].map(|address| address.parse().unwrap());
        let spent = (0..100).filter(|_| budgets.spend(one, now).is_some()).count();
        assert_eq!((spent, budgets.spend(two, now)), (10, Some(0)));
        let later = now + Duration::from_millis(500);
        assert_eq!((0..100).filter(|_| budgets.spend(one, later).is_some()).count(), 5);
        // How much it asks at once is told by batch.
        let much_later = later + Duration::from_secs(1);
        budgets.begin_batch();
        assert_eq!([one, one, two].map(|client| budgets.spend(client, much_later)), [Some(0), Some(1), Some(0)]);
        budgets.begin_batch();
        assert_eq!(budgets.spend(one, much_later), Some(0));
        budgets.charge(one, 100);
        assert_eq!((budgets.spend(one, much_later), budgets.spend(two, much_later)), (None, Some(0)));
    }

    #[test]
    fn forged_addresses_fill_no_memory() {
        let (mut budgets, now) = (Budgets::new(&Limits::default()), Instant::now());
        for number in 0..100_000u32 {
            let _ = budgets.spend(IpAddr::V4(number.into()), now);
        }
        assert!(budgets.young.len() + budgets.old.len() <= 2 * CLIENTS_MAX);
    }
}
