//! What makes a struct with `metadata`, `spec` and `status` a Kubernetes resource.

/// Implements `k8s_openapi::{Resource, Metadata}`, and with them `kube::Resource`, for a cluster-scoped kind of our group.
macro_rules! cluster_scoped {
    ($type:ty, $kind:literal, $plural:literal) => {
        impl k8s_openapi::Resource for $type {
            const API_VERSION: &'static str = "switchyard.dev/v1alpha1";
            const GROUP: &'static str = crate::names::GROUP;
            const KIND: &'static str = $kind;
            const VERSION: &'static str = crate::names::VERSION;
            const URL_PATH_SEGMENT: &'static str = $plural;
            type Scope = k8s_openapi::ClusterResourceScope;
        }

        impl k8s_openapi::Metadata for $type {
            type Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
            fn metadata(&self) -> &Self::Ty {
                &self.metadata
            }
            fn metadata_mut(&mut self) -> &mut Self::Ty {
                &mut self.metadata
            }
        }
    };
}

pub(crate) use cluster_scoped;
