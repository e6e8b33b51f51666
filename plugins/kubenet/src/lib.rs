//! kubenet: a bridge on each node, static routes on the upstream device.
//!
//! Each node has a bridge that holds the first address of the node's block, and each pod a veth to it. The upstream device knows
//! which block lies behind which node, so pods of different nodes reach each other by plain routing, with their own addresses.
//! Only packets to the world outside are masqueraded.
//!
//! One thing differs from the kubenet of old, which bridged the packets between pods of a node: here a pod's only way is the
//! bridge's address, bridge ports are isolated from each other, and **every packet passes the node's IP layer**. That makes
//! Services and policy hold between neighbours without `br_netfilter`, and a pod reaches itself through a Service without hairpin
//! mode on its port. Bridge and pods know each other's hardware addresses from the start, derived from their IP addresses: no
//! packet waits for ARP, none is flooded, and no port learns an address it was not given.

mod masquerade;
mod settings;

use std::net::IpAddr;

use ipnet::IpNet;
use switchyard_plugin::netstate::{
    Address, FdbEntry, Fragment, IfName, Link, LinkKind, Mac, Neighbour, NextHop, Object, PeerEnd, Place, PortSettings,
    Route, RouteScope, Sysctl,
};
use switchyard_plugin::{Facts, NetworkPlugin, NodeFacts, Options, OptionsError, PodFacts, Pool, export_plugin};

use settings::Settings;

/// A network of this kind.
#[derive(Clone, Debug)]
pub struct Kubenet {
    settings: Settings,
}

/// What the plugin says about itself: `manifest.json`.
pub const MANIFEST: &str = include_str!("../manifest.json");

export_plugin!(Kubenet, MANIFEST);

/// A pod's interface.
const POD_DEV: &str = "eth0";

// === impl Kubenet ===

impl NetworkPlugin for Kubenet {
    fn new(options: &Options) -> Result<Self, OptionsError> {
        Ok(Self { settings: Settings::read(options)? })
    }

    fn pool(&self, _: &Facts, node: &NodeFacts, _: &PodFacts) -> Pool {
        Pool { block: node.pod_cidr, reserved: vec![gateway(node)] }
    }

    fn node(&self, facts: &Facts, node: &NodeFacts) -> Fragment {
        let mut fragment = Fragment::new();
        let place = &Place::node(&node.name);
        let bridge = &self.settings.bridge;
        let gateway = gateway(node);
        let kind = LinkKind::Bridge { multicast_snooping: false };
        let link =
            Link { mtu: Some(self.mtu(facts)), mac: Some(Mac::of_ip(gateway)), ..Link::new(bridge.clone(), kind) };
        fragment.want(place, Object::Link(link));
        fragment.want(place, address(bridge, gateway, node.pod_cidr.prefix_len(), false));
        fragment.want_all(place, forwarding(bridge));
        if self.settings.masquerade {
            let inside = match &self.settings.non_masquerade {
                Some(given) => given.clone(),
                None => vec![facts.pod_cidr, facts.service_cidr, facts.underlay_cidr],
            };
            fragment.want_all(place, masquerade::table(facts.pod_cidr, &inside));
        }
        fragment
    }

    fn pod(&self, facts: &Facts, node: &NodeFacts, pod: &PodFacts) -> Fragment {
        let mut fragment = Fragment::new();
        let (here, there) = (&Place::node(&node.name), &Place::pod(&pod.uid));
        let (bridge, gateway) = (&self.settings.bridge, gateway(node));
        let (port, dev) = (port(&pod.uid), &name(POD_DEV));
        let (mac, mtu) = (Mac::of_ip(pod.ip), self.mtu(facts));
        let end = |place: &Place, name: &IfName| LinkKind::Veth {
            peer: PeerEnd { place: place.clone(), name: name.clone() },
        };

        let link = Link {
            mtu: Some(mtu),
            master: Some(bridge.clone()),
            port: PortSettings { isolated: true, learning: false, ..PortSettings::default() },
            ..Link::new(port.clone(), end(there, dev))
        };
        fragment.want(here, Object::Link(link));
        fragment.want(here, Object::Fdb(FdbEntry { dev: port.clone(), mac, remote: None }));
        fragment.want(here, neighbour(bridge, pod.ip, mac));

        let link = Link { mtu: Some(mtu), mac: Some(mac), ..Link::new(dev.clone(), end(here, &port)) };
        fragment.want(there, Object::Link(Link::new(name("lo"), LinkKind::Existing)));
        fragment.want(there, Object::Link(link));
        fragment.want(there, neighbour(dev, gateway, Mac::of_ip(gateway)));
        fragment.want(there, on_link(dev, gateway));
        fragment.want(there, Object::Route(Route::new(default(gateway), to(dev, gateway))));
        if node.pod_cidr.contains(&pod.ip) {
            fragment.want(there, address(dev, pod.ip, node.pod_cidr.prefix_len(), true));
        } else {
            // Its address comes from another network's pool, or another node's block: it keeps it, with a route of its own.
            fragment.want(there, address(dev, pod.ip, full(pod.ip), true));
            fragment.want(here, on_link(bridge, pod.ip));
        }
        fragment
    }

