//! Answers in other forms than the object itself: tables, metadata only.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::accept::Form;
use crate::kinds::Kind;
use crate::request::Query;
use crate::view;

/// What of the object goes along with each row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Include {
    None,
    Metadata,
    Object,
}

// === impl Include ===

impl Include {
    pub fn parse(query: &Query) -> Self {
        match query.get("includeObject") {
            Some("None") => Self::None,
            Some("Object") => Self::Object,
            _ => Self::Metadata,
        }
    }
}

/// One object in the form asked for. `header` is for tables: whether columns are described.
pub fn present(kind: &Kind, object: &Value, form: Form, include: Include, header: bool) -> Value {
    match form {
        Form::Json => view::of(kind, object).into_owned(),
        Form::Metadata => partial(object),
        Form::Table => {
            let revision = object.pointer("/metadata/resourceVersion").cloned().unwrap_or(json!(""));
            table(kind, std::iter::once(object), json!({ "resourceVersion": revision }), include, header)
        }
    }
}

/// The encoded form of one object; `stored` are the bytes the store has.
pub fn encode(kind: &Kind, object: &Value, stored: &Bytes, form: Form, include: Include) -> Bytes {
    if form == Form::Json && view::is_stored(kind, object) {
        return stored.clone();
    }
    serde_json::to_vec(&present(kind, object, form, include, true)).expect("a JSON value always encodes").into()
}

/// A table of objects.
pub fn table<'a>(
    kind: &Kind,
    objects: impl Iterator<Item = &'a Value>,
    metadata: Value,
    include: Include,
    header: bool,
) -> Value {
    let columns: Vec<Value> = if header {
        let describe = |column: &crate::printers::Column| {
            let format = if column.name == "Name" { "name" } else { "" };
            json!({"name": column.name, "type": column.kind, "format": format,
                "description": column.name, "priority": column.priority})
        };
        kind.printer.columns.iter().map(describe).collect()
    } else {
        vec![]
    };
    let rows: Vec<Value> = objects
        .map(|object| {
            let mut row = json!({"cells": (kind.printer.cells)(object)});
            match include {
                Include::None => {}
                Include::Metadata => row["object"] = partial(object),
                Include::Object => row["object"] = view::of(kind, object).into_owned(),
            }
            row
        })
        .collect();
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": columns, "rows": rows})
}

/// An object's metadata alone.
pub fn partial(object: &Value) -> Value {
    let mut partial = Map::new();
    partial.insert("kind".into(), json!("PartialObjectMetadata"));
    partial.insert("apiVersion".into(), json!("meta.k8s.io/v1"));
    partial.insert("metadata".into(), object.get("metadata").cloned().unwrap_or_else(|| json!({})));
    Value::Object(partial)
}
