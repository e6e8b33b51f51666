//! The objects of the vocabulary, and the key that identifies each one in its place.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{IfName, Link, Mac, nft};

/// One thing that the kernel holds in a network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Object {
    /// An interface.
    Link(Link),
    /// An address on an interface.
    Address(Address),
    /// A route.
    Route(Route),
    /// A policy routing rule.
    Rule(Rule),
    /// A permanent neighbour (ARP or ND) entry.
    Neighbour(Neighbour),
    /// A forwarding database entry of a bridge or VXLAN device.
    Fdb(FdbEntry),
    /// A kernel parameter of the namespace.
    Sysctl(Sysctl),
    /// The root queueing discipline of an interface.
    Qdisc(Qdisc),
    /// An nftables table.
    Table(nft::Table),
    /// An nftables chain with all its rules.
    Chain(nft::Chain),
    /// An nftables set or map, without its elements.
    Set(nft::Set),
    /// One element of an nftables set or map.
    Element(nft::Element),
}

/// What makes two objects of one place the same object. Two wanted states of one key differ only in attributes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// By name.
    Link(IfName),
    /// By interface and address without its length.
    Address(IfName, IpAddr),
    /// By table, destination and metric.
    Route(u32, IpNet, u32),
    /// By all its selectors.
    Rule(u32, String),
    /// By interface and address.
    Neighbour(IfName, IpAddr),
    /// By interface, hardware address and, as one address may go to several, remote.
    Fdb(IfName, Mac, Option<IpAddr>),
    /// By path below /proc/sys.
    Sysctl(String),
    /// By interface.
    Qdisc(IfName),
    /// By family and name.
    Table(nft::TableRef),
    /// By table and name.
    Chain(nft::TableRef, String),
    /// By table and name.
    Set(nft::TableRef, String),
    /// By table, set and key.
    Element(nft::TableRef, String, Vec<nft::Value>),
}

/// An address on an interface (RTM_NEWADDR).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Address {
    /// The interface.
    pub dev: IfName,
    /// Address and prefix length, `10.40.1.5/24`; host bits are kept.
    pub address: IpNet,
    /// Do not add the route to the prefix (IFA_F_NOPREFIXROUTE). Default false. IPv6 addresses are always added with IFA_F_NODAD.
    #[serde(default)]
    pub noprefixroute: bool,
}

/// A route (RTM_NEWROUTE).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Destination prefix; `0.0.0.0/0` is the default route.
    pub to: IpNet,
    /// Where packets go.
    #[serde(default)]
    pub via: NextHop,
    /// Routing table. Default 254 (main).
    #[serde(default = "main_table")]
    pub table: u32,
    /// Metric (priority). Default 0 for IPv4.
    #[serde(default)]
    pub metric: u32,
    /// Preferred source address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// MTU in bytes on this route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Scope. Default: `link` without a gateway, `global` with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<RouteScope>,
}

/// Where a route leads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NextHop {
    /// Outgoing interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<IfName>,
    /// Gateway address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// The gateway is on the link although no prefix says so (RTNH_F_ONLINK). Default false.
    #[serde(default)]
    pub onlink: bool,
    /// Drop silently (RTN_BLACKHOLE) instead of forwarding; then `dev` and `gateway` are absent. Default false.
    #[serde(default)]
    pub blackhole: bool,
    /// What `dev` wraps its packets in, if it is a tunnel that leaves this to routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encap: Option<Encap>,
}

/// The outer header of a route's packets (RTA_ENCAP of linux/rtnetlink.h, LWTUNNEL_IP_* of linux/lwtunnel.h). The UDP checksum is
/// computed, the time to live is 64, and the source is the kernel's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encap {
    /// Virtual network identifier, 24 bits.
    pub id: u32,
    /// The remote tunnel end point.
    pub remote: IpAddr,
}

/// Distance to a route's destination (rtnetlink(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteScope {
    /// Anywhere.
    Global,
    /// On the attached link.
    Link,
    /// On this host.
    Host,
}

/// A policy routing rule (RTM_NEWRULE).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Priority; lower is looked at first.
    pub priority: u32,
    /// Source prefix; all sources if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<IpNet>,
    /// Destination prefix; all destinations if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<IpNet>,
    /// Incoming interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iif: Option<IfName>,
    /// Packet mark and mask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<(u32, u32)>,
    /// The table to look in.
    pub table: u32,
}

/// A permanent neighbour entry (RTM_NEWNEIGH, NUD_PERMANENT).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Neighbour {
    /// The interface.
    pub dev: IfName,
    /// The neighbour's address.
    pub address: IpAddr,
    /// The neighbour's hardware address.
    pub mac: Mac,
}

