//! nsx: a segment for each namespace, distributed routing, gateways to the outside on edge nodes.
//!
//! **Segments.** A namespace has a logical switch: a number (VNI), subnets that any node's pods share, a gateway address in each.
//! The control plane makes it with the namespace's first pod and extends it when it is full. On a node it is a gateway, ports of the
//! node's switch, and a tunnel to the other nodes (`tunnel.rs`).
//!
//! **Routing is distributed.** The gateway has the same address and the same hardware address on every node, so a pod's first hop
//! is its own node, wherever it is, and its second the node of the other pod: nothing passes a central device. Ports of the switch
//! are isolated and tunnels are none of its ports: *every packet passes the IP layer of both nodes*, because that is where
//! Services and policy are. (Bridging a segment across nodes would need `bridge-nf-call-iptables`, under which the kernel runs
//! IP's hooks on a bridge and then bridges what they translated, past routing.) A packet within a segment so has two hops.
//!
//! **Nothing is learned.** A remote pod costs one route; a remote node one neighbour and, with VXLAN, one FDB entry in each segment
//! that has pods there. No packet waits for ARP, no frame is flooded, learning is off.
//!
//! **Pods without a segment** are those that were there before this network. They stay on the bridge they are on, as with kubenet
//! and overlay (see [`switchyard_plugin::bridged`]), and nodes reach each other's blocks by a tunnel of its own, the *transit*.
//! That also carries what nodes themselves send, and packets to the gateways.
//!
//! **Outside** is beyond the tier-0 gateway, a namespace of its own on an edge node (`tier0.rs`). **Ports are guarded**
//! (`guard.rs`): a pod sends with its own addresses or not at all.

mod guard;
mod segment;
mod settings;
mod tier0;
mod tunnel;

use ipnet::IpNet;
use switchyard_plugin::netstate::{Fragment, Place};
use switchyard_plugin::{
    Facts, NetworkPlugin, NodeFacts, Options, OptionsError, PodFacts, Pool, SegmentFacts, SegmentPool, export_plugin,
};

use settings::{NorthSouth, Settings};
use tier0::Tier0;
use tunnel::Tunnel;

/// A network of this kind.
#[derive(Clone, Debug)]
pub struct Nsx {
    settings: Settings,
}

/// What the plugin says about itself: `manifest.json`.
pub const MANIFEST: &str = include_str!("../manifest.json");

export_plugin!(Nsx, MANIFEST);

/// The number of the transit; segments have larger ones.
const TRANSIT: u32 = 4095;
/// Numbers of segments.
const SEGMENT_IDS: (u32, u32) = (4096, (1 << 24) - 1);

// === impl Nsx ===

impl NetworkPlugin for Nsx {
    fn new(options: &Options) -> Result<Self, OptionsError> {
        Ok(Self { settings: Settings::read(options)? })
    }

    fn pool(&self, facts: &Facts, _: &NodeFacts, pod: &PodFacts) -> Pool {
        let outside = match self.settings.north_south {
            NorthSouth::Edge(pool) => Some(IpNet::from(pool)),
            NorthSouth::Node => None,
        };
        let segment = SegmentPool {
            name: pod.namespace.clone(),
            prefix_length: self.settings.subnet_prefix,
            kept: 1,
            ids: SEGMENT_IDS,
            outside,
        };
        Pool { segment: Some(segment), ..Pool::of(self.settings.segments(facts)) }
    }

    fn node(&self, facts: &Facts, node: &NodeFacts) -> Fragment {
        let (place, mtu) = (&Place::node(&node.name), self.mtu(facts, node));
        let mut fragment = self.settings.bridged.node(node, mtu);
        fragment.want_all(place, segment::router(&self.settings.bridged.bridge, node, mtu));
        fragment.want_all(place, self.transit().device(node, mtu));
        fragment.want_all(place, guard::table());
        match self.tier0(facts) {
            Some(tier0) => fragment.merge(tier0.node(facts, node, mtu)),
            None => {
                // The underlay knows no way back to a pod, so its addresses are outside.
                let inside: Vec<IpNet> = self.settings.pods(facts).into_iter().chain([facts.service_cidr]).collect();
                fragment.want_all(place, self.settings.bridged.masquerade(facts.pod_cidr, &inside));
            }
        }
        fragment
    }

