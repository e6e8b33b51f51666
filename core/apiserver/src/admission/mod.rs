//! What happens to an object between the request and the store: defaults, checks, allocations, quota.

mod defaults;
mod job;
mod limits;
mod node;
mod pod;
mod quota;
mod scope;
mod service;
mod validate;

use std::sync::Arc;

use serde_json::{Value, json};

use crate::kinds::Kind;
use crate::meta;
use crate::server::Inner;
use crate::status::{ApiError, FieldErrors, Result};

pub use quota::Quota;
pub use service::Allocations;

/// A write on its way to the store.
pub struct Admission<'a> {
    pub server: &'a Inner,
    pub kind: &'a Arc<Kind>,
    pub namespace: &'a str,
}

/// What a write has taken but does not yet have in the store; given back when dropped, by which time the store says the same.
#[derive(Default)]
pub struct Held {
    _addresses: Option<service::Reservation>,
    _charge: Option<quota::Charge>,
}

// === impl Held ===

impl Held {
    pub fn charge(&mut self, charge: Option<quota::Charge>) {
        self._charge = charge;
    }
}

// === impl Admission ===

impl Admission<'_> {
    /// What only a create goes through: the namespace must be there, pods get their account and limits.
    pub fn mutate(&self, object: &mut Value) -> Result<()> {
        if self.kind.namespaced {
            self.namespace_takes(meta::name(object))?;
        }
        if self.kind.is_custom() {
            self.definition_takes()?;
        }
        // A copy of another object brings a status that is not this one's. Nodes come with theirs.
        if self.kind.status && matches!(self.kind.kind.as_str(), "Service" | "Ingress" | "Network" | "ResourceQuota")
            || matches!(self.kind.group.as_str(), "apps" | "batch")
        {
            meta::as_map(object).shift_remove("status");
        }
        if matches!(self.kind.kind.as_str(), "Service" | "Ingress") {
            meta::as_map(object).insert("status".into(), json!({"loadBalancer": {}}));
        }
        if self.kind.is("", "Pod") {
            pod::mutate(self, object)?;
            limits::pod_defaults(self, object)?;
        }
        if self.kind.is("batch", "Job") {
            job::mutate(object);
        }
        if self.kind.is("", "Node") {
            node::date_taints(&Value::Null, object);
        }
        if self.kind.is("networking.k8s.io", "Ingress") {
            self.ingress_class(object);
        }
        Ok(())
    }

    /// Addresses and ports of a Service.
    pub fn allocate(&self, object: &mut Value, old: Option<&Value>) -> Result<Held> {
        if !self.kind.is("", "Service") {
            return Ok(Held::default());
        }
        let addresses = self.server.allocations.allocate(self, object, old)?;
        Ok(Held { _addresses: Some(addresses), _charge: None })
    }

    /// Counts the object against its namespace's quotas.
    pub fn quota(&self, object: &Value, old: Option<&Value>) -> Result<Option<quota::Charge>> {
        if self.kind.namespaced { self.server.quota.charge(self, object, old) } else { Ok(None) }
    }

    fn namespace_takes(&self, name: &str) -> Result<()> {
        let table = self.server.kinds.now();
        let namespaces = table.find("", "namespaces").expect("namespaces are built in");
        let Some(namespace) = self.server.store.get(&namespaces.key("", self.namespace)) else {
            return Err(ApiError::not_found(namespaces, self.namespace));
        };
        if meta::is_deleting(&namespace.value) && self.kind.kind != "Event" {
            let why =
                format!("unable to create new content in namespace {} because it is being terminated", self.namespace);
            let mut error = ApiError::forbidden(self.kind, name, why);
            if let Some(details) = &mut error.details {
                details["causes"] = json!([{"reason": "NamespaceTerminating",
                    "message": format!("namespace {} is being terminated", self.namespace), "field": "metadata.namespace"}]);
            }
            return Err(error);
        }
        Ok(())
    }

    /// A definition that is being deleted waits for its objects, and takes no new ones.
    fn definition_takes(&self) -> Result<()> {
        let definition = self.server.store.get(&crate::registry::definition_key(self.kind));
        if definition.is_some_and(|definition| meta::is_deleting(&definition.value)) {
            let why = "create not allowed while custom resource definition is terminating";
            return Err(ApiError { message: why.into(), ..ApiError::method_not_allowed() });
        }
        Ok(())
    }

    /// An Ingress that names no class gets the default one.
    fn ingress_class(&self, object: &mut Value) {
        if object.pointer("/spec/ingressClassName").is_some_and(|class| !class.is_null())
            || object.pointer("/metadata/annotations/kubernetes.io~1ingress.class").is_some()
        {
            return;
        }
        let (classes, _) = self.server.store.list("networking.k8s.io/ingressclasses/");
        let default = classes.iter().find(|class| {
            meta::text(&class.value, "/metadata/annotations/ingressclass.kubernetes.io~1is-default-class") == "true"
        });
        if let Some(class) = default {
            meta::child(meta::as_map(object), "spec")
                .insert("ingressClassName".into(), json!(meta::name(&class.value)));
        }
    }
}

/// Fills in what Kubernetes shows although nobody wrote it.
pub fn defaults(kind: &Kind, object: &mut Value) {
    defaults::set(kind, object);
}

/// Keeps what an update may leave out: fields the server gave.
pub fn keep(kind: &Kind, old: &Value, new: &mut Value) {
    if kind.is("", "Service") {
        service::keep(old, new);
    }
    if kind.is("batch", "Job") {
        job::keep(old, new);
    }
    if kind.is("", "Node") {
        node::date_taints(old, new);
    }
    if kind.is("", "Pod") || kind.is("", "Secret") {
        pod::keep(kind, old, new);
    }
}

/// Checks a whole object; `old` is there on updates.
pub fn validate(server: &Inner, kind: &Kind, object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    validate::object(server, kind, object, old, errors);
}
