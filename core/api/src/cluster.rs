//! `Cluster`: the machine-sized part of a cluster, which in real life is hardware and installation.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use crate::meta::cluster_scoped;
use crate::names;
use crate::network::NetworkSpec;

/// A cluster on one machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cluster {
    /// `switchyard.dev/v1alpha1`.
    pub api_version: String,
    /// `Cluster`.
    pub kind: String,
    /// Its name is the name of the cluster's directory.
    pub metadata: ObjectMeta,
    /// What it is made of.
    pub spec: ClusterSpec,
}

/// What a cluster is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterSpec {
    /// The network under the nodes.
    #[serde(default)]
    pub underlay: Underlay,
    /// Addresses of pods, cut into blocks for nodes. Default 10.40.0.0/16.
    #[serde(default = "pod_cidr", rename = "podCIDR")]
    pub pod_cidr: IpNet,
    /// Prefix length of a node's block. Default 24.
    #[serde(default = "node_prefix")]
    pub node_prefix_length: u8,
    /// Addresses of Services. Default 10.96.0.0/16.
    #[serde(default = "service_cidr", rename = "serviceCIDR")]
    pub service_cidr: IpNet,
    /// Nodes; exactly one has the role `control-plane`.
    pub nodes: Vec<NodeSpec>,
    /// The external load balancer on the upstream device.
    #[serde(default)]
    pub load_balancer: LoadBalancerSpec,
    /// Loopback ports of the host, and where in the cluster they lead.
    #[serde(default)]
    pub host_ports: Vec<HostPort>,
    /// Image names and what runs for them: `nginx:1.25: yard/echo`.
    #[serde(default)]
    pub images: BTreeMap<String, ImageSource>,
    /// Names, inside and outside.
    #[serde(default)]
    pub dns: DnsSpec,
    /// Seconds without a heartbeat after which a node is taken for dead; nodes send four in that time. Default 40.
    #[serde(default = "node_monitor_grace_period_seconds")]
    pub node_monitor_grace_period_seconds: u32,
    /// Seconds that pods which say nothing about it stay on a node that is not ready or not reachable. Default 300.
    #[serde(default = "default_toleration_seconds")]
    pub default_toleration_seconds: u32,
    /// The network plugin to begin with. Default kubenet.
    #[serde(default = "kubenet")]
    pub network: NetworkSpec,
}

/// The network under the nodes: one Ethernet segment with an upstream L3 device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Underlay {
    /// Its prefix. Default 10.140.0.0/24.
    pub cidr: IpNet,
    /// The upstream device's address. Default: the first of the prefix.
    pub gateway: Option<IpAddr>,
    /// MTU in bytes with which the uplinks begin, and the most that a way between nodes is taken to carry. Default 1500.
    pub mtu: u32,
    /// What the upstream device is like when the network asks it for routes. Default: it takes any number, at once, always.
    pub routes: RouteTable,
}

/// The upstream device's route table, as clouds have them: bounded, slow, at times refusing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RouteTable {
    /// Routes it holds at most. Default: any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// From asking for a route until it is in force, in milliseconds. Default 0.
    pub delay_milliseconds: u32,
    /// Share of requests that fail, 0 to 1; which ones depends on `seed` alone. Default 0.
    pub error_rate: f64,
    /// Another number gives other failures. Default 0.
    pub seed: u64,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeSpec {
    /// Its name, a DNS label.
    pub name: String,
    /// What it is for. Default worker.
    #[serde(default)]
    pub role: Role,
    /// Its address on the underlay. Default: control plane .10, workers .11, .12, ... in their order.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// Its block of pod addresses. Default: given by the control plane, in order.
    #[serde(default, rename = "podCIDR")]
    pub pod_cidr: Option<IpNet>,
    /// Labels of the Node object.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Pods it takes at most. Default 110.
    #[serde(default = "max_pods")]
    pub max_pods: u32,
}

/// What a node is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Runs the API server, the store and the controllers.
    ControlPlane,
    /// Runs pods.
    #[default]
    Worker,
}

/// The external load balancer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LoadBalancerSpec {
    /// Addresses for Services of type LoadBalancer. Default 192.168.100.0/24.
    pub pool: IpNet,
}

/// Names, inside and outside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DnsSpec {
    /// Zones outside, `esxcloud.net`: hosts of Ingresses and Services of type LoadBalancer have their names there. Default none.
    pub zones: Vec<String>,
    /// Who is asked about all other names, as nodes reach them: `10.140.0.53` or `10.140.0.53:5353`. Default nobody, and such queries are
    /// refused.
    pub upstreams: Vec<String>,
    /// Loopback address and port on the host that answers for the cluster's domain and the zones, over UDP and TCP. Default 127.0.0.1:0,
    /// which takes a free port, the same one each time.
    pub listen: SocketAddr,
}

/// A loopback port of the host that leads into the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostPort {
    /// Loopback address and port on the host; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Address and port as the upstream device reaches it.
    pub to: SocketAddr,
}

/// What runs for an image name: a built-in program, or `host` for a command of the host's file system.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageSource(pub String);

fn pod_cidr() -> IpNet {
    "10.40.0.0/16".parse().expect("a constant prefix")
}

fn service_cidr() -> IpNet {
    "10.96.0.0/16".parse().expect("a constant prefix")
}

fn node_prefix() -> u8 {
    24
}

fn max_pods() -> u32 {
    110
}

fn node_monitor_grace_period_seconds() -> u32 {
    40
}

fn default_toleration_seconds() -> u32 {
    300
}

fn kubenet() -> NetworkSpec {
    NetworkSpec { plugin: "kubenet".into(), options: Default::default(), hosting: Default::default(), attempt: 0 }
}

impl Default for Underlay {
    fn default() -> Self {
        Self {
            cidr: "10.140.0.0/24".parse().expect("a constant prefix"),
            gateway: None,
            mtu: 1500,
            routes: RouteTable::default(),
        }
    }
}

impl Default for LoadBalancerSpec {
    fn default() -> Self {
        Self { pool: "192.168.100.0/24".parse().expect("a constant prefix") }
    }
}

impl Default for DnsSpec {
    fn default() -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        Self { zones: Vec::new(), upstreams: Vec::new(), listen }
    }
}

impl DnsSpec {
    /// An upstream as it is written: an address, with a port or without.
    pub fn upstream(text: &str) -> Option<SocketAddr> {
        text.parse().ok().or_else(|| Some(SocketAddr::new(text.parse().ok()?, names::DNS_PORT)))
    }
}

cluster_scoped!(Cluster, "Cluster", "clusters");
