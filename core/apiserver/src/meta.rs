//! Reading and writing the few fields every object has.

use serde_json::{Map, Value};

/// The text at a JSON pointer; empty when there is none.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// The number at a JSON pointer.
pub fn number(object: &Value, pointer: &str) -> Option<i64> {
    object.pointer(pointer).and_then(Value::as_i64)
}

/// The list at a JSON pointer; empty when there is none.
pub fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The map at a JSON pointer.
pub fn map<'a>(object: &'a Value, pointer: &str) -> Option<&'a Map<String, Value>> {
    object.pointer(pointer).and_then(Value::as_object)
}

/// `metadata.name`.
pub fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

/// `metadata.namespace`.
pub fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

/// `metadata`, made if it is missing.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    child(as_map(object), "metadata")
}

/// The value as a map; anything else becomes an empty one.
pub fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("it was just made a map")
}

/// A map inside a map, made if it is missing.
pub fn child<'a>(map: &'a mut Map<String, Value>, field: &str) -> &'a mut Map<String, Value> {
    as_map(map.entry(field).or_insert(Value::Null))
}

/// Sets a field unless it has a value.
pub fn default(map: &mut Map<String, Value>, field: &str, value: impl Into<Value>) {
    match map.get(field) {
        None | Some(Value::Null) => {
            map.insert(field.into(), value.into());
        }
        Some(_) => {}
    }
}

/// Whether the object is being deleted.
pub fn is_deleting(object: &Value) -> bool {
    !text(object, "/metadata/deletionTimestamp").is_empty()
}

/// Whether a pod's containers have all ended for good.
pub fn has_ended(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

/// Whether something must be done before the object may go.
pub fn has_finalizers(object: &Value) -> bool {
    !list(object, "/metadata/finalizers").is_empty() || !list(object, "/spec/finalizers").is_empty()
}

/// A time as `metadata` has it.
pub fn timestamp(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Now, as `metadata` has it.
pub fn now() -> String {
    timestamp(jiff::Timestamp::now())
}

/// Removes null entries and, where they carry nothing, empty maps that Kubernetes would not show either.
pub fn tidy(object: &mut Value) {
    let metadata = metadata_mut(object);
    for field in ["labels", "annotations", "finalizers", "ownerReferences", "managedFields"] {
        let empty = match metadata.get(field) {
            Some(Value::Null) => true,
            Some(Value::Object(map)) => map.is_empty(),
            Some(Value::Array(list)) => list.is_empty(),
            _ => false,
        };
        if empty {
            metadata.shift_remove(field);
        }
    }
    drop_nulls(object, 0);
}

fn drop_nulls(value: &mut Value, depth: usize) {
    if depth > 128 {
        return;
    }
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(|value| drop_nulls(value, depth + 1));
        }
        Value::Array(list) => list.iter_mut().for_each(|value| drop_nulls(value, depth + 1)),
        _ => {}
    }
}
