//! Whether nodes are alive. A node whose lease is not renewed becomes `Ready=Unknown`, its pods not ready; taints follow conditions.
//!
//! A lease's age is counted from when a renewal was *seen* here, so neither a clock that is off nor a control plane that was away
//! makes a node look dead.

use std::sync::{Arc, Mutex};

use foldhash::{HashMap, HashMapExt};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use switchyard_api::names;
use tokio::time::Instant;

use super::{NETWORK_UNAVAILABLE, NOT_READY, UNREACHABLE, condition};
use crate::cache::Key;
use crate::context::{BY_NODE, Context};
use crate::error::{Result, unless_gone};
use crate::queue::{Next, Queue};
use crate::{meta, pod};

struct Lifecycle {
    context: Arc<Context>,
    renewals: Mutex<HashMap<Key, Renewal>>,
}

/// The last renewal of a node's lease, and when it was seen.
struct Renewal {
    uid: Option<String>,
    time: Option<MicroTime>,
    seen: Instant,
}

const NAME: &str = "node-lifecycle-controller";
const WORKERS: usize = 8;
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Taints that this controller sets and removes; all others are somebody else's.
const OURS: [&str; 4] = [NOT_READY, UNREACHABLE, NETWORK_UNAVAILABLE, UNSCHEDULABLE];

pub(crate) fn controller(context: &Arc<Context>) -> BoxFuture<'static, ()> {
    let queue = Queue::<Key>::new();
    let wake = queue.clone();
    context.caches.nodes.on_change(move |old, new| {
        if let Some(node) = new.or(old) {
            wake.add(Key::of(&node.metadata));
        }
    });
    let wake = queue.clone();
    context.caches.leases.on_change(move |old, new| {
        if let Some(lease) = new.or(old) {
            wake.add(Key::cluster(lease.metadata.name.as_deref().unwrap_or("")));
        }
    });
    let lifecycle = Lifecycle { context: context.clone(), renewals: Mutex::new(HashMap::new()) };
    Box::pin(async move {
        let caches = &lifecycle.context.caches;
        tokio::join!(caches.nodes.synced(), caches.leases.synced(), caches.pods.synced());
        queue.run(NAME, WORKERS, |key| lifecycle.step(key)).await;
    })
}

// === impl Lifecycle ===

impl Lifecycle {
    async fn step(&self, key: Key) -> Result<Next> {
        let Some(mut node) = self.context.caches.nodes.get(&key) else {
            self.renewals.lock().expect("no panic while locked").remove(&key);
            return Ok(Next::Change);
        };
        let age = self.since_renewal(&key, &node).elapsed();
        let grace = self.context.config.node_grace;
        let lost = age >= grace;
        if lost && condition(&node, "Ready").is_none_or(|ready| ready.status != "Unknown") {
            self.set_unknown(&node).await?;
            node = self.context.caches.nodes.get(&key).unwrap_or(node);
        }
        if lost {
            self.set_pods_not_ready(&key).await?;
        }
        self.set_taints(&node).await?;
        Ok(if lost { Next::Change } else { Next::After(grace - age) })
    }