/// A static forwarding database entry (RTM_NEWNEIGH, family AF_BRIDGE).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FdbEntry {
    /// The VXLAN device or bridge port.
    pub dev: IfName,
    /// The destination hardware address; all zero is the default of a VXLAN device.
    pub mac: Mac,
    /// On a VXLAN device: the remote tunnel end point (NTF_SELF). Absent on a bridge port (NTF_MASTER).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<IpAddr>,
}

/// A parameter below /proc/sys that belongs to the network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sysctl {
    /// Path with slashes, below `net/`: `net/ipv4/ip_forward`.
    pub path: String,
    /// Its value.
    pub value: String,
}

/// The root queueing discipline of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Qdisc {
    /// The interface.
    pub dev: IfName,
    /// Which discipline.
    #[serde(rename = "type")]
    pub kind: QdiscKind,
}

/// The disciplines that can be wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum QdiscKind {
    /// Token bucket filter, tc-tbf(8).
    Tbf {
        /// Bytes per second.
        rate: u64,
        /// Bucket size in bytes.
        burst: u32,
        /// Bytes that may wait.
        limit: u32,
    },
}

// === impl Object ===

fn main_table() -> u32 {
    254
}

impl Object {
    /// What identifies this object in its place.
    pub fn key(&self) -> Key {
        match self {
            Self::Link(o) => Key::Link(o.name.clone()),
            Self::Address(o) => Key::Address(o.dev.clone(), o.address.addr()),
            Self::Route(o) => Key::Route(o.table, o.to.trunc(), o.metric),
            Self::Rule(o) => Key::Rule(o.priority, o.selectors()),
            Self::Neighbour(o) => Key::Neighbour(o.dev.clone(), o.address),
            Self::Fdb(o) => Key::Fdb(o.dev.clone(), o.mac, o.remote),
            Self::Sysctl(o) => Key::Sysctl(o.path.clone()),
            Self::Qdisc(o) => Key::Qdisc(o.dev.clone()),
            Self::Table(o) => Key::Table(o.table.clone()),
            Self::Chain(o) => Key::Chain(o.table.clone(), o.name.clone()),
            Self::Set(o) => Key::Set(o.table.clone(), o.name.clone()),
            Self::Element(o) => Key::Element(o.table.clone(), o.set.clone(), o.key.clone()),
        }
    }
}

impl Key {
    /// The interface that has to exist for this object, if any.
    pub fn dev(&self) -> Option<&IfName> {
        match self {
            Self::Address(dev, _) | Self::Neighbour(dev, _) | Self::Fdb(dev, _, _) | Self::Qdisc(dev) => Some(dev),
            _ => None,
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Link(name) => write!(f, "link {name}"),
            Self::Address(dev, address) => write!(f, "address {address} dev {dev}"),
            Self::Route(254, to, _) => write!(f, "route {to}"),
            Self::Route(table, to, _) => write!(f, "route {to} table {table}"),
            Self::Rule(priority, selectors) => write!(f, "rule {priority}: {selectors}"),
            Self::Neighbour(dev, address) => write!(f, "neighbour {address} dev {dev}"),
            Self::Fdb(dev, mac, Some(remote)) => write!(f, "fdb {mac} dev {dev} dst {remote}"),
            Self::Fdb(dev, mac, None) => write!(f, "fdb {mac} dev {dev}"),
            Self::Sysctl(path) => write!(f, "sysctl {path}"),
            Self::Qdisc(dev) => write!(f, "qdisc dev {dev}"),
            Self::Table(table) => write!(f, "table {table}"),
            Self::Chain(table, name) => write!(f, "chain {table} {name}"),
            Self::Set(table, name) => write!(f, "set {table} {name}"),
            Self::Element(table, set, key) => {
                write!(f, "element {table} {set} {{ ")?;
                for (i, value) in key.iter().enumerate() {
                    write!(f, "{}{value}", if i == 0 { "" } else { " . " })?;
                }
                f.write_str(" }")
            }
        }
    }
}

impl Rule {
    fn selectors(&self) -> String {
        let mut text = match &self.from {
            Some(from) => format!("from {from}"),
            None => "from all".to_owned(),
        };
        if let Some(to) = &self.to {
            text += &format!(" to {to}");
        }
        if let Some(iif) = &self.iif {
            text += &format!(" iif {iif}");
        }
        if let Some((mark, mask)) = self.mark {
            text += &format!(" fwmark {mark:#x}/{mask:#x}");
        }
        text
    }
}

impl Route {
    /// A route in the main table, the rest left at its defaults.
    pub fn new(to: IpNet, via: NextHop) -> Self {
        Self { to, via, table: main_table(), metric: 0, source: None, mtu: None, scope: None }
    }
}

impl NextHop {
    /// Straight out of an interface.
    pub fn dev(dev: IfName) -> Self {
        Self { dev: Some(dev), ..Self::default() }
    }

    /// Through a gateway, on the interface that the kernel finds for it.
    pub fn gateway(gateway: IpAddr) -> Self {
        Self { gateway: Some(gateway), ..Self::default() }
    }
}
