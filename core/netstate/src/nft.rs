//! nftables as data: tables, chains with typed rules, sets, maps and their elements (linux/netfilter/nf_tables.h, nft(8)).
//!
//! A chain is one object together with its rules, because rules have no identity of their own and their order matters; it is
//! replaced whole, in one transaction. Elements are objects of their own, so that many units can share one set or map and a
//! change costs one element.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::IfName;

/// Address family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// IPv4 and IPv6.
    Inet,
    /// Bridged frames.
    Bridge,
    /// Frames of one device, before or after everything else.
    Netdev,
    /// ARP.
    Arp,
}

/// Names a table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableRef {
    /// Its family.
    pub family: Family,
    /// Its name; must start with `yard-`, which is how ownership is seen in the kernel.
    pub name: String,
}

/// A table, empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Which.
    pub table: TableRef,
}

/// A chain and all its rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chain {
    /// Its table.
    pub table: TableRef,
    /// Its name, at most 127 bytes.
    pub name: String,
    /// Where packets enter it; absent for a chain that is jumped to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Base>,
    /// Its rules, in order.
    #[serde(default)]
    pub rules: Vec<Rule>,
}

/// The hook of a base chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// Chain type.
    #[serde(rename = "type")]
    pub kind: ChainType,
    /// Hook.
    pub hook: Hook,
    /// Priority; lower runs earlier (-100 is dstnat, 0 filter, 100 srcnat).
    pub priority: i32,
    /// Verdict when no rule decides. Default accept.
    #[serde(default)]
    pub policy: Policy,
    /// The device, for family netdev.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<IfName>,
}

/// Type of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the kernel's own three words")]
pub enum ChainType {
    Filter,
    Nat,
    Route,
}

/// Netfilter hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the kernel's own words")]
pub enum Hook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
    Ingress,
    Egress,
}

/// Default verdict of a base chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the kernel's own words")]
pub enum Policy {
    #[default]
    Accept,
    Drop,
}

/// One rule: statements from left to right; a match that fails ends it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rule(pub Vec<Statement>);

/// One part of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Statement {
    /// Go on only if the comparison holds.
    Match {
        /// What is looked at.
        left: Expr,
        /// How it is compared. Default `eq`.
        #[serde(default)]
        op: Op,
        /// What it is compared with.
        right: Operand,
    },
    /// Go on only if the key (one expression, or several concatenated) is in the set.
    Lookup {
        /// Key.
        key: Vec<Expr>,
        /// Name of a set of the same table.
        set: String,
        /// Go on if it is *not* in the set. Default false.
        #[serde(default)]
        invert: bool,
    },
    /// Count packets and bytes.
    Counter,
    /// Go on only while below a rate (packets); `over` inverts it.
    Limit {
        /// Packets per second.
        rate: u64,
        /// Packets that may exceed it at once.
        burst: u32,
        /// Go on only when *above* the rate. Default false.
        #[serde(default)]
        over: bool,
    },
    /// End with a verdict.
    Verdict(Verdict),
    /// End with the verdict that the key has in a verdict map of the same table; go on if it has none.
    Vmap {
        /// Key.
        key: Vec<Expr>,
        /// Name of the map.
        map: String,
    },
    /// Set bits of the packet mark: `mark = (mark & !mask) | value`.
    SetMark {
        /// Bits to set.
        value: u32,
        /// Bits to replace.
        mask: u32,
    },
    /// Set the packet's priority, which is room for a number that a later rule looks up.
    SetPriority(Number),
    /// Copy the packet mark to the connection, or back.
    CtMark(MarkCopy),
    /// Translate the destination to an address and, optionally, a port.
    Dnat(NatTarget),
    /// Translate the source to an address.
    Snat {
        /// The address.
        target: NatTarget,
        /// Random port selection (NF_NAT_RANGE_PROTO_RANDOM_FULLY). Default false.
        #[serde(default)]
        fully_random: bool,
    },
    /// Translate the source to the address of the outgoing interface.
    Masquerade {
        /// Random port selection (NF_NAT_RANGE_PROTO_RANDOM_FULLY). Default false.
        #[serde(default)]
        fully_random: bool,
    },
    /// Refuse with an error to the sender.
    Reject(Reject),
    /// Add or refresh the key in a dynamic set, or key and data in a dynamic map.
    Update {
        /// Name of the set or map.
        set: String,
        /// Key.
        key: Vec<Expr>,
        /// Seconds until the entry goes; none for ever.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_seconds: Option<u32>,
        /// Data, for a map.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        data: Option<Vec<Value>>,
    },
    /// Do not track this packet's connection.
    Notrack,
}

