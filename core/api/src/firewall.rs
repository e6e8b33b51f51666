//! `SecurityPolicy` and `Group`: the distributed firewall.
//!
//! Agents write what they have in force, and what its rules have counted, into `status.nodes`, each under its own name; the control
//! plane adds it up and says whether all of them have.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
pub use switchyard_policy::{GroupSpec, SecurityPolicySpec};

use crate::Condition;
use crate::meta::cluster_scoped;

/// Rules about who may talk to whom, in the whole cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecurityPolicy {
    /// `switchyard.dev/v1alpha1`.
    pub api_version: String,
    /// `SecurityPolicy`.
    pub kind: String,
    /// Standard metadata.
    pub metadata: ObjectMeta,
    /// What it says.
    pub spec: SecurityPolicySpec,
    /// How it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<SecurityPolicyStatus>,
}

/// How a policy does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SecurityPolicyStatus {
    /// `Realised`: every node has it in force; if not, reason and message say why.
    pub conditions: Vec<Condition>,
    /// What its rules have decided, on all nodes together.
    pub rules: Vec<RuleStatus>,
    /// What each node has in force, by its name.
    pub nodes: BTreeMap<String, NodePolicyStatus>,
}

/// What a node has in force of a policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodePolicyStatus {
    /// The generation of the policy that it speaks about.
    pub generation: i64,
    /// Why that is not in force, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What its rules have decided here.
    pub rules: Vec<RuleStatus>,
}

/// What a rule has decided. Only the first packet of a connection is judged, so packets are connections, or attempts at one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RuleStatus {
    /// Its name.
    pub name: String,
    /// For pods among its sources.
    pub egress: Hits,
    /// For pods among its destinations.
    pub ingress: Hits,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hits {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Pods and addresses that policies call by one name.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// `switchyard.dev/v1alpha1`.
    pub api_version: String,
    /// `Group`.
    pub kind: String,
    /// Standard metadata.
    pub metadata: ObjectMeta,
    /// Who is in it.
    pub spec: GroupSpec,
    /// How it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<GroupStatus>,
}

/// How a group does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupStatus {
    /// `Realised`: it has a meaning; the message says how many are in it.
    pub conditions: Vec<Condition>,
    /// How many pods are in it.
    pub pods: u64,
}

cluster_scoped!(SecurityPolicy, "SecurityPolicy", "securitypolicies");
cluster_scoped!(Group, "Group", "groups");

// === impl Hits ===

impl std::ops::AddAssign for Hits {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}
