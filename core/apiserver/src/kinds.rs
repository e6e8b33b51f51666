//! The one table of kinds: what it says is served, discovered, stored, checked and printed.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use k8s_openapi::api::{
    apps::v1 as apps, batch::v1 as batch, coordination::v1 as coordination, core::v1 as core,
    discovery::v1 as discovery, networking::v1 as networking, rbac::v1 as rbac,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::printers::{self, Printer};

/// A kind of object.
pub struct Kind {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub plural: String,
    pub singular: String,
    pub short: Vec<String>,
    pub categories: Vec<String>,
    pub namespaced: bool,
    /// Has the subresource `status`, so that writers of spec and of status do not undo each other.
    pub status: bool,
    /// Has the subresource `scale`.
    pub scale: bool,
    /// Further subresources, with the kind they speak: (`binding`, `Binding`).
    pub subresources: &'static [(&'static str, &'static str)],
    /// Keys of its objects begin with this.
    pub prefix: String,
    /// Another view of objects that are stored as this kind's.
    pub view: View,
    /// Reads a value as its type; gives back what that type keeps of it, to find fields it does not know.
    pub check: Option<Check>,
    /// How kubectl shows it.
    pub printer: Printer,
}

/// Reads a value as a type. With `true`, also returns it as written back.
pub type Check = fn(&Value, bool) -> Result<Option<Value>, String>;

/// How what is stored differs from what this kind's clients see.
#[derive(Clone, PartialEq, Eq)]
pub enum View {
    /// Not at all.
    Stored,
    /// events.k8s.io/v1 of core/v1 Events.
    Events,
    /// A version of a kind that a definition brings, of which all versions are stored with this `apiVersion`.
    Version { stored: String },
}

/// All kinds; may grow while the server runs.
pub struct Kinds {
    table: ArcSwap<Table>,
}

/// The kinds at one moment.
#[derive(Clone, Default)]
pub struct Table {
    /// By (group, version), in the order of discovery, then by plural.
    groups: BTreeMap<(String, String), BTreeMap<String, Arc<Kind>>>,
}

// === impl Kind ===

impl Kind {
    fn new(group: &str, version: &str, kind: &str, plural: &str) -> Self {
        Self {
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
            plural: plural.into(),
            singular: kind.to_lowercase(),
            short: vec![],
            categories: vec![],
            namespaced: true,
            status: false,
            scale: false,
            subresources: &[],
            prefix: format!("{}/{plural}/", if group.is_empty() { "core" } else { group }),
            view: View::Stored,
            check: None,
            printer: printers::of(group, kind),
        }
    }

    fn typed<T: DeserializeOwned + Serialize>(mut self) -> Self {
        self.check = Some(|value, back| {
            let typed: T = serde_path_to_error::deserialize(value).map_err(|error| error.to_string())?;
            if back { serde_json::to_value(typed).map(Some).map_err(|error| error.to_string()) } else { Ok(None) }
        });
        self
    }

    fn short(mut self, names: &[&str]) -> Self {
        self.short = names.iter().map(ToString::to_string).collect();
        self
    }

    fn all(mut self) -> Self {
        self.categories = vec!["all".into()];
        self
    }

    fn cluster(mut self) -> Self {
        self.namespaced = false;
        self
    }

    fn status(mut self) -> Self {
        self.status = true;
        self
    }

    fn scale(mut self) -> Self {
        self.scale = true;
        self
    }

    fn with(mut self, subresources: &'static [(&'static str, &'static str)]) -> Self {
        self.subresources = subresources;
        self
    }

    /// A version of a kind defined while the server runs, by a custom resource definition.
    pub fn custom(group: &str, version: &str, kind: &str, plural: &str, stored: &str) -> Self {
        let mut this = Self::new(group, version, kind, plural);
        this.view = View::Version { stored: format!("{group}/{stored}") };
        this
    }

    /// Whether a custom resource definition brought it.
    pub fn is_custom(&self) -> bool {
        matches!(self.view, View::Version { .. })
    }

    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `pods`, `deployments.apps`.
    pub fn resource(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// The store's key of an object.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        if self.namespaced { format!("{}{namespace}/{name}", self.prefix) } else { format!("{}{name}", self.prefix) }
    }

    /// The store's prefix of a namespace's objects, or of all.
    pub fn prefix_of(&self, namespace: Option<&str>) -> String {
        match namespace {
            Some(namespace) if self.namespaced => format!("{}{namespace}/", self.prefix),
            _ => self.prefix.clone(),
        }
    }

    /// Whether this is that kind of that group.
    pub fn is(&self, group: &str, kind: &str) -> bool {
        self.kind == kind && self.group == group
    }
}

// === impl Kinds ===

impl Kinds {
    pub fn built_in() -> Self {
        let mut table = Table::default();
        for kind in built_in() {
            table.add(kind);
        }
        Self { table: ArcSwap::from_pointee(table) }
    }

    /// The kinds as they are now.
    pub fn now(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// Publishes another table.
    pub fn update(&self, change: impl Fn(&mut Table)) {
        self.table.rcu(|table| {
            let mut table = Table::clone(table);
            change(&mut table);
            table
        });
    }
}

// === impl Table ===

impl Table {
    pub fn add(&mut self, kind: Kind) {
        let group = self.groups.entry((kind.group.clone(), kind.version.clone())).or_default();
        group.insert(kind.plural.clone(), Arc::new(kind));
    }