/// What a statement looks at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[allow(missing_docs, reason = "nft(8)'s own words")]
pub enum Expr {
    /// IP source address (use only after the protocol is known, or in a family that fixes it).
    IpSaddr,
    IpDaddr,
    Ip6Saddr,
    Ip6Daddr,
    /// `meta nfproto`: the layer 3 protocol.
    Nfproto,
    /// `meta l4proto`.
    L4proto,
    /// `th sport`, of TCP, UDP or SCTP.
    Sport,
    /// `th dport`.
    Dport,
    IcmpType,
    Iifname,
    Oifname,
    /// `meta mark & mask`.
    Mark {
        mask: u32,
    },
    /// `meta priority`.
    Priority,
    /// `ct state`, a bit mask.
    CtState,
    /// `ct status`, a bit mask.
    CtStatus,
    /// `ct direction`: 0 for packets the way the connection began, 1 for replies.
    CtDirection,
    CtMark {
        mask: u32,
    },
    /// `ct original ip daddr`.
    CtOriginalIpDaddr,
    /// `ct original proto-dst`.
    CtOriginalDport,
    /// `fib daddr type`: the kernel's route type as a number, 2 for an address of this namespace.
    FibDaddrType,
    /// `fib saddr type`.
    FibSaddrType,
    /// `fib saddr . iif oif`: 0 if the source would not be reached the way the packet came.
    FibSaddrOif,
    /// `ether saddr`.
    EtherSaddr,
    /// `ether daddr`.
    EtherDaddr,
    EtherType,
    /// `arp saddr ip`.
    ArpSaddrIp,
    /// `arp daddr ip`.
    ArpDaddrIp,
    /// Counts 0, 1, ... modulo: strict round robin, one counter per rule.
    NumgenInc {
        modulus: u32,
    },
    /// A random number below modulus.
    NumgenRandom {
        modulus: u32,
    },
    /// Jenkins hash of the source address, below modulus, with a seed.
    JhashIpSaddr {
        modulus: u32,
        seed: u32,
    },
}

/// How a match compares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "self-explanatory")]
pub enum Op {
    #[default]
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    /// Any of the bits is set.
    Has,
}

/// The right side of a match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Operand {
    /// One value.
    Value(Value),
    /// A prefix of addresses.
    Prefix(IpNet),
    /// From and to, both included.
    Range(Value, Value),
    /// Any of these (an anonymous set).
    Any(Vec<Value>),
}

/// A typed value, in a comparison, a key or as data.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Value {
    /// An address.
    Ip(IpAddr),
    /// A prefix; only as a key of an interval set.
    Net(IpNet),
    /// From and to, both included; only as a key of an interval set, and only where no prefix says the same.
    Ips(IpAddr, IpAddr),
    /// A port (host order here, network order in the kernel).
    Port(u16),
    /// From and to, both included; only as a key of an interval set.
    Ports(u16, u16),
    /// A layer 4 protocol number (6 TCP, 17 UDP, 132 SCTP, 1 ICMP).
    Proto(u8),
    /// A plain number in host order (marks, numgen results, types).
    Number(u32),
    /// An interface name.
    Ifname(IfName),
    /// A hardware address.
    Mac(crate::Mac),
    /// Bits of `ct state`.
    State(CtState),
}

/// States for `ct state`; any of them matches with [`Op::Has`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
#[allow(missing_docs, reason = "conntrack's own words")]
pub struct CtState {
    pub invalid: bool,
    pub established: bool,
    pub related: bool,
    pub new: bool,
    pub untracked: bool,
}

/// The verdicts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "nft(8)'s own words")]
pub enum Verdict {
    Accept,
    Drop,
    Return,
    Continue,
    Jump(String),
    Goto(String),
}

/// Where a number comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Number {
    /// This one.
    Value(u32),
    /// What a named map of the same table says; the rule ends if it says nothing. Its data is of type mark.
    Map {
        /// Key.
        key: Vec<Expr>,
        /// Name of the map.
        map: String,
    },
}

/// Which way a mark is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MarkCopy {
    /// Packet mark to connection mark.
    Save,
    /// Connection mark to packet mark.
    Restore,
}

