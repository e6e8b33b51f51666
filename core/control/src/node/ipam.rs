//! Blocks of pod addresses: every node has one, and no two overlap.
//!
//! The record is the nodes' `spec.podCIDR` alone. One that a node brings along is respected; of two that overlap, the node that was
//! there first keeps its block and the other is told, and gets no pods until it has another one.

use std::sync::Arc;

use futures::future::BoxFuture;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::condition;
use crate::cache::Key;
use crate::context::Context;
use crate::error::{Result, unless_gone};
use crate::meta;
use crate::queue::{Next, Queue};

const NAME: &str = "node-ipam-controller";
const OVERLAP: &str = "BlockNotAvailable";
const CONDITION: &str = "NetworkUnavailable";

pub(crate) fn controller(context: &Arc<Context>) -> BoxFuture<'static, ()> {
    let queue = Queue::<Key>::new();
    let wake = queue.clone();
    let weak = Arc::downgrade(context);
    context.caches.nodes.on_change(move |old, new| {
        let block = |node: Option<&Arc<Node>>| node.and_then(|node| node.spec.as_ref()?.pod_cidr.clone());
        if let Some(node) = new {
            wake.add(Key::of(&node.metadata));
        }
        // A block was given up: somebody may wait for it.
        if old.is_some()
            && block(old) != block(new)
            && let Some(context) = weak.upgrade()
        {
            context.caches.nodes.all().iter().for_each(|node| wake.add(Key::of(&node.metadata)));
        }
    });
    let context = context.clone();
    Box::pin(async move {
        tokio::join!(context.caches.nodes.synced(), context.caches.segments.synced());
        // One worker: the next step sees what the last one gave.
        queue.run(NAME, 1, |key| step(&context, key)).await;
    })
}

async fn step(context: &Context, key: Key) -> Result<Next> {
    let nodes = context.caches.nodes.all();
    let Some(node) = nodes.iter().find(|node| node.metadata.name.as_deref() == Some(&*key.name)) else {
        return Ok(Next::Change);
    };
    let text = node.spec.as_ref().and_then(|spec| spec.pod_cidr.as_deref()).filter(|text| !text.is_empty());
    let problem = match text {
        Some(text) => conflict(context, node, text, &nodes),
        None => match free(context, &nodes) {
            Some(block) => {
                give(context, node, block).await?;
                None
            }
            None => {
                let facts = &context.config.facts;
                Some(format!("no block of length {} is free in {}", context.config.node_prefix_length, facts.pod_cidr))
            }
        },
    };
    report(context, node, problem).await?;
    Ok(Next::Change)
}

/// What is wrong with a block that a node has.
fn conflict(context: &Context, node: &Node, text: &str, nodes: &[Arc<Node>]) -> Option<String> {
    let Ok(block) = text.parse::<IpNet>() else {
        return Some(format!("spec.podCIDR {text:?} is not a prefix, such as 10.40.1.0/24"));
    };
    if !context.config.facts.pod_cidr.contains(&block) {
        return Some(format!(
            "spec.podCIDR {block} is not part of the cluster's pod addresses {}",
            context.config.facts.pod_cidr
        ));
    }
    for segment in context.caches.segments.all() {
        if let Some(subnet) = segment.spec.subnets.iter().find(|subnet| overlap(subnet, &block)) {
            let name = segment.metadata.name.as_deref().unwrap_or("");
            return Some(format!("spec.podCIDR {block} overlaps {subnet} of segment {name}"));
        }
    }
    // The API server gives uids that ascend (RFC 9562, version 7): they tell nodes of the same second apart.
    let age = |node: &Node| (node.metadata.creation_timestamp.clone(), node.metadata.uid.clone());
    let other = nodes.iter().find(|other| {
        other.metadata.uid != node.metadata.uid
            && age(other) < age(node)
            && self::block(other).is_some_and(|b| overlap(&b, &block))
    })?;
    let name = other.metadata.name.as_deref().unwrap_or("");
    Some(format!("spec.podCIDR {block} overlaps {} of node {name}", self::block(other)?))
}

fn free(context: &Context, nodes: &[Arc<Node>]) -> Option<IpNet> {
    let segments = context.caches.segments.all();
    let used = nodes.iter().filter_map(|node| block(node));
    let used: Vec<IpNet> = used.chain(segments.iter().flat_map(|segment| segment.spec.subnets.clone())).collect();
    let mut blocks = context.config.facts.pod_cidr.subnets(context.config.node_prefix_length).ok()?;
    blocks.find(|block| !used.iter().any(|used| overlap(used, block)))
}

fn block(node: &Node) -> Option<IpNet> {
    node.spec.as_ref()?.pod_cidr.as_deref()?.parse().ok()
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

async fn give(context: &Context, node: &Node, block: IpNet) -> Result<()> {
    let name = node.metadata.name.as_deref().unwrap_or("");
    let pinned = json!({"uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version});
    let patch = json!({"metadata": pinned, "spec": {"podCIDR": block, "podCIDRs": [block]}});
    let written = context.cluster_api::<Node>().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
    if let Some(node) = unless_gone(written)? {
        tracing::info!(node = name, %block, "block of pod addresses");
        context.caches.nodes.wrote(node);
    }
    Ok(())
}

/// The condition NetworkUnavailable, and an event when it turns.
async fn report(context: &Context, node: &Node, problem: Option<String>) -> Result<()> {
    let old = condition(node, CONDITION).filter(|old| old.reason.as_deref() == Some(OVERLAP) && old.status == "True");
    if old.and_then(|old| old.message.as_ref()) == problem.as_ref() {
        return Ok(());
    }
    let (status, reason, message) = match &problem {
        Some(message) => ("True", OVERLAP, message.as_str()),
        None => ("False", "BlockGiven", "the node has a block of pod addresses of its own"),
    };
    if problem.is_some() {
        context.events.warning(NAME, node, OVERLAP, message);
    }
    let condition = json!({
        "type": CONDITION, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": meta::now(), "lastHeartbeatTime": meta::now(),
    });
    let name = node.metadata.name.as_deref().unwrap_or("");
    let patch =
        Patch::Strategic(json!({"metadata": {"uid": node.metadata.uid}, "status": {"conditions": [condition]}}));
    let written = context.cluster_api::<Node>().patch_status(name, &PatchParams::default(), &patch).await;
    if let Some(node) = unless_gone(written)? {
        context.caches.nodes.wrote(node);
    }
    Ok(())
}
