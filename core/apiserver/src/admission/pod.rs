//! What a pod gets on its way in: its account, its priority, tolerations for nodes that fail.

use serde_json::{Map, Value, json};

use super::Admission;
use crate::kinds::Kind;
use crate::meta;
use crate::status::{ApiError, Result};

/// Completes a pod that is being created.
pub fn mutate(admission: &Admission<'_>, pod: &mut Value) -> Result<()> {
    let name = meta::name(pod).to_owned();
    let spec = meta::child(meta::as_map(pod), "spec");
    meta::default(spec, "serviceAccountName", "default");
    if spec["serviceAccountName"] == "" {
        spec["serviceAccountName"] = json!("default");
    }
    let account = spec["serviceAccountName"].clone();
    spec.insert("serviceAccount".into(), account.clone());
    let account = account.as_str().unwrap_or("default");
    // The account `default` is made a moment after its namespace, by a controller; a pod need not wait for it.
    let key = format!("core/serviceaccounts/{}/{account}", admission.namespace);
    let stored = admission.server.store.get(&key);
    if stored.is_none() && account != "default" {
        let why = format!(
            "error looking up service account {}/{account}: serviceaccount \"{account}\" not found",
            admission.namespace
        );
        return Err(ApiError::forbidden(admission.kind, &name, why));
    }
    if !spec.contains_key("automountServiceAccountToken")
        && let Some(mount) = stored.as_ref().and_then(|stored| stored.value.get("automountServiceAccountToken"))
    {
        spec.insert("automountServiceAccountToken".into(), mount.clone());
    }
    meta::default(spec, "preemptionPolicy", "PreemptLowerPriority");
    let class = spec.get("priorityClassName").and_then(Value::as_str).unwrap_or("");
    let priority = match class {
        "system-node-critical" => 2_000_001_000,
        "system-cluster-critical" => 2_000_000_000,
        _ => 0,
    };
    spec.insert("priority".into(), json!(priority));
    tolerate(spec, admission.server.default_toleration_seconds);
    let class = quality(spec);
    let status = meta::child(meta::as_map(pod), "status");
    status.clear();
    status.insert("phase".into(), json!("Pending"));
    status.insert("qosClass".into(), json!(class));
    Ok(())
}

/// Keeps what an update of a pod leaves out.
pub fn keep(kind: &Kind, old: &Value, new: &mut Value) {
    if kind.kind != "Pod" {
        return;
    }
    let Some(old) = old.get("spec").and_then(Value::as_object) else { return };
    let spec = meta::child(meta::as_map(new), "spec");
    for field in ["nodeName", "serviceAccountName", "serviceAccount", "priority", "preemptionPolicy"] {
        if let Some(value) = old.get(field) {
            meta::default(spec, field, value.clone());
        }
    }
}

/// How long the pod stays on a node that is not ready or not reachable, where it does not say itself.
fn tolerate(spec: &mut Map<String, Value>, seconds: i64) {
    let list = spec.entry("tolerations").or_insert_with(|| json!([]));
    let Some(list) = list.as_array_mut() else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = list.iter().any(|toleration| {
            let its_key = meta::text(toleration, "/key");
            let effect = meta::text(toleration, "/effect");
            (its_key == key || its_key.is_empty() && meta::text(toleration, "/operator") == "Exists")
                && (effect.is_empty() || effect == "NoExecute")
        });
        if !tolerated {
            list.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}));
        }
    }
}

/// Quality of service, from requests and limits.
fn quality(spec: &Map<String, Value>) -> &'static str {
    let (mut any, mut guaranteed) = (false, true);
    for field in ["containers", "initContainers"] {
        for container in spec.get(field).and_then(Value::as_array).into_iter().flatten() {
            for resource in ["cpu", "memory"] {
                let request = container.pointer(&format!("/resources/requests/{resource}"));
                let limit = container.pointer(&format!("/resources/limits/{resource}"));
                any |= request.is_some() || limit.is_some();
                guaranteed &= limit.is_some() && request == limit;
            }
        }
    }
    match (any, guaranteed) {
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
        (false, _) => "BestEffort",
    }
}
