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
    /// The largest packet, in bytes, that leaves the node that is asked about by its uplink; for the upstream device, the underlay's.
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
    /// Of a peer, or of a node as the upstream device sees it: the largest packet, in bytes, that passes on the way to it. Absent if
    /// that is what the underlay carries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Whether it is to carry gateways to the outside, for networks that have such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge: Option<EdgeRole>,
}

/// What a node is among those that carry gateways to the outside. The control plane chooses, and chooses anew when a node is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EdgeRole {
    /// Its gateway carries the traffic.
    Active,
    /// Its gateway is ready to.
    Standby,
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
    /// The segment that its address belongs to, if it belongs to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<PodSegment>,
}

/// The segment of a pod's address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSegment {
    /// Its name.
    pub name: String,
    /// Its number, which no other segment has.
    pub id: u32,
    /// The one of its subnets that holds the address.
    pub subnet: IpNet,
}

/// A segment: addresses that pods on any node may have. Its record is an object of kind `Segment`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SegmentFacts {
    /// Its name.
    pub name: String,
    /// Its number, which no other segment has.
    pub id: u32,
    /// Its subnets, in the order in which it got them.
    pub subnets: Vec<IpNet>,
    /// The address that stands for it outside, if its network asked for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<IpAddr>,
}

/// Where a pod's address comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pool {
    /// The block. Addresses are picked from it one by one; with a segment, subnets are, and addresses from those.
    pub block: IpNet,
    /// Addresses of the block that must not be given to pods, besides the first and last of an IPv4 block.
    #[serde(default)]
    pub reserved: Vec<IpAddr>,
    /// The pod belongs to a segment, which the control plane makes when its first pod comes, and extends when it is full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<SegmentPool>,
}

/// The segment that a pod's address is to belong to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SegmentPool {
    /// Its name, a DNS label. It stays as long as its pods, and as the namespace of its first pod.
    pub name: String,
    /// Length of the prefix of each of its subnets.
    pub prefix_length: u8,
    /// How many of a subnet's first addresses, besides the very first of all, no pod may have: gateways, say.
    #[serde(default)]
    pub kept: u32,
    /// The smallest and the largest number that it may get.
    pub ids: (u32, u32),
    /// It gets an address from here that stands for it outside. The first address is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<IpNet>,
}

impl NodeFacts {
    /// The largest packet that passes on the way to this node, if that is less than what leaves the one that sends it.
    pub fn narrower(&self, facts: &Facts) -> Option<u32> {
        self.mtu.filter(|mtu| *mtu < facts.underlay_mtu)
    }
}

impl Pool {
    /// A node's block of addresses, or another, shared by nobody.
    pub fn of(block: IpNet) -> Self {
        Self { block, reserved: Vec::new(), segment: None }
    }
}
