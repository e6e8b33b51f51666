//! What every object must get right, whatever its kind.

use serde_json::Value;

use super::{FieldValidation, Write};
use crate::kinds::Kind;
use crate::meta;
use crate::selector::{is_label_key, is_label_value};
use crate::status::{ApiError, FieldErrors, Result};
use crate::view;

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
                     end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
                     '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
                         start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
                         '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const SERVICE_LABEL: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
                             character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
                             validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
/// All annotations of an object together.
const ANNOTATION_BYTES: usize = 256 << 10;

impl Write<'_> {
    /// What a client sent, as it is stored: of the right kind, type and namespace.
    pub fn accept(&self, mut object: Value) -> Result<Value> {
        let kind = self.kind;
        let Some(map) = object.as_object_mut() else {
            return Err(ApiError::bad_request(format!("the body must be a JSON object of kind {}", kind.kind)));
        };
        let given = map.get("apiVersion").and_then(Value::as_str).unwrap_or("").to_owned();
        let wanted = kind.api_version();
        if !given.is_empty() && given != wanted {
            return Err(ApiError::bad_request(format!(
                "the API version in the data ({given}) does not match the expected API version ({wanted})"
            )));
        }
        let given = map.get("kind").and_then(Value::as_str).unwrap_or("").to_owned();
        if !given.is_empty() && given != kind.kind {
            return Err(ApiError::bad_request(format!(
                "the object provided is unrecognized: kind in the data ({given}) does not match the expected kind ({})",
                kind.kind
            )));
        }
        map.insert("apiVersion".into(), wanted.into());
        map.insert("kind".into(), kind.kind.clone().into());
        if map.get("metadata").is_some_and(|metadata| !metadata.is_object() && !metadata.is_null()) {
            return Err(ApiError::bad_request("metadata must be an object"));
        }
        let metadata = meta::child(map, "metadata");
        let namespace = metadata.get("namespace").and_then(Value::as_str).unwrap_or("");
        if !kind.namespaced {
            metadata.shift_remove("namespace");
        } else if namespace.is_empty() {
            metadata.insert("namespace".into(), self.namespace.into());
        } else if namespace != self.namespace {
            return Err(ApiError::bad_request(format!(
                "the namespace of the provided object does not match the namespace sent on the request ({namespace} is not {})",
                self.namespace
            )));
        }
        if kind.check.is_some() {
            meta::tidy(&mut object);
        }
        self.typed(&object)?;
        Ok(view::stored(kind, object))
    }

    /// Reads the value as its type.
    fn typed(&self, object: &Value) -> Result<()> {
        let Some(check) = self.kind.check else { return Ok(()) };
        let back = check(object, self.validation != FieldValidation::Ignore).map_err(|error| {
            ApiError::bad_request(format!(
                "{} in version \"{}\" cannot be handled as a {}: {error}",
                self.kind.kind, self.kind.version, self.kind.kind
            ))
        })?;
        let Some(back) = back else { return Ok(()) };
        let mut unknown = Vec::new();
        lost(object, &back, "", &mut unknown);
        if unknown.is_empty() {
            return Ok(());
        }
        let lines: Vec<String> = unknown.iter().map(|path| format!("unknown field \"{path}\"")).collect();
        if self.validation == FieldValidation::Strict {
            return Err(ApiError::bad_request(format!(
                "{} in version \"{}\" cannot be handled as a {}: strict decoding error: {}",
                self.kind.kind,
                self.kind.version,
                self.kind.kind,
                lines.join(", ")
            )));
        }
        lines.into_iter().for_each(|line| self.warn(line));
        Ok(())
    }
}

/// Paths of fields that did not survive being read as a type: the type does not know them.
fn lost(given: &Value, back: &Value, path: &str, unknown: &mut Vec<String>) {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    };
    if unknown.len() >= 10 {
        return;
    }
    match (given, back) {
        (Value::Object(given), Value::Object(back)) => {
            for (field, value) in given {
                let path = if path.is_empty() { field.clone() } else { format!("{path}.{field}") };
                match back.get(field) {
                    Some(back) => lost(value, back, &path, unknown),
                    None if empty(value) => {}
                    None => unknown.push(path),
                }
            }
        }
        (Value::Array(given), Value::Array(back)) if given.len() == back.len() => {
            for (at, (given, back)) in given.iter().zip(back).enumerate() {
                lost(given, back, &format!("{path}[{at}]"), unknown);
            }
        }
        _ => {}
    }
}

