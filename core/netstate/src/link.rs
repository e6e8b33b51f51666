//! Links: the interfaces a fragment may want, with the attributes of RTM_NEWLINK (linux/if_link.h).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{IfName, Mac, Place};

/// One interface in one place. Attributes left out (`None`) are the kernel's to choose and are not compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Its name in its place.
    pub name: IfName,
    /// What it is, with the attributes fixed when it is created.
    #[serde(rename = "type")]
    pub kind: LinkKind,
    /// MTU in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Hardware address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// The bridge it is a port of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<IfName>,
    /// How it behaves as a bridge port; only with `master`.
    #[serde(default, skip_serializing_if = "PortSettings::is_default")]
    pub port: PortSettings,
    /// Administratively up. Default true.
    #[serde(default = "yes")]
    pub up: bool,
}

/// What a link is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum LinkKind {
    /// An interface that is there already and is only configured: `lo`, or a node's uplink.
    Existing,
    /// One end of a virtual Ethernet pair. Each end is an object in its own place and names the other one; whichever end is
    /// created first creates both.
    Veth {
        /// The other end.
        peer: PeerEnd,
    },
    /// An Ethernet bridge (spanning tree off).
    Bridge {
        /// IFLA_BR_MCAST_SNOOPING. Default true, the kernel's.
        #[serde(default = "yes")]
        multicast_snooping: bool,
    },
    /// A VXLAN tunnel end point, RFC 7348.
    Vxlan {
        /// VXLAN network identifier, 24 bits.
        vni: u32,
        /// UDP destination port.
        port: u16,
        /// Source address of the outer packet.
        local: IpAddr,
        /// The underlay interface.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dev: Option<IfName>,
        /// Learn addresses from received frames. Default false.
        #[serde(default)]
        learning: bool,
        /// Group-based policy extension. Default false.
        #[serde(default)]
        gbp: bool,
    },
    /// A Geneve tunnel end point, RFC 8926, without a network identifier or a remote of its own (IFLA_GENEVE_COLLECT_METADATA): it takes
    /// both from the route of each packet, see [`Encap`](crate::Encap), and receives what comes from anybody, under any identifier.
    Geneve {
        /// UDP destination port.
        port: u16,
    },
    /// A macvlan on a lower interface, in bridge mode.
    Macvlan {
        /// The lower interface.
        dev: IfName,
    },
    /// A layer 3 TUN interface, persistent.
    Tun,
}

/// The other end of a veth pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerEnd {
    /// Where it is.
    pub place: Place,
    /// Its name there.
    pub name: IfName,
}

/// Bridge port flags (IFLA_BRPORT_*). All default to false except `learning`, as in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PortSettings {
    /// Frames may leave by the port they came in on.
    pub hairpin: bool,
    /// Isolated ports do not talk to one another.
    pub isolated: bool,
    /// Learn source addresses. Default true.
    pub learning: bool,
    /// Answer ARP and ND on behalf of known neighbours.
    pub neigh_suppress: bool,
}

// === impl Link ===

fn yes() -> bool {
    true
}

impl Link {
    /// A link of this kind that is up, everything else left to the kernel.
    pub fn new(name: IfName, kind: LinkKind) -> Self {
        Self { name, kind, mtu: None, mac: None, master: None, port: PortSettings::default(), up: true }
    }

    /// Whether changing `self` into `wanted` needs the link to be made anew.
    pub fn needs_recreation(&self, wanted: &Self) -> bool {
        self.kind != wanted.kind
    }
}

// === impl PortSettings ===

impl Default for PortSettings {
    fn default() -> Self {
        Self { hairpin: false, isolated: false, learning: true, neigh_suppress: false }
    }
}

impl PortSettings {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
