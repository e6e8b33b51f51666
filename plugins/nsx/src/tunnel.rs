//! Tunnels between nodes: one for the transit and one for each segment, none of which learns or asks.
//!
//! With VXLAN each is a device with an FDB entry for each other node. With Geneve all share one device, and the route of each packet
//! says under which identifier and to which node it goes: a Geneve device with an identifier of its own also has a single remote, and would be
//! needed for every other node in every segment. What arrives is routed, under whatever identifier it came.
//!
//! The end of every tunnel on a node has the same hardware address, derived from the node's own address: there is nothing to
//! exchange. Each carries the node's router address, the first of its block, so that what the node itself sends, or hides behind
//! its own address on the way, has a source to which the answer comes back by a tunnel.

use std::net::IpAddr;

use ipnet::IpNet;
use switchyard_plugin::NodeFacts;
use switchyard_plugin::bridged::{address, any_way_back, full, gateway, neighbour};
use switchyard_plugin::netstate::{Encap, FdbEntry, IfName, Link, LinkKind, Mac, NextHop, Object, Route};

use crate::settings::Encapsulation;

/// A tunnel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tunnel {
    /// Virtual network identifier.
    pub(crate) vni: u32,
    pub(crate) encapsulation: Encapsulation,
    /// UDP port.
    pub(crate) port: u16,
}

/// Ethernet, IPv4, UDP and VXLAN headers around a packet; 20 bytes more over IPv6. Geneve's header without options is as long as
/// VXLAN's.
const OVERHEAD_V4: u32 = 14 + 20 + 8 + 8;

/// What a tunnel from this node adds to a packet.
pub(crate) fn overhead(node: &NodeFacts) -> u32 {
    if node.address.is_ipv4() { OVERHEAD_V4 } else { OVERHEAD_V4 + 20 }
}

// === impl Tunnel ===

impl Tunnel {
    /// Its device on a node.
    pub(crate) fn device(&self, node: &NodeFacts, mtu: u32) -> Vec<Object> {
        let (dev, router) = (self.name(), gateway(node));
        let kind = match self.encapsulation {
            Encapsulation::Vxlan => LinkKind::Vxlan {
                vni: self.vni,
                port: self.port,
                local: node.address,
                dev: None,
                learning: false,
                gbp: false,
            },
            Encapsulation::Geneve => LinkKind::Geneve { port: self.port },
        };
        let link = Link { mtu: Some(mtu), mac: Some(mac(node.address)), ..Link::new(dev.clone(), kind) };
        let [redirects, way_back] = any_way_back(&dev);
        vec![Object::Link(link), redirects, way_back, address(&dev, router, full(router))]
    }

    /// What leads from `node` through it to `to`, on `peer`; with the MTU of the way, where it carries less than the node's uplink.
    pub(crate) fn way(&self, node: &NodeFacts, peer: &NodeFacts, to: IpNet, mtu: Option<u32>) -> Vec<Object> {
        let (dev, mac) = (self.name(), mac(peer.address));
        let route = Route { source: Some(gateway(node)), mtu, ..Route::new(to, self.hop(peer)) };
        let mut objects = vec![neighbour(&dev, gateway(peer), mac), Object::Route(route)];
        if self.encapsulation == Encapsulation::Vxlan {
            objects.push(Object::Fdb(FdbEntry { dev, mac, remote: Some(peer.address) }));
        }
        objects
    }

    /// The other end, as a route's next hop.
    pub(crate) fn hop(&self, peer: &NodeFacts) -> NextHop {
        let encap = match self.encapsulation {
            Encapsulation::Vxlan => None,
            Encapsulation::Geneve => Some(Encap { id: self.vni, remote: peer.address }),
        };
        NextHop { dev: Some(self.name()), onlink: true, encap, ..NextHop::gateway(gateway(peer)) }
    }

    fn name(&self) -> IfName {
        let name = match self.encapsulation {
            Encapsulation::Vxlan => format!("vx{}", self.vni),
            Encapsulation::Geneve => "geneve0".into(),
        };
        IfName::new(name).expect("2 letters and at most 10 digits, or a constant")
    }
}

/// The hardware address of a node's ends of tunnels. Not that of its card, which is derived from the same address.
fn mac(node: IpAddr) -> Mac {
    let Mac([_, rest @ ..]) = Mac::of_ip(node);
    let [b, c, d, e, f] = rest;
    Mac([0x0e, b, c, d, e, f])
}
