//! Clusters that do not exist, to ask about.

use std::net::IpAddr;

use ipnet::IpNet;
use switchyard_plugin::abi::Arguments;
use switchyard_plugin::{Facts, NodeFacts, PodFacts};

/// A cluster's constants.
pub(crate) fn facts() -> Facts {
    Facts {
        cluster: "conformance".into(),
        pod_cidr: net("10.40.0.0/16"),
        service_cidr: net("10.96.0.0/16"),
        underlay_cidr: net("10.140.0.0/24"),
        underlay_gateway: ip("10.140.0.1"),
        underlay_mtu: 1500,
    }
}

/// Node `n1`, `n2`, ...: 10.140.0.11 with 10.40.1.0/24, and so on.
pub(crate) fn node(number: u8) -> NodeFacts {
    NodeFacts {
        name: format!("n{number}"),
        address: ip(&format!("10.140.0.{}", 10 + number)),
        pod_cidr: net(&format!("10.40.{number}.0/24")),
        uplink: "eth0".parse().expect("a constant name"),
        mac: None,
        edge: None,
    }
}

/// A pod by its name, with an address.
pub(crate) fn pod(name: &str, address: IpAddr) -> PodFacts {
    let labels = [("app".to_owned(), name.to_owned())].into();
    let (uid, namespace) = (uid(name), "default".to_owned());
    PodFacts { uid, namespace, name: name.to_owned(), labels, ip: address, segment: None }
}

/// Uids are as Kubernetes makes them, and begin alike.
fn uid(name: &str) -> String {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("019a0000-0000-7000-{:04x}-{:012x}", hash >> 48, hash & 0xffff_ffff_ffff)
}

/// One question of each kind, about node 1, node 2 and a pod.
pub(crate) fn questions(
    facts: &Facts,
    node: &NodeFacts,
    peer: &NodeFacts,
    pod: &PodFacts,
) -> [(&'static str, Vec<u8>); 6] {
    use switchyard_plugin::abi::operation::{NODE, PEER, POD, POOL, REMOTE, UNDERLAY};
    [
        (POOL, input(facts, node, None, Some(pod))),
        (NODE, input(facts, node, None, None)),
        (PEER, input(facts, node, Some(peer), None)),
        (POD, input(facts, node, None, Some(pod))),
        (REMOTE, input(facts, node, Some(peer), Some(pod))),
        (UNDERLAY, input(facts, node, None, None)),
    ]
}

/// Arguments as they travel.
pub(crate) fn input(facts: &Facts, node: &NodeFacts, peer: Option<&NodeFacts>, pod: Option<&PodFacts>) -> Vec<u8> {
    let arguments =
        Arguments { facts: facts.clone(), node: node.clone(), peer: peer.cloned(), pod: pod.cloned(), segment: None };
    serde_json::to_vec(&arguments).expect("facts have string keys only")
}

/// Another form of the same cluster: well-formed, and seldom thought of.
pub(crate) fn odd() -> Vec<(&'static str, Facts, NodeFacts, NodeFacts, PodFacts)> {
    let (facts, one, two) = (facts(), node(1), node(2));
    let small = |block: &str| NodeFacts { pod_cidr: net(block), ..one.clone() };
    let v6 = Facts {
        pod_cidr: net("fd00:40::/48"),
        service_cidr: net("fd00:96::/112"),
        underlay_cidr: net("fd00:140::/64"),
        underlay_gateway: ip("fd00:140::1"),
        ..facts.clone()
    };
    let of_v6 = |name: &str, last: u8| NodeFacts {
        name: name.into(),
        address: ip(&format!("fd00:140::{last}")),
        pod_cidr: net(&format!("fd00:40:0:{last}::/64")),
        ..one.clone()
    };
    let mut labelled = pod("labelled", ip("10.40.1.9"));
    labelled.labels = (0..1000).map(|number| (format!("label-{number}"), "\u{1f980}\"\\\u{0}".repeat(8))).collect();
    let long = NodeFacts { name: "n".repeat(63), ..one.clone() };
    let mtu = |underlay_mtu| Facts { underlay_mtu, ..facts.clone() };
    vec![
        ("a block of one address", facts.clone(), small("10.40.1.7/32"), two.clone(), pod("a", ip("10.40.1.7"))),
        ("a block of two addresses", facts.clone(), small("10.40.1.6/31"), two.clone(), pod("a", ip("10.40.1.7"))),
        ("a block with host bits", facts.clone(), small("10.40.1.77/24"), two.clone(), pod("a", ip("10.40.1.7"))),
        ("IPv6 throughout", v6, of_v6("n1", 0x11), of_v6("n2", 0x12), pod("a", ip("fd00:40:0:11::7"))),
        ("a pod of the other family", facts.clone(), one.clone(), two.clone(), pod("a", ip("fd00:40:0:11::7"))),
        ("a thousand labels", facts.clone(), one.clone(), two.clone(), labelled),
        ("the longest node name", facts.clone(), long, two.clone(), pod("a", ip("10.40.1.7"))),
        ("an underlay MTU of 0", mtu(0), one.clone(), two.clone(), pod("a", ip("10.40.1.7"))),
        ("the largest underlay MTU", mtu(u32::MAX), one.clone(), two.clone(), pod("a", ip("10.40.1.7"))),
        ("a node that is its own peer", facts, one.clone(), one, pod("a", ip("10.40.1.7"))),
    ]
}

pub(crate) fn ip(constant: &str) -> IpAddr {
    constant.parse().expect("a constant address")
}

pub(crate) fn net(constant: &str) -> IpNet {
    constant.parse().expect("a constant prefix")
}
