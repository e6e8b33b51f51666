//! Pods from templates.

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use kube::Resource;
use kube::api::ObjectMeta;
use switchyard_api::names;

use crate::meta;

/// A pod of this template, owned by `owner`; the API server gives the rest of its name.
pub(crate) fn pod<K: Resource<DynamicType = ()>>(template: &PodTemplateSpec, owner: &K) -> Pod {
    let mut meta = template.metadata.clone().unwrap_or_default();
    // An address is given to each pod by whoever binds it. Templates of revisions are not checked by the API server.
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove(names::POD_IP);
    }
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(prefix(owner.meta().name.as_deref().unwrap_or("pod"))),
            namespace: owner.meta().namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![meta::controlled_by(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// A pod's name must be a DNS label of 63 bytes at most, of which the API server wants five.
fn prefix(owner: &str) -> String {
    format!("{}-", &owner[..owner.len().min(57)])
}
