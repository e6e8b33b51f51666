//! kubenet: a bridge on each node, static routes on the upstream device.
//!
//! Each node has a bridge that holds the first address of the node's block, and each pod a veth to it. The upstream device knows
//! which block lies behind which node, so pods of different nodes reach each other by plain routing, with their own addresses.
//! Only packets to the world outside are masqueraded.
//!
//! One thing differs from the kubenet of old, which bridged the packets between pods of a node: here every packet of a pod passes
//! the node's IP layer, see [`switchyard_plugin::bridged`].

use switchyard_plugin::bridged::{Bridged, host};
use switchyard_plugin::netstate::{Fragment, NextHop, Object, Place, Route};
use switchyard_plugin::{
    Facts, NetworkPlugin, NodeFacts, OptionReader, Options, OptionsError, PodFacts, Pool, export_plugin,
};

/// A network of this kind.
#[derive(Clone, Debug)]
pub struct Kubenet {
    bridged: Bridged,
}

/// What the plugin says about itself: `manifest.json`.
pub const MANIFEST: &str = include_str!("../manifest.json");

export_plugin!(Kubenet, MANIFEST);

// === impl Kubenet ===

impl NetworkPlugin for Kubenet {
    fn new(options: &Options) -> Result<Self, OptionsError> {
        let mut options = OptionReader::new(options);
        let bridged = Bridged::read(&mut options)?;
        options.finish()?;
        Ok(Self { bridged })
    }

    fn pool(&self, _: &Facts, node: &NodeFacts, _: &PodFacts) -> Pool {
        self.bridged.pool(node)
    }

    fn node(&self, facts: &Facts, node: &NodeFacts) -> Fragment {
        let mut fragment = self.bridged.node(node, self.mtu(facts));
        // Nodes and the upstream device know the way to a pod, so they may see its own address.
        let inside = [facts.pod_cidr, facts.service_cidr, facts.underlay_cidr];
        fragment.want_all(&Place::node(&node.name), self.bridged.masquerade(facts.pod_cidr, &inside));
        fragment
    }

    fn pod(&self, facts: &Facts, node: &NodeFacts, pod: &PodFacts) -> Fragment {
        self.bridged.pod(node, pod, self.mtu(facts))
    }

    fn remote(&self, facts: &Facts, node: &NodeFacts, peer: &NodeFacts, pod: &PodFacts) -> Fragment {
        let mut fragment = Fragment::new();
        let via = NextHop { dev: Some(node.uplink.clone()), ..NextHop::gateway(peer.address) };
        let route = Route { mtu: peer.narrower(facts), ..Route::new(host(pod.ip), via) };
        fragment.want(&Place::node(&node.name), Object::Route(route));
        fragment
    }

    fn underlay(&self, facts: &Facts, node: &NodeFacts) -> Fragment {
        let mut fragment = Fragment::new();
        let route = Route::new(node.pod_cidr.trunc(), NextHop::gateway(node.address));
        fragment.want(&Place::Router, Object::Route(Route { mtu: node.narrower(facts), ..route }));
        fragment
    }
}

impl Kubenet {
    fn mtu(&self, facts: &Facts) -> u32 {
        self.bridged.mtu(facts.underlay_mtu)
    }
}
