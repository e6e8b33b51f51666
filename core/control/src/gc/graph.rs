//! Who owns whom, by uid: of each object only what collection needs.

use std::sync::Arc;

use foldhash::{HashMap, HashSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::ApiResource;

use crate::cache::Key;

#[derive(Default)]
pub(super) struct Graph {
    objects: HashMap<String, Arc<Object>>,
    /// By owner; owners need not be there.
    dependents: HashMap<String, HashSet<String>>,
}

/// What collection needs of an object.
#[derive(PartialEq)]
pub(super) struct Object {
    pub(super) resource: Arc<ApiResource>,
    pub(super) key: Key,
    pub(super) owners: Vec<OwnerReference>,
    pub(super) deleting: bool,
    /// Waits until those it owns are gone.
    pub(super) foreground: bool,
    /// Waits until those it owns are released.
    pub(super) orphan: bool,
}

pub(super) const FOREGROUND: &str = "foregroundDeletion";
pub(super) const ORPHAN: &str = "orphan";

// === impl Graph ===

impl Graph {
    /// Puts in an object; says who has to look because of it.
    pub(super) fn set(&mut self, resource: &Arc<ApiResource>, meta: &ObjectMeta) -> Vec<String> {
        let Some(uid) = meta.uid.clone() else { return vec![] };
        let has = |name: &str| meta.finalizers.iter().flatten().any(|finalizer| finalizer == name);
        let object = Object {
            resource: resource.clone(),
            key: Key::of(meta),
            owners: meta.owner_references.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            foreground: has(FOREGROUND),
            orphan: has(ORPHAN),
        };
        let old = self.objects.get(&uid);
        if old.is_some_and(|old| **old == object) {
            return vec![];
        }
        if let Some(old) = old.cloned() {
            self.unlink(&uid, &old);
        }
        let mut wake = vec![];
        for owner in &object.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
            // An owner that waits for this one.
            if self.objects.get(&owner.uid).is_some_and(|owner| owner.deleting) {
                wake.push(owner.uid.clone());
            }
        }
        if !object.owners.is_empty() || object.deleting {
            wake.push(uid.clone());
        }
        // Dependents of one that waits for them go now.
        if object.deleting && object.foreground {
            wake.extend(self.dependents.get(&uid).into_iter().flatten().cloned());
        }
        self.objects.insert(uid, Arc::new(object));
        wake
    }

    /// Takes out an object; says who has to look because of it.
    pub(super) fn remove(&mut self, uid: &str) -> Vec<String> {
        let Some(old) = self.objects.remove(uid) else { return vec![] };
        self.unlink(uid, &old);
        let mut wake: Vec<String> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        wake.extend(
            old.owners
                .iter()
                .filter(|owner| self.objects.get(&owner.uid).is_some_and(|o| o.deleting))
                .map(|o| o.uid.clone()),
        );
        wake
    }

    pub(super) fn get(&self, uid: &str) -> Option<Arc<Object>> {
        self.objects.get(uid).cloned()
    }

    /// Those that name this one as an owner.
    pub(super) fn dependents(&self, uid: &str) -> Vec<(String, Arc<Object>)> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|uid| Some((uid.clone(), self.get(uid)?))).collect()
    }

    fn unlink(&mut self, uid: &str, object: &Object) {
        for owner in &object.owners {
            if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn resource() -> Arc<ApiResource> {
        Arc::new(ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&()))
    }

    fn meta(uid: &str, owners: &[&str], more: serde_json::Value) -> ObjectMeta {
        let owners: Vec<_> =
            owners.iter().map(|uid| json!({"apiVersion": "v1", "kind": "Pod", "name": uid, "uid": uid})).collect();
        let mut meta = json!({"name": uid, "namespace": "a", "uid": uid, "ownerReferences": owners});
        meta.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(meta).unwrap()
    }

    #[test]
    fn when_an_owner_goes_those_it_owns_have_to_look() {
        let mut graph = Graph::default();
        graph.set(&resource(), &meta("owner", &[], json!({})));
        assert_eq!(graph.set(&resource(), &meta("child", &["owner"], json!({}))), ["child"]);
        assert_eq!(graph.remove("owner"), ["child"]);
        assert!(graph.remove("child").is_empty());
        assert!(graph.dependents.is_empty() && graph.objects.is_empty());
    }

    #[test]
    fn an_owner_that_waits_looks_when_one_it_owns_goes() {
        let mut graph = Graph::default();
        graph.set(&resource(), &meta("child", &["owner"], json!({})));
        let deleting = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [FOREGROUND]});
        let wake = graph.set(&resource(), &meta("owner", &[], deleting));
        assert_eq!(wake, ["owner", "child"]);
        assert_eq!(graph.remove("child"), ["owner"]);
    }
}
