//! A network in one screen: every pod hangs on a cable (a veth) of its own, and the node routes between the cables.

use switchyard_plugin::netstate::{
    Address, Fragment, IfName, Link, LinkKind, Mac, Neighbour, NextHop, Object, PeerEnd, Place, Route, Sysctl,
};
use switchyard_plugin::{
    Facts, NetworkPlugin, NodeFacts, OptionReader, Options, OptionsError, PodFacts, export_plugin,
};

/// A network of this kind.
pub struct Hello {
    mtu: Option<u32>,
}

export_plugin!(Hello, include_str!("../manifest.json"));

impl NetworkPlugin for Hello {
    fn new(options: &Options) -> Result<Self, OptionsError> {
        let mut options = OptionReader::new(options);
        let mtu = options.take_if("mtu", "a number from 576 to 65535", |mtu| (576..=65535).contains(mtu))?;
        options.finish()?;
        Ok(Self { mtu })
    }

    /// A node forwards.
    fn node(&self, _: &Facts, node: &NodeFacts) -> Fragment {
        let mut fragment = Fragment::new();
        let forward = Sysctl { path: "net/ipv4/ip_forward".into(), value: "1".into() };
        fragment.want(&Place::node(&node.name), Object::Sysctl(forward));
        fragment
    }

    /// A pod is one end of a cable. Its gateway is an address that nobody has, at a hardware address that both ends know.
    fn pod(&self, facts: &Facts, node: &NodeFacts, pod: &PodFacts) -> Fragment {
        let mut fragment = Fragment::new();
        let (here, there) = (&Place::node(&node.name), &Place::pod(&pod.uid));
        let (cable, eth0) = (IfName::derived("veth", &pod.uid), name("eth0"));
        let gateway = "169.254.1.1".parse().expect("an address");
        let mtu = Some(self.mtu.map_or(facts.underlay_mtu, |mtu| mtu.min(facts.underlay_mtu)));
        let end = |place: &Place, name: &IfName, mac, peer| {
            let kind = LinkKind::Veth { peer };
            (place.clone(), Object::Link(Link { mtu, mac: Some(mac), ..Link::new(name.clone(), kind) }))
        };
        let peer = |place: &Place, name: &IfName| PeerEnd { place: place.clone(), name: name.clone() };
        let neighbour = |dev: &IfName, address| {
            Object::Neighbour(Neighbour { dev: dev.clone(), address, mac: Mac::of_ip(address) })
        };
        let route = |to: &str, via| Object::Route(Route::new(to.parse().expect("a prefix"), via));
        let out = |dev: &IfName| NextHop::dev(dev.clone());

        for (place, object) in [
            end(here, &cable, Mac::of_ip(gateway), peer(there, &eth0)),
            (here.clone(), neighbour(&cable, pod.ip)),
            (here.clone(), Object::Route(Route::new(pod.ip.into(), out(&cable)))),
            end(there, &eth0, Mac::of_ip(pod.ip), peer(here, &cable)),
            (there.clone(), Object::Link(Link::new(name("lo"), LinkKind::Existing))),
            (
                there.clone(),
                Object::Address(Address { dev: eth0.clone(), address: pod.ip.into(), noprefixroute: true }),
            ),
            (there.clone(), neighbour(&eth0, gateway)),
            (there.clone(), route("169.254.1.1/32", out(&eth0))),
            (there.clone(), route("0.0.0.0/0", NextHop { dev: Some(eth0.clone()), ..NextHop::gateway(gateway) })),
        ] {
            fragment.want(&place, object);
        }
        fragment
    }

    /// A pod whose address is from elsewhere, as after a change of network, is on its node all the same.
    fn remote(&self, facts: &Facts, node: &NodeFacts, peer: &NodeFacts, pod: &PodFacts) -> Fragment {
        let mut fragment = Fragment::new();
        let mtu = peer.narrower(facts);
        let route = Route { mtu, ..Route::new(pod.ip.into(), NextHop::gateway(peer.address)) };
        fragment.want(&Place::node(&node.name), Object::Route(route));
        fragment
    }

    /// The upstream device knows which block lies behind which node.
    fn underlay(&self, facts: &Facts, node: &NodeFacts) -> Fragment {
        let mut fragment = Fragment::new();
        let mtu = node.narrower(facts);
        let route = Route { mtu, ..Route::new(node.pod_cidr, NextHop::gateway(node.address)) };
        fragment.want(&Place::Router, Object::Route(route));
        fragment
    }
}

fn name(constant: &str) -> IfName {
    IfName::new(constant).expect("a valid constant name")
}
