//! What each wiring consists of. `routed` and `vxlan` are built as a cluster on one machine is: nodes on the bridge of an upstream
//! device, pods on bridges of their nodes.

use std::net::IpAddr;

use serde_json::{Value, json};
use switchyard_netstate::{Fragment, Place};

use super::address;
use crate::experiment::Wiring;

/// What VXLAN puts before each frame: Ethernet 14, IPv4 20, UDP 8, VXLAN 8.
pub(crate) const VXLAN_BYTES: u32 = 50;
const VNI: u32 = 94;
const PORT: u16 = 4789;

pub(super) fn client() -> Place {
    Place::pod("client")
}

pub(super) fn server() -> Place {
    Place::pod("server")
}

/// Where the server is.
pub(super) fn server_address(wiring: Wiring) -> IpAddr {
    match wiring {
        Wiring::Loopback => address("127.0.0.1"),
        Wiring::Veth | Wiring::Bridge => address("10.99.0.3"),
        Wiring::Routed | Wiring::Vxlan => address("10.99.2.2"),
    }
}

/// The nodes' cards.
pub(super) fn cards(wiring: Wiring) -> Vec<(Place, &'static str)> {
    match wiring {
        Wiring::Routed | Wiring::Vxlan => vec![(Place::node("n1"), "eth0"), (Place::node("n2"), "eth0")],
        _ => vec![],
    }
}

pub(super) fn fragment(wiring: Wiring, mtu: u32) -> Fragment {
    let whole = match wiring {
        Wiring::Loopback => json!({"pod/client": [existing("lo")]}),
        Wiring::Veth => json!({
            "pod/client": [existing("lo"), veth("eth0", mtu, ("pod/server", "eth0"), None), ip("eth0", "10.99.0.2/24")],
            "pod/server": [existing("lo"), veth("eth0", mtu, ("pod/client", "eth0"), None), ip("eth0", "10.99.0.3/24")],
        }),
        Wiring::Bridge => {
            let mut node = vec![existing("lo"), bridge("br0", mtu)];
            node.push(veth("client", mtu, ("pod/client", "eth0"), Some("br0")));
            node.push(veth("server", mtu, ("pod/server", "eth0"), Some("br0")));
            json!({
                "node/n1": node,
                "pod/client": pod("n1", "client", mtu, "10.99.0.2/24", None),
                "pod/server": pod("n1", "server", mtu, "10.99.0.3/24", None),
            })
        }
        Wiring::Routed => {
            let mut router = router(mtu);
            router.push(route("10.99.1.0/24", "10.98.0.11"));
            router.push(route("10.99.2.0/24", "10.98.0.12"));
            json!({
                "router": router,
                "node/n1": node(1, "client", mtu, mtu),
                "node/n2": node(2, "server", mtu, mtu),
                "pod/client": pod("n1", "client", mtu, "10.99.1.2/24", Some("10.99.1.1")),
                "pod/server": pod("n2", "server", mtu, "10.99.2.2/24", Some("10.99.2.1")),
            })
        }
        Wiring::Vxlan => {
            let inner = mtu - VXLAN_BYTES;
            let tunnel = |mut node: Vec<Value>, own: u8, other: u8| {
                let vxlan = json!({"vni": VNI, "port": PORT, "local": format!("10.98.0.1{own}"), "dev": "eth0", "learning": true});
                node.push(json!({"kind": "link", "name": "vx0", "mtu": inner, "type": {"vxlan": vxlan}}));
                node.push(ip("vx0", &format!("10.97.0.{own}/24")));
                let everything = "00:00:00:00:00:00";
                node.push(
                    json!({"kind": "fdb", "dev": "vx0", "mac": everything, "remote": format!("10.98.0.1{other}")}),
                );
                node.push(route(&format!("10.99.{other}.0/24"), &format!("10.97.0.{other}")));
                node
            };
            json!({
                "router": router(mtu),
                "node/n1": tunnel(node(1, "client", mtu, inner), 1, 2),
                "node/n2": tunnel(node(2, "server", mtu, inner), 2, 1),
                "pod/client": pod("n1", "client", inner, "10.99.1.2/24", Some("10.99.1.1")),
                "pod/server": pod("n2", "server", inner, "10.99.2.2/24", Some("10.99.2.1")),
            })
        }
    };
    serde_json::from_value(whole).expect("constant wires")
}

