//! DaemonSets: one pod on every node that takes it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::cache::Key;
use crate::context::{Context, ONLY_NAMESPACE};
use crate::error::{Result, unless_gone};
use crate::node::{NETWORK_UNAVAILABLE, NOT_READY, UNREACHABLE};
use crate::ownership;
use crate::queue::{Next, Queue};
use crate::scheduler::filter;
use crate::scheduler::snapshot::Fixed;
use crate::{meta, pod, template};

const NAME: &str = "daemonset-controller";
const WORKERS: usize = 4;
const HASH: &str = "controller-revision-hash";
const FIELD: &str = "metadata.name";

pub(crate) fn controller(context: &Arc<Context>) -> BoxFuture<'static, ()> {
    let queue = Queue::<Key>::paced(Duration::from_millis(5));
    let wake = queue.clone();
    context.caches.daemon_sets.on_change(move |old, new| {
        if let Some(set) = new.or(old) {
            wake.add(Key::of(&set.metadata));
        }
    });
    let (wake, weak) = (queue.clone(), Arc::downgrade(context));
    context.caches.nodes.on_change(move |old, new| {
        if old.map(|node| Fixed::of(node)) != new.map(|node| Fixed::of(node))
            && let Some(context) = weak.upgrade()
        {
            context.caches.daemon_sets.all().iter().for_each(|set| wake.add(Key::of(&set.metadata)));
        }
    });
    ownership::wake_owners(context, "DaemonSet", &queue, |context, pod| {
        let sets = context.caches.daemon_sets.by(ONLY_NAMESPACE, pod.metadata.namespace.as_deref().unwrap_or(""));
        let selects = |set: &&Arc<DaemonSet>| meta::selects(&set.spec.selector, &pod.metadata);
        sets.iter().filter(selects).map(|set| Key::of(&set.metadata)).collect()
    });
    let context = context.clone();
    Box::pin(async move {
        let caches = &context.caches;
        tokio::join!(caches.daemon_sets.synced(), caches.nodes.synced(), caches.pods.synced());
        queue.run(NAME, WORKERS, |key| step(&context, key)).await;
    })
}

async fn step(context: &Context, key: Key) -> Result<Next> {
    let Some(set) = context.caches.daemon_sets.get(&key) else { return Ok(Next::Change) };
    if set.metadata.deletion_timestamp.is_some() {
        return Ok(Next::Change);
    }
    let pods = ownership::claim(context, &*set, &set.spec.selector).await?;
    let hash = crate::deployment::hash(&set.spec.template, 0);
    let mut here: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
    for pod in pods {
        here.entry(target(&pod).unwrap_or_default()).or_default().push(pod);
    }
    let nodes = context.caches.nodes.all();
    let those = |effects: &[&str]| -> Vec<&str> {
        let takes = nodes.iter().filter(|node| takes(node, &set, effects));
        takes.filter_map(|node| node.metadata.name.as_deref()).collect()
    };
    // What runs already is driven away by no less than what drives all pods away.
    let (wanted, kept) = (those(&["NoSchedule", "NoExecute"]), those(&["NoExecute"]));
    let (mut missing, mut surplus) = (vec![], vec![]);
    for (node, pods) in &here {
        let mut pods: Vec<&Arc<Pod>> = pods.iter().filter(|pod| !pod::is_terminating(pod)).collect();
        pods.sort_by_key(|pod| (pod::is_terminal(pod), pod.metadata.creation_timestamp.clone()));
        let keep = usize::from(kept.contains(&node.as_str()) && pods.first().is_some_and(|pod| !pod::is_terminal(pod)));
        surplus.extend(pods.into_iter().skip(keep).cloned());
    }
    for node in &wanted {
        // One that is going is waited for: two would want the same ports.
        if here.get(*node).is_none_or(|pods| pods.iter().all(|pod| pod::is_terminal(pod))) {
            missing.push(make(&set, node, &hash));
        }
    }
    // They would be released at the next look, and missing again.
    missing.retain(|pod| meta::selects(&set.spec.selector, &pod.metadata));
    surplus.extend(outdated(&set, &wanted, &here, &hash));
    for result in join_all(surplus.iter().map(|pod| context.delete_pod(pod, None))).await {
        result?;
    }
    for result in join_all(missing.iter().map(|pod| context.create_pod(pod))).await {
        if let Err(error) = &result {
            context.events.warning(NAME, &*set, "FailedCreate", format!("Error creating: {error}"));
        }
        result?;
    }
    write_status(context, &set, &wanted, &hash).await
}

/// Pods of an older template that may go now.
fn outdated(set: &DaemonSet, wanted: &[&str], here: &BTreeMap<String, Vec<Arc<Pod>>>, hash: &str) -> Vec<Arc<Pod>> {
    let strategy = set.spec.update_strategy.as_ref();
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
        return vec![];
    }
    let limit = strategy.and_then(|strategy| strategy.rolling_update.as_ref()?.max_unavailable.clone());
    let limit = crate::deployment::part(
        &limit.unwrap_or(IntOrString::Int(1)),
        i32::try_from(wanted.len()).unwrap_or(i32::MAX),
        true,
    )
    .max(1);
    let active = |node: &&str| here.get(*node).into_iter().flatten().find(|pod| pod::is_active(pod)).cloned();
    let running: Vec<Arc<Pod>> = wanted.iter().filter_map(active).collect();
    let (ready, not_ready): (Vec<_>, Vec<_>) = running.into_iter().partition(|pod| pod::is_ready(pod));
    let is_old =
        |pod: &Arc<Pod>| pod.metadata.labels.as_ref().and_then(|labels| labels.get(HASH)).is_none_or(|own| own != hash);
    // Those that do nobody any good go at once.
    let unavailable = i32::try_from(wanted.len() - ready.len()).unwrap_or(i32::MAX);
    let budget = usize::try_from(limit - unavailable).unwrap_or(0);
    not_ready.into_iter().filter(is_old).chain(ready.into_iter().filter(is_old).take(budget)).collect()
}

