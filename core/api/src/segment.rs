//! `Segment`: addresses that pods on any node may have, for networks whose blocks span nodes.
//!
//! The control plane makes one when its first pod comes and extends it when it is full. It owns its number and its subnets; which
//! addresses of them are in use is what Pod objects say, as everywhere.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use switchyard_plugin::{PodSegment, SegmentFacts};

use crate::Condition;
use crate::meta::cluster_scoped;

/// A segment.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Segment {
    /// `switchyard.dev/v1alpha1`.
    pub api_version: String,
    /// `Segment`.
    pub kind: String,
    /// Standard metadata.
    pub metadata: ObjectMeta,
    /// What it owns.
    pub spec: SegmentSpec,
    /// How it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<SegmentStatus>,
}

/// What a segment owns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SegmentSpec {
    /// The plugin that asked for it.
    pub plugin: String,
    /// The namespace of its first pod; the segment stays at least as long.
    pub namespace: String,
    /// Its number, which no other segment has: a VXLAN network identifier, say.
    pub id: u32,
    /// Its subnets, in the order in which it got them.
    pub subnets: Vec<IpNet>,
    /// The address that stands for it outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<IpAddr>,
}

/// How a segment does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SegmentStatus {
    /// `Realised`: it has what it asks for, and a network carries it; if not, reason and message say why.
    pub conditions: Vec<Condition>,
}

cluster_scoped!(Segment, "Segment", "segments");

// === impl Segment ===

impl Segment {
    /// What a plugin is told about it.
    pub fn facts(&self) -> SegmentFacts {
        SegmentFacts {
            name: self.metadata.name.clone().unwrap_or_default(),
            id: self.spec.id,
            subnets: self.spec.subnets.clone(),
            outside: self.spec.outside,
        }
    }
}

impl SegmentSpec {
    /// What a plugin is told about a pod with an address of this segment; none if it is not of this segment.
    pub fn of_pod(&self, name: &str, ip: IpAddr) -> Option<PodSegment> {
        let subnet = self.subnets.iter().find(|subnet| subnet.contains(&ip))?;
        Some(PodSegment { name: name.to_owned(), id: self.id, subnet: *subnet })
    }
}
