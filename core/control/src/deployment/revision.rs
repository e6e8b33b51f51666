//! Which ReplicaSet belongs to a template, and which revision it is.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use super::{NAME, Sets, rolling, slack, wanted};
use crate::cache::Key;
use crate::context::Context;
use crate::error::{Error, Result, code, unless_gone};
use crate::meta;

/// Annotation: the number of a revision, which `kubectl rollout history` and `undo` read.
const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
const HASH: &str = "pod-template-hash";
/// Annotations of a Deployment that are not its ReplicaSets'.
const NOT_COPIED: [&str; 5] = ["kubectl.kubernetes.io/last-applied-configuration", REVISION, HISTORY, DESIRED, MAX];

pub(super) fn of(meta: &ObjectMeta) -> i64 {
    meta.annotations.as_ref().and_then(|all| all.get(REVISION)?.parse().ok()).unwrap_or(0)
}

pub(super) fn size_annotations(deployment: &Deployment) -> [(&'static str, String); 2] {
    [(DESIRED, wanted(deployment).to_string()), (MAX, (wanted(deployment) + slack(deployment).0).to_string())]
}

/// Whether a set was made from this template.
pub(super) fn is_of(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    set.spec.template.as_ref().is_some_and(|own| without_hash(own) == without_hash(template))
}

/// Makes the ReplicaSet of the present template if it is missing, and numbers it as the newest revision.
pub(super) async fn ensure(context: &Context, deployment: &Deployment, sets: &Sets) -> Result<()> {
    let newest = sets.old.iter().map(|set| of(&set.metadata)).max().unwrap_or(0) + 1;
    let number = match &sets.new {
        Some(set) => {
            let number = of(&set.metadata).max(newest);
            annotate(context, deployment, set, number).await?;
            number
        }
        None => {
            create(context, deployment, sets, newest).await?;
            newest
        }
    };
    if of(&deployment.metadata) != number {
        let key = Key::of(&deployment.metadata);
        let pinned = json!({"uid": deployment.metadata.uid, "annotations": {REVISION: number.to_string()}});
        let api = context.api::<Deployment>(&key.namespace);
        let patch = Patch::Merge(json!({"metadata": pinned}));
        if let Some(deployment) = unless_gone(api.patch(&key.name, &PatchParams::default(), &patch).await)? {
            context.caches.deployments.wrote(deployment);
        }
    }
    Ok(())
}

async fn create(context: &Context, deployment: &Deployment, sets: &Sets, number: i64) -> Result<()> {
    let key = Key::of(&deployment.metadata);
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
    let set = make(deployment, number, collisions, rolling::first_size(deployment, sets));
    let name = set.metadata.name.clone().unwrap_or_default();
    let api = context.api::<ReplicaSet>(&key.namespace);
    match api.create(&PostParams::default(), &set).await {
        Ok(set) => {
            let message = format!("Scaled up replica set {name} from 0 to {}", super::replicas(&set));
            context.events.normal(NAME, deployment, "ScalingReplicaSet", message);
            context.caches.replica_sets.wrote(set);
            Ok(())
        }
        Err(error) if code(&error) == Some(409) => {
            let found = api.get_opt(&name).await?;
            let ours = |found: &ReplicaSet| {
                meta::controller(&found.metadata).map(|owner| &owner.uid) == deployment.metadata.uid.as_ref()
            };
            match found {
                // Made by an earlier step, or by us before a crash.
                Some(found) if ours(&found) && is_of(&found, &deployment.spec.template) => {
                    context.caches.replica_sets.wrote(found)
                }
                Some(_) => {
                    let patch = json!({"metadata": {"uid": deployment.metadata.uid}, "status": {"collisionCount": collisions + 1}});
                    let api = context.api::<Deployment>(&key.namespace);
                    api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
                    return Err(Error::Missing(Key::new(&key.namespace, &name)));
                }
                None => return Err(error.into()),
            }
            Ok(())
        }
        Err(error) => {
            context.events.warning(
                NAME,
                deployment,
                "FailedCreate",
                format!("Failed to create new replica set {name:?}: {error}"),
            );
            Err(error.into())
        }
    }
}

fn make(deployment: &Deployment, number: i64, collisions: i32, replicas: i32) -> ReplicaSet {
    let hash = hash(&deployment.spec.template, collisions);
    let mut template = deployment.spec.template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH.into(), hash.clone());
    let labels = labels.clone();
    let mut selector = deployment.spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH.into(), hash.clone());
    let mut annotations = copied(deployment);
    annotations.insert(REVISION.into(), number.to_string());
    annotations.extend(size_annotations(deployment).map(|(key, value)| (key.to_owned(), value)));
    let name = deployment.metadata.name.as_deref().unwrap_or("");
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", &name[..name.len().min(242)])),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![meta::controlled_by(deployment)]),
            ..ObjectMeta::default()
        },
        spec: ReplicaSetSpec {
            min_ready_seconds: deployment.spec.min_ready_seconds,
            replicas: Some(replicas),
            selector,
            template: Some(template),
        },
        status: None,
    }
}