    /// Takes away what a definition brought: all versions.
    pub fn remove_custom(&mut self, group: &str, plural: &str) {
        for (_, kinds) in self.groups.iter_mut().filter(|((of, _), _)| of == group) {
            if kinds.get(plural).is_some_and(|kind| kind.is_custom()) {
                kinds.remove(plural);
            }
        }
        self.groups.retain(|_, kinds| !kinds.is_empty());
    }

    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.groups.get(&(group.to_owned(), version.to_owned()))?.get(plural)
    }

    /// A kind whose version is known to exist only once.
    pub fn find(&self, group: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.groups.iter().filter(|((g, _), _)| g == group).find_map(|(_, kinds)| kinds.get(plural))
    }

    pub fn groups(&self) -> impl Iterator<Item = (&(String, String), &BTreeMap<String, Arc<Kind>>)> {
        self.groups.iter()
    }

    /// The kinds that hold objects of their own and live in namespaces.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.groups.values().flat_map(BTreeMap::values)
    }
}

fn built_in() -> Vec<Kind> {
    let core = |kind, plural| Kind::new("", "v1", kind, plural);
    let apps = |kind, plural| Kind::new("apps", "v1", kind, plural);
    let networking = |kind, plural| Kind::new("networking.k8s.io", "v1", kind, plural);
    let rbac = |kind, plural| Kind::new("rbac.authorization.k8s.io", "v1", kind, plural);
    let own = |kind, plural| Kind::new(switchyard_api::names::GROUP, switchyard_api::names::VERSION, kind, plural);
    let mut events = Kind::new("events.k8s.io", "v1", "Event", "events").short(&["ev"]);
    events.prefix = "core/events/".into();
    events.view = View::Events;
    events = events.typed::<k8s_openapi::api::events::v1::Event>();
    let mut endpoints = core("Endpoints", "endpoints").typed::<core::Endpoints>().short(&["ep"]);
    endpoints.singular = "endpoints".into();
    vec![
        core("Node", "nodes").typed::<core::Node>().short(&["no"]).cluster().status(),
        core("Namespace", "namespaces")
            .typed::<core::Namespace>()
            .short(&["ns"])
            .cluster()
            .status()
            .with(&[("finalize", "Namespace")]),
        core("Pod", "pods").typed::<core::Pod>().short(&["po"]).all().status().with(&[
            ("attach", "PodAttachOptions"),
            ("binding", "Binding"),
            ("eviction", "Eviction"),
            ("exec", "PodExecOptions"),
            ("log", "Pod"),
            ("portforward", "PodPortForwardOptions"),
        ]),
        core("Service", "services").typed::<core::Service>().short(&["svc"]).all().status(),
        endpoints,
        core("ConfigMap", "configmaps").typed::<core::ConfigMap>().short(&["cm"]),
        core("Secret", "secrets").typed::<core::Secret>(),
        core("ServiceAccount", "serviceaccounts")
            .typed::<core::ServiceAccount>()
            .short(&["sa"])
            .with(&[("token", "TokenRequest")]),
        core("Event", "events").typed::<core::Event>().short(&["ev"]),
        core("ResourceQuota", "resourcequotas").typed::<core::ResourceQuota>().short(&["quota"]).status(),
        core("LimitRange", "limitranges").typed::<core::LimitRange>().short(&["limits"]),
        apps("Deployment", "deployments").typed::<apps::Deployment>().short(&["deploy"]).all().status().scale(),
        apps("ReplicaSet", "replicasets").typed::<apps::ReplicaSet>().short(&["rs"]).all().status().scale(),
        apps("DaemonSet", "daemonsets").typed::<apps::DaemonSet>().short(&["ds"]).all().status(),
        apps("StatefulSet", "statefulsets").typed::<apps::StatefulSet>().short(&["sts"]).all().status().scale(),
        apps("ControllerRevision", "controllerrevisions").typed::<apps::ControllerRevision>(),
        Kind::new("batch", "v1", "Job", "jobs").typed::<batch::Job>().all().status(),
        Kind::new("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices").typed::<discovery::EndpointSlice>(),
        networking("Ingress", "ingresses").typed::<networking::Ingress>().short(&["ing"]).status(),
        networking("IngressClass", "ingressclasses").typed::<networking::IngressClass>().cluster(),
        networking("NetworkPolicy", "networkpolicies").typed::<networking::NetworkPolicy>().short(&["netpol"]),
        Kind::new("coordination.k8s.io", "v1", "Lease", "leases").typed::<coordination::Lease>(),
        events,
        rbac("ClusterRole", "clusterroles").typed::<rbac::ClusterRole>().cluster(),
        rbac("ClusterRoleBinding", "clusterrolebindings").typed::<rbac::ClusterRoleBinding>().cluster(),
        rbac("Role", "roles").typed::<rbac::Role>(),
        rbac("RoleBinding", "rolebindings").typed::<rbac::RoleBinding>(),
        Kind::new("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions")
            .short(&["crd", "crds"])
            .cluster()
            .status(),
        own("Network", "networks").typed::<switchyard_api::Network>().short(&["net"]).cluster().status(),
        own("Segment", "segments").typed::<switchyard_api::Segment>().short(&["seg"]).cluster().status(),
        own("SecurityPolicy", "securitypolicies")
            .typed::<switchyard_api::SecurityPolicy>()
            .short(&["secpol"])
            .cluster()
            .status(),
        own("Group", "groups").typed::<switchyard_api::Group>().cluster().status(),
        own("Cluster", "clusters").typed::<switchyard_api::Cluster>().cluster(),
    ]
}
