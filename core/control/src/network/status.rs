//! What the Network object says about how things are.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use switchyard_api::{Condition, Network, NetworkStatus, NodeNetworkStatus, Outcome, Swap, names};

use super::plugins::Refusal;

pub(super) const READY: &str = "Ready";
pub(super) const SWAPPED: &str = "Swapped";
/// So many names are spelled out in a message.
const NAMED: usize = 3;

/// A node's report, as its agent wrote it.
pub(super) fn report(node: &Node) -> Option<&String> {
    node.metadata.annotations.as_ref()?.get(names::NODE_NETWORK)
}

/// The same, read.
pub(crate) fn node_report(node: &Node) -> NodeNetworkStatus {
    parsed(report(node), names::NODE_NETWORK)
}

/// The router's report, as it wrote it.
pub(super) fn router_report(network: &Network) -> Option<&String> {
    network.metadata.annotations.as_ref()?.get(names::ROUTER_NETWORK)
}

/// All nodes' reports. A node that has not reported is there, with generation 0.
pub(super) fn reports(nodes: &[Arc<Node>]) -> BTreeMap<String, NodeNetworkStatus> {
    nodes.iter().filter_map(|node| Some((node.metadata.name.clone()?, node_report(node)))).collect()
}

/// The router's report; `None` where there is no router that reports.
pub(super) fn router(network: &Network) -> Option<NodeNetworkStatus> {
    router_report(network).map(|text| parsed(Some(text), names::ROUTER_NETWORK))
}

fn parsed(text: Option<&String>, annotation: &str) -> NodeNetworkStatus {
    let Some(text) = text else { return NodeNetworkStatus::default() };
    serde_json::from_str(text).unwrap_or_else(|error| NodeNetworkStatus {
        error: Some(format!("annotation {annotation}: {error}")),
        ..NodeNetworkStatus::default()
    })
}

/// Status, reason and message of the condition Swapped; `None` where there never was a swap.
pub(super) fn swapped(status: &NetworkStatus) -> Option<(&'static str, &'static str, String)> {
    let way = |swap: &Swap| {
        format!("from {} {} to {} {}", swap.from.plugin, swap.from.version, swap.to.plugin, swap.to.version)
    };
    if let Some(swap) = status.swap.as_ref().filter(|swap| !swap.dry_run) {
        let back = swap.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        return Some(("Unknown", "Swapping", format!("{}, {:?}{back}", way(swap), swap.phase)));
    }
    let swap = status.last_swap.as_ref()?;
    let took = swap.milliseconds.unwrap_or_default();
    let why = swap.reason.clone().unwrap_or_default();
    Some(match swap.outcome {
        Some(Outcome::Swapped) => ("True", "Swapped", format!("{}, in {took:.0} ms", way(swap))),
        Some(Outcome::Returned) => ("False", "SwapReturned", format!("{}: {why}", way(swap))),
        _ => ("False", "SwapRefused", format!("{}: {why}", way(swap))),
    })
}

/// Status, reason and message of the condition Ready. `router` is what went wrong on the upstream device.
pub(super) fn ready(
    refusal: Option<&Refusal>,
    router: Option<&str>,
    status: &NetworkStatus,
) -> (&'static str, &'static str, String) {
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
    if let Some(error) = router {
        return ("False", "RouterFailed", format!("router: {error}"));
    }
    // In a swap, nodes that are done carry the new network already.
    let coming = status.swap.as_ref().map(|swap| swap.to.generation);
    let missing: Vec<&str> = status
        .nodes
        .iter()
        .filter(|(_, node)| node.generation != active.generation && Some(node.generation) != coming)
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

/// Sets a condition; true if its status or reason is another one now.
pub(super) fn set(status: &mut NetworkStatus, kind: &str, (holds, reason, message): (&str, &str, String)) -> bool {
    let at = status.conditions.iter().position(|condition| condition.kind == kind);
    let old = at.map(|at| status.conditions.remove(at));
    let turned = old.as_ref().is_none_or(|old| old.status != holds);
    let changed = turned || old.as_ref().is_none_or(|old| old.reason != reason);
    let since = old.filter(|_| !turned).map_or_else(now, |old| old.last_transition_time);
    let at = at.unwrap_or(status.conditions.len());
    let condition = Condition {
        kind: kind.into(),
        status: holds.into(),
        reason: reason.into(),
        message,
        last_transition_time: since,
    };
    status.conditions.insert(at, condition);
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
            ..NodeNetworkStatus::default()
        };
        let nodes =
            generations.iter().map(|(name, generation, error)| ((*name).into(), node(*generation, *error))).collect();
        NetworkStatus { active: Some(active), nodes, ..NetworkStatus::default() }
    }

    #[test]
    fn a_network_is_ready_when_every_node_carries_it() {
        assert_eq!(ready(None, None, &status(&[("a", 2, None), ("b", 2, None)])).0, "True");
        let (ready, reason, message) = ready(None, None, &status(&[("a", 2, None), ("b", 1, None)]));
        assert_eq!((ready, reason, message.as_str()), ("False", "NodesPending", "waiting for 1 of 2 nodes: b"));
        let (_, reason, message) = super::ready(None, None, &status(&[("a", 2, Some("no bridge")), ("b", 1, None)]));
        assert_eq!((reason, message.as_str()), ("NodeFailed", "a: no bridge"));
        let (_, reason, message) = super::ready(None, Some("no plugin"), &status(&[("a", 2, None)]));
        assert_eq!((reason, message.as_str()), ("RouterFailed", "router: no plugin"));
    }

    #[test]
    fn a_refused_spec_says_what_goes_on_instead() {
        let refusal = Refusal { reason: "PluginNotFound", message: "no plugin \"x\"".into() };
        let (ready, reason, message) = ready(Some(&refusal), None, &status(&[]));
        assert_eq!(
            (ready, reason, message.as_str()),
            ("False", "PluginNotFound", "no plugin \"x\"; kubenet 1.0 goes on")
        );
    }

    #[test]
    fn the_time_of_a_condition_is_when_its_status_turned() {
        let mut network = status(&[]);
        assert!(set(&mut network, READY, ("False", "NodesPending", String::new())));
        network.conditions[0].last_transition_time = "then".into();
        assert!(!set(&mut network, READY, ("False", "NodesPending", "another message".into())));
        assert_eq!(network.conditions[0].last_transition_time, "then");
        assert!(set(&mut network, READY, ("True", "Active", String::new())));
        assert_ne!(network.conditions[0].last_transition_time, "then");
    }
}