async fn annotate(context: &Context, deployment: &Deployment, set: &ReplicaSet, number: i64) -> Result<()> {
    let old = set.metadata.annotations.clone().unwrap_or_default();
    let mut new = copied(deployment);
    let before = of(&set.metadata);
    if before != number {
        new.insert(REVISION.into(), number.to_string());
        if before > 0 {
            let history = old.get(HISTORY).map(|history| format!("{history},")).unwrap_or_default();
            new.insert(HISTORY.into(), format!("{history}{before}"));
        }
    }
    let min_ready = set.spec.min_ready_seconds.unwrap_or(0) != deployment.spec.min_ready_seconds.unwrap_or(0);
    if !min_ready && new.iter().all(|(key, value)| old.get(key) == Some(value)) {
        return Ok(());
    }
    let key = Key::of(&set.metadata);
    let pinned = json!({"uid": set.metadata.uid, "annotations": new});
    let patch =
        json!({"metadata": pinned, "spec": {"minReadySeconds": deployment.spec.min_ready_seconds.unwrap_or(0)}});
    let api = context.api::<ReplicaSet>(&key.namespace);
    if let Some(set) = unless_gone(api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await)? {
        context.caches.replica_sets.wrote(set);
    }
    Ok(())
}

fn copied(deployment: &Deployment) -> BTreeMap<String, String> {
    let mut annotations = deployment.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| !NOT_COPIED.contains(&key.as_str()));
    annotations
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(meta) = &mut template.metadata {
        if let Some(labels) = &mut meta.labels {
            labels.remove(HASH);
        }
        // None and no labels are the same.
        meta.labels.take_if(|labels| labels.is_empty());
    }
    template.metadata.take_if(|meta| *meta == ObjectMeta::default());
    template
}

/// A short word for a template, in letters that spell nothing.
pub(crate) fn hash(template: &PodTemplateSpec, collisions: i32) -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let text = serde_json::to_string(&without_hash(template)).unwrap_or_default();
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in text.bytes().chain(collisions.to_be_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    let folded = (hash >> 32) ^ (hash & 0xffff_ffff);
    folded.to_string().bytes().map(|byte| char::from(LETTERS[usize::from(byte) % LETTERS.len()])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_of_its_template_also_when_that_has_no_labels() {
        for meta in [json!(null), json!({}), json!({"labels": {}}), json!({"labels": {"app": "web"}})] {
            let spec = json!({"selector": {}, "template": {"metadata": meta, "spec": {"containers": []}}});
            let deployment: Deployment =
                serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": spec})).expect("a deployment");
            let set = make(&deployment, 1, 0, 1);
            assert!(is_of(&set, &deployment.spec.template), "{meta}");
        }
    }
}
