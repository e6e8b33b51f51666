//! Update: whole, by patch, or by a subresource.

use std::sync::Arc;

use serde_json::{Value, json};
use switchyard_store::{Entry, Expect};

use super::{Part, Write, check, custom};
use crate::admission::{self, Admission, Held};
use crate::meta;
use crate::patch::apply;
use crate::status::{ApiError, FieldErrors, Result};

/// How often a patch is computed anew when others write the same object.
const ATTEMPTS: usize = 16;

/// Metadata that only the server writes.
const SERVERS_OWN: &[&str] = &[
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "namespace",
    "name",
    "selfLink",
];

impl Write<'_> {
    /// Replaces an object, or its status.
    pub async fn replace(&self, name: &str, object: Value, part: Part) -> Result<Arc<Entry>> {
        let object = self.accept(object)?;
        let given = meta::name(&object);
        if given != name {
            let why = format!("the name of the object ({given}) does not match the name on the URL ({name})");
            return Err(ApiError::bad_request(why));
        }
        let current = self.current(name);
        if let (Err(error), Part::Main) = (&current, part)
            && error.code == 404
            && self.kind.kind == "Lease"
            && meta::text(&object, "/metadata/resourceVersion").is_empty()
        {
            // Leases may be created by an update, as in Kubernetes.
            return self.create(object).await;
        }
        self.change(name, part, |_| Ok(object.clone())).await
    }

    /// Computes an object from the one that is there, checks it and stores it.
    pub async fn change(&self, name: &str, part: Part, make: impl Fn(&Value) -> Result<Value>) -> Result<Arc<Entry>> {
        let mut attempt = 1;
        loop {
            let old = self.current(name)?;
            let new = make(&old.value)?;
            let pinned = meta::text(&new, "/metadata/resourceVersion").to_owned();
            if !pinned.is_empty() && pinned != old.revision.to_string() {
                // A patch starts from what is there and so names its version without meaning to.
                return Err(ApiError::modified(self.kind, name));
            }
            match self.store_change(name, &old, new, part).await {
                Err(error) if error.reason == "Conflict" && error.details.is_some() && attempt < ATTEMPTS => {
                    attempt += 1
                }
                result => return result,
            }
        }
    }

    async fn store_change(&self, name: &str, old: &Arc<Entry>, mut new: Value, part: Part) -> Result<Arc<Entry>> {
        let kind = self.kind;
        let key = kind.key(self.namespace, name);
        self.keep_servers_fields(&old.value, &mut new, part)?;
        let admission = Admission { server: self.server, kind, namespace: self.namespace };
        if part != Part::Status {
            admission::defaults(kind, &mut new);
            admission::keep(kind, &old.value, &mut new);
        }
        if spec_changed(&old.value, &new) {
            let generation = meta::number(&old.value, "/metadata/generation").unwrap_or(0) + 1;
            meta::metadata_mut(&mut new).insert("generation".into(), json!(generation));
        }
        apply::track_update(kind, &old.value, &mut new, &self.manager, part == Part::Status);
        if same(&old.value, &new) {
            return Ok(old.clone());
        }
        let mut errors = FieldErrors::default();
        check::metadata(kind, &new, Some(&old.value), &mut errors);
        if part != Part::Status {
            admission::validate(self.server, kind, &new, Some(&old.value), &mut errors);
        }
        if part == Part::Main && kind.kind == custom::DEFINITION {
            custom::check(self.server, &new, &mut errors);
        }
        errors.into_result(kind, name)?;
        self.rights(&new, Some(&old.value), part)?;
        // Held until it is stored: others must not be given the same, nor be told it is free.
        let mut held = Held::default();
        if part != Part::Status {
            held = admission.allocate(&mut new, Some(&old.value))?;
            held.charge(admission.quota(&new, Some(&old.value))?);
        }
        if self.dry_run {
            return self.imagined(key, new, old.revision);
        }
        let expect = Expect::Revision(old.revision);
        let gone = meta::is_deleting(&new)
            && !meta::has_finalizers(&new)
            && (!kind.is("", "Pod") || meta::number(&new, "/metadata/deletionGracePeriodSeconds") == Some(0));
        let stored = if gone {
            self.server.store.delete(&key, expect, self.durability()).await
        } else {
            self.server.store.put(&key, new, expect, self.durability()).await
        };
        let entry = stored.map_err(|error| self.store_error(name, error))?;
        drop(held);
        self.server.quota.touch(self.namespace);
        if kind.kind == custom::DEFINITION {
            if gone {
                custom::withdraw(self.server, &entry.value);
            } else {
                custom::serve(self.server, &entry.value);
            }
        }
        Ok(entry)
    }

    fn keep_servers_fields(&self, old: &Value, new: &mut Value, part: Part) -> Result<()> {
        let uid = meta::text(new, "/metadata/uid");
        let real = meta::text(old, "/metadata/uid");
        if !uid.is_empty() && uid != real {
            let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {real}");
            return Err(ApiError { details: None, ..ApiError::conflict(self.kind, meta::name(old), &why) });
        }
        if part != Part::Any {
            let kept = old.get("metadata").and_then(Value::as_object);
            let metadata = meta::metadata_mut(new);
            for field in SERVERS_OWN {
                match kept.and_then(|metadata| metadata.get(*field)) {
                    Some(value) => metadata.insert((*field).into(), value.clone()),
                    None => metadata.shift_remove(*field),
                };
            }
            if metadata.get("managedFields").is_none()
                && let Some(fields) = kept.and_then(|metadata| metadata.get("managedFields"))
            {
                metadata.insert("managedFields".into(), fields.clone());
            }
        }
        match part {
            Part::Main if self.kind.status => copy(old, new, "status"),
            Part::Status => {
                let mut only_status = old.clone();
                copy(new, &mut only_status, "status");
                for field in ["labels", "annotations", "managedFields"] {
                    let given = new.pointer(&format!("/metadata/{field}")).cloned();
                    let metadata = meta::metadata_mut(&mut only_status);
                    match given {
                        Some(value) => metadata.insert(field.into(), value),
                        None => metadata.shift_remove(field),
                    };
                }
                *new = only_status;
            }
            _ => {}
        }
        Ok(())
    }
}

fn copy(from: &Value, to: &mut Value, field: &str) {
    let map = meta::as_map(to);
    match from.get(field) {
        Some(value) => map.insert(field.into(), value.clone()),
        None => map.shift_remove(field),
    };
}

/// Whether anything but metadata and status differs.
fn spec_changed(old: &Value, new: &Value) -> bool {
    if old.pointer("/metadata/generation").is_none() {
        return false;
    }
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else { return false };
    let aside = |field: &&String| !matches!(field.as_str(), "metadata" | "status" | "apiVersion" | "kind");
    old.keys().chain(new.keys()).filter(aside).any(|field| old.get(field) != new.get(field))
}

/// Whether a write would change nothing; then it does not happen.
fn same(old: &Value, new: &Value) -> bool {
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else { return false };
    let metadata = |map: &serde_json::Map<String, Value>| {
        let mut metadata = map.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
        metadata.shift_remove("resourceVersion");
        metadata
    };
    old.len() == new.len()
        && old.iter().all(|(field, value)| field == "metadata" || new.get(field) == Some(value))
        && metadata(old) == metadata(new)
}
