//! Pods leave a node that carries a NoExecute taint they do not tolerate, or no longer do.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};

use super::{NOT_READY, UNREACHABLE};
use crate::cache::Key;
use crate::context::{BY_NODE, Context};
use crate::error::Result;
use crate::queue::{Next, Queue};
use crate::scheduler::filter::tolerated;
use crate::{meta, pod};

const NAME: &str = "taint-eviction-controller";
const WORKERS: usize = 8;

pub(crate) fn controller(context: &Arc<Context>) -> BoxFuture<'static, ()> {
    let queue = Queue::<Key>::new();
    let wake = queue.clone();
    context.caches.nodes.on_change(move |old, new| {
        let taints = |node: Option<&Arc<Node>>| node.and_then(|node| node.spec.as_ref()?.taints.clone());
        if let Some(node) = new.filter(|_| taints(old) != taints(new)) {
            wake.add(Key::of(&node.metadata));
        }
    });
    let wake = queue.clone();
    context.caches.pods.on_change(move |old, new| {
        let node = |pod: Option<&Arc<Pod>>| pod.and_then(|pod| pod::node(pod)).map(str::to_owned);
        if let Some(name) = node(new).filter(|_| node(old) != node(new)) {
            wake.add(Key::cluster(&name));
        }
    });
    let context = context.clone();
    Box::pin(async move {
        tokio::join!(context.caches.nodes.synced(), context.caches.pods.synced());
        queue.run(NAME, WORKERS, |key| step(&context, key)).await;
    })
}

async fn step(context: &Context, key: Key) -> Result<Next> {
    let Some(node) = context.caches.nodes.get(&key) else { return Ok(Next::Change) };
    let taints: Vec<&Taint> = node
        .spec
        .iter()
        .flat_map(|spec| spec.taints.iter().flatten())
        .filter(|taint| taint.effect == "NoExecute")
        .collect();
    if taints.is_empty() {
        return Ok(Next::Change);
    }
    let mut soonest: Option<Duration> = None;
    for pod in context.caches.pods.by(BY_NODE, &key.name).iter().filter(|pod| pod::is_active(pod)) {
        match leaves_in(pod, &taints, context.config.default_toleration) {
            None => {}
            Some(left) if left.is_zero() => {
                context.events.normal(
                    NAME,
                    &**pod,
                    "TaintManagerEviction",
                    format!("Marking for deletion Pod {}", Key::of(&pod.metadata)),
                );
                context.delete_pod(pod, None).await?;
            }
            Some(left) => soonest = Some(soonest.map_or(left, |soonest| soonest.min(left))),
        }
    }
    Ok(soonest.map_or(Next::Change, Next::After))
}

/// How long until the pod must leave; none if it may stay.
fn leaves_in(pod: &Pod, taints: &[&Taint], default: Duration) -> Option<Duration> {
    let tolerations = pod::spec(pod).and_then(|spec| spec.tolerations.as_deref()).unwrap_or(&[]);
    let mut soonest: Option<Duration> = None;
    for taint in taints {
        let mut covered = false;
        let mut stays: Option<Duration> = None;
        for toleration in tolerations.iter().filter(|toleration| tolerated(taint, toleration)) {
            covered = true;
            if let Some(seconds) = toleration.toleration_seconds {
                let seconds = Duration::from_secs(seconds.max(0) as u64);
                stays = Some(stays.map_or(seconds, |stays| stays.min(seconds)));
            }
        }
        let by_default = matches!(taint.key.as_str(), NOT_READY | UNREACHABLE).then_some(default);
        let stays = match (covered, stays) {
            (true, None) => continue,
            (true, Some(stays)) => stays,
            (false, _) => by_default.unwrap_or(Duration::ZERO),
        };
        let left = stays.saturating_sub(taint.time_added.as_ref().map(meta::age).unwrap_or_default());
        soonest = Some(soonest.map_or(left, |soonest| soonest.min(left)));
    }
    soonest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn leaves(tolerations: serde_json::Value, key: &str) -> Option<u64> {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [], "tolerations": tolerations}}))
                .unwrap();
        let taint = Taint { key: key.into(), effect: "NoExecute".into(), value: None, time_added: None };
        leaves_in(&pod, &[&taint], Duration::from_secs(7)).map(|left| left.as_secs())
    }

    #[test]
    fn a_pod_stays_as_long_as_it_tolerates_the_taint() {
        assert_eq!(leaves(json!([]), UNREACHABLE), Some(7), "the cluster's default");
        assert_eq!(leaves(json!([]), "maintenance"), Some(0));
        assert_eq!(
            leaves(json!([{"key": UNREACHABLE, "operator": "Exists", "tolerationSeconds": 5}]), UNREACHABLE),
            Some(5)
        );
        assert_eq!(leaves(json!([{"key": UNREACHABLE, "operator": "Exists"}]), UNREACHABLE), None);
        assert_eq!(leaves(json!([{"operator": "Exists"}]), "maintenance"), None);
    }
}
