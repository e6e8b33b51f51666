//! StatefulSets: pods with names that stay, made and taken away in order.
//!
//! What to do next is a pure function of the pods there are ([`plan`]); the templates they are made from are kept as
//! ControllerRevisions ([`revision`]), so that a pod below the partition comes back as it was. There are no persistent volumes in a
//! Switchyard cluster, and the API server refuses a set that asks for them.

mod plan;
mod revision;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::cache::Key;
use crate::context::{Context, ONLY_NAMESPACE};
use crate::error::{Result, unless_gone};
use crate::queue::{Next, Queue};
use crate::{meta, ownership, pod, template};
use plan::{Plan, Wish};
use revision::{Revision, Revisions};

const NAME: &str = "statefulset-controller";
const WORKERS: usize = 4;
const PACE: Duration = Duration::from_millis(5);
/// Label of a pod: the revision it was made from.
const HASH: &str = "controller-revision-hash";
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

pub(crate) fn controller(context: &Arc<Context>) -> BoxFuture<'static, ()> {
    let queue = Queue::<Key>::paced(PACE);
    let wake = queue.clone();
    context.caches.stateful_sets.on_change(move |old, new| {
        if let Some(set) = new.or(old) {
            wake.add(Key::of(&set.metadata));
        }
    });
    let wake = queue.clone();
    context.caches.revisions.on_change(move |old, new| {
        let Some(revision) = new.or(old) else { return };
        if let Some(owner) = meta::controller(&revision.metadata).filter(|owner| owner.kind == "StatefulSet") {
            wake.add(Key::new(revision.metadata.namespace.as_deref().unwrap_or(""), &owner.name));
        }
    });
    ownership::wake_owners(context, "StatefulSet", &queue, |context, pod| {
        let sets = context.caches.stateful_sets.by(ONLY_NAMESPACE, pod.metadata.namespace.as_deref().unwrap_or(""));
        let selects = |set: &&Arc<StatefulSet>| meta::selects(&set.spec.selector, &pod.metadata);
        sets.iter().filter(selects).map(|set| Key::of(&set.metadata)).collect()
    });
    let context = context.clone();
    Box::pin(async move {
        let caches = &context.caches;
        tokio::join!(caches.stateful_sets.synced(), caches.revisions.synced(), caches.pods.synced());
        queue.run(NAME, WORKERS, |key| step(&context, key)).await;
    })
}

async fn step(context: &Context, key: Key) -> Result<Next> {
    let Some(set) = context.caches.stateful_sets.get(&key) else { return Ok(Next::Change) };
    if set.metadata.deletion_timestamp.is_some() {
        return Ok(Next::Change);
    }
    ownership::claim_those(context, &*set, &set.spec.selector, |pod| ordinal(&set, pod).is_some()).await?;
    let revisions = revision::settle(context, &set).await?;
    let wish = Wish::of(&set, &revisions.update.name);
    let Plan { create, delete, wait } = plan::plan(&wish, &numbered(context, &set));
    let done = act(context, &set, &revisions, &wish, create, delete).await;
    // What the pods are now, not what they were.
    let pods = numbered(context, &set);
    write_status(context, &set, &pods, &wish, &revisions).await?;
    revision::forget(context, &set, &revisions, pods.values()).await?;
    done?;
    Ok(wait.map_or(Next::Change, Next::After))
}

/// The set's pods by their numbers.
fn numbered(context: &Context, set: &StatefulSet) -> BTreeMap<i64, Arc<Pod>> {
    let pods = ownership::owned(context, set).into_iter();
    pods.filter_map(|pod| Some((ordinal(set, &pod)?, pod))).collect()
}

/// The number in a pod's name, if it is one that this set would give.
fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i64> {
    let number = pod.metadata.name.as_deref()?.strip_prefix(set.metadata.name.as_deref()?)?.strip_prefix('-')?;
    let value: i64 = number.parse().ok()?;
    (value >= 0 && value.to_string() == number).then_some(value)
}

