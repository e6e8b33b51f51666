//! A Service as the data plane sees it: addresses and ports, checked once. What is malformed is left out.

use std::fmt;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Service, ServicePort};

/// Where the clients of a Service knock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// `namespace/name`.
    pub id: String,
    /// Its address inside the cluster.
    pub cluster_ip: Ipv4Addr,
    /// Addresses from outside that nodes answer for themselves: `externalIPs`, and a load balancer's unless its `ipMode` is
    /// `Proxy`, which wants packets to pass the load balancer always. Never the address inside the cluster.
    pub external_ips: Vec<Ipv4Addr>,
    /// All addresses that a load balancer was given.
    pub load_balancer_ips: Vec<Ipv4Addr>,
    /// Its ports, in the order of the Service.
    pub ports: Vec<Port>,
    /// Which endpoints may answer at its address inside the cluster.
    pub internal: Scope,
    /// Which endpoints may answer at node ports and addresses from outside.
    pub external: Scope,
    /// `sessionAffinity: ClientIP`: seconds for which a client keeps its endpoint.
    pub affinity_seconds: Option<u32>,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name, the same in EndpointSlices; empty if it has none.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port at the Service's addresses.
    pub port: u16,
    /// The port at every node's addresses.
    pub node_port: Option<u16>,
}

/// Where packets of one port of a Service come in. A node tells them apart by this and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entrance {
    /// At an address of the Service, inside the cluster or from outside.
    Address(Ipv4Addr, Protocol, u16),
    /// At every node's addresses.
    NodePort(Protocol, u16),
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "self-explanatory")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// Which endpoints may answer (`internalTrafficPolicy`, `externalTrafficPolicy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those of the whole cluster.
    Cluster,
    /// Those of the node that the packet has reached.
    Local,
}

/// Label on a Service that another proxy serves.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// The default of `sessionAffinityConfig.clientIP.timeoutSeconds`: three hours.
const AFFINITY_SECONDS: u32 = 10_800;
/// Kubernetes' limit for it: a day.
const AFFINITY_SECONDS_MAX: u32 = 86_400;

// === impl Frontend ===

impl Frontend {
    /// The data plane's view of `service`; `None` if it has none: headless, `ExternalName`, somebody else's to serve, or still without an
    /// IPv4 address.
    pub fn of(service: &Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        let labels = service.metadata.labels.as_ref();
        let of_another = labels.is_some_and(|labels| labels.contains_key(PROXY_NAME));
        if of_another || spec.type_.as_deref() == Some("ExternalName") {
            return None;
        }
        let own = spec.cluster_ip.iter().chain(spec.cluster_ips.iter().flatten());
        let cluster_ip = own.filter_map(|ip| ip.parse().ok()).next()?;
        let with_node_ports = matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
        let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let balanced = spec.type_.as_deref() == Some("LoadBalancer");
        let ingress: Vec<_> =
            balancer.filter(|_| balanced).and_then(|lb| lb.ingress.as_ref()).into_iter().flatten().collect();
        let load_balancer_ips = addresses(ingress.iter().filter_map(|ingress| ingress.ip.as_deref()));
        let direct = ingress.iter().filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
        let mut external_ips = addresses(spec.external_ips.iter().flatten().map(String::as_str));
        external_ips.extend(addresses(direct.filter_map(|ingress| ingress.ip.as_deref())));
        external_ips.retain(|ip| *ip != cluster_ip);
        external_ips.sort_unstable();
        external_ips.dedup();
        let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
            let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
            let seconds = config.and_then(|client| client.timeout_seconds).and_then(|s| u32::try_from(s).ok());
            seconds.unwrap_or(AFFINITY_SECONDS).clamp(1, AFFINITY_SECONDS_MAX)
        });
        Some(Self {
            id: format!(
                "{}/{}",
                service.metadata.namespace.as_deref().unwrap_or("default"),
                service.metadata.name.as_deref().unwrap_or_default()
            ),
            cluster_ip,
            external_ips,
            load_balancer_ips,
            ports: spec.ports.iter().flatten().filter_map(|port| Port::of(port, with_node_ports)).collect(),
            internal: Scope::of(spec.internal_traffic_policy.as_deref()),
            external: Scope::of(spec.external_traffic_policy.as_deref()),
            affinity_seconds: affinity,
        })
    }
}

fn addresses<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<Ipv4Addr> {
    texts
        .filter_map(|text| text.parse().ok())
        .filter(|ip: &Ipv4Addr| !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast())
        .collect()
}

// === impl Port ===

impl Port {
    fn of(port: &ServicePort, with_node_port: bool) -> Option<Self> {
        let number = |n: i32| u16::try_from(n).ok().filter(|n| *n != 0);
        Some(Self {
            name: port.name.clone().unwrap_or_default(),
            protocol: Protocol::of(port.protocol.as_deref())?,
            port: number(port.port)?,
            node_port: port.node_port.filter(|_| with_node_port).and_then(number),
        })
    }

    /// Its entrance at an address.
    pub fn at(&self, address: Ipv4Addr) -> Entrance {
        Entrance::Address(address, self.protocol, self.port)
    }

    /// Its entrance on nodes, if it has one.
    pub fn on_nodes(&self) -> Option<Entrance> {
        self.node_port.map(|port| Entrance::NodePort(self.protocol, port))
    }
}

// === impl Entrance ===

impl fmt::Display for Entrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(ip, protocol, port) => write!(f, "{ip}:{port}/{}", protocol.name()),
            Self::NodePort(protocol, port) => write!(f, "node port {port}/{}", protocol.name()),
        }
    }
}

// === impl Protocol ===

impl Protocol {
    /// By its name in Kubernetes; TCP if none is given.
    pub fn of(name: Option<&str>) -> Option<Self> {
        match name {
            None | Some("" | "TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }

    /// Its number in the IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// Its name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

// === impl Scope ===

impl Scope {
    fn of(policy: Option<&str>) -> Self {
        if policy == Some("Local") { Self::Local } else { Self::Cluster }
    }
}
