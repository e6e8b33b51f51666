//! `Network`: which plugin carries the cluster's traffic, and how that goes.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

pub use switchyard_plugin::{Hosting, Options as PluginOptions};

use crate::meta::cluster_scoped;
use crate::swap::{Swap, SwapReport};

/// The cluster's network. There is one, named `default`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// `switchyard.dev/v1alpha1`.
    pub api_version: String,
    /// `Network`.
    pub kind: String,
    /// Standard metadata.
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: NetworkSpec,
    /// What is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<NetworkStatus>,
}

/// What is wanted of the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkSpec {
    /// Name of a plugin on the search path (`kubenet`), or a path to its file.
    pub plugin: String,
    /// Its options. Default none.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub options: PluginOptions,
    /// Where its code runs. Default `in-process`.
    #[serde(default)]
    pub hosting: Hosting,
    /// Raised to have the same tried again after a swap that failed. Default 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempt: u32,
}

/// How the network is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkStatus {
    /// The generation of the spec that this status speaks about.
    pub observed_generation: i64,
    /// The last spec that was found good. Agents and the router follow this and never the spec.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<ActiveNetwork>,
    /// `Ready`: the spec is active on every node; if not, reason and message say why. `Swapped`: how the last swap went.
    pub conditions: Vec<Condition>,
    /// How each node does, by its name.
    pub nodes: BTreeMap<String, NodeNetworkStatus>,
    /// The change of networks that is under way. It is what agents and the router go by, and all that is remembered of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap: Option<Swap>,
    /// The last one that ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_swap: Option<Swap>,
}

/// A spec that has been checked: the plugin was found, inspected, loaded, and took its options.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ActiveNetwork {
    /// The plugin's name, from its manifest.
    pub plugin: String,
    /// The plugin's version, from its manifest.
    pub version: String,
    /// The file it is in.
    pub file: String,
    /// SHA-256 of that file, hexadecimal.
    pub sha256: String,
    /// Its options.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub options: PluginOptions,
    /// Where its code runs.
    #[serde(default)]
    pub hosting: Hosting,
    /// The generation of the spec it was taken from.
    pub generation: i64,
}

/// How one node does, or the router.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeNetworkStatus {
    /// The generation of the active network that is in this node's kernel; 0 for none.
    pub generation: i64,
    /// The plugin's name.
    pub plugin: String,
    /// What went wrong, if something did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Segments that are not in this node's kernel as they should be, and why not.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub segments: BTreeMap<String, String>,
    /// How far it is in a swap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap: Option<SwapReport>,
}

/// A condition, as in Kubernetes (`metav1.Condition`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// Its type, `Ready` for instance.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// One word in CamelCase.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// When `status` last changed, RFC 3339.
    pub last_transition_time: String,
}

impl ActiveNetwork {
    /// Whether two differ in nothing but the generation that they were taken from.
    pub fn is_same(&self, other: &Self) -> bool {
        *self == Self { generation: self.generation, ..other.clone() }
    }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

cluster_scoped!(Network, "Network", "networks");
