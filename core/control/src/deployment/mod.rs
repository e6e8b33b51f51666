//! Deployments: one ReplicaSet for each state of the template; the newest grows as the older ones shrink.

mod revision;
mod rolling;
mod status;

pub(crate) use revision::hash;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::cache::Key;
use crate::context::{Context, NAMESPACE, ONLY_NAMESPACE, OWNER, gone_or_replaced, this_one};
use crate::error::{Result, unless_gone};
use crate::queue::{Next, Queue};
use crate::{meta, ownership, pod};

/// A Deployment and its ReplicaSets at one moment.
struct Sets {
    /// The one of the present template, if it was made.
    new: Option<Arc<ReplicaSet>>,
    /// The others, oldest first.
    old: Vec<Arc<ReplicaSet>>,
}

const NAME: &str = "deployment-controller";
const WORKERS: usize = 8;

pub(crate) fn controller(context: &Arc<Context>) -> BoxFuture<'static, ()> {
    let queue = Queue::<Key>::new();
    let wake = queue.clone();
    context.caches.deployments.on_change(move |old, new| {
        if let Some(deployment) = new.or(old) {
            wake.add(Key::of(&deployment.metadata));
        }
    });
    let (wake, weak) = (queue.clone(), Arc::downgrade(context));
    context.caches.replica_sets.on_change(move |old, new| {
        for set in [old, new].into_iter().flatten() {
            let namespace = set.metadata.namespace.as_deref().unwrap_or("");
            if let Some(owner) = meta::controller(&set.metadata) {
                wake.add(Key::new(namespace, &owner.name));
            } else if let Some(context) = weak.upgrade() {
                let deployments = context.caches.deployments.by(ONLY_NAMESPACE, namespace);
                let selects = |d: &&Arc<Deployment>| meta::selects(&d.spec.selector, &set.metadata);
                deployments.iter().filter(selects).for_each(|deployment| wake.add(Key::of(&deployment.metadata)));
            }
        }
    });
    // A Deployment that recreates waits for the last pod to be gone.
    let (wake, weak) = (queue.clone(), Arc::downgrade(context));
    context.caches.pods.on_change(move |old, new| {
        let (Some(old), None, Some(context)) = (old, new, weak.upgrade()) else { return };
        let namespace = old.metadata.namespace.as_deref().unwrap_or("");
        let Some(owner) = meta::controller(&old.metadata).filter(|owner| owner.kind == "ReplicaSet") else { return };
        let set = context.caches.replica_sets.get(&Key::new(namespace, &owner.name));
        if let Some(deployment) = set.as_ref().and_then(|set| meta::controller(&set.metadata)) {
            wake.add(Key::new(namespace, &deployment.name));
        }
    });
    let context = context.clone();
    Box::pin(async move {
        let caches = &context.caches;
        tokio::join!(caches.deployments.synced(), caches.replica_sets.synced(), caches.pods.synced());
        queue.run(NAME, WORKERS, |key| step(&context, key)).await;
    })
}

async fn step(context: &Context, key: Key) -> Result<Next> {
    let Some(deployment) = context.caches.deployments.get(&key) else { return Ok(Next::Change) };
    let deployment = &*deployment;
    if deployment.metadata.deletion_timestamp.is_some() {
        return status::write(context, deployment, &sets(context, deployment)).await;
    }
    adopt(context, deployment).await?;
    if deployment.spec.paused == Some(true) {
        let sets = sets(context, deployment);
        // Only the number of pods follows.
        if let Some(set) = sets.new.as_ref().or(sets.old.iter().rev().find(|set| replicas(set) > 0)) {
            scale(context, deployment, set, wanted(deployment)).await?;
        }
        return status::write(context, deployment, &self::sets(context, deployment)).await;
    }
    let recreates =
        deployment.spec.strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate");
    let ready = !recreates || rolling::all_gone(context, deployment, &sets(context, deployment)).await?;
    if ready {
        revision::ensure(context, deployment, &sets(context, deployment)).await?;
        if recreates {
            if let Some(new) = sets(context, deployment).new {
                scale(context, deployment, &new, wanted(deployment)).await?;
            }
        } else {
            rolling::step(context, deployment).await?;
        }
    }
    clean_up(context, deployment, &sets(context, deployment)).await?;
    status::write(context, deployment, &sets(context, deployment)).await
}

/// The ReplicaSets, from the cache.
fn sets(context: &Context, deployment: &Deployment) -> Sets {
    let uid = deployment.metadata.uid.as_deref().unwrap_or("");
    let mut all = context.caches.replica_sets.by(OWNER, uid);
    all.retain(|set| {
        set.metadata.namespace == deployment.metadata.namespace && set.metadata.deletion_timestamp.is_none()
    });
    all.sort_by_key(|set| (set.metadata.creation_timestamp.clone(), set.metadata.uid.clone()));
    let new = all.iter().position(|set| revision::is_of(set, &deployment.spec.template)).map(|at| all.remove(at));
    Sets { new, old: all }
}