/// Where a NAT statement translates to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum NatTarget {
    /// This address and, for dnat, port.
    To {
        /// Address.
        address: IpAddr,
        /// Port; unchanged if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<u16>,
    },
    /// One of several, chosen by the selector's number (an anonymous map from 0.. to address and port). The selector's
    /// modulus is the number of targets.
    Choose {
        /// [`Expr::NumgenInc`], [`Expr::NumgenRandom`] or [`Expr::JhashIpSaddr`].
        by: Expr,
        /// The targets.
        targets: Vec<(IpAddr, u16)>,
    },
    /// What a named map of the same table says: data is an address, or address and port.
    Map {
        /// Key.
        key: Vec<Expr>,
        /// Name of the map.
        map: String,
    },
}

/// How a packet is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reject {
    /// TCP reset; only for TCP.
    TcpReset,
    /// ICMP or ICMPv6 port unreachable.
    PortUnreachable,
    /// ICMP or ICMPv6 administratively prohibited.
    AdminProhibited,
}

/// The type of a key, of one of its parts, or of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "nft(8)'s own types, in the order of Value")]
pub enum Type {
    Ipv4,
    Ipv6,
    Port,
    Proto,
    Mark,
    Ifname,
    Mac,
    /// A verdict; only as data.
    Verdict,
}

/// A set, or a map if `data` is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Set {
    /// Its table.
    pub table: TableRef,
    /// Its name.
    pub name: String,
    /// The type of its key; several are concatenated.
    pub key: Vec<Type>,
    /// The type of its data; empty for a set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<Type>,
    /// Keys are prefixes or ranges. Default false.
    #[serde(default)]
    pub interval: bool,
    /// Elements come from packets ([`Statement::Update`]) and are not compared. Default false.
    #[serde(default)]
    pub dynamic: bool,
    /// Largest number of elements; the kernel's default if absent. Give one to a dynamic set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u32>,
}

/// One element of a set or map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Element {
    /// Its table.
    pub table: TableRef,
    /// Its set or map.
    pub set: String,
    /// Its key, one value for each part of the set's key.
    pub key: Vec<Value>,
    /// Its data, for a map.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Data>,
}

/// Data of a map's element.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Data {
    /// A verdict.
    Verdict(Verdict),
    /// Values, one for each part of the map's data.
    Values(Vec<Value>),
}

// === impls ===

impl TableRef {
    /// The prefix of every table of ours.
    pub const PREFIX: &'static str = "yard-";

    /// A table of this family, by name.
    pub fn new(family: Family, name: impl Into<String>) -> Self {
        Self { family, name: name.into() }
    }
}

impl Verdict {
    /// The chain that has to exist for this verdict.
    pub fn target(&self) -> Option<&str> {
        match self {
            Self::Jump(chain) | Self::Goto(chain) => Some(chain),
            _ => None,
        }
    }
}

impl Statement {
    /// `left == value`, the commonest match.
    pub fn eq(left: Expr, value: Value) -> Self {
        Self::Match { left, op: Op::Eq, right: Operand::Value(value) }
    }
}

impl Expr {
    /// How many outcomes a selector has, for the expressions that choose one.
    pub fn modulus(&self) -> Option<u32> {
        match self {
            Self::NumgenInc { modulus } | Self::NumgenRandom { modulus } | Self::JhashIpSaddr { modulus, .. } => {
                Some(*modulus)
            }
            _ => None,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
            Self::Bridge => "bridge",
            Self::Netdev => "netdev",
            Self::Arp => "arp",
        })
    }
}

impl fmt::Display for TableRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family, self.name)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => write!(f, "{ip}"),
            Self::Net(net) => write!(f, "{net}"),
            Self::Ips(from, to) => write!(f, "{from}-{to}"),
            Self::Port(port) => write!(f, "{port}"),
            Self::Ports(from, to) => write!(f, "{from}-{to}"),
            Self::Proto(6) => f.write_str("tcp"),
            Self::Proto(17) => f.write_str("udp"),
            Self::Proto(132) => f.write_str("sctp"),
            Self::Proto(n) => write!(f, "{n}"),
            Self::Number(n) => write!(f, "{n:#x}"),
            Self::Ifname(name) => write!(f, "{name}"),
            Self::Mac(mac) => write!(f, "{mac}"),
            Self::State(state) => write!(f, "{state:?}"),
        }
    }
}
