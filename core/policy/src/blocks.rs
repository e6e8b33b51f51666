//! Blocks of addresses, cut into intervals that do not overlap, block by block as they come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use switchyard_netstate::nft::Value;

use crate::Peer;
use crate::peers::PeerId;

/// Intervals of IPv4 addresses, each with the blocks that hold all of it; as few as can be, so that they follow from the blocks alone.
/// What is in no block is left out.
#[derive(Debug, Default)]
pub(crate) struct Intervals {
    /// By their first address.
    known: BTreeMap<u32, Interval>,
    /// First addresses of those that came, changed or went since [`Intervals::changes`] was called.
    changed: BTreeSet<u32>,
}

/// An interval, less its first address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interval {
    pub(crate) last: u32,
    /// The blocks that hold it, in order.
    pub(crate) peers: Vec<PeerId>,
}

// === impl Intervals ===

impl Intervals {
    /// A block comes; pods are left out.
    pub(crate) fn enter(&mut self, id: PeerId, peer: &Peer) {
        for (first, last) in parts(peer) {
            self.cut(first, last);
            let mut at = u64::from(first);
            let within: Vec<(u32, u32)> = self.known.range(first..=last).map(|(from, one)| (*from, one.last)).collect();
            for (from, to) in within {
                self.fill(at, from.into(), id);
                let peers = &mut self.known.get_mut(&from).expect("found above").peers;
                if let Err(place) = peers.binary_search(&id) {
                    peers.insert(place, id);
                }
                self.changed.insert(from);
                at = u64::from(to) + 1;
            }
            self.fill(at, u64::from(last) + 1, id);
            self.join(first, last);
        }
    }

    /// A block goes.
    pub(crate) fn leave(&mut self, id: PeerId, peer: &Peer) {
        for (first, last) in parts(peer) {
            self.cut(first, last);
            let within: Vec<u32> = self.known.range(first..=last).map(|(from, _)| *from).collect();
            for from in within {
                let peers = &mut self.known.get_mut(&from).expect("found above").peers;
                peers.retain(|one| *one != id);
                if peers.is_empty() {
                    self.known.remove(&from);
                }
                self.changed.insert(from);
            }
            self.join(first, last);
        }
    }

    /// First addresses of intervals that came, changed or went since this was asked last.
    pub(crate) fn changes(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.changed)
    }

    /// The interval that begins at an address.
    pub(crate) fn get(&self, first: u32) -> Option<&Interval> {
        self.known.get(&first)
    }

    /// The blocks that hold an address.
    pub(crate) fn of(&self, address: u32) -> &[PeerId] {
        let found = self.known.range(..=address).next_back().filter(|(_, one)| one.last >= address);
        found.map_or(&[], |(_, one)| &one.peers)
    }

    /// Has intervals begin and end where this one does.
    fn cut(&mut self, first: u32, last: u32) {
        for at in [Some(first), last.checked_add(1)].into_iter().flatten() {
            let Some((from, one)) = self.known.range_mut(..at).next_back() else { continue };
            if one.last >= at {
                let rest = one.clone();
                one.last = at - 1;
                self.changed.extend([*from, at]);
                self.known.insert(at, rest);
            }
        }
    }

    /// An interval where there is none.
    fn fill(&mut self, from: u64, end: u64, id: PeerId) {
        if from < end {
            let (first, last) = (from as u32, (end - 1) as u32);
            self.known.insert(first, Interval { last, peers: vec![id] });
            self.changed.insert(first);
        }
    }

    /// Makes one of neighbours that the same blocks hold.
    fn join(&mut self, first: u32, last: u32) {
        let mut firsts: Vec<u32> = self.known.range(first..=last.saturating_add(1)).map(|(from, _)| *from).collect();
        firsts.reverse();
        for at in firsts {
            let Some((before, earlier)) = self.known.range(..at).next_back() else { continue };
            let one = &self.known[&at];
            if earlier.last.checked_add(1) == Some(at) && earlier.peers == one.peers {
                let (before, end) = (*before, one.last);
                self.known.remove(&at);
                self.known.get_mut(&before).expect("found above").last = end;
                self.changed.extend([before, at]);
            }
        }
    }
}

/// First and last addresses of what a block holds, in order.
pub(crate) fn parts(peer: &Peer) -> Vec<(u32, u32)> {
    let mut parts = Vec::new();
    let Peer::Block { cidr, except } = peer else { return parts };
    let Some((first, last)) = ends(cidr) else { return parts };
    let holes = merged(except.iter().filter_map(ends).filter(|hole| hole.0 <= last && hole.1 >= first));
    let mut at = u64::from(first);
    let mut part = |from: u64, end: u64| {
        if from < end {
            parts.push((from as u32, (end - 1) as u32));
        }
    };
    for (from, to) in holes {
        part(at, from.into());
        at = u64::from(to) + 1;
    }
    part(at, u64::from(last) + 1);
    parts
}

/// An address by its bits.
pub(crate) fn ip(bits: u32) -> IpAddr {
    IpAddr::from(bits.to_be_bytes())
}

/// An interval as the key of an element.
pub(crate) fn key((from, to): (u32, u32)) -> Value {
    let size = u64::from(to) - u64::from(from) + 1;
    if from == to {
        return Value::Ip(ip(from));
    }
    if size.is_power_of_two() && u64::from(from) % size == 0 {
        let length = 32 - size.trailing_zeros() as u8;
        return Value::Net(IpNet::new(ip(from), length).expect("at most 32 bits"));
    }
    Value::Ips(ip(from), ip(to))
}

