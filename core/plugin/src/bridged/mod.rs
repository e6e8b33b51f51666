//! What networks with a bridge on each node share: the bridge, the attachment of a pod to it, and masquerading.
//!
//! The bridge holds the first address of the node's block, and each pod hangs on it by a veth. A pod's only way is the bridge's
//! address, bridge ports are isolated from each other, and **every packet passes the node's IP layer**: Services and policy hold
//! between neighbours without `br_netfilter`, and a pod reaches itself through a Service without hairpin mode on its port. Bridge
//! and pods know each other's hardware addresses from the start, derived from their IP addresses: no packet waits for ARP, none is
//! flooded, and no port learns an address it was not given.
//!
//! Two networks that both build on this differ in nothing but the ways between nodes. A swap from one to the other moves no pod.

mod masquerade;
mod options;

use std::net::IpAddr;

use ipnet::IpNet;
use switchyard_netstate::{
    Address, FdbEntry, Fragment, IfName, Link, LinkKind, Mac, Neighbour, NextHop, Object, PeerEnd, Place, PortSettings,
    Route, RouteScope, Sysctl,
};

use crate::{NodeFacts, PodFacts, Pool};

/// The bridge of a network's nodes, as its user chose it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridged {
    /// Name of the bridge. Default `cbr0`.
    pub bridge: IfName,
    /// MTU of bridge and pods, in bytes. Default: the most that the network carries.
    pub mtu: Option<u32>,
    /// Masquerade what leaves the cluster. Default true.
    pub masquerade: bool,
    /// Destinations that see pods' own addresses. Default: the network's to choose.
    pub non_masquerade: Option<Vec<IpNet>>,
}

/// A pod's interface.
const POD_DEV: &str = "eth0";

// === impl Bridged ===

impl Bridged {
    /// MTU of bridge and pods on a network that carries packets of `most` bytes. More than that would be a lie.
    pub fn mtu(&self, most: u32) -> u32 {
        self.mtu.map_or(most, |mtu| mtu.min(most))
    }

    /// A node's block without the bridge's address.
    pub fn pool(&self, node: &NodeFacts) -> Pool {
        Pool { reserved: vec![gateway(node)], ..Pool::of(node.pod_cidr) }
    }

    /// What a node carries with no pods on it: the bridge.
    pub fn node(&self, node: &NodeFacts, mtu: u32) -> Fragment {
        let mut fragment = Fragment::new();
        let place = &Place::node(&node.name);
        let gateway = gateway(node);
        let kind = LinkKind::Bridge { multicast_snooping: false };
        let link = Link { mtu: Some(mtu), mac: Some(Mac::of_ip(gateway)), ..Link::new(self.bridge.clone(), kind) };
        fragment.want(place, Object::Link(link));
        fragment.want(place, address(&self.bridge, gateway, node.pod_cidr.prefix_len()));
        // Ours rather than the kernel's, so that a network with another bridge takes the block over in place.
        let block = Route::new(node.pod_cidr.trunc(), NextHop::dev(self.bridge.clone()));
        fragment.want(place, Object::Route(Route { source: Some(gateway), scope: Some(RouteScope::Link), ..block }));
        fragment.want_all(place, forwarding());
        fragment.want_all(place, any_way_back(&self.bridge));
        fragment
    }

    /// What gives packets of `pods` to anywhere but `inside` the node's address, if that is wanted. The user's own choice of
    /// inside comes first.
    pub fn masquerade(&self, pods: IpNet, inside: &[IpNet]) -> Vec<Object> {
        if !self.masquerade {
            return Vec::new();
        }
        masquerade::table(pods, self.non_masquerade.as_deref().unwrap_or(inside)).into()
    }

    /// Both sides of a pod's attachment. A pod whose address is not of the node's block keeps it, with a route of its own.
    pub fn pod(&self, node: &NodeFacts, pod: &PodFacts, mtu: u32) -> Fragment {
        let (here, there) = (&Place::node(&node.name), &Place::pod(&pod.uid));
        let (bridge, gateway) = (&self.bridge, gateway(node));
        let dev = &name(POD_DEV);
        let mut fragment = cable(bridge, node, pod, mtu);
        fragment.want(here, neighbour(bridge, pod.ip, Mac::of_ip(pod.ip)));
        fragment.want(there, neighbour(dev, gateway, Mac::of_ip(gateway)));
        fragment.want(there, on_link(dev, gateway));
        let via = NextHop { dev: Some(dev.clone()), ..NextHop::gateway(gateway) };
        fragment.want(there, Object::Route(Route::new(default(gateway), via)));
        if node.pod_cidr.contains(&pod.ip) {
            fragment.want(there, address(dev, pod.ip, node.pod_cidr.prefix_len()));
        } else {
            fragment.want(there, address(dev, pod.ip, full(pod.ip)));
            fragment.want(here, on_link(bridge, pod.ip));
        }
        fragment
    }
}

