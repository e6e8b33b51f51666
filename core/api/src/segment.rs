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

/// Something in a spec that no network could carry: the field, its value, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentFault {
    /// Below `spec`.
    pub field: String,
    /// As given.
    pub value: String,
    /// What would be right.
    pub expected: String,
}

cluster_scoped!(Segment, "Segment", "segments");

/// The largest number: that of VXLAN and Geneve, 24 bits (RFC 7348, RFC 8926). 0 is nobody's.
const MOST_ID: u32 = (1 << 24) - 1;
/// Subnets of a segment; every node looks through them for every pod.
const MOST_SUBNETS: usize = 1024;

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

    /// What is wrong with it by itself, if something is.
    pub fn check(&self) -> Result<(), SegmentFault> {
        for (field, value) in [("plugin", &self.plugin), ("namespace", &self.namespace)] {
            if value.is_empty() {
                return Err(SegmentFault::new(field, "", "a name"));
            }
        }
        if !(1..=MOST_ID).contains(&self.id) {
            return Err(SegmentFault::new("id", self.id, format!("a number from 1 to {MOST_ID}")));
        }
        if self.subnets.is_empty() || self.subnets.len() > MOST_SUBNETS {
            let given = format!("{} subnets", self.subnets.len());
            return Err(SegmentFault::new("subnets", given, format!("1 to {MOST_SUBNETS} subnets")));
        }
        for (number, subnet) in self.subnets.iter().enumerate() {
            let field = format!("subnets[{number}]");
            if subnet.trunc() != *subnet {
                return Err(SegmentFault::new(
                    field,
                    subnet,
                    format!("{}: no bits set beyond the prefix", subnet.trunc()),
                ));
            }
            if let Some(other) = self.subnets[..number].iter().find(|other| overlap(other, subnet)) {
                return Err(SegmentFault::new(field, subnet, format!("a subnet that does not overlap {other}")));
            }
        }
        Ok(())
    }

    /// What is wrong with it beside other segments, by their names.
    pub fn check_beside<'a>(&self, others: impl Iterator<Item = (&'a str, &'a Self)>) -> Result<(), SegmentFault> {
        for (name, other) in others {
            if other.id == self.id {
                return Err(SegmentFault::new("id", self.id, format!("a number other than that of segment {name}")));
            }
            let clash = |subnet: &&IpNet| other.subnets.iter().any(|theirs| overlap(theirs, subnet));
            if let Some(subnet) = self.subnets.iter().find(clash) {
                return Err(SegmentFault::new(
                    "subnets",
                    subnet,
                    format!("a subnet that does not overlap segment {name}"),
                ));
            }
        }
        Ok(())
    }

    /// What an update may not change: pods have addresses of it, and every node has its number in the kernel.
    pub fn check_update(&self, old: &Self) -> Result<(), SegmentFault> {
        let outside = |spec: &Self| spec.outside.map_or_else(String::new, |ip| ip.to_string());
        let fixed = [
            ("plugin", self.plugin.clone(), old.plugin.clone()),
            ("namespace", self.namespace.clone(), old.namespace.clone()),
            ("id", self.id.to_string(), old.id.to_string()),
            ("outside", outside(self), outside(old)),
        ];
        if let Some((field, now, was)) = fixed.into_iter().find(|(_, now, was)| now != was) {
            return Err(SegmentFault::new(field, now, format!("{was:?}: the field is immutable")));
        }
        match old.subnets.iter().find(|subnet| !self.subnets.contains(subnet)) {
            Some(gone) => {
                let all: Vec<_> = self.subnets.iter().map(IpNet::to_string).collect();
                Err(SegmentFault::new("subnets", all.join(", "), format!("{gone} among them: subnets are only added")))
            }
            None => Ok(()),
        }
    }
}

// === impl SegmentFault ===

impl SegmentFault {
    fn new(field: impl Into<String>, value: impl ToString, expected: impl Into<String>) -> Self {
        Self { field: field.into(), value: value.to_string(), expected: expected.into() }
    }
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(id: u32, subnets: &[&str]) -> SegmentSpec {
        let subnets = subnets.iter().map(|one| one.parse().unwrap()).collect();
        SegmentSpec { plugin: "nsx".into(), namespace: "default".into(), id, subnets, outside: None }
    }

    fn field(outcome: Result<(), SegmentFault>) -> Option<String> {
        outcome.err().map(|fault| fault.field)
    }

    #[test]
    fn what_no_network_could_carry_is_named() {
        assert_eq!(spec(1, &["10.40.128.0/24"]).check(), Ok(()));
        assert_eq!(spec(16_777_215, &["10.40.128.0/24", "10.40.129.0/24"]).check(), Ok(()));
        let fault = spec(16_777_216, &["10.40.128.0/24"]).check().unwrap_err();
        assert_eq!((fault.field.as_str(), fault.expected.as_str()), ("id", "a number from 1 to 16777215"));
        assert_eq!(field(spec(0, &["10.40.128.0/24"]).check()), Some("id".into()));
        assert_eq!(field(spec(1, &[]).check()), Some("subnets".into()));
        assert_eq!(field(spec(1, &["10.40.128.7/24"]).check()), Some("subnets[0]".into()));
        assert_eq!(field(spec(1, &["10.40.128.0/24", "10.40.128.128/25"]).check()), Some("subnets[1]".into()));
    }

    #[test]
    fn two_segments_share_neither_number_nor_addresses() {
        let (own, other) = (spec(1, &["10.40.128.0/24"]), spec(2, &["10.40.129.0/24"]));
        assert_eq!(own.check_beside([("other", &other)].into_iter()), Ok(()));
        let same = spec(1, &["10.40.129.0/24"]);
        assert_eq!(field(own.check_beside([("other", &same)].into_iter())), Some("id".into()));
        let around = spec(2, &["10.40.128.0/23"]);
        assert_eq!(field(own.check_beside([("other", &around)].into_iter())), Some("subnets".into()));
    }

    #[test]
    fn a_segment_only_grows() {
        let old = spec(1, &["10.40.128.0/24"]);
        assert_eq!(spec(1, &["10.40.128.0/24", "10.40.129.0/24"]).check_update(&old), Ok(()));
        assert_eq!(field(spec(2, &["10.40.128.0/24"]).check_update(&old)), Some("id".into()));
        let fault = spec(1, &["10.40.129.0/24"]).check_update(&old).unwrap_err();
        assert_eq!((fault.value.as_str(), fault.field.as_str()), ("10.40.129.0/24", "subnets"));
    }
}
