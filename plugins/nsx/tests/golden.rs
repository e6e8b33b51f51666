//! What nsx wants, call by call, as JSON beside this file. `SWITCHYARD_BLESS=1 cargo test -p switchyard-nsx` writes it
//! anew; the difference is then there to be read.

#[path = "../../golden.rs"]
mod golden;

use std::collections::BTreeSet;

use golden::{facts, is_golden, node, pod};
use ipnet::IpNet;
use serde_json::{Value, json};
use switchyard_nsx::Nsx;
use switchyard_plugin::bridged::Bridged;
use switchyard_plugin::netstate::{Fragment, Key, Object, Place};
use switchyard_plugin::{EdgeRole, NetworkPlugin, NodeFacts, OptionReader, PodFacts, PodSegment, SegmentFacts};

fn nsx(options: Value) -> Nsx {
    Nsx::new(options.as_object().unwrap()).unwrap()
}

fn segment() -> SegmentFacts {
    let subnets = ["10.40.128.0/24", "10.40.130.0/24"].map(|net| net.parse().unwrap());
    SegmentFacts { name: "default".into(), id: 4096, subnets: subnets.into(), outside: "192.168.200.2".parse().ok() }
}

fn of_segment(ip: &str) -> PodFacts {
    let subnet = "10.40.128.0/24".parse().unwrap();
    PodFacts { segment: Some(PodSegment { name: "default".into(), id: 4096, subnet }), ..pod(ip) }
}

fn edge(number: u8, role: EdgeRole) -> NodeFacts {
    NodeFacts { edge: Some(role), ..node(number) }
}

#[test]
fn a_node_without_pods() {
    is_golden("node", &nsx(json!({})).node(&facts(), &node(1)));
    is_golden("node-edge", &nsx(json!({})).node(&facts(), &edge(1, EdgeRole::Active)));
    is_golden("node-without-edge", &nsx(json!({"northSouth": "node"})).node(&facts(), &node(1)));
}

#[test]
fn a_segment_on_every_node_and_its_address_where_a_gateway_is() {
    is_golden("segment", &nsx(json!({})).segment(&facts(), &node(1), &segment()));
    is_golden("segment-edge", &nsx(json!({})).segment(&facts(), &edge(1, EdgeRole::Standby), &segment()));
}

#[test]
fn a_pod_of_a_segment_and_one_from_before() {
    is_golden("pod", &nsx(json!({})).pod(&facts(), &node(1), &of_segment("10.40.128.5")));
    is_golden("pod-foreign", &nsx(json!({})).pod(&facts(), &node(1), &pod("10.40.1.5")));
}

#[test]
fn the_way_to_pods_elsewhere() {
    is_golden("peer", &nsx(json!({})).peer(&facts(), &node(1), &node(2)));
    is_golden("peer-edge", &nsx(json!({})).peer(&facts(), &node(1), &edge(2, EdgeRole::Active)));
    is_golden("remote", &nsx(json!({})).remote(&facts(), &node(1), &node(2), &of_segment("10.40.128.6")));
    is_golden("remote-foreign", &nsx(json!({})).remote(&facts(), &node(1), &node(2), &pod("10.40.7.6")));
    is_golden("underlay", &nsx(json!({})).underlay(&facts(), &edge(2, EdgeRole::Active)));
    assert!(nsx(json!({})).underlay(&facts(), &node(2)).is_empty());
}

#[test]
fn with_geneve_one_device_carries_all_and_routes_say_where_to() {
    let nsx = nsx(json!({"encapsulation": "geneve"}));
    is_golden("geneve-node", &nsx.node(&facts(), &node(1)));
    is_golden("geneve-segment", &nsx.segment(&facts(), &node(1), &segment()));
    is_golden("geneve-peer-edge", &nsx.peer(&facts(), &node(1), &edge(2, EdgeRole::Active)));
    is_golden("geneve-remote", &nsx.remote(&facts(), &node(1), &node(2), &of_segment("10.40.128.6")));
}