    fn peer(&self, facts: &Facts, node: &NodeFacts, peer: &NodeFacts) -> Fragment {
        let mut fragment = Fragment::new();
        let place = &Place::node(&node.name);
        let mtu = self.narrower(facts, node, peer);
        fragment.want_all(place, self.transit().way(node, peer, peer.pod_cidr.trunc(), mtu));
        if let Some(tier0) = self.tier0(facts) {
            fragment.want_all(place, tier0.peer(peer, &self.transit(), mtu));
        }
        fragment
    }

    fn pod(&self, facts: &Facts, node: &NodeFacts, pod: &PodFacts) -> Fragment {
        let mtu = self.mtu(facts, node);
        let mut fragment = match &pod.segment {
            Some(segment) => segment::attachment(&self.settings.bridged.bridge, node, pod, segment, mtu),
            None => self.settings.bridged.pod(node, pod, mtu),
        };
        fragment.want_all(&Place::node(&node.name), guard::port_of(pod));
        fragment
    }

    fn remote(&self, facts: &Facts, node: &NodeFacts, peer: &NodeFacts, pod: &PodFacts) -> Fragment {
        let mut fragment = Fragment::new();
        let tunnel = match &pod.segment {
            Some(segment) => self.tunnel(segment.id),
            None => self.transit(),
        };
        let to = switchyard_plugin::bridged::host(pod.ip);
        let way = tunnel.way(node, peer, to, self.narrower(facts, node, peer));
        fragment.want_all(&Place::node(&node.name), way);
        fragment
    }

    fn segment(&self, facts: &Facts, node: &NodeFacts, segment: &SegmentFacts) -> Fragment {
        let mut fragment = Fragment::new();
        let place = &Place::node(&node.name);
        fragment.want_all(place, self.tunnel(segment.id).device(node, self.mtu(facts, node)));
        fragment.want_all(place, segment::gateways(segment));
        if let Some(tier0) = self.tier0(facts) {
            fragment.merge(tier0.segment(node, segment));
        }
        fragment
    }

    fn underlay(&self, facts: &Facts, node: &NodeFacts) -> Fragment {
        self.tier0(facts).map(|tier0| tier0.underlay(facts, node)).unwrap_or_default()
    }
}

impl Nsx {
    fn tunnel(&self, vni: u32) -> Tunnel {
        Tunnel { vni, encapsulation: self.settings.encapsulation, port: self.settings.port }
    }

    fn transit(&self) -> Tunnel {
        self.tunnel(TRANSIT)
    }

    fn tier0(&self, facts: &Facts) -> Option<Tier0> {
        match self.settings.north_south {
            NorthSouth::Edge(pool) => Some(Tier0 { pool, pods: self.settings.pods(facts) }),
            NorthSouth::Node => None,
        }
    }

    fn mtu(&self, facts: &Facts, node: &NodeFacts) -> u32 {
        self.inner(facts.underlay_mtu, node)
    }

    /// The MTU of the way to a peer, where it carries less than this node's uplink.
    fn narrower(&self, facts: &Facts, node: &NodeFacts, peer: &NodeFacts) -> Option<u32> {
        peer.narrower(facts).map(|mtu| self.inner(mtu, node))
    }

    /// The largest packet of a pod that fits into one of `outer` bytes.
    fn inner(&self, outer: u32, node: &NodeFacts) -> u32 {
        self.settings.bridged.mtu(outer.saturating_sub(tunnel::overhead(node)))
    }
}
