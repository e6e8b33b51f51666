//! ReplicaSets: as many pods as wanted, no more, no fewer.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::cache::Key;
use crate::context::Context;
use crate::error::{Result, unless_gone};
use crate::queue::{Next, Queue};
use crate::{meta, ownership, pod, template};

const NAME: &str = "replicaset-controller";
const WORKERS: usize = 8;
/// A set is looked at once after a quiet time, and then no more often than this: its pods change one by one.
const PACE: Duration = Duration::from_millis(5);
/// Pods made or deleted at once at most, for one set.
const AT_ONCE: usize = 64;

pub(crate) fn controller(context: &Arc<Context>) -> BoxFuture<'static, ()> {
    let queue = Queue::<Key>::paced(PACE);
    let wake = queue.clone();
    context.caches.replica_sets.on_change(move |old, new| {
        if let Some(set) = new.or(old) {
            wake.add(Key::of(&set.metadata));
        }
    });
    ownership::wake_owners(context, "ReplicaSet", &queue, |context, pod| {
        let sets =
            context.caches.replica_sets.by(crate::context::NAMESPACE, pod.metadata.namespace.as_deref().unwrap_or(""));
        let selects = |set: &&Arc<ReplicaSet>| meta::selects(&set.spec.selector, &pod.metadata);
        sets.iter().filter(selects).map(|set| Key::of(&set.metadata)).collect()
    });
    let context = context.clone();
    Box::pin(async move {
        tokio::join!(context.caches.replica_sets.synced(), context.caches.pods.synced());
        queue.run(NAME, WORKERS, |key| step(&context, key)).await;
    })
}

async fn step(context: &Context, key: Key) -> Result<Next> {
    let Some(set) = context.caches.replica_sets.get(&key) else { return Ok(Next::Change) };
    let spec = &set.spec;
    let pods = ownership::claim(context, &*set, &spec.selector).await?;
    let active: Vec<Arc<Pod>> = pods.iter().filter(|pod| pod::is_active(pod)).cloned().collect();
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    let mut result = Ok(());
    if set.metadata.deletion_timestamp.is_none() {
        result = if active.len() < wanted {
            create(context, &set, (wanted - active.len()).min(ownership::MOST_MADE)).await
        } else {
            delete(context, &set, &active, active.len() - wanted).await
        };
    }
    // What the pods are now, not what they were.
    let pods = ownership::owned(context, &*set);
    let active: Vec<&Arc<Pod>> = pods.iter().filter(|pod| pod::is_active(pod)).collect();
    let min_ready = Duration::from_secs(spec.min_ready_seconds.unwrap_or(0).max(0) as u64);
    let waits: Vec<Duration> = active.iter().filter_map(|pod| pod::available_in(pod, min_ready)).collect();
    let failure = result.as_ref().err().map(ToString::to_string);
    write_status(context, &set, &pods, &waits, failure).await?;
    result?;
    Ok(waits.iter().filter(|wait| !wait.is_zero()).min().map_or(Next::Change, |wait| Next::After(*wait)))
}

/// Makes pods: one, then twice as many at each round that succeeds, so that a template nobody accepts costs one try.
async fn create(context: &Context, set: &ReplicaSet, missing: usize) -> Result<()> {
    let Some(template) = &set.spec.template else { return Ok(()) };
    let pod = template::pod(template, set);
    // It would be released at the next look, and missing again.
    if !meta::selects(&set.spec.selector, &pod.metadata) {
        return Ok(());
    }
    let (mut left, mut round) = (missing, 1);
    while left > 0 {
        let now = left.min(round).min(AT_ONCE);
        for result in join_all((0..now).map(|_| context.create_pod(&pod))).await {
            if let Err(error) = result {
                context.events.warning(NAME, set, "FailedCreate", format!("Error creating: {error}"));
                return Err(error);
            }
        }
        left -= now;
        round *= 2;
    }
    Ok(())
}

