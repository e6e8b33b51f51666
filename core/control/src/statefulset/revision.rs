//! The templates of a StatefulSet, as ControllerRevisions: `kubectl rollout history` and `undo` read them.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::revision_of;
use crate::cache::Key;
use crate::context::{Context, REVISION_OWNER, gone_or_replaced, this_one};
use crate::error::{Error, Result, code, unless_gone};
use crate::{deployment, meta, ownership};

const HASH: &str = "controller.kubernetes.io/hash";
const LIMIT: i32 = 10;

/// The templates that matter now.
pub(super) struct Revisions {
    /// What the set was when all its pods were last of one revision.
    pub(super) current: Revision,
    /// What the set is.
    pub(super) update: Revision,
}

/// A template and its name.
#[derive(Clone)]
pub(super) struct Revision {
    pub(super) name: String,
    pub(super) template: PodTemplateSpec,
}

/// Writes the set's template down, as the newest, if it is not.
pub(super) async fn settle(context: &Context, set: &StatefulSet) -> Result<Revisions> {
    adopt(context, set).await?;
    let own = owned(context, set);
    let newest = own.last().and_then(|revision| revision.revision).unwrap_or(0);
    let same = own.iter().rev().find(|revision| template(revision).as_ref() == Some(&set.spec.template));
    let written = match same {
        Some(there) if there.revision == Some(newest) => None,
        // It was the template once, and is again.
        Some(there) => patch(context, there, json!({"revision": newest + 1})).await?,
        None => Some(create(context, set, newest + 1).await?),
    };
    let update = written.as_ref().or(same.map(|there| &**there)).and_then(|revision| revision.metadata.name.clone());
    let update = Revision { name: update.unwrap_or_default(), template: set.spec.template.clone() };
    let current = set.status.as_ref().and_then(|status| status.current_revision.as_deref());
    let current = current.and_then(|name| Some(Revision { name: name.into(), template: template(find(&own, name)?)? }));
    Ok(Revisions { current: current.unwrap_or_else(|| update.clone()), update })
}

/// Takes in revisions that match and have no owner: what a set left behind that was deleted without what it owned.
async fn adopt(context: &Context, set: &StatefulSet) -> Result<()> {
    let mut orphans = context.caches.revisions.by(REVISION_OWNER, "");
    orphans.retain(|revision| {
        revision.metadata.namespace == set.metadata.namespace
            && revision.metadata.deletion_timestamp.is_none()
            && meta::selects(&set.spec.selector, &revision.metadata)
    });
    if !orphans.is_empty() && ownership::may_adopt(context, set).await? {
        for orphan in orphans {
            let version = &orphan.metadata.resource_version;
            let pinned = json!({"resourceVersion": version, "ownerReferences": [meta::controlled_by(set)]});
            patch(context, &orphan, json!({"metadata": pinned})).await?;
        }
    }
    Ok(())
}

async fn create(context: &Context, set: &StatefulSet, number: i64) -> Result<ControllerRevision> {
    let collisions = set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
    let word = deployment::hash(&set.spec.template, collisions);
    let name = format!("{}-{word}", set.metadata.name.as_deref().unwrap_or_default());
    let key = Key::of(&set.metadata);
    let api = context.api::<ControllerRevision>(&key.namespace);
    let error = match api.create(&PostParams::default(), &record(set, &name, &word, number)).await {
        Ok(made) => {
            context.caches.revisions.wrote(made.clone());
            return Ok(made);
        }
        Err(error) if code(&error) == Some(409) => error,
        Err(error) => return Err(error.into()),
    };
    let Some(found) = api.get_opt(&name).await? else { return Err(error.into()) };
    let owner = meta::controller(&found.metadata).map(|owner| &owner.uid);
    if owner.is_none_or(|owner| set.metadata.uid.as_ref() == Some(owner))
        && template(&found).as_ref() == Some(&set.spec.template)
    {
        // The cache had not heard of it.
        context.caches.revisions.wrote(found);
    } else {
        let status = json!({"metadata": {"uid": set.metadata.uid}, "status": {"collisionCount": collisions + 1}});
        let api = context.api::<StatefulSet>(&key.namespace);
        let written = api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(status)).await;
        if let Some(set) = unless_gone(written)? {
            context.caches.stateful_sets.wrote(set);
        }
    }
    Err(Error::Missing(Key::new(&key.namespace, &name)))
}

/// Changes a revision, if it still is the same.
async fn patch(
    context: &Context,
    revision: &ControllerRevision,
    mut change: Value,
) -> Result<Option<ControllerRevision>> {
    change["metadata"]["uid"] = json!(revision.metadata.uid);
    let key = Key::of(&revision.metadata);
    let api = context.api::<ControllerRevision>(&key.namespace);
    let patched = api.patch(&key.name, &PatchParams::default(), &Patch::Strategic(change)).await;
    let patched = unless_gone(patched)?;
    if let Some(patched) = &patched {
        context.caches.revisions.wrote(patched.clone());
    }
    Ok(patched)
}

/// Deletes what neither the set nor a pod refers to, beyond the limit.
pub(super) async fn forget(
    context: &Context,
    set: &StatefulSet,
    revisions: &Revisions,
    pods: impl Iterator<Item = &Arc<Pod>>,
) -> Result<()> {
    let pods: Vec<_> = pods.collect();
    let mut used: BTreeSet<&str> = pods.iter().filter_map(|pod| revision_of(pod)).collect();
    used.extend([revisions.current.name.as_str(), revisions.update.name.as_str()]);
    let mut idle = owned(context, set);
    idle.retain(|revision| revision.metadata.name.as_deref().is_some_and(|name| !used.contains(name)));
    let limit = usize::try_from(set.spec.revision_history_limit.unwrap_or(LIMIT)).unwrap_or(0);
    for revision in &idle[..idle.len().saturating_sub(limit)] {
        let key = Key::of(&revision.metadata);
        let api = context.api::<ControllerRevision>(&key.namespace);
        if gone_or_replaced(api.delete(&key.name, &this_one(&revision.metadata.uid)).await)? {
            context.caches.revisions.deleted(revision);
        }
    }
    Ok(())
}

/// The set's revisions that are not going, the oldest first.
fn owned(context: &Context, set: &StatefulSet) -> Vec<Arc<ControllerRevision>> {
    let mut own = context.caches.revisions.by(REVISION_OWNER, set.metadata.uid.as_deref().unwrap_or(""));
    own.retain(|revision| revision.metadata.deletion_timestamp.is_none());
    own.sort_by_key(|revision| (revision.revision, revision.metadata.name.clone()));
    own
}

fn find<'a>(own: &'a [Arc<ControllerRevision>], name: &str) -> Option<&'a Arc<ControllerRevision>> {
    own.iter().find(|revision| revision.metadata.name.as_deref() == Some(name))
}

fn record(set: &StatefulSet, name: &str, word: &str, number: i64) -> ControllerRevision {
    let mut labels = set.spec.template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    labels.insert(HASH.into(), word.into());
    let mut template = json!(set.spec.template);
    // The record is a patch that puts this template in the place of whatever the set has.
    template["$patch"] = json!("replace");
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: set.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![meta::controlled_by(set)]),
            ..ObjectMeta::default()
        },
        data: RawExtension(json!({"spec": {"template": template}})),
        revision: Some(number),
    }
}

fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}
