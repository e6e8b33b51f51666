//! Two views of one Event: core/v1, as it is stored, and events.k8s.io/v1.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use crate::kinds::{Kind, View};
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

/// What clients of `kind` see of a stored object.
pub fn to_view<'a>(kind: &Kind, object: &'a Value) -> Cow<'a, Value> {
    if kind.view == View::Stored {
        return Cow::Borrowed(object);
    }
    let mut view = rename(object, |core, _| core, |_, new| new);
    view.insert("apiVersion".into(), json!("events.k8s.io/v1"));
    Cow::Owned(Value::Object(view))
}

/// What is stored of an object a client of `kind` sent.
pub fn from_view(kind: &Kind, object: Value) -> Value {
    if kind.view == View::Stored {
        return object;
    }
    let mut stored = rename(&object, |_, new| new, |core, _| core);
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
