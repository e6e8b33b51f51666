//! Which nodes carry gateways to the outside: one active, one standing by.
//!
//! Nodes labelled for it may; where none is, any worker. The active one stays as long as it lives, and does not come back to it
//! when it does: every change breaks somebody's connection. What was decided is an annotation on the Node, a fact like any other.

use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use switchyard_api::{edge_role, names};
use switchyard_plugin::EdgeRole;

use crate::context::Context;
use crate::error::{Result, unless_gone};
use crate::node::condition;
use crate::queue::{Next, Queue};

/// What of a node matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Candidate {
    name: String,
    role: Option<EdgeRole>,
    alive: bool,
    /// Labelled to carry gateways.
    chosen: bool,
    control_plane: bool,
}

const NAME: &str = "edge-controller";
/// One active, one standing by.
const EDGES: usize = 2;

pub(crate) fn controller(context: &Arc<Context>) -> BoxFuture<'static, ()> {
    let queue = Queue::new();
    let wake = queue.clone();
    context.caches.nodes.on_change(move |old, new| {
        if old.map(|node| Candidate::of(node)) != new.map(|node| Candidate::of(node)) {
            wake.add(());
        }
    });
    let context = context.clone();
    Box::pin(async move {
        context.caches.nodes.synced().await;
        queue.add(());
        queue.run(NAME, 1, |()| step(&context)).await;
    })
}

async fn step(context: &Context) -> Result<Next> {
    let nodes = context.caches.nodes.all();
    let candidates: Vec<Candidate> = nodes.iter().map(|node| Candidate::of(node)).collect();
    let mut changes: Vec<(&Candidate, Option<EdgeRole>)> =
        candidates.iter().zip(elect(&candidates)).filter(|(candidate, role)| candidate.role != *role).collect();
    // The new one is there before the old one goes.
    changes.sort_by_key(|(_, role)| role.is_none_or(|role| role != EdgeRole::Active));
    for (candidate, role) in changes {
        let word = role.map(|role| if role == EdgeRole::Active { "active" } else { "standby" });
        tracing::info!(node = candidate.name, role = word, "gateways to the outside");
        let patch = Patch::Merge(json!({"metadata": {"annotations": {names::EDGE: word}}}));
        let written = context.cluster_api::<Node>().patch(&candidate.name, &PatchParams::default(), &patch).await;
        if let Some(node) = unless_gone(written)? {
            if role == Some(EdgeRole::Active) {
                context.events.normal(NAME, &node, "EdgeActive", "This node carries the gateways to the outside.");
            }
            context.caches.nodes.wrote(node);
        }
    }
    Ok(Next::Change)
}

/// The role of each. Where nobody of those that may is alive, everything stays as it is: there is nobody better, or nobody yet.
fn elect(candidates: &[Candidate]) -> Vec<Option<EdgeRole>> {
    let chosen = candidates.iter().any(|one| one.chosen);
    let workers = candidates.iter().any(|one| !one.control_plane);
    let may = |one: &Candidate| if chosen { one.chosen } else { !(workers && one.control_plane) };
    let mut ranked: Vec<usize> = (0..candidates.len()).filter(|at| may(&candidates[*at])).collect();
    ranked.sort_by_key(|at| {
        let one = &candidates[*at];
        // Who lives; then who has it; then by name.
        (!one.alive, one.role.is_none(), one.role, &one.name)
    });
    if ranked.first().is_none_or(|first| !candidates[*first].alive) {
        return candidates.iter().map(|one| one.role).collect();
    }
    let mut roles = vec![None; candidates.len()];
    for (place, at) in ranked.into_iter().take(EDGES).enumerate() {
        roles[at] = Some(if place == 0 { EdgeRole::Active } else { EdgeRole::Standby });
    }
    roles
}

// === impl Candidate ===

impl Candidate {
    fn of(node: &Node) -> Self {
        let labelled = |label| node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(label));
        Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            role: edge_role(node),
            alive: condition(node, "Ready").is_some_and(|ready| ready.status == "True"),
            chosen: labelled(names::EDGE_LABEL),
            control_plane: labelled(names::CONTROL_PLANE_LABEL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> Candidate {
        Candidate { name: name.into(), role: None, alive: true, chosen: false, control_plane: false }
    }

    fn after(candidates: &mut [Candidate]) -> Vec<String> {
        for (candidate, role) in candidates.to_vec().iter().zip(elect(candidates)) {
            candidates.iter_mut().find(|one| one.name == candidate.name).unwrap().role = role;
        }
        let words = candidates.iter().filter_map(|one| Some(format!("{} {:?}", one.name, one.role?)));
        words.collect()
    }

    #[test]
    fn two_workers_carry_gateways_where_nobody_is_labelled() {
        let master = Candidate { control_plane: true, ..node("a") };
        let mut nodes = [master, node("b"), node("c"), node("d")];
        assert_eq!(after(&mut nodes), ["b Active", "c Standby"]);
        nodes[3].chosen = true;
        assert_eq!(after(&mut nodes), ["d Active"]);
        assert_eq!(after(&mut [Candidate { control_plane: true, ..node("a") }]), ["a Active"]);
    }

    #[test]
    fn nobody_carries_gateways_before_it_lives() {
        let mut nodes = [node("a"), node("b")];
        nodes.iter_mut().for_each(|node| node.alive = false);
        assert!(after(&mut nodes).is_empty());
        nodes[1].alive = true;
        assert_eq!(after(&mut nodes), ["a Standby", "b Active"]);
        nodes[0].alive = true;
        assert_eq!(after(&mut nodes), ["a Standby", "b Active"], "the first one that lived keeps it");
    }

    #[test]
    fn the_standby_takes_over_and_keeps_it() {
        let mut nodes = [node("a"), node("b"), node("c")];
        assert_eq!(after(&mut nodes), ["a Active", "b Standby"]);
        nodes[0].alive = false;
        assert_eq!(after(&mut nodes), ["b Active", "c Standby"]);
        nodes[0].alive = true;
        assert_eq!(after(&mut nodes), ["b Active", "c Standby"]);
        nodes.iter_mut().for_each(|node| node.alive = false);
        assert_eq!(after(&mut nodes), ["b Active", "c Standby"], "nobody is better");
    }
}