async fn act(
    context: &Context,
    set: &StatefulSet,
    revisions: &Revisions,
    wish: &Wish<'_>,
    create: Vec<i64>,
    delete: Vec<Arc<Pod>>,
) -> Result<()> {
    for result in join_all(delete.iter().map(|pod| context.delete_pod(pod, None))).await {
        if let Err(error) = result {
            context.events.warning(NAME, set, "FailedDelete", format!("Error deleting: {error}"));
            return Err(error);
        }
    }
    let pods: Vec<Pod> = create
        .into_iter()
        .map(|number| {
            let revision = if wish.is_kept_back(number) { &revisions.current } else { &revisions.update };
            member(set, revision, number)
        })
        .collect();
    for (pod, result) in pods.iter().zip(join_all(pods.iter().map(|pod| context.create_pod(pod))).await) {
        if let Err(error) = result {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            context.events.warning(NAME, set, "FailedCreate", format!("create Pod {name} failed: {error}"));
            return Err(error);
        }
    }
    Ok(())
}

/// The pod of this number.
fn member(set: &StatefulSet, revision: &Revision, number: i64) -> Pod {
    let mut pod = template::pod(&revision.template, set);
    let name = format!("{}-{number}", set.metadata.name.as_deref().unwrap_or_default());
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(name.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(HASH.into(), revision.name.clone());
    labels.insert(POD_NAME.into(), name.clone());
    labels.insert(POD_INDEX.into(), number.to_string());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name);
    spec.subdomain = set.spec.service_name.clone().filter(|service| !service.is_empty());
    pod
}

fn revision_of(pod: &Pod) -> Option<&str> {
    pod.metadata.labels.as_ref()?.get(HASH).map(String::as_str)
}

async fn write_status(
    context: &Context,
    set: &StatefulSet,
    pods: &BTreeMap<i64, Arc<Pod>>,
    wish: &Wish<'_>,
    revisions: &Revisions,
) -> Result<()> {
    let count = |holds: &dyn Fn(&Pod) -> bool| {
        i32::try_from(pods.values().filter(|pod| !pod::is_terminal(pod) && holds(pod)).count()).unwrap_or(i32::MAX)
    };
    let of = |name: &str| count(&|pod| !pod::is_terminating(pod) && revision_of(pod) == Some(name));
    let (all, ready) = (count(&|_| true), count(&pod::is_ready));
    let updated = of(&revisions.update.name);
    let wanted = i32::try_from(wish.replicas).unwrap_or(i32::MAX);
    let complete = wish.rolls() && [all, ready, updated] == [wanted; 3];
    let current = if complete { &revisions.update.name } else { &revisions.current.name };
    let old = set.status.clone().unwrap_or_default();
    let new = StatefulSetStatus {
        available_replicas: Some(count(&|pod| wish.is_available(pod))),
        current_replicas: Some(of(current)),
        current_revision: Some(current.clone()),
        observed_generation: set.metadata.generation,
        ready_replicas: Some(ready),
        replicas: all,
        update_revision: Some(revisions.update.name.clone()),
        updated_replicas: Some(updated),
        ..old.clone()
    };
    if new == old {
        return Ok(());
    }
    let key = Key::of(&set.metadata);
    let patch = Patch::Merge(json!({"metadata": {"uid": set.metadata.uid}, "status": new}));
    let api = context.api::<StatefulSet>(&key.namespace);
    if let Some(set) = unless_gone(api.patch_status(&key.name, &PatchParams::default(), &patch).await)? {
        context.caches.stateful_sets.wrote(set);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_belongs_to_a_set_if_the_set_would_name_it_so() {
        let set: StatefulSet = serde_json::from_value(json!({
            "metadata": {"name": "db"}, "spec": {"selector": {}, "serviceName": "db", "template": {}},
        }))
        .unwrap();
        for (name, number) in [("db-0", Some(0)), ("db-12", Some(12)), ("db-01", None), ("db--1", None), ("db-x", None)]
        {
            let pod: Pod = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
            assert_eq!(ordinal(&set, &pod), number, "{name}");
        }
    }
}
