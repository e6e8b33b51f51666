//! What a pod asks for in all, and LimitRange's defaults.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use switchyard_api::Amount;

use super::Admission;
use crate::meta;
use crate::status::Result;

/// A quantity as JSON has it.
pub fn amount(value: &Value) -> Option<Amount> {
    match value {
        Value::String(text) => Amount::parse(text),
        Value::Number(number) => Amount::parse(&number.to_string()),
        _ => None,
    }
}

/// What a pod's containers ask for in all: `requests.cpu`, `limits.memory`, ... Init containers run alone, so the greatest counts.
pub fn pod_totals(pod: &Value) -> BTreeMap<String, Amount> {
    let mut totals = BTreeMap::new();
    for side in ["requests", "limits"] {
        for container in meta::list(pod, "/spec/containers") {
            for (what, value) in meta::map(container, &format!("/resources/{side}")).into_iter().flatten() {
                if let Some(value) = amount(value) {
                    let sum: &mut Amount = totals.entry(format!("{side}.{what}")).or_default();
                    *sum = *sum + value;
                }
            }
        }
        for container in meta::list(pod, "/spec/initContainers") {
            for (what, value) in meta::map(container, &format!("/resources/{side}")).into_iter().flatten() {
                if let Some(value) = amount(value) {
                    let most: &mut Amount = totals.entry(format!("{side}.{what}")).or_default();
                    *most = (*most).max(value);
                }
            }
        }
    }
    totals
}

/// Gives containers the namespace's default requests and limits.
pub fn pod_defaults(admission: &Admission<'_>, pod: &mut Value) -> Result<()> {
    let (ranges, _) = admission.server.store.list(&format!("core/limitranges/{}/", admission.namespace));
    for range in ranges {
        for limit in meta::list(&range.value, "/spec/limits") {
            if meta::text(limit, "/type") != "Container" {
                continue;
            }
            for (from, to) in [("default", "limits"), ("defaultRequest", "requests")] {
                let Some(values) = meta::map(limit, &format!("/{from}")) else { continue };
                let spec = meta::child(meta::as_map(pod), "spec");
                for field in ["containers", "initContainers"] {
                    for container in spec.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
                        let resources = meta::child(meta::as_map(container), "resources");
                        for (what, value) in values {
                            meta::default(meta::child(resources, to), what, json!(value));
                        }
                    }
                }
            }
        }
    }
    Ok(())
}
