//! Objects as they come over the wire, reduced to what the view keeps; the rest is skipped while it is read.

use std::borrow::Cow;
use std::net::IpAddr;

use k8s_openapi::ClusterResourceScope;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::Deserialize;
use switchyard_api::names::POD_IP;
use switchyard_policy::{Labels, NamedPort, Protocol};

use super::Pod;
use super::intern::Interner;

/// A Pod of another node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SlimPod {
    metadata: Meta,
    spec: Spec,
}

/// A Namespace.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SlimNamespace {
    metadata: Meta,
}

/// A NetworkPolicy; its spec is read later, so that one that cannot be read is no reason to hear of no other.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SlimPolicy {
    metadata: Meta,
    spec: serde_json::Value,
}

/// `metadata`, with the annotations that are asked for and no history.
#[derive(Clone, Debug, Default)]
struct Meta(ObjectMeta);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_name: Option<String>,
    host_network: Option<bool>,
    containers: Option<Vec<Container>>,
    init_containers: Option<Vec<Container>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Container {
    ports: Option<Vec<Port>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Port {
    name: Option<String>,
    protocol: Option<String>,
    container_port: i64,
}

// === impls ===

impl SlimPod {
    /// `None` for a pod without a uid.
    pub(super) fn entry(mut self, interner: &mut Interner) -> Option<Pod> {
        let meta = &mut self.metadata.0;
        let host_network = self.spec.host_network == Some(true);
        let containers = self.spec.containers.iter().chain(&self.spec.init_containers).flatten();
        let ports = containers.flat_map(|container| container.ports.iter().flatten());
        let ports = ports.filter_map(|port| named(port.name.as_deref(), port.protocol.as_deref(), port.container_port));
        Some(Pod {
            uid: meta.uid.as_deref()?.into(),
            namespace: interner.word(meta.namespace.as_deref().unwrap_or_default()),
            name: meta.name.as_deref().unwrap_or_default().into(),
            ip: address(host_network, meta),
            deleting: meta.deletion_timestamp.is_some(),
            labels: interner.labels(meta.labels.take().unwrap_or_default()),
            node: interner.word(self.spec.node_name.as_deref().unwrap_or_default()),
            host_network,
            ports: interner.ports(ports.collect()),
        })
    }

    pub(super) fn uid(&self) -> &str {
        self.metadata.0.uid.as_deref().unwrap_or_default()
    }
}

impl SlimPolicy {
    pub(crate) fn spec(&self) -> &serde_json::Value {
        &self.spec
    }
}

impl SlimNamespace {
    pub(super) fn name(&self) -> &str {
        self.metadata.0.name.as_deref().unwrap_or_default()
    }

    pub(super) fn labels(self) -> Labels {
        self.metadata.0.labels.unwrap_or_default()
    }
}

/// One of this node's pods, from the whole object.
pub(super) fn of_pod(pod: &core::Pod, interner: &mut Interner) -> Option<Pod> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let host_network = spec.is_some_and(|spec| spec.host_network == Some(true));
    let containers = spec.iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let ports =
        ports.filter_map(|port| named(port.name.as_deref(), port.protocol.as_deref(), port.container_port.into()));
    Some(Pod {
        uid: meta.uid.as_deref()?.into(),
        namespace: interner.word(meta.namespace.as_deref().unwrap_or_default()),
        name: meta.name.as_deref().unwrap_or_default().into(),
        ip: address(host_network, meta),
        deleting: meta.deletion_timestamp.is_some(),
        labels: interner.labels(meta.labels.clone().unwrap_or_default()),
        node: interner.word(spec.and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()),
        host_network,
        ports: interner.ports(ports.collect()),
    })
}

fn address(host_network: bool, meta: &ObjectMeta) -> Option<IpAddr> {
    if host_network {
        return None;
    }
    meta.annotations.as_ref()?.get(POD_IP)?.parse().ok()
}

fn named(name: Option<&str>, protocol: Option<&str>, port: i64) -> Option<NamedPort> {
    let protocol = Protocol::named(protocol.unwrap_or("TCP"))?;
    let name = name.filter(|name| !name.is_empty())?.to_owned();
    Some(NamedPort { name, protocol, port: u16::try_from(port).ok()? })
}

impl<'de> Deserialize<'de> for Meta {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct Wire {
            uid: Option<String>,
            namespace: Option<String>,
            name: Option<String>,
            resource_version: Option<String>,
            labels: Option<Labels>,
            annotations: Annotations,
            deletion_timestamp: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Annotations {
            // POD_IP, which the test below holds to.
            #[serde(rename = "switchyard.dev/pod-ip")]
            pod_ip: Option<String>,
        }
        let wire = Wire::deserialize(deserializer)?;
        Ok(Self(ObjectMeta {
            uid: wire.uid,
            namespace: wire.namespace,
            name: wire.name,
            resource_version: wire.resource_version,
            labels: wire.labels,
            annotations: wire.annotations.pod_ip.map(|ip| [(POD_IP.to_owned(), ip)].into()),
            deletion_timestamp: wire.deletion_timestamp,
            ..ObjectMeta::default()
        }))
    }
}

macro_rules! as_resource {
    ($slim:ty, $whole:ty, $scope:ty) => {
        impl Resource for $slim {
            type DynamicType = ();
            type Scope = $scope;
            fn kind((): &()) -> Cow<'_, str> {
                <$whole as Resource>::kind(&())
            }
            fn group((): &()) -> Cow<'_, str> {
                <$whole as Resource>::group(&())
            }
            fn version((): &()) -> Cow<'_, str> {
                <$whole as Resource>::version(&())
            }
            fn plural((): &()) -> Cow<'_, str> {
                <$whole as Resource>::plural(&())
            }
            fn meta(&self) -> &ObjectMeta {
                &self.metadata.0
            }
            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata.0
            }
        }
    };
}

as_resource!(SlimPod, core::Pod, NamespaceResourceScope);
as_resource!(SlimNamespace, core::Namespace, ClusterResourceScope);
as_resource!(SlimPolicy, networking::NetworkPolicy, NamespaceResourceScope);
