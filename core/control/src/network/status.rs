//! What the Network object says about how things are.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use switchyard_api::{Condition, NetworkStatus, NodeNetworkStatus, names};

use super::plugins::Refusal;

const READY: &str = "Ready";
/// So many names are spelled out in a message.
const NAMED: usize = 3;

/// A node's report, as its agent wrote it.
pub(super) fn report(node: &Node) -> Option<&String> {
    node.metadata.annotations.as_ref()?.get(names::NODE_NETWORK)
}

/// All nodes' reports. A node that has not reported is there, with generation 0.
pub(super) fn reports(nodes: &[Arc<Node>]) -> BTreeMap<String, NodeNetworkStatus> {
    let status = |node: &Node| match report(node) {
        None => NodeNetworkStatus::default(),
        Some(text) => serde_json::from_str(text).unwrap_or_else(|error| NodeNetworkStatus {
            error: Some(format!("annotation {}: {error}", names::NODE_NETWORK)),
            ..NodeNetworkStatus::default()
        }),
    };
    nodes.iter().filter_map(|node| Some((node.metadata.name.clone()?, status(node)))).collect()
}

/// Status, reason and message of the condition Ready.
pub(super) fn ready(refusal: Option<&Refusal>, status: &NetworkStatus) -> (&'static str, &'static str, String) {
    if let Some(refusal) = refusal {
        let goes_on = match &status.active {
            Some(active) => format!("; {} {} goes on", active.plugin, active.version),
            None => String::new(),
        };
        return ("False", refusal.reason, format!("{}{goes_on}", refusal.message));
    }
    let Some(active) = &status.active else {
        return ("False", "NoNetwork", "no network is active".into());
    };
    let mut failed = status.nodes.iter().filter_map(|(name, node)| Some(format!("{name}: {}", node.error.as_ref()?)));
    if let Some(first) = failed.next() {
        let more = failed.count();
        let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
        return ("False", "NodeFailed", format!("{first}{more}"));
    }
    let missing: Vec<&str> = status
        .nodes
        .iter()
        .filter(|(_, node)| node.generation != active.generation)
        .map(|(name, _)| name.as_str())
        .collect();
    if !missing.is_empty() {
        let dots = if missing.len() > NAMED { ", ..." } else { "" };
        let named = missing[..missing.len().min(NAMED)].join(", ");
        return (
            "False",
            "NodesPending",
            format!("waiting for {} of {} nodes: {named}{dots}", missing.len(), status.nodes.len()),
        );
    }
    ("True", "Active", format!("{} {} is active on {} nodes", active.plugin, active.version, status.nodes.len()))
}

/// Sets the condition Ready; true if its status or reason is another one now.
pub(super) fn set_ready(status: &mut NetworkStatus, ready: &str, reason: &str, message: String) -> bool {
    let old =
        status.conditions.iter().position(|condition| condition.kind == READY).map(|at| status.conditions.remove(at));
    let turned = old.as_ref().is_none_or(|old| old.status != ready);
    let changed = turned || old.as_ref().is_none_or(|old| old.reason != reason);
    let since = old.filter(|_| !turned).map_or_else(now, |old| old.last_transition_time);
    status.conditions.push(Condition {
        kind: READY.into(),
        status: ready.into(),
        reason: reason.into(),
        message,
        last_transition_time: since,
    });
    changed
}

fn now() -> String {
    let now = jiff::Timestamp::now();
    now.round(jiff::Unit::Second).unwrap_or(now).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use switchyard_api::ActiveNetwork;

    fn status(generations: &[(&str, i64, Option<&str>)]) -> NetworkStatus {
        let active = ActiveNetwork {
            plugin: "kubenet".into(),
            version: "1.0".into(),
            file: String::new(),
            sha256: String::new(),
            options: Default::default(),
            hosting: Default::default(),
            generation: 2,
        };
        let node = |generation, error: Option<&str>| NodeNetworkStatus {
            generation,
            plugin: "kubenet".into(),
            error: error.map(str::to_owned),
        };
        let nodes =
            generations.iter().map(|(name, generation, error)| ((*name).into(), node(*generation, *error))).collect();
        NetworkStatus { active: Some(active), nodes, ..NetworkStatus::default() }
    }

    #[test]
    fn a_network_is_ready_when_every_node_carries_it() {
        assert_eq!(ready(None, &status(&[("a", 2, None), ("b", 2, None)])).0, "True");
        let (ready, reason, message) = ready(None, &status(&[("a", 2, None), ("b", 1, None)]));
        assert_eq!((ready, reason, message.as_str()), ("False", "NodesPending", "waiting for 1 of 2 nodes: b"));
        let (_, reason, message) = super::ready(None, &status(&[("a", 2, Some("no bridge")), ("b", 1, None)]));
        assert_eq!((reason, message.as_str()), ("NodeFailed", "a: no bridge"));
    }

    #[test]
    fn a_refused_spec_says_what_goes_on_instead() {
        let refusal = Refusal { reason: "PluginNotFound", message: "no plugin \"x\"".into() };
        let (ready, reason, message) = ready(Some(&refusal), &status(&[]));
        assert_eq!(
            (ready, reason, message.as_str()),
            ("False", "PluginNotFound", "no plugin \"x\"; kubenet 1.0 goes on")
        );
    }

    #[test]
    fn the_time_of_a_condition_is_when_its_status_turned() {
        let mut network = status(&[]);
        assert!(set_ready(&mut network, "False", "NodesPending", String::new()));
        network.conditions[0].last_transition_time = "then".into();
        assert!(!set_ready(&mut network, "False", "NodesPending", "another message".into()));
        assert_eq!(network.conditions[0].last_transition_time, "then");
        assert!(set_ready(&mut network, "True", "Active", String::new()));
        assert_ne!(network.conditions[0].last_transition_time, "then");
    }
}
