//! What overlay wants, call by call, as JSON beside this file. `SWITCHYARD_BLESS=1 cargo test -p switchyard-overlay` writes it
//! anew; the difference is then there to be read.

#[path = "../../golden.rs"]
mod golden;

use golden::{facts, is_golden, node, pod};
use ipnet::IpNet;
use serde_json::{Value, json};
use switchyard_overlay::Overlay;
use switchyard_plugin::netstate::{Change, Fragment, Key, Object, Phase, Place, Plan};
use switchyard_plugin::{Facts, NetworkPlugin, NodeFacts};

fn overlay(options: Value) -> Overlay {
    Overlay::new(options.as_object().unwrap()).unwrap()
}

/// The MTU that a link is to have.
#[track_caller]
fn mtu(fragment: &Fragment, place: &Place, link: &str) -> Option<u32> {
    match fragment.get(place).and_then(|objects| objects.get(&Key::Link(link.parse().unwrap()))) {
        Some(Object::Link(link)) => link.mtu,
        other => panic!("{link}: {other:?}"),
    }
}

#[test]
fn a_node_carries_a_bridge_and_a_tunnel_and_masquerades() {
    is_golden("node", &overlay(json!({})).node(&facts(), &node(1)));
}

#[test]
fn a_peer_costs_a_neighbour_an_fdb_entry_and_a_route_in_this_order() {
    let fragment = overlay(json!({})).peer(&facts(), &node(1), &node(2));
    is_golden("peer", &fragment);
    let plan = Plan::between(&Fragment::new(), &fragment);
    let order: Vec<_> = plan.ops().iter().map(|op| (op.phase, op.object().key().to_string())).collect();
    let expected = [
        (Phase::Prepare, "neighbour 10.40.2.1 dev vxlan1".to_owned()),
        (Phase::Prepare, "fdb 0e:58:0a:8c:00:0c dev vxlan1 dst 10.140.0.12".to_owned()),
        (Phase::Switch, "route 10.40.2.0/24".to_owned()),
    ];
    assert_eq!(order, expected);
    assert!(plan.ops().iter().all(|op| matches!(op.change, Change::Add(_))));
}

#[test]
fn a_pod_hangs_on_the_bridge() {
    is_golden("pod", &overlay(json!({})).pod(&facts(), &node(1), &pod("10.40.1.5")));
}

#[test]
fn a_foreign_pod_keeps_its_address() {
    is_golden("pod-foreign", &overlay(json!({})).pod(&facts(), &node(1), &pod("10.40.7.5")));
    is_golden("remote", &overlay(json!({})).remote(&facts(), &node(2), &node(1), &pod("10.40.7.5")));
}

#[test]
fn the_upstream_device_holds_nothing() {
    assert!(overlay(json!({})).underlay(&facts(), &node(1)).is_empty());
}

#[test]
fn direct_routing_is_for_nodes_of_one_prefix() {
    let overlay = overlay(json!({"directRouting": true}));
    is_golden("peer-direct", &overlay.peer(&facts(), &node(1), &node(2)));
    is_golden("remote-direct", &overlay.remote(&facts(), &node(2), &node(1), &pod("10.40.7.5")));
    let far = NodeFacts { address: "10.150.0.12".parse().unwrap(), ..node(2) };
    let fragment = overlay.peer(&facts(), &node(1), &far);
    let place = Place::node("worker-1");
    let route = fragment.get(&place).unwrap().get(&Key::Route(254, "10.40.2.0/24".parse().unwrap(), 0));
    assert!(matches!(route, Some(Object::Route(route)) if route.via.onlink), "{fragment:?}");
}

#[test]
fn options_change_what_is_wanted() {
    let options = json!({"vni": 77, "port": 4789, "bridge": "br7", "masquerade": false});
    is_golden("node-with-options", &overlay(options.clone()).node(&facts(), &node(1)));
    is_golden("peer-with-options", &overlay(options).peer(&facts(), &node(1), &node(2)));
}

#[test]
fn the_mtu_leaves_room_for_the_tunnel() {
    let (here, there) = (Place::node("worker-1"), Place::pod(pod("10.40.1.5").uid));
    for (given, expected) in [(json!({}), 1450), (json!({"mtu": 1400}), 1400), (json!({"mtu": 9000}), 1450)] {
        let overlay = overlay(given);
        let node_fragment = overlay.node(&facts(), &node(1));
        assert_eq!(mtu(&node_fragment, &here, "vxlan1"), Some(expected));
        assert_eq!(mtu(&node_fragment, &here, "cbr0"), Some(expected));
        let pod = overlay.pod(&facts(), &node(1), &pod("10.40.1.5"));
        assert_eq!(mtu(&pod, &there, "eth0"), Some(expected));
    }
    let over_v6 = NodeFacts { address: "fd00::11".parse().unwrap(), ..node(1) };
    assert_eq!(mtu(&overlay(json!({})).node(&facts(), &over_v6), &here, "vxlan1"), Some(1430));
}

/// The largest packet by the route to the second node, which is itself reached by ways of 1300 bytes.
fn narrow(options: Value, facts: &Facts) -> Option<u32> {
    let peer = NodeFacts { mtu: Some(1300), ..node(2) };
    let fragment = overlay(options).peer(facts, &node(1), &peer);
    let objects = fragment.get(&Place::node("worker-1"));
    match objects.and_then(|all| all.get(&Key::Route(254, "10.40.2.0/24".parse().unwrap(), 0))) {
        Some(Object::Route(route)) => route.mtu,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_narrow_way_to_a_peer_is_told_by_its_route_alone() {
    assert_eq!(narrow(json!({}), &facts()), Some(1250));
    assert_eq!(narrow(json!({"directRouting": true}), &facts()), Some(1300));
    assert_eq!(narrow(json!({"mtu": 1200}), &facts()), Some(1200));
    assert_eq!(narrow(json!({}), &Facts { underlay_mtu: 1300, ..facts() }), None, "this node's devices are as narrow");
}

#[test]
fn the_gateway_is_never_given_to_a_pod() {
    let pool = overlay(json!({})).pool(&facts(), &node(1), &pod("0.0.0.0"));
    assert_eq!(pool.block, "10.40.1.0/24".parse::<IpNet>().unwrap());
    assert_eq!(pool.reserved, ["10.40.1.1".parse::<std::net::IpAddr>().unwrap()]);
}
