//! Kinds defined while the server runs.

use serde_json::{Value, json};

use crate::kinds::{Kind, Table};
use crate::meta;
use crate::server::Inner;
use crate::status::FieldErrors;

/// The kind that defines kinds.
pub const DEFINITION: &str = "CustomResourceDefinition";
/// Keys of definitions begin with this.
pub const DEFINITIONS: &str = "apiextensions.k8s.io/customresourcedefinitions/";

/// Serves the kinds that stored definitions define.
pub fn restore_custom_kinds(server: &Inner) {
    let (definitions, _) = server.store.list(DEFINITIONS);
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

/// Refuses a definition of what is there without it, or of what could not be told apart from it.
pub fn check(server: &Inner, definition: &Value, errors: &mut FieldErrors) {
    let (group, plural) = (meta::text(definition, "/spec/group"), meta::text(definition, "/spec/names/plural"));
    if !group.contains('.') {
        errors.invalid("spec.group", group, "should be a domain with at least one dot");
    }
    if meta::name(definition) != format!("{plural}.{group}") {
        errors.invalid("metadata.name", meta::name(definition), "must be spec.names.plural+\".\"+spec.group");
    }
    if server.kinds.now().find(group, plural).is_some_and(|kind| !kind.is_custom()) {
        errors.forbidden("spec.names.plural", "the server itself serves this kind");
    }
    let versions = meta::list(definition, "/spec/versions");
    if versions.iter().filter(|version| version.get("storage") == Some(&Value::Bool(true))).count() != 1 {
        errors.invalid(
            "spec.versions",
            Value::Array(vec![]),
            "must have exactly one version marked as storage version",
        );
    }
}

/// Serves the kinds of a definition from now on, and none that it does not have any more.
pub fn serve(server: &Inner, definition: &Value) {
    server.kinds.update(|table| {
        withdraw_from(table, definition);
        for kind in kinds(definition, true) {
            if table.get(&kind.group, &kind.version, &kind.plural).is_none() {
                table.add(kind);
            }
        }
    });
}

/// Does not serve the kinds of a definition any more.
pub fn withdraw(server: &Inner, definition: &Value) {
    server.kinds.update(|table| withdraw_from(table, definition));
}

fn withdraw_from(table: &mut Table, definition: &Value) {
    table.remove_custom(meta::text(definition, "/spec/group"), meta::text(definition, "/spec/names/plural"));
}

/// The versions of the kind a definition defines, all or those that are served.
pub fn kinds(definition: &Value, served: bool) -> Vec<Kind> {
    let text = |pointer: &str| meta::text(definition, pointer);
    let words = |pointer: &str| -> Vec<String> {
        meta::list(definition, pointer).iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect()
    };
    let versions = meta::list(definition, "/spec/versions");
    let is = |version: &Value, field: &str, value: bool| version.get(field) == Some(&Value::Bool(value));
    let stored = versions.iter().find(|version| is(version, "storage", true)).or(versions.first());
    let stored = stored.map_or("", |version| meta::text(version, "/name"));
    let versions = versions.iter().filter(|version| !served || !is(version, "served", false));
    let kind = |version: &Value| {
        let name = meta::text(version, "/name");
        let mut kind =
            Kind::custom(text("/spec/group"), name, text("/spec/names/kind"), text("/spec/names/plural"), stored);
        kind.namespaced = text("/spec/scope") == "Namespaced";
        kind.status = version.pointer("/subresources/status").is_some();
        kind.short = words("/spec/names/shortNames");
        kind.categories = words("/spec/names/categories");
        kind
    };
    versions.map(kind).collect()
}

/// The key of the definition that brought a kind.
pub fn definition_key(kind: &Kind) -> String {
    format!("{DEFINITIONS}{}", kind.resource())
}