/// Takes in ReplicaSets that match and have no owner.
async fn adopt(context: &Context, deployment: &Deployment) -> Result<()> {
    let namespace = deployment.metadata.namespace.as_deref().unwrap_or("");
    let mut orphans = context.caches.replica_sets.by(NAMESPACE, namespace);
    orphans.retain(|set| {
        let orphan = meta::controller(&set.metadata).is_none() && set.metadata.deletion_timestamp.is_none();
        orphan && meta::selects(&deployment.spec.selector, &set.metadata)
    });
    if !orphans.is_empty() && ownership::may_adopt(context, deployment).await? {
        for set in orphans {
            let pinned = json!({
                "uid": set.metadata.uid, "resourceVersion": set.metadata.resource_version,
                "ownerReferences": [meta::controlled_by(deployment)],
            });
            let patch = Patch::Strategic(json!({"metadata": pinned}));
            let name = set.metadata.name.as_deref().unwrap_or("");
            let api = context.api::<ReplicaSet>(namespace);
            if let Some(set) = unless_gone(api.patch(name, &PatchParams::default(), &patch).await)? {
                context.caches.replica_sets.wrote(set);
            }
        }
    }
    Ok(())
}

/// Gives a ReplicaSet its number of pods, and notes what the Deployment as a whole wants.
async fn scale(context: &Context, deployment: &Deployment, set: &ReplicaSet, to: i32) -> Result<()> {
    let annotations = revision::size_annotations(deployment);
    let same = annotations
        .iter()
        .all(|(key, value)| set.metadata.annotations.as_ref().and_then(|all| all.get(*key)) == Some(value));
    if replicas(set) == to && same {
        return Ok(());
    }
    let name = set.metadata.name.as_deref().unwrap_or("");
    let pinned = json!({
        "uid": set.metadata.uid, "resourceVersion": set.metadata.resource_version,
        "annotations": annotations.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
    });
    let patch = Patch::Merge(json!({"metadata": pinned, "spec": {"replicas": to}}));
    let api = context.api::<ReplicaSet>(set.metadata.namespace.as_deref().unwrap_or(""));
    if let Some(new) = unless_gone(api.patch(name, &PatchParams::default(), &patch).await)? {
        context.caches.replica_sets.wrote(new);
        if replicas(set) != to {
            let way = if to > replicas(set) { "up" } else { "down" };
            let message = format!("Scaled {way} replica set {name} from {} to {to}", replicas(set));
            context.events.normal(NAME, deployment, "ScalingReplicaSet", message);
        }
    }
    Ok(())
}

/// Deletes the oldest empty ReplicaSets beyond the history.
async fn clean_up(context: &Context, deployment: &Deployment, sets: &Sets) -> Result<()> {
    let keep = usize::try_from(deployment.spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
    let surplus = sets.old.len().saturating_sub(keep);
    let mut old: Vec<_> = sets.old.iter().filter(|set| replicas(set) == 0).collect();
    old.sort_by_key(|set| revision::of(&set.metadata));
    for set in old.into_iter().take(surplus) {
        if set.status.as_ref().is_some_and(|status| status.replicas > 0)
            || !ownership::owned(context, &**set).is_empty()
        {
            continue;
        }
        let key = Key::of(&set.metadata);
        if gone_or_replaced(
            context.api::<ReplicaSet>(&key.namespace).delete(&key.name, &this_one(&set.metadata.uid)).await,
        )? {
            context.caches.replica_sets.deleted(set);
        }
    }
    Ok(())
}

fn wanted(deployment: &Deployment) -> i32 {
    deployment.spec.replicas.unwrap_or(1).max(0)
}

fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

/// Pods that may be there besides, and that may be missing, while it rolls. Never both none, unless it recreates.
fn slack(deployment: &Deployment) -> (i32, i32) {
    let strategy = deployment.spec.strategy.as_ref();
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate") {
        return (0, 0);
    }
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let quarter = IntOrString::String("25%".into());
    let of = |value: Option<&IntOrString>, up: bool| part(value.unwrap_or(&quarter), wanted(deployment), up);
    let surge = of(rolling.and_then(|rolling| rolling.max_surge.as_ref()), true);
    let unavailable = of(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), false).min(wanted(deployment));
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

pub(crate) fn part(value: &IntOrString, of: i32, up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => (*number).max(0),
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0).clamp(0, 10_000);
            let product = percent * i64::from(of);
            i32::try_from(if up { (product + 99) / 100 } else { product / 100 }).unwrap_or(i32::MAX)
        }
    }
}

fn progress_deadline(deployment: &Deployment) -> Option<Duration> {
    let seconds = deployment.spec.progress_deadline_seconds.unwrap_or(600);
    (seconds != i32::MAX).then(|| Duration::from_secs(seconds.max(0) as u64))
}

/// Whether any pod of these sets still exists.
fn any_pods(context: &Context, sets: &[Arc<ReplicaSet>]) -> bool {
    sets.iter().any(|set| ownership::owned(context, &**set).iter().any(|pod| !pod::is_terminal(pod)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_towards_more_pods() {
        let percent = |text: &str| IntOrString::String(text.into());
        assert_eq!(part(&percent("25%"), 3, true), 1);
        assert_eq!(part(&percent("25%"), 3, false), 0);
        assert_eq!(part(&percent("50%"), 4, false), 2);
        assert_eq!(part(&IntOrString::Int(2), 10, true), 2);
    }
}
