//! What Kubernetes' types say about merging: which lists are maps by a key, which are sets, where unnamed keys go.
//!
//! From the `patchStrategy`/`patchMergeKey` (strategic merge) and `listType`/`listMapKey` (server-side apply) markers of the API
//! types. What is not in the table is merged as plain JSON: maps field by field, lists as a whole.

use crate::kinds::Kind;

/// A type with lists or structs worth knowing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Nothing is known; also the types of plain maps.
    Plain,
    Pod,
    /// Kinds whose `spec` holds `template`: Deployment, ReplicaSet, DaemonSet, StatefulSet, Job.
    Workload,
    Service,
    ServiceAccount,
    Node,
    WithConditions,
    WorkloadSpec,
    Template,
    Strategy,
    PodSpec,
    PodStatus,
    Container,
    Volume,
    Spread,
    ServiceSpec,
    ServiceStatus,
    NodeSpec,
    NodeStatus,
    StatusWithConditions,
    Metadata,
}

/// How a list is merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// Replaced as a whole.
    Atomic,
    /// Elements are told apart by the field, elements of the given type. The keys of server-side apply follow.
    Map(&'static str, &'static [&'static str]),
    /// Elements are plain values.
    Set,
}

/// What is known about a field.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its type, or its elements'.
    pub child: Type,
    pub list: List,
}

// === impl Type ===

impl Type {
    pub fn of(kind: &Kind) -> Self {
        match (kind.group.as_str(), kind.kind.as_str()) {
            ("", "Pod") => Self::Pod,
            ("apps", "Deployment" | "ReplicaSet" | "DaemonSet" | "StatefulSet") | ("batch", "Job") => Self::Workload,
            ("", "Service") => Self::Service,
            ("", "ServiceAccount") => Self::ServiceAccount,
            ("", "Node") => Self::Node,
            _ => Self::WithConditions,
        }
    }

    /// What is known about a field of this type.
    pub fn field(self, name: &str) -> Field {
        use Type::*;
        let plain = |child| Field { child, list: List::Atomic };
        let map = |key, keys, child| Field { child, list: List::Map(key, keys) };
        let set = Field { child: Plain, list: List::Set };
        match (self, name) {
            (Pod | Workload | Service | ServiceAccount | Node | WithConditions | Template, "metadata") => {
                plain(Metadata)
            }
            (Metadata, "finalizers") => set,
            (Metadata, "ownerReferences") => map("uid", &["uid"], Plain),
            (Pod | Template, "spec") => plain(PodSpec),
            (Pod, "status") => plain(PodStatus),
            (Workload, "spec") => plain(WorkloadSpec),
            (Workload | WithConditions, "status") => plain(StatusWithConditions),
            (WorkloadSpec, "template") => plain(Template),
            (WorkloadSpec, "strategy") => plain(Strategy),
            (PodSpec, "containers" | "initContainers" | "ephemeralContainers") => map("name", &["name"], Container),
            (PodSpec, "volumes") => map("name", &["name"], Volume),
            (PodSpec, "imagePullSecrets" | "schedulingGates") => map("name", &["name"], Plain),
            (PodSpec, "hostAliases") => map("ip", &["ip"], Plain),
            (PodSpec, "topologySpreadConstraints") => map("topologyKey", &["topologyKey", "whenUnsatisfiable"], Spread),
            (PodSpec, "resourceClaims") => map("name", &["name"], Plain),
            (Container, "env") => map("name", &["name"], Plain),
            (Container, "ports") => map("containerPort", &["containerPort", "protocol"], Plain),
            (Container, "volumeMounts") => map("mountPath", &["mountPath"], Plain),
            (Container, "volumeDevices") => map("devicePath", &["devicePath"], Plain),
            (PodStatus, "conditions") => map("type", &["type"], Plain),
            (PodStatus, "podIPs" | "hostIPs") => map("ip", &["ip"], Plain),
            (Service, "spec") => plain(ServiceSpec),
            (Service, "status") => plain(ServiceStatus),
            (ServiceSpec, "ports") => map("port", &["port", "protocol"], Plain),
            (ServiceStatus | StatusWithConditions | NodeStatus, "conditions") => map("type", &["type"], Plain),
            (ServiceAccount, "secrets") => map("name", &["name"], Plain),
            (Node, "spec") => plain(NodeSpec),
            (Node, "status") => plain(NodeStatus),
            (NodeSpec, "podCIDRs") => set,
            (NodeStatus, "addresses") => map("type", &["type", "address"], Plain),
            _ => plain(Plain),
        }
    }
}