/// Whether a node is one for this set, and has no taint of these effects that its pods do not tolerate.
fn takes(node: &Node, set: &DaemonSet, effects: &[&str]) -> bool {
    let spec = with_tolerations(set.spec.template.spec.clone().unwrap_or_default());
    let fixed = Fixed::of(node);
    let tolerations = spec.tolerations.as_deref().unwrap_or(&[]);
    filter::selected(&spec, &fixed) && filter::untolerated(&fixed.taints, tolerations, effects).is_none()
}

/// The node a pod is for.
fn target(pod: &Pod) -> Option<String> {
    if let Some(node) = pod::node(pod) {
        return Some(node.into());
    }
    let affinity = pod::spec(pod)?.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let mut fields = terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    fields.find(|field| field.key == FIELD)?.values.as_ref()?.first().cloned()
}

/// A pod for one node; the scheduler gives it to that node and no other.
fn make(set: &DaemonSet, node: &str, hash: &str) -> Pod {
    let mut pod = template::pod(&set.spec.template, set);
    pod.metadata.labels.get_or_insert_default().insert(HASH.into(), hash.into());
    let mut spec = with_tolerations(pod.spec.take().unwrap_or_default());
    let field = NodeSelectorRequirement { key: FIELD.into(), operator: "In".into(), values: Some(vec![node.into()]) };
    let affinity = spec.affinity.get_or_insert_with(Affinity::default);
    let affinity = affinity.node_affinity.get_or_insert_with(NodeAffinity::default);
    let required =
        affinity.required_during_scheduling_ignored_during_execution.get_or_insert_with(NodeSelector::default);
    if required.node_selector_terms.is_empty() {
        required.node_selector_terms.push(NodeSelectorTerm::default());
    }
    for term in &mut required.node_selector_terms {
        term.match_fields = Some(vec![field.clone()]);
    }
    pod.spec = Some(spec);
    pod
}

fn with_tolerations(mut spec: PodSpec) -> PodSpec {
    let mut always = vec![
        (NOT_READY, "NoExecute"),
        (UNREACHABLE, "NoExecute"),
        (NOT_READY, "NoSchedule"),
        (UNREACHABLE, "NoSchedule"),
        ("node.kubernetes.io/disk-pressure", "NoSchedule"),
        ("node.kubernetes.io/memory-pressure", "NoSchedule"),
        ("node.kubernetes.io/pid-pressure", "NoSchedule"),
        ("node.kubernetes.io/unschedulable", "NoSchedule"),
    ];
    if spec.host_network == Some(true) {
        always.push((NETWORK_UNAVAILABLE, "NoSchedule"));
    }
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in always {
        let toleration = Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some(effect.into()),
            ..Toleration::default()
        };
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    spec
}

async fn write_status(context: &Context, set: &DaemonSet, wanted: &[&str], hash: &str) -> Result<Next> {
    let min_ready = Duration::from_secs(set.spec.min_ready_seconds.unwrap_or(0).max(0) as u64);
    let pods = ownership::owned(context, set);
    let active: Vec<&Arc<Pod>> = pods.iter().filter(|pod| pod::is_active(pod) && pod::node(pod).is_some()).collect();
    let (on, off): (Vec<_>, Vec<_>) =
        active.into_iter().partition(|pod| pod::node(pod).is_some_and(|node| wanted.contains(&node)));
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let waits: Vec<Duration> = on.iter().filter_map(|pod| pod::available_in(pod, min_ready)).collect();
    let available = waits.iter().filter(|wait| wait.is_zero()).count();
    let updated = |pod: &&&Arc<Pod>| {
        pod.metadata.labels.as_ref().and_then(|labels| labels.get(HASH)).is_some_and(|own| own == hash)
    };
    let old = set.status.clone().unwrap_or_default();
    let new = DaemonSetStatus {
        current_number_scheduled: count(on.len()),
        desired_number_scheduled: count(wanted.len()),
        number_available: Some(count(available)),
        number_misscheduled: count(off.len()),
        number_ready: count(waits.len()),
        number_unavailable: Some(count(wanted.len() - available.min(wanted.len()))),
        observed_generation: set.metadata.generation,
        updated_number_scheduled: Some(count(on.iter().filter(updated).count())),
        ..old.clone()
    };
    if new != old {
        let key = Key::of(&set.metadata);
        let patch = Patch::Merge(json!({"metadata": {"uid": set.metadata.uid}, "status": new}));
        let api = context.api::<DaemonSet>(&key.namespace);
        if let Some(set) = unless_gone(api.patch_status(&key.name, &PatchParams::default(), &patch).await)? {
            context.caches.daemon_sets.wrote(set);
        }
    }
    Ok(waits.iter().filter(|wait| !wait.is_zero()).min().map_or(Next::Change, |wait| Next::After(*wait)))
}
