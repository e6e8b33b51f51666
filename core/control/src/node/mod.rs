//! Nodes: their blocks of pod addresses, whether they are alive, and what that means for their pods.

pub(crate) mod evict;
pub(crate) mod ipam;
pub(crate) mod lifecycle;
pub(crate) mod podgc;

use k8s_openapi::api::core::v1::{Node, NodeCondition};

/// Taint of a node whose agent says it is not ready.
pub(crate) const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Taint of a node whose agent says nothing.
pub(crate) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Taint of a node that cannot have pods' addresses.
pub(crate) const NETWORK_UNAVAILABLE: &str = "node.kubernetes.io/network-unavailable";

pub(crate) fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}
