//! Two views of one Event: core/v1, as it is stored, and events.k8s.io/v1.

use serde_json::{Map, Value, json};

use crate::meta;

/// (core/v1, events.k8s.io/v1)
const FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("reportingInstance", "reportingInstance"),
    ("count", "deprecatedCount"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("source", "deprecatedSource"),
];

/// events.k8s.io/v1 of a stored Event.
pub fn to_new(object: &Value) -> Value {
    let mut view = rename(object, |core, _| core, |_, new| new);
    view.insert("apiVersion".into(), json!("events.k8s.io/v1"));
    Value::Object(view)
}

/// What is stored of an events.k8s.io/v1 Event.
pub fn from_new(object: &Value) -> Value {
    let mut stored = rename(object, |_, new| new, |core, _| core);
    stored.insert("apiVersion".into(), json!("v1"));
    let mut stored = Value::Object(stored);
    // kubectl's columns read the old times.
    let time = meta::text(&stored, "/eventTime").to_owned();
    if !time.is_empty() {
        let map = meta::as_map(&mut stored);
        let seconds = time.parse::<jiff::Timestamp>().map(meta::timestamp).unwrap_or(time);
        meta::default(map, "firstTimestamp", seconds.clone());
        meta::default(map, "lastTimestamp", seconds);
    }
    stored
}

fn rename(
    object: &Value,
    from: fn(&'static str, &'static str) -> &'static str,
    to: fn(&'static str, &'static str) -> &'static str,
) -> Map<String, Value> {
    let mut out = Map::new();
    for (key, value) in object.as_object().into_iter().flatten() {
        let name =
            FIELDS.iter().find(|(core, new)| from(core, new) == key).map_or(key.as_str(), |(core, new)| to(core, new));
        out.insert(name.into(), value.clone());
    }
    out
}
