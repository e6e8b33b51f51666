//! overlay: a bridge on each node, VXLAN between them.
//!
//! Pods hang on the node as with kubenet (see [`switchyard_plugin::bridged`]), down to every name and address. Between nodes their
//! packets travel in UDP, RFC 7348, so the underlay needs to know nothing of pods, and never sees a pod's address.
//!
//! One VXLAN device per node. A remote node costs one neighbour, one FDB entry and one route, all known beforehand: nothing is
//! learned, nothing asked on the wire, no packet waits. That is why the tunnel's end on a node has a hardware address derived from
//! the node's own address: there is nothing to exchange. The neighbour and the FDB entry only receive, the route sends, so the
//! core's order of things brings the route in last.
//!
//! The tunnel's device carries the address of the node's bridge a second time, as a single address. What the node itself sends to
//! remote pods, or hides behind its own address on the way there, so has a source to which the answer comes back by the tunnel.

mod settings;

use std::net::IpAddr;

use switchyard_plugin::bridged::{any_way_back, gateway, host};
use switchyard_plugin::netstate::{
    Address, FdbEntry, Fragment, IfName, Link, LinkKind, Mac, Neighbour, NextHop, Object, Place, Route,
};
use switchyard_plugin::{Facts, NetworkPlugin, NodeFacts, Options, OptionsError, PodFacts, Pool, export_plugin};

use settings::Settings;

/// A network of this kind.
#[derive(Clone, Debug)]
pub struct Overlay {
    settings: Settings,
}

/// What the plugin says about itself: `manifest.json`.
pub const MANIFEST: &str = include_str!("../manifest.json");

export_plugin!(Overlay, MANIFEST);

/// Ethernet, IPv4, UDP and VXLAN headers around a packet; 20 bytes more over IPv6.
const OVERHEAD_V4: u32 = 14 + 20 + 8 + 8;
const OVERHEAD_V6: u32 = OVERHEAD_V4 + 20;

// === impl Overlay ===

impl NetworkPlugin for Overlay {
    fn new(options: &Options) -> Result<Self, OptionsError> {
        Ok(Self { settings: Settings::read(options)? })
    }

    fn pool(&self, _: &Facts, node: &NodeFacts, _: &PodFacts) -> Pool {
        self.settings.bridged.pool(node)
    }

    fn node(&self, facts: &Facts, node: &NodeFacts) -> Fragment {
        let (place, dev, mtu) = (&Place::node(&node.name), self.device(), self.mtu(facts, node));
        let mut fragment = self.settings.bridged.node(node, mtu);
        let kind = LinkKind::Vxlan {
            vni: self.settings.vni,
            port: self.settings.port,
            local: node.address,
            // Packets to other nodes take the node's own routes.
            dev: None,
            learning: false,
            gbp: false,
        };
        let link = Link { mtu: Some(mtu), mac: Some(mac(node.address)), ..Link::new(dev.clone(), kind) };
        let address = host(gateway(node));
        fragment.want(place, Object::Link(link));
        fragment.want_all(place, any_way_back(&dev));
        fragment.want(place, Object::Address(Address { dev, address, noprefixroute: true }));
        // The underlay knows no way back to a pod, so its addresses are outside.
        let inside = [facts.pod_cidr, facts.service_cidr];
        fragment.want_all(place, self.settings.bridged.masquerade(facts.pod_cidr, &inside));
        fragment
    }

    fn peer(&self, facts: &Facts, node: &NodeFacts, peer: &NodeFacts) -> Fragment {
        let mut fragment = Fragment::new();
        let place = &Place::node(&node.name);
        let route = self.way(facts, node, peer);
        if let Some(gateway) = route.via.gateway.filter(|_| route.via.onlink) {
            let (dev, mac) = (self.device(), mac(peer.address));
            let remote = Some(peer.address);
            fragment.want(place, Object::Neighbour(Neighbour { dev: dev.clone(), address: gateway, mac }));
            fragment.want(place, Object::Fdb(FdbEntry { dev, mac, remote }));
        }
        fragment.want(place, Object::Route(route));
        fragment
    }

    fn pod(&self, facts: &Facts, node: &NodeFacts, pod: &PodFacts) -> Fragment {
        self.settings.bridged.pod(node, pod, self.mtu(facts, node))
    }

    fn remote(&self, facts: &Facts, node: &NodeFacts, peer: &NodeFacts, pod: &PodFacts) -> Fragment {
        let mut fragment = Fragment::new();
        let route = Route { to: host(pod.ip), ..self.way(facts, node, peer) };
        fragment.want(&Place::node(&node.name), Object::Route(route));
        fragment
    }
}

impl Overlay {
    /// The route to a peer's block: through the tunnel, or plainly where that goes and is wanted. It has an MTU of its own where the
    /// way carries less than this node's uplink.
    fn way(&self, facts: &Facts, node: &NodeFacts, peer: &NodeFacts) -> Route {
        let neighbours = [node, peer].iter().all(|one| facts.underlay_cidr.contains(&one.address));
        let to = peer.pod_cidr.trunc();
        if self.settings.direct_routing && neighbours {
            let via = NextHop { dev: Some(node.uplink.clone()), ..NextHop::gateway(peer.address) };
            return Route { mtu: peer.narrower(facts), ..Route::new(to, via) };
        }
        let mtu = peer.narrower(facts).map(|mtu| self.inner(mtu, node));
        let via = NextHop { dev: Some(self.device()), onlink: true, ..NextHop::gateway(gateway(peer)) };
        Route { source: Some(gateway(node)), mtu, ..Route::new(to, via) }
    }

    /// The tunnel's device on every node.
    fn device(&self) -> IfName {
        IfName::new(format!("vxlan{}", self.settings.vni)).expect("5 letters and at most 8 digits")
    }

    fn mtu(&self, facts: &Facts, node: &NodeFacts) -> u32 {
        self.inner(facts.underlay_mtu, node)
    }

    /// The largest packet of a pod that fits into one of `outer` bytes.
    fn inner(&self, outer: u32, node: &NodeFacts) -> u32 {
        let overhead = if node.address.is_ipv4() { OVERHEAD_V4 } else { OVERHEAD_V6 };
        self.settings.bridged.mtu(outer.saturating_sub(overhead))
    }
}

/// The hardware address of a node's end of the tunnel. Not that of its card, which is derived from the same address.
fn mac(node: IpAddr) -> Mac {
    let Mac([_, rest @ ..]) = Mac::of_ip(node);
    let [b, c, d, e, f] = rest;
    Mac([0x0e, b, c, d, e, f])
}