fn router(mtu: u32) -> Vec<Value> {
    let mut router = vec![existing("lo"), bridge("underlay0", mtu), ip("underlay0", "10.98.0.1/24")];
    router.push(veth("n1", mtu, ("node/n1", "eth0"), Some("underlay0")));
    router.push(veth("n2", mtu, ("node/n2", "eth0"), Some("underlay0")));
    router.extend(forwarding());
    router
}

/// A node with one pod; `inner` is the MTU of the pod's side.
fn node(number: u8, pod: &str, mtu: u32, inner: u32) -> Vec<Value> {
    let mut node = vec![existing("lo"), veth("eth0", mtu, ("router", &format!("n{number}")), None)];
    node.push(ip("eth0", &format!("10.98.0.1{number}/24")));
    node.push(route("0.0.0.0/0", "10.98.0.1"));
    node.push(bridge("br0", inner));
    node.push(ip("br0", &format!("10.99.{number}.1/24")));
    node.push(veth(pod, inner, (&format!("pod/{pod}"), "eth0"), Some("br0")));
    node.extend(forwarding());
    node
}

fn pod(node: &str, port: &str, mtu: u32, address: &str, gateway: Option<&str>) -> Vec<Value> {
    let mut pod = vec![existing("lo"), veth("eth0", mtu, (&format!("node/{node}"), port), None), ip("eth0", address)];
    pod.extend(gateway.map(|gateway| route("0.0.0.0/0", gateway)));
    pod
}

fn existing(name: &str) -> Value {
    json!({"kind": "link", "name": name, "type": "existing"})
}

fn bridge(name: &str, mtu: u32) -> Value {
    json!({"kind": "link", "name": name, "mtu": mtu, "type": {"bridge": {"multicast_snooping": false}}})
}

fn veth(name: &str, mtu: u32, peer: (&str, &str), master: Option<&str>) -> Value {
    let kind = json!({"veth": {"peer": {"place": peer.0, "name": peer.1}}});
    let mut link = json!({"kind": "link", "name": name, "mtu": mtu, "type": kind});
    if let Some(master) = master {
        link["master"] = master.into();
    }
    link
}

fn ip(device: &str, address: &str) -> Value {
    json!({"kind": "address", "dev": device, "address": address})
}

fn route(to: &str, gateway: &str) -> Value {
    json!({"kind": "route", "to": to, "via": {"gateway": gateway}})
}

fn forwarding() -> Vec<Value> {
    let set = |path: &str, value: &str| json!({"kind": "sysctl", "path": path, "value": value});
    vec![
        set("net/ipv4/ip_forward", "1"),
        set("net/ipv4/conf/all/rp_filter", "0"),
        set("net/ipv4/conf/all/send_redirects", "0"),
        set("net/ipv4/conf/default/send_redirects", "0"),
        set("net/bridge/bridge-nf-call-iptables", "0"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wiring_has_its_client_and_says_where_its_server_is() {
        for wiring in Wiring::all().into_iter().chain([Wiring::Veth]) {
            let fragment = fragment(wiring, 1500);
            assert!(fragment.get(&client()).is_some(), "{wiring:?}");
            assert_eq!(fragment.get(&server()).is_none(), server_address(wiring).is_loopback(), "{wiring:?}");
            for (place, _) in cards(wiring) {
                assert!(fragment.get(&place).is_some(), "{wiring:?} {place}");
            }
        }
    }
}
