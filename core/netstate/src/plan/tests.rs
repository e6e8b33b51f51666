use super::*;
use crate::{FdbEntry, IfName, NextHop, PeerEnd, Route};

fn name(name: &str) -> IfName {
    IfName::new(name).unwrap()
}

fn bridge(mtu: u32) -> Object {
    let kind = LinkKind::Bridge { multicast_snooping: true };
    Object::Link(Link { mtu: Some(mtu), ..Link::new(name("cbr0"), kind) })
}

fn veth(at: &str, peer: Place, peer_name: &str) -> Object {
    Object::Link(Link::new(name(at), LinkKind::Veth { peer: PeerEnd { place: peer, name: name(peer_name) } }))
}

fn route(to: &str, dev: &str) -> Object {
    Object::Route(Route::new(to.parse().unwrap(), NextHop::dev(name(dev))))
}

fn attached() -> Fragment {
    let (node, pod) = (Place::node("n1"), Place::pod("u1"));
    let mut fragment = Fragment::new();
    fragment.want(&pod, route("0.0.0.0/0", "eth0"));
    fragment.want(&pod, veth("eth0", node.clone(), "veth1"));
    fragment.want(&node, veth("veth1", pod, "eth0"));
    fragment.want(&node, bridge(1500));
    fragment
}

fn shown(plan: &Plan) -> Vec<String> {
    plan.ops().iter().map(|op| format!("{:?} {op}", op.phase)).collect()
}

#[test]
fn adds_what_is_needed_before_what_needs_it_and_removes_the_other_way_round() {
    let plan = Plan::between(&Fragment::new(), &attached());
    let up = [
        "Prepare + node/n1: link cbr0",
        "Prepare + node/n1: link veth1",
        "Prepare + pod/u1: link eth0",
        "Switch + pod/u1: route 0.0.0.0/0",
    ];
    assert_eq!(shown(&plan), up);
    let plan = Plan::between(&attached(), &Fragment::new());
    let down = [
        "Withdraw - pod/u1: route 0.0.0.0/0",
        "Clean - node/n1: link veth1",
        "Clean - node/n1: link cbr0",
        "Clean - pod/u1: link eth0",
    ];
    assert_eq!(shown(&plan), down);
}

#[test]
fn no_difference_is_no_operation() {
    assert!(Plan::between(&attached(), &attached()).is_empty());
}

#[test]
fn a_smaller_mtu_goes_first_and_a_larger_one_last() {
    let of = |mtu| [bridge(mtu)].into_iter().collect::<Objects>();
    let lower = Plan::between_objects(&Place::node("n"), &of(1500), &of(1450));
    assert_eq!(shown(&lower), ["Prepare ~ node/n: link cbr0"]);
    let higher = Plan::between_objects(&Place::node("n"), &of(1450), &of(1500));
    assert_eq!(shown(&higher), ["Clean ~ node/n: link cbr0"]);
}

#[test]
fn applying_the_inverse_of_every_operation_gives_the_old_state_back() {
    let mut state: BTreeMap<(Place, Key), Object> = BTreeMap::new();
    let apply = |state: &mut BTreeMap<(Place, Key), Object>, op: &Op| {
        let at = (op.place.clone(), op.object().key());
        match &op.change {
            Change::Add(object) | Change::Replace(_, object) => state.insert(at, object.clone()),
            Change::Remove(_) => state.remove(&at),
        };
    };
    let plan = Plan::between(&Fragment::new(), &attached());
    for op in plan.ops() {
        apply(&mut state, op);
    }
    assert_eq!(state.len(), 4);
    for op in plan.ops().iter().rev() {
        apply(&mut state, &op.inverse());
    }
    assert!(state.is_empty());
}

#[test]
fn a_hastened_removal_stands_beside_the_addition_that_needs_its_room() {
    use crate::nft::{Element, Family, TableRef, Value};
    let element = |net: &str| {
        let table = TableRef::new(Family::Ip, "yard-t");
        Object::Element(Element { table, set: "nets".into(), key: vec![Value::Net(net.parse().unwrap())], data: None })
    };
    let of = |net: &str, dev: &str| [element(net), route("10.9.0.0/16", dev)].into_iter().collect();
    let (old, new): (Objects, Objects) = (of("10.0.0.0/8", "a"), of("10.0.0.0/16", "b"));
    let plan =
        Plan::between_objects(&Place::node("n"), &old, &new).hasten(|op| matches!(op.object(), Object::Element(_)));
    let wanted = [
        "Switch ~ node/n: route 10.9.0.0/16",
        "Switch - node/n: element ip yard-t nets { 10.0.0.0/8 }",
        "Switch + node/n: element ip yard-t nets { 10.0.0.0/16 }",
    ];
    assert_eq!(shown(&plan), wanted);
}

#[test]
fn a_bridge_has_entries_for_a_port_while_it_is_one() {
    let dev = IfName::new("veth1").unwrap();
    let peer = PeerEnd { place: Place::pod("p"), name: IfName::new("eth0").unwrap() };
    let link = |master: Option<&str>| {
        let link = Link::new(dev.clone(), LinkKind::Veth { peer: peer.clone() });
        Object::Link(Link { master: master.map(|name| IfName::new(name).unwrap()), ..link })
    };
    let entry = FdbEntry { dev: dev.clone(), mac: "02:00:00:00:00:01".parse().unwrap(), remote: None };
    let port: Objects = [link(Some("br0")), Object::Fdb(entry)].into_iter().collect();
    let cable: Objects = [link(None)].into_iter().collect();
    let of_port = |op: &Op| matches!(op.object(), Object::Fdb(_));
    let plan = |old, new| Plan::between_objects(&Place::node("n"), old, new).hasten(of_port).postpone(of_port);
    let (fdb, veth) = ("node/n: fdb 02:00:00:00:00:01 dev veth1", "node/n: link veth1");
    assert_eq!(shown(&plan(&port, &cable)), [format!("Switch - {fdb}"), format!("Switch ~ {veth}")]);
    assert_eq!(shown(&plan(&cable, &port)), [format!("Switch ~ {veth}"), format!("Switch + {fdb}")]);
}
