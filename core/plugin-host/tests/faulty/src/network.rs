//! The network that is sound without a fault: each pod on a cable of its own, nodes route to each other's blocks.

use std::net::IpAddr;

use serde_json::{Value, json};
use switchyard_plugin::netstate::{Fragment, IfName, Mac, Place};
use switchyard_plugin::{Facts, NodeFacts, PodFacts};

/// The first address of a node's block, which the node has on its loopback.
pub(crate) fn gateway(node: &NodeFacts) -> IpAddr {
    node.pod_cidr.hosts().next().unwrap_or(node.pod_cidr.addr())
}

pub(crate) fn node(_: &Facts, node: &NodeFacts, fault: Option<&str>) -> Fragment {
    let mut wanted = vec![
        json!({ "kind": "sysctl", "path": "net/ipv4/ip_forward", "value": "1" }),
        json!({ "kind": "address", "dev": "lo", "address": host(gateway(node)) }),
    ];
    match fault {
        Some("invalid") => wanted.push(json!({ "kind": "table", "table": { "family": "ip", "name": "mine" } })),
        Some("refused-by-kernel") => {
            wanted.push(json!({ "kind": "route", "to": "203.0.113.0/24", "via": { "gateway": "192.0.2.77" } }));
        }
        Some("touches-uplink") => {
            wanted.push(json!({ "kind": "link", "name": "eth0", "type": "existing", "mtu": 1400 }));
        }
        Some("disables-ipv6") => {
            wanted.push(json!({ "kind": "sysctl", "path": "net/ipv6/conf/eth0/disable_ipv6", "value": "1" }));
        }
        Some("masquerades") => {
            let table = json!({ "family": "ip", "name": "yard-faulty" });
            wanted.push(json!({ "kind": "table", "table": table }));
            wanted.push(json!({ "kind": "chain", "table": table, "name": "post",
                "base": { "type": "nat", "hook": "postrouting", "priority": 100 },
                "rules": [[{ "masquerade": {} }]] }));
        }
        _ => {}
    }
    fragment(&Place::node(&node.name), wanted)
}

pub(crate) fn pod(facts: &Facts, node: &NodeFacts, pod: &PodFacts, fault: Option<&str>) -> Fragment {
    let foreign = !node.pod_cidr.contains(&pod.ip);
    if foreign && fault == Some("drops-foreign") {
        return Fragment::new();
    }
    let (here, there) = (Place::node(&node.name), Place::pod(&pod.uid));
    let cable = match fault {
        Some("name-clash") => IfName::new(format!("veth{}", &pod.uid[..8])).expect("short"),
        _ => IfName::derived("veth", &pod.uid),
    };
    let (gateway, mac) = (gateway(node), Mac::of_ip(pod.ip).to_string());
    let mac_of_cable = Mac::of_ip(gateway).to_string();
    let mtu = if fault == Some("ignores-uplink") { 1500 } else { facts.underlay_mtu.clamp(576, 9000) };
    let mtu_here = if fault == Some("mtu-too-large") { mtu - 200 } else { mtu };
    let ip = if fault == Some("wrong-address") { gateway } else { pod.ip };
    let far = if fault == Some("cable-to-other-pod") { "pod/another".into() } else { there.to_string() };

    let mut on_node = vec![
        json!({ "kind": "link", "name": cable, "mtu": mtu_here, "mac": mac_of_cable,
            "type": { "veth": { "peer": { "place": far, "name": "eth0" } } } }),
        json!({ "kind": "neighbour", "dev": cable, "address": pod.ip, "mac": mac }),
    ];
    if fault != Some("no-route") && !(foreign && fault == Some("forgets-foreign")) {
        on_node.push(json!({ "kind": "route", "to": host(pod.ip), "via": { "dev": cable } }));
    }
    let mut in_pod = vec![
        json!({ "kind": "link", "name": "lo", "type": "existing" }),
        json!({ "kind": "link", "name": "eth0", "mtu": mtu, "mac": mac,
            "type": { "veth": { "peer": { "place": here, "name": cable } } } }),
        json!({ "kind": "address", "dev": "eth0", "address": host(ip), "noprefixroute": true }),
        json!({ "kind": "neighbour", "dev": "eth0", "address": gateway, "mac": mac_of_cable }),
    ];
    let all = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
    let to = match fault {
        // The way to other pods, and no other.
        Some("no-default-route") => facts.pod_cidr.to_string(),
        _ => all.to_owned(),
    };
    in_pod.push(json!({ "kind": "route", "to": to, "via": { "dev": "eth0", "gateway": gateway, "onlink": true } }));
    if fault == Some("no-way-to-nodes") {
        in_pod.push(json!({ "kind": "route", "to": facts.underlay_cidr, "via": { "blackhole": true } }));
    }
    let mut wanted = fragment(&here, on_node);
    wanted.merge(fragment(&there, in_pod));
    wanted
}

pub(crate) fn peer(_: &Facts, node: &NodeFacts, peer: &NodeFacts, fault: Option<&str>) -> Fragment {
    if fault == Some("no-way-back") && node.name == "n2" || node.name == peer.name {
        return Fragment::new();
    }
    let route = json!({ "kind": "route", "to": peer.pod_cidr.trunc(), "via": { "gateway": peer.address } });
    fragment(&Place::node(&node.name), vec![route])
}

pub(crate) fn remote(node: &NodeFacts, peer: &NodeFacts, pod: &PodFacts, fault: Option<&str>) -> Fragment {
    if fault == Some("forgets-foreign") {
        return Fragment::new();
    }
    let route = json!({ "kind": "route", "to": host(pod.ip), "via": { "gateway": peer.address } });
    fragment(&Place::node(&node.name), vec![route])
}

pub(crate) fn underlay(node: &NodeFacts, fault: Option<&str>) -> Fragment {
    // What one node does not route back itself, the upstream device must not route either.
    if fault == Some("no-way-back") && node.name == "n1" {
        return Fragment::new();
    }
    let route = json!({ "kind": "route", "to": node.pod_cidr.trunc(), "via": { "gateway": node.address } });
    fragment(&Place::Router, vec![route])
}

pub(crate) fn net(constant: &str) -> ipnet::IpNet {
    constant.parse().expect("a constant prefix")
}

fn host(ip: IpAddr) -> String {
    format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })
}

fn fragment(place: &Place, objects: Vec<Value>) -> Fragment {
    serde_json::from_value(json!({ place.to_string(): objects })).expect("written in the vocabulary")
}
