//! Objects as netlink messages; and routes from fragment to the kernel's last word, against the fewest messages by hand.

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use switchyard_benches::byhand::Batch;
use switchyard_benches::pieces::SIZES;
use switchyard_kernel::{Engine, Netns, Owner, Places, encode};
use switchyard_netstate::nft::{Element, Family, Set, Table, TableRef, Type, Value};
use switchyard_netstate::{Address, Fragment, IfName, Link, LinkKind, Object, Place, UnitId};

use crate::netstate::route;

const OWNER: Owner = Owner { protocol: 83 };
/// A socket takes some hundred answers before it is read.
const AT_ONCE: usize = 100;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 140, 0, 1);

pub(crate) fn all(criterion: &mut Criterion) {
    encoding(criterion);
    applying(criterion);
}

fn encoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    for size in SIZES {
        let routes: Vec<_> = (0..size).map(|number| route(number, 1)).collect();
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(BenchmarkId::new("routes", size), |bench| {
            bench.iter(|| encode(OWNER, black_box(&routes), 2).expect("routes can be written"))
        });
        let elements = elements(size);
        group.bench_function(BenchmarkId::new("elements", size), |bench| {
            bench.iter(|| encode(OWNER, black_box(&elements), 2).expect("elements can be written"))
        });
    }
    group.finish();
}

/// A table with a set of address and port pairs.
fn elements(size: usize) -> Vec<Object> {
    let table = TableRef::new(Family::Ip, "yard-bench");
    let (name, key) = ("pairs".to_owned(), vec![Type::Ipv4, Type::Port]);
    let (data, interval, dynamic) = (Vec::new(), false, false);
    let set = Set { table: table.clone(), name: name.clone(), key, data, interval, dynamic, size: None };
    let element = |number: usize| {
        let key = vec![Value::Ip(Ipv4Addr::from(0x0a40_0000 + number as u32).into()), Value::Port(80)];
        Object::Element(Element { table: table.clone(), set: name.clone(), key, data: None })
    };
    let frame = [Object::Table(Table { table: table.clone() }), Object::Set(set)];
    frame.into_iter().chain((0..size).map(element)).collect()
}

fn applying(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply");
    let place = Place::node("n");
    let netns = Netns::create().expect("a network namespace");
    let mut places = Places::new();
    places.add(place.clone(), netns.try_clone().expect("a descriptor"));
    let mut engine = Engine::new(OWNER, places);
    engine.set(UnitId("node".into()), node(&place)).expect("a node");
    for size in &SIZES[..3] {
        let mut routes = Fragment::new();
        routes.want_all(&place, (0..*size).map(|number| route(number, 1)));
        let unit = || UnitId("routes".into());
        group.bench_function(BenchmarkId::new("routes by the engine", size), |bench| {
            bench.iter_custom(|times| {
                let once = |_| {
                    let wanted = routes.clone();
                    let begun = Instant::now();
                    engine.set(unit(), wanted).expect("routes");
                    let took = begun.elapsed();
                    engine.remove(unit()).expect("no routes");
                    took
                };
                (0..times).map(once).sum()
            })
        });
        group.bench_function(BenchmarkId::new("routes by hand", size), |bench| {
            bench.iter_custom(|times| (0..times).map(|_| by_hand(&netns, *size)).sum())
        });
    }
    group.finish();
}

/// What routes need: a device that is up, and the gateway's network.
fn node(place: &Place) -> Fragment {
    let dev = IfName::new("eth0").expect("a name");
    let link = Link::new(dev.clone(), LinkKind::Bridge { multicast_snooping: false });
    let address = Address { dev, address: "10.140.0.11/24".parse().expect("an address"), noprefixroute: false };
    let mut fragment = Fragment::new();
    fragment.want_all(place, [Object::Link(link), Object::Address(address)]);
    fragment
}

fn by_hand(netns: &Netns, size: usize) -> Duration {
    let destinations: Vec<Ipv4Addr> = (0..size as u32).map(|number| Ipv4Addr::from(0x0a60_0000 + number)).collect();
    let mut batch = Batch::new(netns);
    let begun = Instant::now();
    for some in destinations.chunks(AT_ONCE) {
        some.iter().for_each(|to| batch.route(*to, 32, GATEWAY));
        batch.send();
    }
    let took = begun.elapsed();
    for some in destinations.chunks(AT_ONCE) {
        some.iter().for_each(|to| batch.unroute(*to, 32));
        batch.send();
    }
    took
}