/// A pod's veth: a port of `bridge` that learns nothing and speaks with the bridge alone, the bridge's entry for the pod, and in the pod
/// `eth0`. Both ends have hardware addresses that follow from the pod's, so a cable that is made again is the same.
pub fn cable(bridge: &IfName, node: &NodeFacts, pod: &PodFacts, mtu: u32) -> Fragment {
    let (here, there) = (&Place::node(&node.name), &Place::pod(&pod.uid));
    let (port, dev, mac) = (port(&pod.uid), &name(POD_DEV), Mac::of_ip(pod.ip));
    let end =
        |place: &Place, name: &IfName| LinkKind::Veth { peer: PeerEnd { place: place.clone(), name: name.clone() } };
    let near = Link {
        mtu: Some(mtu),
        mac: Some(Mac::opposite(pod.ip)),
        master: Some(bridge.clone()),
        port: PortSettings { isolated: true, learning: false, ..PortSettings::default() },
        ..Link::new(port.clone(), end(there, dev))
    };
    let far = Link { mtu: Some(mtu), mac: Some(mac), ..Link::new(dev.clone(), end(here, &port)) };
    let entry = FdbEntry { dev: port, mac, remote: None };
    let mut fragment = Fragment::new();
    fragment.want_all(here, [Object::Link(near), Object::Fdb(entry)]);
    fragment.want_all(there, [Object::Link(Link::new(name("lo"), LinkKind::Existing)), Object::Link(far)]);
    fragment
}

/// The first address of a node's block. A block of one address has no other.
pub fn gateway(node: &NodeFacts) -> IpAddr {
    let block = node.pod_cidr.trunc();
    match block {
        IpNet::V4(net) => net.hosts().next().unwrap_or(net.addr()).into(),
        // The very first address of an IPv6 prefix is the anycast address of its routers.
        IpNet::V6(net) => net.hosts().nth(1).unwrap_or(net.addr()).into(),
    }
}

/// The node's end of a pod's veth.
pub fn port(uid: &str) -> IfName {
    IfName::derived("veth", uid)
}

/// The prefix that holds one address alone.
pub fn host(ip: IpAddr) -> IpNet {
    IpNet::new(ip, full(ip)).expect("a family's own length")
}

/// What lets packets through an interface whichever way their answers go, and tells no sender of a shorter one: pods and nodes
/// must not be told to go directly where Services and policy would miss them. `rp_filter` is the larger of the interface's and
/// that of `all`: 2 asks for some way back, not for this one.
pub fn any_way_back(dev: &IfName) -> [Object; 2] {
    [sysctl(format!("net/ipv4/conf/{dev}/send_redirects"), "0"), sysctl(format!("net/ipv4/conf/{dev}/rp_filter"), "2")]
}

/// What makes a node forward for its pods. `send_redirects` is on if either `all` or the interface says so.
fn forwarding() -> [Object; 2] {
    [sysctl("net/ipv4/ip_forward", "1"), sysctl("net/ipv4/conf/all/send_redirects", "0")]
}

/// A parameter of a namespace.
pub fn sysctl(path: impl Into<String>, value: &str) -> Object {
    Object::Sysctl(Sysctl { path: path.into(), value: value.into() })
}

/// An address without a route to its prefix: those are wanted one by one.
pub fn address(dev: &IfName, ip: IpAddr, length: u8) -> Object {
    let address = IpNet::new(ip, length).expect("the length comes from a prefix of the same family");
    Object::Address(Address { dev: dev.clone(), address, noprefixroute: true })
}

/// A neighbour that nobody has to ask for.
pub fn neighbour(dev: &IfName, address: IpAddr, mac: Mac) -> Object {
    Object::Neighbour(Neighbour { dev: dev.clone(), address, mac })
}

/// A route to one address on the link itself.
pub fn on_link(dev: &IfName, ip: IpAddr) -> Object {
    Object::Route(Route { scope: Some(RouteScope::Link), ..Route::new(host(ip), NextHop::dev(dev.clone())) })
}

/// The length of a prefix that holds one address alone.
pub fn full(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// The default route's destination in the family of `like`.
pub fn default(like: IpAddr) -> IpNet {
    IpNet::new(like, 0).expect("0 is a length of any family").trunc()
}

fn name(constant: &str) -> IfName {
    IfName::new(constant).expect("a valid constant name")
}
