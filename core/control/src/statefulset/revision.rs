//! The templates of a StatefulSet, as ControllerRevisions: `kubectl rollout history` and `undo` read them.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;

use super::revision_of;
use crate::cache::Key;
use crate::context::{Context, REVISION_OWNER, gone_or_replaced, this_one};
use crate::error::{Result, unless_gone};
use crate::{deployment, meta};

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
    let own = owned(context, set);
    let newest = own.last().and_then(|revision| revision.revision).unwrap_or(0);
    let word = deployment::hash(&set.spec.template, 0);
    let name = format!("{}-{word}", set.metadata.name.as_deref().unwrap_or_default());
    let key = Key::of(&set.metadata);
    let api = context.api::<ControllerRevision>(&key.namespace);
    let written = match find(&own, &name) {
        Some(there) if there.revision == Some(newest) => None,
        // It was the template once, and is again.
        Some(there) => {
            let patch = json!({"metadata": {"uid": there.metadata.uid}, "revision": newest + 1});
            unless_gone(api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await)?
        }
        None => Some(api.create(&PostParams::default(), &record(set, &name, &word, newest + 1)).await?),
    };
    if let Some(written) = written {
        context.caches.revisions.wrote(written);
    }
    let update = Revision { name, template: set.spec.template.clone() };
    let current = set.status.as_ref().and_then(|status| status.current_revision.as_deref());
    let current = current.and_then(|name| Some(Revision { name: name.into(), template: template(find(&own, name)?)? }));
    Ok(Revisions { current: current.unwrap_or_else(|| update.clone()), update })
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
