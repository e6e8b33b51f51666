//! Blocks of addresses, cut into intervals that do not overlap.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use switchyard_netstate::nft::Value;

use crate::Peer;
use crate::peers::PeerId;

/// First and last address, and the peers that hold all of them.
pub(crate) type Interval = ((u32, u32), Vec<PeerId>);

/// Intervals of IPv4 addresses by the blocks that hold them, in order; what is in none is left out.
pub(crate) fn intervals<'a>(blocks: impl Iterator<Item = (PeerId, &'a Peer)>) -> Vec<Interval> {
    // At each address where something begins or ends: what does. 2^32 is the end of everything.
    let mut edges: BTreeMap<u64, Vec<(PeerId, i32)>> = BTreeMap::new();
    for (id, peer) in blocks {
        let Peer::Block { cidr, except } = peer else { continue };
        let Some((first, last)) = ends(cidr) else { continue };
        let holes = merged(except.iter().filter_map(ends).filter(|hole| hole.0 <= last && hole.1 >= first));
        let mut at = u64::from(first);
        for (from, to) in holes {
            span(&mut edges, id, at, u64::from(from.max(first)));
            at = u64::from(to) + 1;
        }
        span(&mut edges, id, at, u64::from(last) + 1);
    }
    let mut open: BTreeMap<PeerId, i32> = BTreeMap::new();
    let mut intervals: Vec<Interval> = Vec::new();
    let mut begun: Option<u64> = None;
    for (at, changes) in edges {
        if let Some(begun) = begun.filter(|_| !open.is_empty()) {
            let ids: Vec<PeerId> = open.keys().copied().collect();
            let (from, to) = (begun as u32, (at - 1) as u32);
            match intervals.last_mut() {
                Some(last) if last.1 == ids && last.0.1.checked_add(1) == Some(from) => last.0.1 = to,
                _ => intervals.push(((from, to), ids)),
            }
        }
        for (id, change) in changes {
            let count = open.entry(id).or_default();
            *count += change;
            if *count == 0 {
                open.remove(&id);
            }
        }
        begun = Some(at);
    }
    intervals
}

/// An interval as the key of an element.
pub(crate) fn key((from, to): (u32, u32)) -> Value {
    let ip = |bits: u32| IpAddr::from(bits.to_be_bytes());
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

fn span(edges: &mut BTreeMap<u64, Vec<(PeerId, i32)>>, id: PeerId, from: u64, end: u64) {
    if from < end {
        edges.entry(from).or_default().push((id, 1));
        edges.entry(end).or_default().push((id, -1));
    }
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

    fn cut(blocks: &[Peer]) -> Vec<String> {
        let intervals = intervals((0..).zip(blocks));
        intervals.into_iter().map(|(ends, ids)| format!("{} {ids:?}", key(ends))).collect()
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
        let intervals = intervals((0..).zip(&blocks));
        for address in
            ["9.255.255.255", "10.0.0.0", "10.1.1.6", "10.1.1.7", "10.1.1.8", "10.1.128.0", "10.2.0.0", "11.0.0.0"]
        {
            let address: std::net::Ipv4Addr = address.parse().unwrap();
            let bits = u32::from(address);
            let mut found = intervals.iter().filter(|((from, to), _)| (*from..=*to).contains(&bits));
            let ids = found.next().map(|(_, ids)| ids.clone()).unwrap_or_default();
            assert!(found.next().is_none());
            let expected: Vec<u32> =
                (0..).zip(&blocks).filter(|(_, one)| one.holds_address(address.into())).map(|(id, _)| id).collect();
            assert_eq!(ids, expected, "{address}");
        }
    }
}