    fn since_renewal(&self, key: &Key, node: &Node) -> Instant {
        let lease = self.context.caches.leases.get(&Key::new(names::LEASE_NAMESPACE, &key.name));
        let time = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.clone());
        let mut renewals = self.renewals.lock().expect("no panic while locked");
        let same = renewals.get(key).filter(|renewal| renewal.time == time && renewal.uid == node.metadata.uid);
        let seen = same.map_or_else(Instant::now, |renewal| renewal.seen);
        renewals.insert(key.clone(), Renewal { uid: node.metadata.uid.clone(), time, seen });
        seen
    }

    async fn set_unknown(&self, node: &Node) -> Result<()> {
        let name = node.metadata.name.as_deref().unwrap_or("");
        tracing::warn!(node = name, "its lease is not renewed");
        self.context.events.warning(NAME, node, "NodeNotReady", "Node agent stopped renewing its lease.");
        let unknown = json!({
            "type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown",
            "message": "Node agent stopped renewing its lease.",
            "lastTransitionTime": meta::now(),
        });
        let patch =
            Patch::Strategic(json!({"metadata": {"uid": node.metadata.uid}, "status": {"conditions": [unknown]}}));
        let written = self.context.cluster_api::<Node>().patch_status(name, &PatchParams::default(), &patch).await;
        if let Some(node) = unless_gone(written)? {
            self.context.caches.nodes.wrote(node);
        }
        Ok(())
    }

    /// Nobody there says that they are ready any more, so Services leave them out.
    async fn set_pods_not_ready(&self, key: &Key) -> Result<()> {
        for pod in self.context.caches.pods.by(BY_NODE, &key.name).iter().filter(|pod| pod::is_ready(pod)) {
            let condition = json!({
                "type": "Ready", "status": "False", "reason": "NodeNotReady", "message": "Node is not ready",
                "lastProbeTime": null, "lastTransitionTime": meta::now(),
            });
            let patch =
                Patch::Strategic(json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}}));
            let key = Key::of(&pod.metadata);
            let api = self.context.api::<Pod>(&key.namespace);
            if let Some(pod) = unless_gone(api.patch_status(&key.name, &PatchParams::default(), &patch).await)? {
                self.context.caches.pods.wrote(pod);
            }
        }
        Ok(())
    }

    async fn set_taints(&self, node: &Node) -> Result<()> {
        let old = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
        let new = taints(node, &old);
        if old == new {
            return Ok(());
        }
        let name = node.metadata.name.as_deref().unwrap_or("");
        let pinned = json!({"uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version});
        let patch = Patch::Merge(json!({"metadata": pinned, "spec": {"taints": new}}));
        let written = self.context.cluster_api::<Node>().patch(name, &PatchParams::default(), &patch).await;
        if let Some(node) = unless_gone(written)? {
            self.context.caches.nodes.wrote(node);
        }
        Ok(())
    }
}

/// The taints a node should have: others' as they are, ours from its conditions.
fn taints(node: &Node, old: &[Taint]) -> Vec<Taint> {
    let mut wanted: Vec<(&str, &str)> = vec![];
    match condition(node, "Ready").map(|ready| ready.status.as_str()) {
        Some("True") => {}
        Some("Unknown") => wanted.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
        _ => wanted.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
    }
    if condition(node, "NetworkUnavailable").is_some_and(|condition| condition.status == "True") {
        wanted.push((NETWORK_UNAVAILABLE, "NoSchedule"));
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let is = |taint: &Taint, (key, effect): (&str, &str)| taint.key == key && taint.effect == effect;
    let mut taints: Vec<Taint> = old.to_vec();
    taints.retain(|taint| !OURS.contains(&taint.key.as_str()) || wanted.iter().any(|wanted| is(taint, *wanted)));
    for (key, effect) in wanted {
        if !taints.iter().any(|taint| is(taint, (key, effect))) {
            // When it was added counts for how long pods stay.
            let time_added = (effect == "NoExecute").then(meta::now);
            taints.push(Taint { key: key.into(), effect: effect.into(), value: None, time_added });
        }
    }
    taints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(ready: &str, taints: &[(&str, &str)]) -> Node {
        let taints: Vec<_> = taints.iter().map(|(key, effect)| json!({"key": key, "effect": effect})).collect();
        let node = json!({
            "metadata": {"name": "a"}, "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        });
        serde_json::from_value(node).unwrap()
    }

    fn after(node: &Node) -> Vec<String> {
        let old = node.spec.as_ref().unwrap().taints.clone().unwrap_or_default();
        taints(node, &old).iter().map(|taint| format!("{}:{}", taint.key, taint.effect)).collect()
    }

    #[test]
    fn taints_follow_the_condition_and_leave_others_alone() {
        assert_eq!(after(&node("True", &[("a", "NoSchedule"), (UNREACHABLE, "NoExecute")])), ["a:NoSchedule"]);
        assert_eq!(
            after(&node("Unknown", &[("a", "NoSchedule"), (NOT_READY, "NoExecute")])),
            ["a:NoSchedule".to_owned(), format!("{UNREACHABLE}:NoSchedule"), format!("{UNREACHABLE}:NoExecute"),]
        );
        assert!(after(&node("True", &[])).is_empty());
    }
}
