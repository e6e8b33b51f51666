//! Clusters that do not exist, to ask about.

use std::net::IpAddr;

use ipnet::IpNet;
use switchyard_plugin::abi::Arguments;
use switchyard_plugin::{EdgeRole, Facts, NodeFacts, PodFacts, PodSegment, Pool, SegmentFacts};

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

/// Node `n1`, `n2`, ...: 10.140.0.11 with 10.40.1.0/24, and so on. The first one carries gateways, the second stands by.
pub(crate) fn node(number: u8) -> NodeFacts {
    NodeFacts {
        name: format!("n{number}"),
        address: ip(&format!("10.140.0.{}", 10 + number)),
        pod_cidr: net(&format!("10.40.{number}.0/24")),
        uplink: "eth0".parse().expect("a constant name"),
        mac: None,
        mtu: None,
        edge: match number {
            1 => Some(EdgeRole::Active),
            2 => Some(EdgeRole::Standby),
            _ => None,
        },
    }
}

/// A pod by its name, with an address.
pub(crate) fn pod(name: &str, address: IpAddr) -> PodFacts {
    let labels = [("app".to_owned(), name.to_owned())].into();
    let (uid, namespace) = (uid(name), "default".to_owned());
    PodFacts { uid, namespace, name: name.to_owned(), labels, ip: address, segment: None }
}

/// The segment that a plugin asks for, as a control plane makes it: the first subnet of the block that is no node's.
pub(crate) fn segment(pool: &Pool) -> Option<SegmentFacts> {
    let wanted = pool.segment.as_ref()?;
    let blocks: Vec<IpNet> = (1..=3).map(|number| node(number).pod_cidr).collect();
    let free = |subnet: &IpNet| !blocks.iter().any(|block| block.contains(subnet) || subnet.contains(block));
    let subnet = pool.block.subnets(wanted.prefix_length).ok()?.find(free)?;
    let outside = wanted.outside.and_then(|pool| pool.hosts().nth(1));
    Some(SegmentFacts { name: wanted.name.clone(), id: wanted.ids.0, subnets: vec![subnet], outside })
}

/// Addresses that a control plane gives to pods of this pool, and of its segment if it has one.
pub(crate) fn addresses<'a>(pool: &'a Pool, segment: Option<&SegmentFacts>) -> impl Iterator<Item = IpAddr> + use<'a> {
    let block = segment.and_then(|segment| segment.subnets.first().copied()).unwrap_or(pool.block);
    let kept = pool.segment.as_ref().filter(|_| segment.is_some()).map_or(0, |segment| segment.kept as usize);
    block.hosts().skip(kept).filter(|ip| !pool.reserved.contains(ip))
}

/// The pod with an address, which is perhaps of a segment.
pub(crate) fn with_address(pod: PodFacts, ip: IpAddr, segment: Option<&SegmentFacts>) -> PodFacts {
    let segment = segment.and_then(|segment| {
        let subnet = *segment.subnets.iter().find(|subnet| subnet.contains(&ip))?;
        Some(PodSegment { name: segment.name.clone(), id: segment.id, subnet })
    });
    PodFacts { ip, segment, ..pod }
}

/// Uids are as Kubernetes makes them, and begin alike.
fn uid(name: &str) -> String {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("019a0000-0000-7000-{:04x}-{:012x}", hash >> 48, hash & 0xffff_ffff_ffff)
}

/// One question of each kind, about node 1, node 2, a pod and a segment.
pub(crate) fn questions(
    facts: &Facts,
    node: &NodeFacts,
    peer: &NodeFacts,
    pod: &PodFacts,
) -> [(&'static str, Vec<u8>); 7] {
    use switchyard_plugin::abi::operation::{NODE, PEER, POD, POOL, REMOTE, SEGMENT, UNDERLAY};
    [
        (POOL, input(facts, node, None, Some(pod))),
        (NODE, input(facts, node, None, None)),
        (PEER, input(facts, node, Some(peer), None)),
        (POD, input(facts, node, None, Some(pod))),
        (REMOTE, input(facts, node, Some(peer), Some(pod))),
        (UNDERLAY, input(facts, node, None, None)),
        (SEGMENT, of_segment(facts, node)),
    ]
}

/// Arguments as they travel.
pub(crate) fn input(facts: &Facts, node: &NodeFacts, peer: Option<&NodeFacts>, pod: Option<&PodFacts>) -> Vec<u8> {
    encode(&Arguments {
        facts: facts.clone(),
        node: node.clone(),
        peer: peer.cloned(),
        pod: pod.cloned(),
        segment: None,
    })
}

fn of_segment(facts: &Facts, node: &NodeFacts) -> Vec<u8> {
    let (name, subnets) = ("default".into(), vec![net("10.40.128.0/24")]);
    let segment = SegmentFacts { name, id: 4096, subnets, outside: Some(ip("192.168.200.2")) };
    let (facts, node) = (facts.clone(), node.clone());
    encode(&Arguments { facts, node, peer: None, pod: None, segment: Some(segment) })
}

fn encode(arguments: &Arguments) -> Vec<u8> {
    serde_json::to_vec(arguments).expect("facts have string keys only")
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
    let narrow = NodeFacts { mtu: Some(1300), ..two.clone() };
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
        ("a peer behind a narrow way", facts.clone(), one.clone(), narrow, pod("a", ip("10.40.1.7"))),
        ("a node that is its own peer", facts, one.clone(), one, pod("a", ip("10.40.1.7"))),
    ]
}

pub(crate) fn ip(constant: &str) -> IpAddr {
    constant.parse().expect("a constant address")
}

pub(crate) fn net(constant: &str) -> IpNet {
    constant.parse().expect("a constant prefix")
}
