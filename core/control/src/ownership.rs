//! Which pods are whose: adoption of pods that match and have no owner, release of those that no longer match.

use std::fmt::Debug;
use std::sync::{Arc, Weak};

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Resource;
use kube::api::{Patch, PatchParams};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::cache::Key;
use crate::context::{Context, POD_OWNER};
use crate::error::{Result, unless_gone};
use crate::queue::Queue;
use crate::{meta, pod};

/// Pods made in one step for one owner at most. They wake it, so that the rest follows, if it is still wanted by then.
pub(crate) const MOST_MADE: usize = 500;

/// Wakes the owner of kind `kind` of every pod that changes; for a pod without owner, those that `candidates` names.
pub(crate) fn wake_owners(
    context: &Arc<Context>,
    kind: &'static str,
    queue: &Queue<Key>,
    candidates: impl Fn(&Context, &Pod) -> Vec<Key> + Send + Sync + 'static,
) {
    let queue = queue.clone();
    let weak: Weak<Context> = Arc::downgrade(context);
    context.caches.pods.on_change(move |old, new| {
        for pod in [old, new].into_iter().flatten() {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
            if let Some(owner) = meta::controller(&pod.metadata) {
                if owner.kind == kind {
                    queue.add(Key::new(namespace, &owner.name));
                }
            } else if let Some(context) = weak.upgrade().filter(|_| new.is_some()) {
                candidates(&context, pod).into_iter().for_each(|key| queue.add(key));
            }
        }
    });
}

/// The pods of this owner, from the cache.
pub(crate) fn owned<K: Resource<DynamicType = ()>>(context: &Context, owner: &K) -> Vec<Arc<Pod>> {
    let uid = owner.meta().uid.as_deref().unwrap_or("");
    let mut pods = context.caches.pods.by(POD_OWNER, uid);
    pods.retain(|pod| pod.metadata.namespace == owner.meta().namespace);
    pods.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    pods
}

/// The pods of this owner, after adopting and releasing.
pub(crate) async fn claim<K>(context: &Context, owner: &K, selector: &LabelSelector) -> Result<Vec<Arc<Pod>>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    claim_those(context, owner, selector, |_| true).await
}

/// [`claim`], of those that the owner could have made.
pub(crate) async fn claim_those<K>(
    context: &Context,
    owner: &K,
    selector: &LabelSelector,
    fits: impl Fn(&Pod) -> bool,
) -> Result<Vec<Arc<Pod>>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let selector = meta::Selection::of(selector);
    if owner.meta().deletion_timestamp.is_none() {
        for pod in owned(context, owner) {
            if !selector.selects(&pod.metadata) && !pod::is_terminating(&pod) {
                let without = json!([{"$patch": "delete", "uid": owner.meta().uid}]);
                patch_owners(context, &pod, without).await?;
            }
        }
        let mut orphans = context.caches.pods.by(POD_OWNER, "");
        orphans.retain(|pod| {
            pod.metadata.namespace == owner.meta().namespace
                && pod::is_active(pod)
                && selector.selects(&pod.metadata)
                && fits(pod)
        });
        if !orphans.is_empty() && may_adopt(context, owner).await? {
            for pod in orphans {
                patch_owners(context, &pod, json!([meta::controlled_by(owner)])).await?;
            }
        }
    }
    Ok(owned(context, owner))
}

/// Whether an owner is there to stay, asked anew: what an owner that goes has just released must not be taken back because the word
/// of its end is still on its way.
pub(crate) async fn may_adopt<K>(context: &Context, owner: &K) -> Result<bool>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let key = Key::of(owner.meta());
    let now = context.api::<K>(&key.namespace).get_metadata_opt(&key.name).await?;
    Ok(now.is_some_and(|now| now.metadata.uid == owner.meta().uid && now.metadata.deletion_timestamp.is_none()))
}

async fn patch_owners(context: &Context, pod: &Pod, owners: serde_json::Value) -> Result<()> {
    let key = Key::of(&pod.metadata);
    // The uid makes it a conflict if this is another pod by now; the version, if somebody else adopted it.
    let pinned =
        json!({"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version, "ownerReferences": owners});
    let patch = Patch::Strategic(json!({"metadata": pinned}));
    let written = context.api::<Pod>(&key.namespace).patch(&key.name, &PatchParams::default(), &patch).await;
    if let Some(pod) = unless_gone(written)? {
        context.caches.pods.wrote(pod);
    }
    Ok(())
}
