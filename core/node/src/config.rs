//! What an agent is told when it starts.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use switchyard_api::Role;

/// Everything that does not come from the API.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// The node's name.
    pub name: String,
    /// The cluster's name. Default `switchyard`.
    #[serde(default = "cluster")]
    pub cluster: String,
    /// How to reach the API server. The agent's own server shows the same client certificate.
    pub kubeconfig: PathBuf,
    /// The node's address on the underlay.
    #[serde(rename = "nodeIP")]
    pub node_ip: IpAddr,
    /// The node's block of pod addresses. Default: what the Node object says, once the control plane has put it there.
    #[serde(default, rename = "podCIDR", skip_serializing_if = "Option::is_none")]
    pub pod_cidr: Option<IpNet>,
    /// Pod addresses of the whole cluster.
    #[serde(rename = "clusterCIDR")]
    pub cluster_cidr: IpNet,
    /// Addresses of Services.
    #[serde(rename = "serviceCIDR")]
    pub service_cidr: IpNet,
    /// The network under the nodes.
    pub underlay: Underlay,
    /// Nameserver of pods: an address of the Services' range that every node has, and answers at. Default: none, and pods resolve as the
    /// node does.
    #[serde(default, rename = "clusterDNS", skip_serializing_if = "Option::is_none")]
    pub cluster_dns: Option<IpAddr>,
    /// What this node's DNS server knows besides the cluster. Default nothing.
    #[serde(default)]
    pub dns: Dns,
    /// What the node is for. Default worker.
    #[serde(default)]
    pub role: Role,
    /// Labels of the Node object, beside the usual ones.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Pods it takes at most. Default 110.
    #[serde(default = "max_pods")]
    pub max_pods: u32,
    /// Seconds without a heartbeat after which the control plane takes the node for dead; it sends four in that time. Default 40.
    #[serde(default = "lease_duration_seconds")]
    pub lease_duration_seconds: u32,
    /// Where pods' namespaces, sockets and volumes are; below it `nodes/NAME/pods/UID`. A tmpfs does well.
    pub run_dir: PathBuf,
    /// Where pods' logs are; below it `NAMESPACE_POD_UID/CONTAINER/RESTART.log`.
    pub log_dir: PathBuf,
    /// A directory that pods do not see; holds `run_dir`. Default `run_dir`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden: Option<PathBuf>,
    /// Directories in which network plugins are looked for.
    #[serde(default)]
    pub plugin_path: Vec<PathBuf>,
    /// Image names and what runs for them.
    #[serde(default)]
    pub images: BTreeMap<String, String>,
    /// The directory of the programs behind built-in images and of `yard-pause`. Default: that of the running program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub programs: Option<PathBuf>,
}

/// What a node's DNS server knows besides the cluster.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Dns {
    /// Zones outside, in which Ingresses and LoadBalancers have names.
    pub zones: Vec<String>,
    /// Where the zones' name server is reached from outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name_server: Option<IpAddr>,
    /// Who is asked about all other names. Nobody: such queries are refused.
    pub upstreams: Vec<SocketAddr>,
}

/// The network under the nodes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Underlay {
    /// Its prefix.
    pub cidr: IpNet,
    /// The upstream L3 device's address there.
    pub gateway: IpAddr,
    /// MTU in bytes. Default 1500.
    #[serde(default = "mtu")]
    pub mtu: u32,
    /// The node's interface on it. Default `eth0`.
    #[serde(default = "uplink")]
    pub uplink: String,
}

// === impl Config ===

impl Config {
    /// The directory of this node's pods.
    pub(crate) fn pods_dir(&self) -> PathBuf {
        self.run_dir.join("nodes").join(&self.name).join("pods")
    }

    /// The directory of namespaces that networks ask for on this node.
    pub(crate) fn extra_dir(&self) -> PathBuf {
        self.run_dir.join("nodes").join(&self.name).join("extra")
    }

    /// How containers find the API server: the Service `kubernetes`, the first address of its range.
    pub(crate) fn api_variables(&self) -> Vec<(String, String)> {
        let host = self.service_cidr.hosts().next().map(|host| host.to_string()).unwrap_or_default();
        let url = format!("tcp://{}:443", if host.contains(':') { format!("[{host}]") } else { host.clone() });
        let pairs = [
            ("KUBERNETES_SERVICE_HOST", host.clone()),
            ("KUBERNETES_SERVICE_PORT", "443".into()),
            ("KUBERNETES_SERVICE_PORT_HTTPS", "443".into()),
            ("KUBERNETES_PORT", url.clone()),
            ("KUBERNETES_PORT_443_TCP", url),
            ("KUBERNETES_PORT_443_TCP_PROTO", "tcp".into()),
            ("KUBERNETES_PORT_443_TCP_PORT", "443".into()),
            ("KUBERNETES_PORT_443_TCP_ADDR", host),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value)).into()
    }

    /// The directory of programs.
    pub(crate) fn programs(&self) -> std::io::Result<PathBuf> {
        if let Some(programs) = &self.programs {
            return Ok(programs.clone());
        }
        let own = std::env::current_exe()?;
        Ok(own.parent().map(PathBuf::from).unwrap_or_default())
    }
}

fn cluster() -> String {
    "switchyard".into()
}

fn max_pods() -> u32 {
    110
}

fn lease_duration_seconds() -> u32 {
    40
}

fn mtu() -> u32 {
    1500
}

fn uplink() -> String {
    "eth0".into()
}
