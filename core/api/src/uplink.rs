//! What a node's uplink carries: an annotation that its agent writes.

use k8s_openapi::api::core::v1::Node;

use crate::names;

/// The largest packet, in bytes, that leaves a node by its uplink, as its agent has said it.
pub fn uplink_mtu(node: &Node) -> Option<u32> {
    node.metadata.annotations.as_ref()?.get(names::UPLINK_MTU)?.parse().ok()
}
