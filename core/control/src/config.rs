//! What the control plane is told when it starts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use switchyard_api::NetworkSpec;
use switchyard_plugin::Facts;
use switchyard_plugin_host::Registry;

/// What the control plane is told when it starts.
#[derive(Clone)]
pub struct Config {
    /// Constants of the cluster, as plugins get them.
    pub facts: Facts,
    /// Prefix length of a node's block of pod addresses. Default 24.
    pub node_prefix_length: u8,
    /// Where pods reach the API server behind the Service `kubernetes`: the control-plane node's address and port.
    pub api_address: SocketAddr,
    /// Addresses for Services of type LoadBalancer; none leaves them pending.
    pub load_balancer_pool: Option<IpNet>,
    /// The certificate authority of the API server, put into every namespace for pods.
    pub ca_pem: String,
    /// Directories with plugins. Default none.
    pub plugin_path: Vec<PathBuf>,
    /// Opens plugins. Default: those of `plugin_path`; a program with linked plugins brings its own.
    pub plugins: Option<Arc<Registry>>,
    /// The network to begin with, where there is no Network object yet.
    pub network: NetworkSpec,
    /// A node whose lease is older than this is not ready. Default 40 s.
    pub node_grace: Duration,
    /// How long pods that say nothing about it stay on a node that is not ready. Default 300 s.
    pub default_toleration: Duration,
    /// Ended pods that are kept; the oldest beyond are deleted. Default 12,500.
    pub terminated_pods: usize,
}

// === impl Config ===

impl Config {
    /// With defaults for all that has one.
    pub fn new(facts: Facts, api_address: SocketAddr) -> Self {
        Self {
            facts,
            node_prefix_length: 24,
            api_address,
            load_balancer_pool: None,
            ca_pem: String::new(),
            plugin_path: Vec::new(),
            plugins: None,
            network: NetworkSpec {
                plugin: "kubenet".into(),
                options: Default::default(),
                hosting: Default::default(),
                attempt: 0,
            },
            node_grace: Duration::from_secs(40),
            default_toleration: Duration::from_secs(300),
            terminated_pods: 12_500,
        }
    }
}
