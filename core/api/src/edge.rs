//! Which nodes carry gateways to the outside: a label asks for it, an annotation says what came of it.

use k8s_openapi::api::core::v1::Node;
use switchyard_plugin::EdgeRole;

use crate::names;

/// What a node is among those that carry gateways, as the control plane has written it.
pub fn edge_role(node: &Node) -> Option<EdgeRole> {
    match node.metadata.annotations.as_ref()?.get(names::EDGE)?.as_str() {
        "active" => Some(EdgeRole::Active),
        "standby" => Some(EdgeRole::Standby),
        _ => None,
    }
}