async fn delete(context: &Context, set: &ReplicaSet, active: &[Arc<Pod>], surplus: usize) -> Result<()> {
    let victims = ranked(active);
    for victims in victims[..surplus].chunks(AT_ONCE) {
        for result in join_all(victims.iter().map(|pod| context.delete_pod(pod, None))).await {
            if let Err(error) = result {
                context.events.warning(NAME, set, "FailedDelete", format!("Error deleting: {error}"));
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Pods in the order in which they are best missed: without a node, not ready, cheap, on a crowded node, ready for a short time,
/// restarted often, young.
pub(crate) fn ranked(pods: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
    let mut crowd = HashMap::<&str, i64>::new();
    for node in pods.iter().filter_map(|pod| pod::node(pod)) {
        *crowd.entry(node).or_default() += 1;
    }
    // The first pod of a node counts as its most crowded, the next one less: what is left is spread.
    let mut order: Vec<&Arc<Pod>> = pods.iter().collect();
    // Times have seconds; uids ascend.
    let age = |pod: &Pod| Reverse((pod.metadata.creation_timestamp.clone(), pod.metadata.uid.clone()));
    order.sort_by_key(|pod| age(pod));
    let mut keyed = vec![];
    for pod in order {
        let crowded = pod::node(pod).map_or(0, |node| {
            let left = crowd.entry(node).or_default();
            *left -= 1;
            *left + 1
        });
        let cost =
            pod.metadata.annotations.as_ref().and_then(|all| all.get("controller.kubernetes.io/pod-deletion-cost"));
        let cost: i32 = cost.and_then(|cost| cost.parse().ok()).unwrap_or(0);
        let since = pod::condition(pod, "Ready").and_then(|ready| ready.last_transition_time.clone());
        let restarts: i32 =
            pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten()).map(|c| c.restart_count).sum();
        let phase = match pod::phase(pod) {
            "Running" => 2,
            "Unknown" => 1,
            _ => 0,
        };
        let key = (
            (pod::node(pod).is_some(), phase, pod::is_ready(pod), cost),
            (Reverse(crowded), Reverse(since), Reverse(restarts), age(pod)),
            pod.metadata.name.clone(),
        );
        keyed.push((key, pod.clone()));
    }
    keyed.sort_by(|a, b| a.0.cmp(&b.0));
    keyed.into_iter().map(|(_, pod)| pod).collect()
}

async fn write_status(
    context: &Context,
    set: &ReplicaSet,
    pods: &[Arc<Pod>],
    waits: &[Duration],
    failure: Option<String>,
) -> Result<()> {
    let old = set.status.clone().unwrap_or_default();
    let template =
        set.spec.template.as_ref().and_then(|template| template.metadata.as_ref()?.labels.clone()).unwrap_or_default();
    let labelled = |pod: &&&Arc<Pod>| {
        let labels = pod.metadata.labels.as_ref();
        template.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
    };
    let active: Vec<&Arc<Pod>> = pods.iter().filter(|pod| pod::is_active(pod)).collect();
    let count = |n: usize| Some(i32::try_from(n).unwrap_or(i32::MAX));
    let new = ReplicaSetStatus {
        replicas: count(active.len()).unwrap_or(0),
        fully_labeled_replicas: count(active.iter().filter(labelled).count()),
        ready_replicas: count(waits.len()),
        available_replicas: count(waits.iter().filter(|wait| wait.is_zero()).count()),
        terminating_replicas: count(
            pods.iter().filter(|pod| pod::is_terminating(pod) && !pod::is_terminal(pod)).count(),
        ),
        observed_generation: set.metadata.generation,
        conditions: meta::replica_failure(old.conditions.as_deref(), failure.as_deref()),
    };
    if old == new {
        return Ok(());
    }
    let mut status = serde_json::to_value(&new).unwrap_or_default();
    status["conditions"] = new.conditions.map_or(serde_json::Value::Null, |conditions| json!(conditions));
    let patch = json!({"metadata": {"uid": set.metadata.uid}, "status": status});
    let key = Key::of(&set.metadata);
    let api = context.api::<ReplicaSet>(&key.namespace);
    if let Some(set) = unless_gone(api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await)? {
        context.caches.replica_sets.wrote(set);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
