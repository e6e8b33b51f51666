//! Kinds defined while the server runs.

use serde_json::{Value, json};

use crate::kinds::Kind;
use crate::meta;
use crate::server::Inner;

/// The kind that defines kinds.
pub const DEFINITION: &str = "CustomResourceDefinition";

/// Serves the kinds that stored definitions define.
pub fn restore_custom_kinds(server: &Inner) {
    let (definitions, _) = server.store.list("apiextensions.k8s.io/customresourcedefinitions/");
    for definition in definitions {
        serve(server, &definition.value);
    }
}

/// Says in a definition's status that its kinds are served; they are by the time anybody reads it.
pub fn establish(definition: &mut Value) {
    let names = definition.pointer("/spec/names").cloned().unwrap_or_default();
    let versions: Vec<Value> =
        meta::list(definition, "/spec/versions").iter().filter_map(|version| version.get("name").cloned()).collect();
    let condition = |kind: &str, reason: &str| json!({"type": kind, "status": "True", "reason": reason, "message": "", "lastTransitionTime": meta::now()});
    let conditions = [condition("NamesAccepted", "NoConflicts"), condition("Established", "InitialNamesAccepted")];
    meta::as_map(definition)
        .insert("status".into(), json!({"acceptedNames": names, "conditions": conditions, "storedVersions": versions}));
}

/// Serves the kinds of a definition from now on.
pub fn serve(server: &Inner, definition: &Value) {
    let group = meta::text(definition, "/spec/group").to_owned();
    let kind = meta::text(definition, "/spec/names/kind").to_owned();
    let plural = meta::text(definition, "/spec/names/plural").to_owned();
    let namespaced = meta::text(definition, "/spec/scope") == "Namespaced";
    for version in meta::list(definition, "/spec/versions") {
        if version.get("served") == Some(&Value::Bool(false)) {
            continue;
        }
        let name = meta::text(version, "/name").to_owned();
        let status = version.pointer("/subresources/status").is_some();
        let words = |pointer: &str| -> Vec<String> {
            meta::list(definition, pointer).iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect()
        };
        let (short, categories) = (words("/spec/names/shortNames"), words("/spec/names/categories"));
        server.kinds.update(|table| {
            if table.get(&group, &name, &plural).is_some_and(|existing| existing.check.is_some()) {
                return;
            }
            let mut custom = Kind::custom(&group, &name, &kind, &plural, namespaced, status);
            custom.short = short.clone();
            custom.categories = categories.clone();
            table.add(custom);
        });
    }
}

/// Does not serve the kinds of a definition any more.
pub fn withdraw(server: &Inner, definition: &Value) {
    for version in meta::list(definition, "/spec/versions") {
        server.kinds.update(|table| {
            table.remove(
                meta::text(definition, "/spec/group"),
                meta::text(version, "/name"),
                meta::text(definition, "/spec/names/plural"),
            );
        });
    }
}
