//! Subresources that change objects: scale, binding, eviction, finalize.

use std::sync::Arc;

use serde_json::{Value, json};
use switchyard_api::names::POD_IP;
use switchyard_store::Entry;

use super::{DeleteOptions, Part, Write};
use crate::meta;
use crate::status::{ApiError, FieldErrors, Result};

impl Write<'_> {
    /// The `Scale` of an object.
    pub fn scale_of(&self, object: &Value) -> Value {
        let mut metadata = json!({});
        for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
            if let Some(value) = object.pointer(&format!("/metadata/{field}")) {
                metadata[field] = value.clone();
            }
        }
        json!({
            "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
            "spec": {"replicas": meta::number(object, "/spec/replicas").unwrap_or(0)},
            "status": {
                "replicas": meta::number(object, "/status/replicas").unwrap_or(0),
                "selector": selector_text(object),
            },
        })
    }

    /// Changes an object's replicas through its `Scale`, which `make` computes from the present one.
    pub async fn set_scale(&self, name: &str, make: impl Fn(Value) -> Result<Value>) -> Result<Value> {
        let entry = self
            .change(name, Part::Main, |old| {
                let scale = make(self.scale_of(old))?;
                let replicas = match scale.pointer("/spec/replicas") {
                    None | Some(Value::Null) => 0,
                    Some(value) => {
                        value.as_i64().filter(|n| (0..=i64::from(i32::MAX)).contains(n)).ok_or_else(|| {
                            let mut errors = FieldErrors::default();
                            errors.invalid("spec.replicas", value.clone(), "must be greater than or equal to 0");
                            ApiError::invalid(self.kind, name, errors)
                        })?
                    }
                };
                let mut new = old.clone();
                let pinned = meta::text(&scale, "/metadata/resourceVersion");
                if !pinned.is_empty() {
                    new["metadata"]["resourceVersion"] = json!(pinned);
                }
                meta::child(meta::as_map(&mut new), "spec").insert("replicas".into(), json!(replicas));
                Ok(new)
            })
            .await?;
        Ok(self.scale_of(&entry.value))
    }

    /// Gives a pod its node, once, with the annotations that came along: its address among them.
    pub async fn bind(&self, name: &str, binding: &Value) -> Result<Arc<Entry>> {
        let node = meta::text(binding, "/target/name");
        let target_kind = meta::text(binding, "/target/kind");
        let mut errors = FieldErrors::default();
        if node.is_empty() {
            errors.required("target.name", "");
        }
        errors.one_of("target.kind", target_kind, &["Node"]);
        errors.into_result(self.kind, name)?;
        let given = meta::name(binding);
        if !given.is_empty() && given != name {
            let why = format!("the name of the object ({given}) does not match the name on the URL ({name})");
            return Err(ApiError::bad_request(why));
        }
        let annotations = meta::map(binding, "/metadata/annotations").cloned().unwrap_or_default();
        let labels = meta::map(binding, "/metadata/labels").cloned().unwrap_or_default();
        let uid = meta::text(binding, "/metadata/uid");
        self.change(name, Part::Any, |old| {
            let refuse = |why: String| ApiError { details: None, ..ApiError::conflict(self.kind, name, &why) };
            if !uid.is_empty() && uid != meta::text(old, "/metadata/uid") {
                return Err(refuse(format!("Precondition failed: UID in precondition: {uid}")));
            }
            if meta::is_deleting(old) {
                return Err(refuse(format!("pod {name} is being deleted, cannot be assigned to a host")));
            }
            if meta::has_ended(old) {
                return Err(refuse(format!("pod {name} has ended, cannot be assigned to a host")));
            }
            let bound = meta::text(old, "/spec/nodeName");
            let has_address = meta::map(old, "/metadata/annotations").is_some_and(|all| all.contains_key(POD_IP));
            // A pod that named its node itself has no address yet.
            let completes = bound == node && annotations.contains_key(POD_IP) && !has_address;
            if !bound.is_empty() && !completes {
                return Err(refuse(format!("pod {name} is already assigned to node \"{bound}\"")));
            }
            let mut new = old.clone();
            for (field, values) in [("annotations", &annotations), ("labels", &labels)] {
                if !values.is_empty() {
                    meta::child(meta::metadata_mut(&mut new), field).extend(values.clone());
                }
            }
            meta::child(meta::as_map(&mut new), "spec").insert("nodeName".into(), json!(node));
            let condition =
                json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": meta::now()});
            set_condition(&mut new, condition);
            Ok(new)
        })
        .await
    }

    /// Deletes a pod as `kubectl drain` asks for it. There are no disruption budgets to ask.
    pub async fn evict(&self, name: &str, eviction: &Value) -> Result<Value> {
        let options = DeleteOptions::parse(eviction.get("deleteOptions").cloned(), &Default::default())?;
        self.remove(name, &options).await?;
        Ok(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}))
    }

    /// Takes away a namespace's own finalizers: its content is gone.
    pub async fn finalize(&self, name: &str, sent: Value) -> Result<Arc<Entry>> {
        let finalizers = sent.pointer("/spec/finalizers").cloned().unwrap_or_else(|| json!([]));
        let pinned = meta::text(&sent, "/metadata/resourceVersion").to_owned();
        self.change(name, Part::Any, |old| {
            let mut new = old.clone();
            if !pinned.is_empty() {
                new["metadata"]["resourceVersion"] = json!(pinned);
            }
            meta::child(meta::as_map(&mut new), "spec").insert("finalizers".into(), finalizers.clone());
            Ok(new)
        })
        .await
    }
}

/// A selector as the text of `Scale.status.selector`.
fn selector_text(object: &Value) -> String {
    let labels = meta::map(object, "/spec/selector/matchLabels").into_iter().flatten();
    let mut parts: Vec<String> = labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or(""))).collect();
    parts.sort();
    for rule in meta::list(object, "/spec/selector/matchExpressions") {
        let key = meta::text(rule, "/key");
        let values: Vec<&str> = meta::list(rule, "/values").iter().filter_map(Value::as_str).collect();
        parts.push(match meta::text(rule, "/operator") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    parts.join(",")
}

/// Adds a condition to `status.conditions`, or replaces the one of its type.
pub fn set_condition(object: &mut Value, mut condition: Value) {
    meta::as_map(&mut condition).retain(|_, value| !value.is_null());
    let status = meta::child(meta::as_map(object), "status");
    let list = status.entry("conditions").or_insert_with(|| json!([]));
    if !list.is_array() {
        *list = json!([]);
    }
    let list = list.as_array_mut().expect("it was just made a list");
    match list.iter_mut().find(|item| item.get("type") == condition.get("type")) {
        Some(item) => *item = condition,
        None => list.push(condition),
    }
}
