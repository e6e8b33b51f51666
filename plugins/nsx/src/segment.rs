//! The distributed router: the gateways of all segments, the same on every node, and the pods behind them.
//!
//! A node has one switch, the bridge that networks of this kind have anyway, and pods of all segments are its ports, isolated from
//! each other. The router is a macvlan on that bridge: so it has a hardware address of its own, which is the same on every node,
//! while the bridge keeps its own; and a pod keeps its port when the network is changed.

use std::net::IpAddr;

use ipnet::IpNet;
use switchyard_plugin::bridged::{address, any_way_back, cable, default, full, gateway, host, neighbour, on_link};
use switchyard_plugin::netstate::{Fragment, IfName, Link, LinkKind, Mac, NextHop, Object, Place, Route, RouteScope};
use switchyard_plugin::{NodeFacts, PodFacts, PodSegment, SegmentFacts};

/// The router's hardware address, on every node. It is the one that NSX's distributed routers have.
const ROUTER_MAC: Mac = Mac([0x02, 0x50, 0x56, 0x56, 0x44, 0x52]);

/// The router on a node, without segments.
pub(crate) fn router(bridge: &IfName, node: &NodeFacts, mtu: u32) -> Vec<Object> {
    let dev = device();
    let kind = LinkKind::Macvlan { dev: bridge.clone() };
    let link = Link { mtu: Some(mtu), mac: Some(ROUTER_MAC), ..Link::new(dev.clone(), kind) };
    let [redirects, way_back] = any_way_back(&dev);
    // What the node itself sends to its pods comes from an address that no other node has.
    vec![Object::Link(link), redirects, way_back, address(&dev, gateway(node), full(gateway(node)))]
}

/// The gateways of a segment. Addresses that no pod has lead nowhere, rather than outside and back; those that one has have routes
/// of their own.
pub(crate) fn gateways(segment: &SegmentFacts) -> Vec<Object> {
    let nobody = || NextHop { blackhole: true, ..NextHop::default() };
    let of = |subnet: &IpNet| {
        let gateway = address(&device(), first(subnet), subnet.prefix_len());
        [gateway, Object::Route(Route::new(subnet.trunc(), nobody()))]
    };
    segment.subnets.iter().flat_map(of).collect()
}

/// Both sides of the attachment of a pod with an address of a segment.
pub(crate) fn attachment(
    bridge: &IfName,
    node: &NodeFacts,
    pod: &PodFacts,
    segment: &PodSegment,
    mtu: u32,
) -> Fragment {
    let (here, there) = (&Place::node(&node.name), &Place::pod(&pod.uid));
    let (router, first) = (&device(), first(&segment.subnet));
    let dev = &name("eth0");
    let mut fragment = cable(bridge, node, pod, mtu);
    fragment.want(here, neighbour(router, pod.ip, Mac::of_ip(pod.ip)));
    let route = Route::new(host(pod.ip), NextHop::dev(router.clone()));
    let route = Route { source: Some(gateway(node)), scope: Some(RouteScope::Link), ..route };
    fragment.want(here, Object::Route(route));

    fragment.want(there, address(dev, pod.ip, full(pod.ip)));
    fragment.want(there, neighbour(dev, first, ROUTER_MAC));
    fragment.want(there, on_link(dev, first));
    let via = NextHop { dev: Some(dev.clone()), ..NextHop::gateway(first) };
    fragment.want(there, Object::Route(Route::new(default(first), via)));
    fragment
}

/// The gateway of a subnet: its first address.
fn first(subnet: &IpNet) -> IpAddr {
    subnet.hosts().next().unwrap_or(subnet.addr())
}

/// The router's device.
fn device() -> IfName {
    name("dr0")
}

fn name(constant: &str) -> IfName {
    IfName::new(constant).expect("a valid constant name")
}
