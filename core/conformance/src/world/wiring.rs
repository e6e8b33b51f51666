//! The hardware: an Ethernet segment with an upstream device, a card in each node, the outside, and somebody who must not notice.

use std::collections::BTreeMap;

use serde_json::json;
use switchyard_kernel::{Engine, Netns};
use switchyard_netstate::{Fragment, Mac, Place, UnitId};
use switchyard_plugin::NodeFacts;

use super::{WIRING, WorldError, packets, places};

/// Somebody beyond the upstream device.
pub(super) const OUTSIDE: &str = "198.51.100.2";

pub(super) fn outside() -> Place {
    Place::pod("outside")
}

/// A namespace that the plugin is never told of.
pub(super) fn bystander() -> Place {
    Place::pod("bystander")
}

pub(super) fn machine(what: &'static str, why: &impl ToString) -> WorldError {
    WorldError::Machine { what, why: why.to_string() }
}

/// All namespaces: the fixed ones, one for each pod, and those that the plugin asks for.
pub(super) fn namespaces<'a>(
    pods: impl Iterator<Item = &'a str>,
    extra: impl IntoIterator<Item = Place>,
) -> Result<BTreeMap<Place, Netns>, WorldError> {
    let fixed = [Place::Router, Place::node("n1"), Place::node("n2"), outside(), bystander()];
    let make = |place| Ok((place, Netns::create().map_err(|why| machine("make a network namespace", &why))?));
    fixed.into_iter().chain(pods.map(Place::pod)).chain(extra).map(make).collect()
}

/// Who answers besides the pods.
pub(super) fn servers(nodes: &[NodeFacts; 2]) -> Vec<(Place, u16)> {
    let nodes = nodes.iter().map(|node| Place::node(&node.name));
    nodes.chain([outside()]).map(|place| (place, packets::PORT)).collect()
}

/// Wires them.
pub(super) fn build(namespaces: &BTreeMap<Place, Netns>, nodes: &[NodeFacts; 2]) -> Result<(), WorldError> {
    let fragment = |json| serde_json::from_value::<Fragment>(json).expect("a constant fragment");
    let mut units = BTreeMap::from([(UnitId("router".into()), Some(fragment(router())))]);
    for (node, six) in nodes.iter().zip([0x11, 0x12]) {
        units.insert(UnitId(node.name.clone()), Some(fragment(self::node(node, six))));
    }
    // The kernel's objects stay when the engine goes.
    let mut engine = Engine::new(WIRING, places(namespaces)?);
    engine.apply(units).map(drop).map_err(|why| machine("wire the namespaces", &why))
}

fn router() -> serde_json::Value {
    json!({
        "router": [
            { "kind": "link", "name": "lo", "type": "existing" },
            { "kind": "link", "name": "underlay0", "type": { "bridge": { "multicast_snooping": false } }, "mtu": 1500,
              "mac": "0a:58:0a:8c:00:01" },
            { "kind": "address", "dev": "underlay0", "address": "10.140.0.1/24" },
            { "kind": "sysctl", "path": "net/ipv4/ip_forward", "value": "1" },
            { "kind": "sysctl", "path": "net/ipv4/conf/all/send_redirects", "value": "0" },
            { "kind": "sysctl", "path": "net/ipv4/conf/default/send_redirects", "value": "0" },
            { "kind": "sysctl", "path": "net/ipv4/conf/all/rp_filter", "value": "0" },
            { "kind": "sysctl", "path": "net/ipv4/conf/default/rp_filter", "value": "0" },
            { "kind": "sysctl", "path": "net/bridge/bridge-nf-call-iptables", "value": "0" },
            { "kind": "link", "name": "outside0", "type": { "veth": { "peer": { "place": "pod/outside", "name": "eth0" } } } },
            { "kind": "address", "dev": "outside0", "address": "198.51.100.1/24" },
        ],
        "pod/outside": [
            { "kind": "link", "name": "lo", "type": "existing" },
            { "kind": "link", "name": "eth0", "type": { "veth": { "peer": { "place": "router", "name": "outside0" } } } },
            { "kind": "address", "dev": "eth0", "address": format!("{OUTSIDE}/24") },
            { "kind": "route", "to": "0.0.0.0/0", "via": { "gateway": "198.51.100.1" } },
        ],
        "pod/bystander": [
            { "kind": "link", "name": "lo", "type": "existing" },
            { "kind": "link", "name": "cbr0", "type": { "bridge": {} } },
            { "kind": "address", "dev": "cbr0", "address": "10.40.1.1/24" },
        ],
    })
}

fn node(node: &NodeFacts, six: u8) -> serde_json::Value {
    let (name, address) = (&node.name, node.address);
    let (place, port, mac) = (format!("node/{name}"), format!("port-{name}"), Mac::of_ip(address).to_string());
    let mut wanted = json!({
        place.clone(): [
            { "kind": "link", "name": "lo", "type": "existing" },
            { "kind": "link", "name": "eth0", "mtu": 1500, "mac": mac,
              "type": { "veth": { "peer": { "place": "router", "name": port } } } },
            { "kind": "address", "dev": "eth0", "address": format!("{address}/24") },
            { "kind": "route", "to": "0.0.0.0/0", "via": { "gateway": "10.140.0.1" } },
            { "kind": "sysctl", "path": "net/ipv4/conf/all/rp_filter", "value": "0" },
            { "kind": "sysctl", "path": "net/ipv4/conf/default/rp_filter", "value": "0" },
            { "kind": "sysctl", "path": "net/bridge/bridge-nf-call-iptables", "value": "0" },
        ],
        "router": [
            { "kind": "link", "name": port, "mtu": 1500, "master": "underlay0",
              "type": { "veth": { "peer": { "place": place, "name": "eth0" } } } },
        ],
    });
    // What is lost when somebody turns IPv6 off and on again.
    if std::path::Path::new("/proc/sys/net/ipv6").exists() {
        let address = format!("fd00:140::{six:x}/64");
        let objects = wanted[&place].as_array_mut().expect("written above");
        objects.push(json!({ "kind": "address", "dev": "eth0", "address": address }));
    }
    wanted
}
