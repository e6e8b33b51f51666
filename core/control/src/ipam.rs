//! Addresses of pods. The only record of what is in use is the pods themselves; this is the index over them.
//!
//! An address goes out in the order of its block until every one has been used once; after that the one that has been free for the
//! longest goes first, so that a connection to a pod that is gone does not meet its successor. Taking and freeing cost the same
//! whatever the size of the block.

use std::collections::VecDeque;
use std::net::IpAddr;

use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};
use ipnet::IpNet;
use switchyard_plugin::Pool;

/// Which address is held by which pods, and what is free.
pub(crate) struct Addresses {
    /// More than one holder is a fault, which must be seen rather than lost.
    held: HashMap<IpAddr, Vec<String>>,
    blocks: HashMap<IpNet, Block>,
}

struct Block {
    first: u128,
    /// Addresses from `first` that pods may have, less the reserved ones.
    size: u128,
    /// Everything below has been given before, or was in use when first looked at.
    next: u128,
    freed: VecDeque<u128>,
    /// What is in `freed`.
    resting: HashSet<u128>,
}

// === impl Addresses ===

impl Addresses {
    pub(crate) fn new() -> Self {
        Self { held: HashMap::new(), blocks: HashMap::new() }
    }

    /// Notes that the pod of this uid holds `ip`; gives back who held it before.
    pub(crate) fn hold(&mut self, ip: IpAddr, uid: &str) -> Option<String> {
        let holders = self.held.entry(ip).or_default();
        if holders.iter().any(|holder| holder == uid) {
            return None;
        }
        holders.push(uid.into());
        holders.first().filter(|holder| *holder != uid).cloned()
    }

    /// Notes that it no longer does.
    pub(crate) fn release(&mut self, ip: IpAddr, uid: &str) {
        let Some(holders) = self.held.get_mut(&ip) else { return };
        holders.retain(|holder| holder != uid);
        if !holders.is_empty() {
            return;
        }
        self.held.remove(&ip);
        for (net, block) in &mut self.blocks {
            if net.contains(&ip) {
                block.free(number(ip));
            }
        }
    }

    /// Takes an address of the pool for the pod of this uid; none if all are in use.
    pub(crate) fn take(&mut self, pool: &Pool, uid: &str) -> Option<IpAddr> {
        let net = pool.block.trunc();
        let block = self.blocks.entry(net).or_insert_with(|| Block::new(&net));
        let held = &self.held;
        let number = block.take(|candidate| {
            let ip = address(&net, candidate);
            held.contains_key(&ip) || pool.reserved.contains(&ip)
        })?;
        let ip = address(&net, number);
        self.held.insert(ip, vec![uid.into()]);
        Some(ip)
    }

    #[cfg(test)]
    pub(crate) fn in_use(&self) -> usize {
        self.held.len()
    }
}

// === impl Block ===

impl Block {
    fn new(net: &IpNet) -> Self {
        let first = number(net.network());
        let bits = u32::from(net.max_prefix_len() - net.prefix_len());
        let all = 1u128.checked_shl(bits).unwrap_or(u128::MAX);
        // The first and last of an IPv4 block name the block and everybody in it; the first of an IPv6 block is any router.
        let (skip, size) = match net {
            IpNet::V4(_) if bits >= 2 => (1, all - 2),
            IpNet::V6(_) if bits >= 1 => (1, all - 1),
            _ => (0, all),
        };
        Self { first: first + skip, size, next: 0, freed: VecDeque::new(), resting: HashSet::new() }
    }

    fn take(&mut self, taken: impl Fn(u128) -> bool) -> Option<u128> {
        while self.next < self.size {
            let candidate = self.first + self.next;
            self.next += 1;
            if !self.resting.contains(&candidate) && !taken(candidate) {
                return Some(candidate);
            }
        }
        // Each is looked at once: what was reserved since stays behind.
        for _ in 0..self.freed.len() {
            let candidate = self.freed.pop_front()?;
            self.resting.remove(&candidate);
            if !taken(candidate) {
                return Some(candidate);
            }
        }
        None
    }

    fn free(&mut self, number: u128) {
        let inside = number >= self.first && number - self.first < self.size;
        if inside && self.resting.insert(number) {
            self.freed.push_back(number);
        }
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

fn address(net: &IpNet, number: u128) -> IpAddr {
    match net {
        IpNet::V4(_) => IpAddr::V4((number as u32).into()),
        IpNet::V6(_) => IpAddr::V6(number.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(block: &str, reserved: &[&str]) -> Pool {
        let reserved = reserved.iter().map(|ip| ip.parse().unwrap()).collect();
        Pool { reserved, ..Pool::of(block.parse().unwrap()) }
    }

    fn text(ip: Option<IpAddr>) -> String {
        ip.map(|ip| ip.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_block_gives_all_but_its_ends_and_the_reserved() {
        let mut addresses = Addresses::new();
        let pool = pool("10.40.1.0/29", &["10.40.1.1"]);
        let given: Vec<String> = (0..7).map(|n| text(addresses.take(&pool, &n.to_string()))).collect();
        assert_eq!(given, ["10.40.1.2", "10.40.1.3", "10.40.1.4", "10.40.1.5", "10.40.1.6", "", ""]);
    }

    #[test]
    fn the_address_that_was_freed_last_is_given_again_last() {
        let mut addresses = Addresses::new();
        let pool = pool("10.40.1.0/29", &[]);
        for n in 1..=4 {
            addresses.take(&pool, &n.to_string());
        }
        addresses.release("10.40.1.2".parse().unwrap(), "2");
        addresses.release("10.40.1.1".parse().unwrap(), "1");
        let given: Vec<String> = (5..10).map(|n| text(addresses.take(&pool, &n.to_string()))).collect();
        assert_eq!(given, ["10.40.1.5", "10.40.1.6", "10.40.1.2", "10.40.1.1", ""]);
    }

    #[test]
    fn after_a_start_what_pods_hold_is_not_given_and_what_they_free_comes_last() {
        let mut addresses = Addresses::new();
        let pool = pool("10.40.1.0/29", &[]);
        for n in [1, 2, 3] {
            assert_eq!(addresses.hold(format!("10.40.1.{n}").parse().unwrap(), &n.to_string()), None);
        }
        assert_eq!(text(addresses.take(&pool, "a")), "10.40.1.4");
        addresses.release("10.40.1.2".parse().unwrap(), "2");
        let given: Vec<String> = (5..9).map(|n| text(addresses.take(&pool, &n.to_string()))).collect();
        assert_eq!(given, ["10.40.1.5", "10.40.1.6", "10.40.1.2", ""]);
    }

    #[test]
    fn an_address_two_pods_hold_is_free_when_both_are_gone() {
        let mut addresses = Addresses::new();
        let ip = "10.40.1.1".parse().unwrap();
        assert_eq!(addresses.hold(ip, "a"), None);
        assert_eq!(addresses.hold(ip, "b"), Some("a".into()));
        addresses.release(ip, "a");
        assert_eq!(addresses.in_use(), 1);
        addresses.release(ip, "b");
        assert_eq!(addresses.in_use(), 0);
    }

    #[test]
    fn a_large_ipv6_block_costs_no_more_than_a_small_one() {
        let mut addresses = Addresses::new();
        let pool = pool("fd00:40::/64", &["fd00:40::1"]);
        assert_eq!(text(addresses.take(&pool, "a")), "fd00:40::2");
        assert_eq!(text(addresses.take(&pool, "b")), "fd00:40::3");
    }
}
