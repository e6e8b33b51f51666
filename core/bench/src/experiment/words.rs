//! The words of an experiment: kinds of load, paths, wires.

use serde::{Deserialize, Serialize};

/// Kinds of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LoadKind {
    /// As many bytes as TCP carries.
    Stream,
    /// A request and its answer, one after the other on one connection.
    Rr,
    /// The same with a connection for each.
    Crr,
    /// HTTP at a rate that does not wait for answers.
    Http,
    /// HTTP, the next request on each connection as soon as one is answered.
    Peak,
    /// Datagrams at a rate.
    Udp,
    /// As many datagrams as can be sent.
    Flood,
}

/// Where load goes along.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Route {
    /// Pod to pod on one node.
    SameNode,
    /// Pod to pod on two nodes.
    OtherNode,
    /// Pod to the address of a Service, whose pod is on another node.
    ClusterIp,
    /// Pod to a port of its own node, whose pod is on another node.
    NodePort,
    /// From outside to the address of a Service.
    LoadBalancer,
    /// From outside through the ingress; http only.
    Ingress,
}

/// Wires made by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wiring {
    /// Client and server in one namespace.
    Loopback,
    /// Two namespaces and a pair of veth devices: the baseline.
    Veth,
    /// Two namespaces on a bridge, as two pods of a node.
    Bridge,
    /// Two namespaces behind two routers, as two pods of two nodes.
    Routed,
    /// The same with VXLAN between the routers.
    Vxlan,
}

// === impl LoadKind ===

impl LoadKind {
    /// Whether it is HTTP.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Peak)
    }

    /// Whether it is datagrams, which may be lost.
    pub fn is_udp(self) -> bool {
        matches!(self, Self::Udp | Self::Flood)
    }

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Rr => "rr",
            Self::Crr => "crr",
            Self::Http => "http",
            Self::Peak => "peak",
            Self::Udp => "udp",
            Self::Flood => "flood",
        }
    }
}

// === impl Route ===

impl Route {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::SameNode => "same-node",
            Self::OtherNode => "other-node",
            Self::ClusterIp => "cluster-ip",
            Self::NodePort => "node-port",
            Self::LoadBalancer => "load-balancer",
            Self::Ingress => "ingress",
        }
    }

    /// Whether this kind of load can go along it.
    pub fn carries(self, kind: LoadKind) -> bool {
        match self {
            Self::Ingress => kind.is_http(),
            // The upstream device splices TCP.
            Self::LoadBalancer => !kind.is_udp(),
            _ => true,
        }
    }
}

// === impl Wiring ===

impl Wiring {
    /// All but the baseline.
    pub fn all() -> Vec<Self> {
        vec![Self::Loopback, Self::Bridge, Self::Routed, Self::Vxlan]
    }

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Veth => "veth",
            Self::Bridge => "bridge",
            Self::Routed => "routed",
            Self::Vxlan => "vxlan",
        }
    }
}
