//! Which pods are whose: adoption of pods that match and have no owner, release of those that no longer match.

use std::sync::{Arc, Weak};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Resource;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::cache::Key;
use crate::context::{Context, POD_OWNER};
use crate::error::{Result, unless_gone};
use crate::queue::Queue;
use crate::{meta, pod};

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
    K: Resource<DynamicType = ()>,
{
    let selector = meta::Selection::of(selector);
    if owner.meta().deletion_timestamp.is_none() {
        for pod in owned(context, owner) {
            if !selector.selects(&pod.metadata) && !pod::is_terminating(&pod) {
                let without = json!([{"$patch": "delete", "uid": owner.meta().uid}]);
                patch_owners(context, &pod, without).await?;
            }
        }
        for pod in context.caches.pods.by(POD_OWNER, "") {
            if pod.metadata.namespace == owner.meta().namespace
                && pod::is_active(&pod)
                && selector.selects(&pod.metadata)
            {
                patch_owners(context, &pod, json!([meta::controlled_by(owner)])).await?;
            }
        }
    }
    Ok(owned(context, owner))
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