#[test]
fn a_narrow_way_to_a_peer_is_told_by_every_route_that_takes_it() {
    let narrow = NodeFacts { mtu: Some(1300), ..edge(2, EdgeRole::Active) };
    let nsx = nsx(json!({}));
    let mut all = nsx.peer(&facts(), &node(1), &narrow);
    all.merge(nsx.remote(&facts(), &node(1), &narrow, &of_segment("10.40.128.6")));
    let routes = all.get(&Place::node("worker-1")).unwrap().iter().filter_map(|(_, object)| match object {
        Object::Route(route) => Some(route.mtu),
        _ => None,
    });
    assert_eq!(routes.collect::<Vec<_>>(), [Some(1250); 3], "to its block, to its gateway, to its pod");
}

#[test]
fn the_gateway_of_a_segment_is_the_same_on_every_node() {
    let on = |number| nsx(json!({})).segment(&facts(), &node(number), &segment());
    let gateways = |number| {
        let fragment = on(number);
        let objects = fragment.get(&Place::node(format!("worker-{number}"))).unwrap();
        let dr0 = objects.iter().filter(|(key, _)| matches!(key, Key::Address(dev, _) if dev.as_str() == "dr0"));
        dr0.map(|(_, object)| object.clone()).collect::<Vec<_>>()
    };
    assert_eq!(gateways(1), gateways(2));
    assert_eq!(gateways(1).len(), 2, "one for each subnet");
    let router = |number| {
        let fragment = nsx(json!({})).node(&facts(), &node(number));
        let place = Place::node(format!("worker-{number}"));
        match fragment.get(&place).unwrap().get(&Key::Link("dr0".parse().unwrap())) {
            Some(Object::Link(link)) => link.mac,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(router(1), router(2));
}

/// Whoever is asked for two nodes' parts at once, as while one takes over from the other, may want both.
#[test]
fn two_gateways_never_want_the_same_route() {
    let nsx = nsx(json!({}));
    for roles in [[EdgeRole::Active, EdgeRole::Active], [EdgeRole::Standby, EdgeRole::Standby]] {
        let [one, two] = [edge(2, roles[0]), edge(3, roles[1])];
        for (a, b) in [
            (nsx.peer(&facts(), &node(1), &one), nsx.peer(&facts(), &node(1), &two)),
            (nsx.underlay(&facts(), &one), nsx.underlay(&facts(), &two)),
        ] {
            let keys = |fragment: &Fragment| -> BTreeSet<Key> {
                let routes = fragment.places().flat_map(|(_, objects)| objects.iter().map(|(key, _)| key.clone()));
                routes.filter(|key| matches!(key, Key::Route(..))).collect()
            };
            assert!(keys(&a).is_disjoint(&keys(&b)), "{a:?} {b:?}");
        }
    }
}

/// What is in the kernel of pods that were there before stays as it is under kubenet and overlay.
#[test]
fn a_pod_from_before_keeps_its_port_and_its_gateway() {
    let fragment = nsx(json!({"mtu": 1400})).pod(&facts(), &node(1), &pod("10.40.1.5"));
    let bridged = Bridged::read(&mut OptionReader::new(json!({"mtu": 1400}).as_object().unwrap())).unwrap();
    let before = bridged.pod(&node(1), &pod("10.40.1.5"), 1400);
    for (place, objects) in before.places() {
        for (key, object) in objects.iter() {
            assert_eq!(fragment.get(place).and_then(|objects| objects.get(key)), Some(object), "{place} {key}");
        }
    }
}

#[test]
fn namespaces_have_segments_in_the_upper_half() {
    let pool = nsx(json!({})).pool(&facts(), &node(1), &pod("0.0.0.0"));
    assert_eq!(pool.block, "10.40.128.0/17".parse::<IpNet>().unwrap());
    let segment = pool.segment.unwrap();
    assert_eq!((segment.name.as_str(), segment.prefix_length, segment.kept), ("default", 24, 1));
    assert_eq!(segment.outside, Some("192.168.200.0/24".parse().unwrap()));
    let options = json!({"segments": "10.9.0.0/16", "subnetPrefix": 28, "northSouth": "node"});
    let pool = nsx(options).pool(&facts(), &node(1), &pod_of("team"));
    assert_eq!(pool.block, "10.9.0.0/16".parse::<IpNet>().unwrap());
    let segment = pool.segment.unwrap();
    assert_eq!((segment.name.as_str(), segment.prefix_length, segment.outside), ("team", 28, None));
}

fn pod_of(namespace: &str) -> PodFacts {
    PodFacts { namespace: namespace.into(), ..pod("0.0.0.0") }
}