/// Checks `metadata` of an object about to be stored; `old` is there on updates.
pub fn metadata(kind: &Kind, object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let name = meta::name(object);
    match kind.kind.as_str() {
        _ if name.is_empty() => errors.required("metadata.name", "name or generateName is required"),
        "Namespace" if !is_dns_label(name) => errors.invalid("metadata.name", name, LABEL),
        "Service" if !is_dns_label(name) || !name.starts_with(|c: char| c.is_ascii_lowercase()) => {
            errors.invalid("metadata.name", name, SERVICE_LABEL);
        }
        "ClusterRole" | "ClusterRoleBinding" | "Role" | "RoleBinding"
            if name.contains(['/', '%']) || matches!(name, "." | "..") =>
        {
            errors.invalid("metadata.name", name, "may not contain '/' or '%', and may not be '.' or '..'");
        }
        "Namespace" | "Service" | "ClusterRole" | "ClusterRoleBinding" | "Role" | "RoleBinding" => {}
        _ if !is_dns_subdomain(name) => errors.invalid("metadata.name", name, SUBDOMAIN),
        _ => {}
    }
    string_map(object, "labels", errors, |key, value, errors| {
        if !is_label_key(key) {
            errors.invalid("metadata.labels", key, "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')");
        }
        if value.len() > 63 {
            errors.invalid("metadata.labels", value, "must be no more than 63 characters");
        } else if !is_label_value(value) {
            errors.invalid("metadata.labels", value, "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')");
        }
    });
    let mut bytes = 0;
    string_map(object, "annotations", errors, |key, value, errors| {
        bytes += key.len() + value.len();
        if !is_label_key(&key.to_lowercase()) {
            errors.invalid("metadata.annotations", key, "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')");
        }
    });
    if bytes > ANNOTATION_BYTES {
        errors.invalid("metadata.annotations", bytes, "may not be more than 262144 bytes");
    }
    for (at, finalizer) in meta::list(object, "/metadata/finalizers").iter().enumerate() {
        if finalizer.as_str().is_none_or(|text| !is_label_key(text)) {
            errors.invalid(
                format!("metadata.finalizers[{at}]"),
                finalizer.clone(),
                "name is neither a standard finalizer name nor is it fully qualified",
            );
        }
    }
    if let Some(old) = old.filter(|old| meta::is_deleting(old)) {
        let known = meta::list(old, "/metadata/finalizers");
        let new = meta::list(object, "/metadata/finalizers").iter().filter(|finalizer| !known.contains(finalizer));
        let new: Vec<&str> = new.filter_map(Value::as_str).collect();
        if !new.is_empty() {
            let why =
                format!("no new finalizers can be added if the object is being deleted, found new finalizers {new:?}");
            errors.forbidden("metadata.finalizers", &why);
        }
    }
    for (at, owner) in meta::list(object, "/metadata/ownerReferences").iter().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if meta::text(owner, &format!("/{field}")).is_empty() {
                errors
                    .required(format!("metadata.ownerReferences[{at}].{field}"), &format!("{field} must not be empty"));
            }
        }
    }
}

fn string_map(
    object: &Value,
    field: &str,
    errors: &mut FieldErrors,
    mut each: impl FnMut(&str, &str, &mut FieldErrors),
) {
    match object.pointer(&format!("/metadata/{field}")) {
        None | Some(Value::Null) => {}
        Some(Value::Object(map)) => {
            for (key, value) in map {
                match value.as_str() {
                    Some(value) => each(key, value, errors),
                    None => errors.invalid(format!("metadata.{field}.{key}"), value.clone(), "must be a string"),
                }
            }
        }
        Some(other) => errors.invalid(format!("metadata.{field}"), other.clone(), "must be a map of strings"),
    }
}

/// Up to 63 of a-z, 0-9 and `-`, beginning and ending with a letter or digit.
pub fn is_dns_label(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 63
        && name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Labels joined by dots, up to 253 bytes; a label may be longer than 63 here, as in Kubernetes.
pub fn is_dns_subdomain(name: &str) -> bool {
    let label = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    !name.is_empty() && name.len() <= 253 && name.split('.').all(label)
}