fn ends(net: &IpNet) -> Option<(u32, u32)> {
    match net {
        IpNet::V4(net) => Some((net.network().into(), net.broadcast().into())),
        IpNet::V6(_) => None,
    }
}

/// The same addresses in intervals that do not touch.
fn merged(all: impl Iterator<Item = (u32, u32)>) -> Vec<(u32, u32)> {
    let mut all: Vec<_> = all.collect();
    all.sort_unstable();
    let mut merged: Vec<(u32, u32)> = Vec::new();
    for (from, to) in all {
        match merged.last_mut() {
            Some(last) if from <= last.1.saturating_add(1) => last.1 = last.1.max(to),
            _ => merged.push((from, to)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(cidr: &str, except: &[&str]) -> Peer {
        let except = except.iter().map(|one| one.parse().unwrap()).collect();
        Peer::Block { cidr: cidr.parse().unwrap(), except }
    }

    fn intervals(blocks: &[Peer]) -> Intervals {
        let mut intervals = Intervals::default();
        (0..).zip(blocks).for_each(|(id, block)| intervals.enter(id, block));
        intervals
    }

    fn cut(blocks: &[Peer]) -> Vec<String> {
        let known = intervals(blocks).known.into_iter();
        known.map(|(first, one)| format!("{} {:?}", key((first, one.last)), one.peers)).collect()
    }

    #[test]
    fn nested_overlapping_and_excepted_blocks_become_disjoint_intervals() {
        assert_eq!(
            cut(&[block("10.0.0.0/8", &["10.1.0.0/16"]), block("10.1.2.0/24", &[])]),
            ["10.0.0.0/16 [0]", "10.1.2.0/24 [1]", "10.2.0.0-10.255.255.255 [0]",]
        );
        assert_eq!(cut(&[block("0.0.0.0/0", &[])]), ["0.0.0.0/0 [0]"]);
        assert_eq!(
            cut(&[block("0.0.0.0/0", &["255.255.255.255/32"]), block("0.0.0.0/1", &[])]),
            ["0.0.0.0/1 [0, 1]", "128.0.0.0-255.255.255.254 [0]",]
        );
        assert_eq!(cut(&[block("10.0.0.0/24", &["10.0.0.0/25", "10.0.0.128/25"])]), [""; 0]);
        assert_eq!(cut(&[block("10.0.0.0/24", &["10.0.0.0/16"]), block("fd00::/8", &[])]), [""; 0]);
    }

    #[test]
    fn every_address_is_in_the_interval_of_exactly_its_blocks() {
        let blocks = [
            block("10.0.0.0/8", &["10.1.0.0/16", "10.1.128.0/17"]),
            block("10.1.0.0/16", &[]),
            block("10.1.1.0/24", &["10.1.1.7/32"]),
            block("10.1.1.7/32", &[]),
        ];
        let intervals = intervals(&blocks);
        for address in
            ["9.255.255.255", "10.0.0.0", "10.1.1.6", "10.1.1.7", "10.1.1.8", "10.1.128.0", "10.2.0.0", "11.0.0.0"]
        {
            let address: std::net::Ipv4Addr = address.parse().unwrap();
            let expected: Vec<u32> =
                (0..).zip(&blocks).filter(|(_, one)| one.holds_address(address.into())).map(|(id, _)| id).collect();
            assert_eq!(intervals.of(address.into()), expected, "{address}");
        }
    }

    #[test]
    fn blocks_that_came_and_went_leave_what_the_others_make_and_changes_lead_there() {
        // Always the same, and of all kinds: nested, touching, with holes at either end.
        let mut seed = 7_u32;
        let mut next = |below: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 16) % below
        };
        let blocks: Vec<Peer> = (0..40)
            .map(|_| {
                let net = |next: &mut dyn FnMut(u32) -> u32| format!("255.255.255.{}/{}", next(256), 24 + next(9));
                let (cidr, holes) = (net(&mut next), [net(&mut next), net(&mut next)]);
                block(&cidr, &holes.each_ref().map(String::as_str)[..next(3) as usize])
            })
            .collect();
        let (mut intervals, mut there, mut followed) = (Intervals::default(), BTreeSet::new(), BTreeMap::new());
        for _ in 0..2000 {
            let id = next(40);
            match there.remove(&id) {
                true => intervals.leave(id, &blocks[id as usize]),
                false => {
                    there.insert(id);
                    intervals.enter(id, &blocks[id as usize]);
                }
            }
            for first in intervals.changes() {
                match intervals.get(first) {
                    Some(one) => drop(followed.insert(first, one.clone())),
                    None => drop(followed.remove(&first)),
                }
            }
            assert_eq!(followed, intervals.known);
            let mut anew = Intervals::default();
            there.iter().for_each(|id| anew.enter(*id, &blocks[*id as usize]));
            assert_eq!(anew.known, intervals.known);
            for low in 0..256_u32 {
                let address = 0xffff_ff00 + low;
                let ip = IpAddr::from(address.to_be_bytes());
                let expected: Vec<u32> =
                    there.iter().copied().filter(|id| blocks[*id as usize].holds_address(ip)).collect();
                assert_eq!(intervals.of(address), expected, "{ip}");
            }
        }
    }
}
