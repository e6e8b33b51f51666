//! What it costs to find a small change among many objects, and to put many changes in order.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::Ipv4Addr;

use criterion::{BatchSize, BenchmarkId, Criterion};
use ipnet::Ipv4Net;
use switchyard_benches::pieces::SIZES;
use switchyard_netstate::{
    Address, Change, Fragment, IfName, Ledger, Link, LinkKind, Neighbour, NextHop, Object, Place, Plan, Route, UnitId,
};

/// Objects of one unit.
const UNIT: usize = 10;

pub(crate) fn all(criterion: &mut Criterion) {
    difference(criterion);
    ledger(criterion);
    order(criterion);
}

/// Two whole states, object by object: the audit.
fn difference(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("difference");
    for size in SIZES {
        let place = Place::node("n");
        let mut old = Fragment::new();
        old.want_all(&place, (0..size).map(|number| route(number, 1)));
        let mut new = old.clone();
        new.want(&place, route(size / 2, 2));
        assert_eq!(Plan::between(&old, &new).ops().len(), 1);
        group.bench_function(BenchmarkId::new("one change", size), |bench| {
            bench.iter(|| Plan::between(black_box(&old), black_box(&new)))
        });
    }
    group.finish();
}

/// One unit among many: every change of a running cluster.
fn ledger(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ledger");
    for size in SIZES {
        let place = Place::node("n");
        let unit = |number: usize, hop: u8| {
            let mut fragment = Fragment::new();
            fragment.want_all(&place, (number * UNIT..(number + 1) * UNIT).map(|number| route(number, hop)));
            (UnitId(format!("unit/{number}")), Some(fragment))
        };
        let mut ledger = Ledger::default();
        ledger.commit((0..size / UNIT).map(|number| unit(number, 1)).collect());
        let changes = BTreeMap::from([unit(size / UNIT / 2, 2)]);
        assert_eq!(ledger.plan(&changes).expect("no conflict").ops().len(), UNIT);
        group.bench_function(BenchmarkId::new("one unit", size), |bench| {
            bench.iter(|| black_box(&ledger).plan(black_box(&changes)))
        });
    }
    group.finish();
}

/// Changes of all kinds in several places, from any order to the one in which they can be applied.
fn order(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("order");
    for size in SIZES {
        let mut changes: Vec<_> = (0..size).map(change).collect();
        // Any order: sorted by a hash of the number.
        let mut numbers: Vec<usize> = (0..size).collect();
        numbers.sort_by_key(|number| (*number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        changes = numbers.into_iter().map(|number| changes[number].clone()).collect();
        group.bench_function(BenchmarkId::new("changes", size), |bench| {
            bench.iter_batched(|| changes.clone(), Plan::of, BatchSize::LargeInput)
        });
    }
    group.finish();
}

fn change(number: usize) -> (Place, Change) {
    let (dev, ip) = (name(number), address(number));
    let object = match number % 4 {
        0 => Object::Link(Link::new(dev, LinkKind::Bridge { multicast_snooping: false })),
        1 => Object::Address(Address { dev, address: Ipv4Net::from(ip).into(), noprefixroute: false }),
        2 => Object::Neighbour(Neighbour { dev, address: ip.into(), mac: "02:00:00:00:00:01".parse().expect("a MAC") }),
        _ => route(number, 1),
    };
    let change = if number.is_multiple_of(3) { Change::Remove(object) } else { Change::Add(object) };
    (Place::node(format!("n{}", number % 8)), change)
}

fn name(number: usize) -> IfName {
    IfName::new(format!("if{number}")).expect("a name")
}

fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 64, 0, 0)) + number as u32)
}

/// A host route by one of several gateways.
pub(crate) fn route(number: usize, hop: u8) -> Object {
    let via = NextHop { gateway: Some(Ipv4Addr::new(10, 140, 0, hop).into()), ..NextHop::default() };
    let to = Ipv4Net::from(address(number)).into();
    Object::Route(Route { to, via, table: 254, metric: 0, source: None, mtu: None, scope: None })
}
