//! The hardware of a cluster in kernel terms: an Ethernet segment, an upstream device on it, a network card in every node.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use ipnet::IpNet;
use switchyard_api::names;
use switchyard_kernel::{Engine, Keeper, Netns, Owner, Places, Repair};
use switchyard_netstate::{
    Address, Fragment, IfName, Link, LinkKind, Mac, NextHop, Object, PeerEnd, Place, Route, Sysctl, UnitId,
};

use crate::cluster::{self, Topology};
use crate::home::Directory;

/// The upstream device's port to the underlay: a bridge, so that every node hangs on one segment.
pub const UNDERLAY: &str = "underlay0";
/// The upstream device's port to the outside, where LoadBalancer addresses live.
pub const EXTERNAL: &str = "external0";
/// A node's network card.
pub const CARD: &str = "eth0";

/// No multicast on the segment, so nothing to snoop for.
const BRIDGE: LinkKind = LinkKind::Bridge { multicast_snooping: false };

/// Hardware that is kept as it should be.
pub struct Hardware {
    _engine: Arc<Mutex<Engine>>,
    _keeper: Keeper,
}

/// Makes the namespaces, puts the hardware into them in one batch, and repairs it from then on.
pub fn build(directory: &Directory, topology: &Topology) -> anyhow::Result<Hardware> {
    let mut places = Places::new();
    let mut units = BTreeMap::from([(UnitId("router".into()), Some(router(topology)))]);
    for node in &topology.nodes {
        units.insert(UnitId(format!("node/{}", node.name)), Some(self::node(topology, node)));
    }
    let nodes = topology.nodes.iter().map(|node| Place::node(&node.name));
    for place in std::iter::once(Place::Router).chain(nodes) {
        let netns = Netns::create().context("make a network namespace")?;
        netns.bind(directory.netns_of(&place)).with_context(|| format!("keep the network namespace of {place}"))?;
        places.add(place, netns);
    }
    let mut engine = Engine::new(Owner { protocol: names::OWNER_LAB }, places);
    // Before there are interfaces, as it is about those to come.
    if std::path::Path::new("/proc/sys/net/ipv6").exists() {
        engine.set(UnitId("ipv4".into()), without_ipv6(topology))?;
    }
    engine.apply(units)?;
    // The Cluster says with which MTUs the hardware begins. Whoever makes a link narrower afterwards means it.
    engine.leave_mtus();
    let engine = Arc::new(Mutex::new(engine));
    let report = |repair: Repair| {
        if !matches!(&repair.outcome, Ok(audit) if audit.is_clean()) {
            tracing::warn!(?repair, "somebody changed the hardware; it is as it was again");
        }
    };
    let keeper = Keeper::spawn(&engine, report).context("watch the hardware")?;
    Ok(Hardware { _engine: engine, _keeper: keeper })
}

/// The upstream device alone.
pub fn router(topology: &Topology) -> Fragment {
    let mut fragment = Fragment::new();
    let place = &Place::Router;
    let bridge =
        Link { mtu: Some(topology.mtu), mac: Some(Mac::of_ip(topology.gateway)), ..Link::new(name(UNDERLAY), BRIDGE) };
    fragment.want_all(place, forwarding());
    // Nodes reach each other's pods through this device, in and out by one port: it would tell them so with every packet.
    for interface in ["all", "default"] {
        fragment.want(place, sysctl(format!("net/ipv4/conf/{interface}/send_redirects"), "0"));
    }
    // With br_netfilter, the segment would translate addresses by itself and then refuse to send a frame back where it came from.
    fragment.want(place, sysctl("net/bridge/bridge-nf-call-iptables", "0"));
    fragment.want(place, up("lo"));
    fragment.want(place, Object::Link(bridge));
    fragment.want(place, address(UNDERLAY, topology.gateway, topology.underlay));
    fragment.want(
        place,
        Object::Link(Link { mac: Some(Mac::of_ip(topology.external.addr())), ..Link::new(name(EXTERNAL), BRIDGE) }),
    );
    fragment
}

/// One node: its card, wired to the segment, and the way out.
pub fn node(topology: &Topology, node: &cluster::Place) -> Fragment {
    let mut fragment = Fragment::new();
    let place = Place::node(&node.name);
    let port = PeerEnd { place: Place::Router, name: port(&node.name) };
    let card = Link {
        mtu: Some(topology.mtu),
        mac: Some(Mac::of_ip(node.address)),
        ..Link::new(name(CARD), LinkKind::Veth { peer: port.clone() })
    };
    let other_end = PeerEnd { place: place.clone(), name: name(CARD) };
    let port = Link {
        mtu: Some(topology.mtu),
        master: Some(name(UNDERLAY)),
        ..Link::new(port.name, LinkKind::Veth { peer: other_end })
    };
    let default = IpNet::new(Ipv4Addr::UNSPECIFIED.into(), 0).expect("a constant prefix");
    fragment.want_all(&place, forwarding());
    // Ports below 1024 are nobody's privilege in a pod's host network either.
    fragment.want(&place, sysctl("net/ipv4/ip_unprivileged_port_start", "0"));
    fragment.want(&place, up("lo"));
    fragment.want(&place, Object::Link(card));
    fragment.want(&Place::Router, Object::Link(port));
    fragment.want(&place, address(CARD, node.address, topology.underlay));
    fragment.want(&place, Object::Route(Route::new(default, NextHop::gateway(topology.gateway))));
    fragment
}

/// The name of a node's port on the upstream device: the node's own, where that fits.
fn port(node: &str) -> IfName {
    match IfName::new(node) {
        Ok(own) if !["lo", UNDERLAY, EXTERNAL].contains(&node) => own,
        _ => IfName::derived("port", node),
    }
}

/// The cluster speaks IPv4, and policies judge nothing else. An interface that is not told so has an address of IPv6 all the same,
/// routes and multicast groups, and announces each of them: much of the work of attaching a pod to a bridge.
fn without_ipv6(topology: &Topology) -> Fragment {
    let mut fragment = Fragment::new();
    let nodes = topology.nodes.iter().map(|node| Place::node(&node.name));
    for place in std::iter::once(Place::Router).chain(nodes) {
        fragment.want(&place, sysctl("net/ipv6/conf/default/disable_ipv6", "1"));
    }
    fragment
}

/// A namespace inherits IPv4 settings from the host's; these are the ones that decide where packets go.
fn forwarding() -> Vec<Object> {
    let mut wanted = vec![sysctl("net/ipv4/ip_forward", "1")];
    for interface in ["all", "default"] {
        wanted.push(sysctl(format!("net/ipv4/conf/{interface}/rp_filter"), "0"));
    }
    wanted
}

fn sysctl(path: impl Into<String>, value: &str) -> Object {
    Object::Sysctl(Sysctl { path: path.into(), value: value.into() })
}

fn up(loopback: &str) -> Object {
    Object::Link(Link::new(name(loopback), LinkKind::Existing))
}

fn address(dev: &str, ip: IpAddr, net: IpNet) -> Object {
    let address = IpNet::new(ip, net.prefix_len()).expect("the length comes from a prefix of the same family");
    Object::Address(Address { dev: name(dev), address, noprefixroute: false })
}

fn name(constant: &str) -> IfName {
    IfName::new(constant).expect("a valid constant name")
}