    fn remote(&self, _: &Facts, node: &NodeFacts, peer: &NodeFacts, pod: &PodFacts) -> Fragment {
        let mut fragment = Fragment::new();
        fragment
            .want(&Place::node(&node.name), Object::Route(Route::new(host(pod.ip), to(&node.uplink, peer.address))));
        fragment
    }

    fn underlay(&self, _: &Facts, node: &NodeFacts) -> Fragment {
        let mut fragment = Fragment::new();
        fragment.want(&Place::Router, Object::Route(Route::new(node.pod_cidr.trunc(), NextHop::gateway(node.address))));
        fragment
    }
}

impl Kubenet {
    fn mtu(&self, facts: &Facts) -> u32 {
        // More than the underlay carries would be a lie.
        self.settings.mtu.map_or(facts.underlay_mtu, |mtu| mtu.min(facts.underlay_mtu))
    }
}

/// The first address of a node's block. A block of one address has no other.
fn gateway(node: &NodeFacts) -> IpAddr {
    let block = node.pod_cidr.trunc();
    match block {
        IpNet::V4(net) => net.hosts().next().unwrap_or(net.addr()).into(),
        // The very first address of an IPv6 prefix is the anycast address of its routers.
        IpNet::V6(net) => net.hosts().nth(1).unwrap_or(net.addr()).into(),
    }
}

/// The node's end of a pod's veth.
fn port(uid: &str) -> IfName {
    IfName::derived("veth", uid)
}

/// What makes a node forward for its pods. `send_redirects` is on if either `all` or the interface says so: pods and nodes must
/// not be told to go directly where Services and policy would miss them. `rp_filter` is the larger of both: 2 asks for some way
/// back, not for this one.
fn forwarding(bridge: &IfName) -> [Object; 4] {
    [
        sysctl("net/ipv4/ip_forward".into(), "1"),
        sysctl("net/ipv4/conf/all/send_redirects".into(), "0"),
        sysctl(format!("net/ipv4/conf/{bridge}/send_redirects"), "0"),
        sysctl(format!("net/ipv4/conf/{bridge}/rp_filter"), "2"),
    ]
}

fn sysctl(path: String, value: &str) -> Object {
    Object::Sysctl(Sysctl { path, value: value.into() })
}

fn address(dev: &IfName, ip: IpAddr, length: u8, noprefixroute: bool) -> Object {
    let address = IpNet::new(ip, length).expect("the length comes from a prefix of the same family");
    Object::Address(Address { dev: dev.clone(), address, noprefixroute })
}

fn neighbour(dev: &IfName, address: IpAddr, mac: Mac) -> Object {
    Object::Neighbour(Neighbour { dev: dev.clone(), address, mac })
}

fn on_link(dev: &IfName, ip: IpAddr) -> Object {
    Object::Route(Route { scope: Some(RouteScope::Link), ..Route::new(host(ip), NextHop::dev(dev.clone())) })
}

fn to(dev: &IfName, gateway: IpAddr) -> NextHop {
    NextHop { dev: Some(dev.clone()), ..NextHop::gateway(gateway) }
}

fn host(ip: IpAddr) -> IpNet {
    IpNet::new(ip, full(ip)).expect("a family's own length")
}

fn full(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// The default route's destination in the family of `like`.
fn default(like: IpAddr) -> IpNet {
    IpNet::new(like, 0).expect("0 is a length of any family").trunc()
}

fn name(constant: &str) -> IfName {
    IfName::new(constant).expect("a valid constant name")
}
