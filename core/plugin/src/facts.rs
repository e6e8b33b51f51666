//! What a plugin is told. Facts are constants of the cluster or of one node or pod; nothing here grows with the cluster.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use switchyard_netstate::{IfName, Mac};

/// Constants of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// The cluster's name.
    pub cluster: String,
    /// Addresses of pods; every node's block lies in here.
    pub pod_cidr: IpNet,
    /// Addresses of Services.
    pub service_cidr: IpNet,
    /// The prefix of the network under the nodes.
    pub underlay_cidr: IpNet,
    /// The upstream L3 device's address there.
    pub underlay_gateway: IpAddr,
    /// MTU of the underlay in bytes.
    pub underlay_mtu: u32,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Its address on the underlay.
    pub address: IpAddr,
    /// Its block of pod addresses.
    pub pod_cidr: IpNet,
    /// The interface that holds `address`.
    pub uplink: IfName,
    /// That interface's hardware address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodFacts {
    /// Its uid; names its place, `pod/UID`.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its address. The all-zero address while the pool is being asked for.
    pub ip: IpAddr,
}

/// Where a pod's address comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pool {
    /// The block; addresses are picked from it one by one.
    pub block: IpNet,
    /// Addresses of the block that must not be given to pods, besides the first and last of an IPv4 block.
    #[serde(default)]
    pub reserved: Vec<IpAddr>,
}
