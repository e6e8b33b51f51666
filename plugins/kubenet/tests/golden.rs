//! What kubenet wants, call by call, as JSON beside this file. `SWITCHYARD_BLESS=1 cargo test -p switchyard-kubenet` writes it
//! anew; the difference is then there to be read.

#[path = "../../golden.rs"]
mod golden;

use std::net::IpAddr;

use golden::{facts, is_golden, node, pod};
use serde_json::{Value, json};
use switchyard_kubenet::Kubenet;
use switchyard_plugin::netstate::{Key, Mac, Object, Place};
use switchyard_plugin::{NetworkPlugin, NodeFacts};

fn kubenet(options: Value) -> Kubenet {
    Kubenet::new(options.as_object().unwrap()).unwrap()
}

#[test]
fn a_node_carries_a_bridge_and_masquerades() {
    is_golden("node", &kubenet(json!({})).node(&facts(), &node(1)));
}

#[test]
fn a_pod_hangs_on_the_bridge() {
    is_golden("pod", &kubenet(json!({})).pod(&facts(), &node(1), &pod("10.40.1.5")));
}

#[test]
fn a_foreign_pod_keeps_its_address() {
    is_golden("pod-foreign", &kubenet(json!({})).pod(&facts(), &node(1), &pod("10.40.7.5")));
    is_golden("remote", &kubenet(json!({})).remote(&facts(), &node(2), &node(1), &pod("10.40.7.5")));
}

#[test]
fn the_upstream_device_holds_one_route_a_node() {
    is_golden("underlay", &kubenet(json!({})).underlay(&facts(), &node(1)));
}

#[test]
fn what_a_node_takes_is_told_by_the_routes_to_it() {
    let narrow = NodeFacts { mtu: Some(1300), ..node(1) };
    let kubenet = kubenet(json!({}));
    let there = kubenet.underlay(&facts(), &narrow);
    let remote = kubenet.remote(&facts(), &node(2), &narrow, &pod("10.40.7.5"));
    for (fragment, place) in [(there, Place::Router), (remote, Place::node("worker-2"))] {
        let (_, route) = fragment.get(&place).unwrap().iter().next().unwrap();
        assert!(matches!(route, Object::Route(route) if route.mtu == Some(1300)), "{route:?}");
    }
}

#[test]
fn a_node_needs_nothing_to_reach_another() {
    assert!(kubenet(json!({})).peer(&facts(), &node(1), &node(2)).is_empty());
}

#[test]
fn options_change_what_is_wanted() {
    let options = json!({"bridge": "br7", "mtu": 1400, "nonMasqueradeCIDRs": ["10.0.0.0/8", "fd00::/8"]});
    is_golden("node-with-options", &kubenet(options).node(&facts(), &node(1)));
    let plain = kubenet(json!({"masquerade": false})).node(&facts(), &node(1));
    let objects = plain.get(&Place::node("worker-1")).unwrap();
    assert!(!objects.iter().any(|(key, _)| matches!(key, Key::Table(_) | Key::Chain(..))));
}

#[test]
fn more_than_the_underlay_carries_is_not_promised() {
    let fragment = kubenet(json!({"mtu": 9000})).node(&facts(), &node(1));
    let bridge = fragment.get(&Place::node("worker-1")).unwrap().get(&Key::Link("cbr0".parse().unwrap()));
    let Some(Object::Link(bridge)) = bridge else { panic!("no bridge") };
    assert_eq!(bridge.mtu, Some(1500));
}

#[test]
fn the_gateway_is_never_given_to_a_pod() {
    let pool = kubenet(json!({})).pool(&facts(), &node(1), &pod("0.0.0.0"));
    assert_eq!(pool.block, node(1).pod_cidr);
    assert_eq!(pool.reserved, ["10.40.1.1".parse::<IpAddr>().unwrap()]);
}

#[test]
fn both_ends_know_each_other_without_asking() {
    let (node, pod) = (node(1), pod("10.40.1.5"));
    let gateway: IpAddr = "10.40.1.1".parse().unwrap();
    let mut fragment = kubenet(json!({})).node(&facts(), &node);
    fragment.merge(kubenet(json!({})).pod(&facts(), &node, &pod));
    let mac = |place: Place, dev: &str, ip: IpAddr| match fragment
        .get(&place)
        .unwrap()
        .get(&Key::Neighbour(dev.parse().unwrap(), ip))
    {
        Some(Object::Neighbour(neighbour)) => neighbour.mac,
        other => panic!("{other:?}"),
    };
    let own = |place: Place, dev: &str| match fragment.get(&place).unwrap().get(&Key::Link(dev.parse().unwrap())) {
        Some(Object::Link(link)) => link.mac.unwrap(),
        other => panic!("{other:?}"),
    };
    let (here, there) = (Place::node(&node.name), Place::pod(&pod.uid));
    assert_eq!(mac(here.clone(), "cbr0", pod.ip), own(there.clone(), "eth0"));
    assert_eq!(mac(there, "eth0", gateway), own(here, "cbr0"));
    assert_eq!(own(Place::node("worker-1"), "cbr0"), Mac::of_ip(gateway));
}
