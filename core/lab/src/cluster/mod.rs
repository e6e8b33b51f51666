//! The cluster file: reading, and what it means once defaults are filled in.

mod check;
mod read;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use switchyard_api::{Cluster, Role, names};

pub use read::{load, objects};

/// What `-f` named: one cluster, and whatever else is to be created in it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The cluster, checked.
    pub cluster: Cluster,
    /// The other objects, in the order of their files.
    pub manifests: Vec<Value>,
}

/// Where everything is, defaults filled in. Only a checked cluster has one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Topology {
    /// The cluster's name.
    pub cluster: String,
    /// Prefix of the underlay.
    pub underlay: IpNet,
    /// The upstream device's address on it.
    pub gateway: IpAddr,
    /// MTU of the underlay in bytes.
    pub mtu: u32,
    /// Nodes, in the file's order.
    pub nodes: Vec<Place>,
    /// Addresses of the external load balancer.
    pub external: IpNet,
    /// Where nodes answer for names; none if the Services' range is too small for it.
    #[serde(default)]
    pub dns: Option<IpAddr>,
}

/// A node and its place on the underlay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Its address.
    pub address: IpAddr,
    /// Its block of pod addresses, if the file names one.
    pub pod_cidr: Option<IpNet>,
}

/// A cluster file that cannot be used. The text names the field, its value, and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not YAML, or too large.
    #[error("{}: {reason}", path.display())]
    Syntax {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A field cannot have this value.
    #[error("{field}: {value}: {rule}")]
    Field {
        /// Path of the field in the file, `spec.nodes[1].address`.
        field: String,
        /// What it is.
        value: String,
        /// What would be right.
        rule: String,
    },
    /// Not exactly one cluster is described.
    #[error("{}: {count} objects of kind Cluster; exactly one is needed", path.display())]
    Count {
        /// What was read.
        path: PathBuf,
        /// How many there are.
        count: usize,
    },
}

// === impl Topology ===

impl Topology {
    /// Checks a cluster and fills in the defaults.
    pub fn of(cluster: &Cluster) -> Result<Self, Error> {
        check::topology(cluster)
    }

    /// The node that runs the API server.
    pub fn control_plane(&self) -> &Place {
        self.nodes.iter().find(|node| node.role == Role::ControlPlane).expect("checked: exactly one control-plane node")
    }

    /// Where the API server is, inside the cluster.
    pub fn api(&self) -> SocketAddr {
        SocketAddr::new(self.control_plane().address, names::API_PORT)
    }
}
