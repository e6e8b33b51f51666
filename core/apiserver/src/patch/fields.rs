//! Sets of fields: who owns what, as `metadata.managedFields` keeps it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::schema::{List, Type};

/// One step into an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// A field of a map.
    Field(String),
    /// The element of a list that has these keys; JSON, keys in order.
    Key(String),
    /// A plain value in a list.
    Value(String),
}

/// The way to a field.
pub type Path = Vec<Step>;
/// Fields.
pub type Set = BTreeSet<Path>;

/// What is at the end of each path: a value, or nothing where the path is an element of a list itself.
pub type Leaves<'a> = BTreeMap<Path, Option<&'a Value>>;

/// Fields nobody owns: they name the object or are the server's.
const NOBODYS: &[&str] = &[
    "name",
    "namespace",
    "creationTimestamp",
    "selfLink",
    "uid",
    "generation",
    "managedFields",
    "resourceVersion",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generateName",
];

/// All leaves of an object.
pub fn leaves(object: &Value, of: Type) -> Leaves<'_> {
    let mut out = Leaves::new();
    let mut path = Path::new();
    for (field, value) in object.as_object().into_iter().flatten() {
        if matches!(field.as_str(), "apiVersion" | "kind") {
            continue;
        }
        path.push(Step::Field(field.clone()));
        if field == "metadata" {
            for (field, value) in value.as_object().into_iter().flatten() {
                if !NOBODYS.contains(&field.as_str()) {
                    path.push(Step::Field(field.clone()));
                    walk(
                        value,
                        Type::Metadata.field(field).child,
                        Type::Metadata.field(field).list,
                        &mut path,
                        &mut out,
                    );
                    path.pop();
                }
            }
        } else {
            let about = of.field(field);
            walk(value, about.child, about.list, &mut path, &mut out);
        }
        path.pop();
    }
    out
}

fn walk<'a>(value: &'a Value, of: Type, list: List, path: &mut Path, out: &mut Leaves<'a>) {
    match (value, list) {
        (Value::Null, _) => {}
        (Value::Object(map), _) if !map.is_empty() => {
            for (field, value) in map {
                let about = of.field(field);
                path.push(Step::Field(field.clone()));
                walk(value, about.child, about.list, path, out);
                path.pop();
            }
        }
        (Value::Array(items), List::Map(_, keys)) if items.iter().all(Value::is_object) => {
            for item in items {
                path.push(Step::Key(key_of(item, keys)));
                out.insert(path.clone(), None);
                for (field, value) in item.as_object().into_iter().flatten() {
                    let about = of.field(field);
                    path.push(Step::Field(field.clone()));
                    walk(value, about.child, about.list, path, out);
                    path.pop();
                }
                path.pop();
            }
        }
        (Value::Array(items), List::Set) => {
            for item in items {
                path.push(Step::Value(item.to_string()));
                out.insert(path.clone(), Some(item));
                path.pop();
            }
        }
        (value, _) => {
            out.insert(path.clone(), Some(value));
        }
    }
}

/// The keys of a list's element.
pub fn key_of(item: &Value, keys: &[&str]) -> String {
    let mut map = Map::new();
    for key in keys {
        let value = item.get(*key).cloned();
        // The one key that has a default.
        let value = value.or_else(|| (*key == "protocol").then(|| Value::from("TCP")));
        map.insert((*key).into(), value.unwrap_or(Value::Null));
    }
    Value::Object(map).to_string()
}

/// Removes what is at a path, and maps left empty by it.
pub fn remove(value: &mut Value, of: Type, list: List, path: &[Step]) {
    let Some((step, rest)) = path.split_first() else { return };
    match (step, value) {
        (Step::Field(field), Value::Object(map)) => {
            let about = of.field(field);
            if rest.is_empty() {
                map.shift_remove(field);
            } else if let Some(inner) = map.get_mut(field) {
                remove(inner, about.child, about.list, rest);
                let empty = match inner {
                    Value::Object(map) => map.is_empty(),
                    Value::Array(list) => list.is_empty(),
                    _ => false,
                };
                if empty {
                    map.shift_remove(field);
                }
            }
        }
        (Step::Key(key), Value::Array(items)) => {
            let List::Map(_, keys) = list else { return };
            let Some(at) = items.iter().position(|item| key_of(item, keys) == *key) else { return };
            if rest.is_empty() {
                items.remove(at);
            } else {
                remove(&mut items[at], of, List::Atomic, rest);
            }
        }
        (Step::Value(text), Value::Array(items)) => items.retain(|item| item.to_string().as_str() != text.as_str()),
        _ => {}
    }
}

/// A set as `fieldsV1`.
pub fn encode(set: &Set) -> Value {
    let mut root = Map::new();
    for path in set {
        let mut at = &mut root;
        for step in path {
            let name = match step {
                Step::Field(name) => format!("f:{name}"),
                Step::Key(key) => format!("k:{key}"),
                Step::Value(value) => format!("v:{value}"),
            };
            at = crate::meta::child(at, &name);
        }
        if matches!(path.last(), Some(Step::Key(_))) {
            at.insert(".".into(), Value::Object(Map::new()));
        }
    }
    Value::Object(root)
}

/// A set from `fieldsV1`; what cannot be read is left out.
pub fn decode(fields: &Value) -> Set {
    let mut set = Set::new();
    decode_into(fields, &mut Path::new(), &mut set);
    set
}

fn decode_into(fields: &Value, path: &mut Path, set: &mut Set) {
    let Some(map) = fields.as_object() else { return };
    if (map.is_empty() || map.contains_key(".")) && !path.is_empty() {
        set.insert(path.clone());
    }
    for (name, inner) in map {
        let step = match name.split_at_checked(2) {
            Some(("f:", field)) => Step::Field(field.into()),
            Some(("k:", key)) => Step::Key(normal(key)),
            Some(("v:", value)) => Step::Value(normal(value)),
            _ => continue,
        };
        path.push(step);
        decode_into(inner, path, set);
        path.pop();
    }
}

fn normal(json: &str) -> String {
    serde_json::from_str::<Value>(json).map_or_else(|_| json.to_owned(), |value| value.to_string())
}

/// A path as conflicts show it: `.spec.containers[name="web"].image`.
pub fn show(path: &[Step]) -> String {
    let mut out = String::new();
    for step in path {
        match step {
            Step::Field(name) => out.push_str(&format!(".{name}")),
            Step::Value(value) => out.push_str(&format!("[={value}]")),
            Step::Key(key) => {
                let map: Map<String, Value> = serde_json::from_str(key).unwrap_or_default();
                let keys: Vec<String> = map.iter().map(|(name, value)| format!("{name}={value}")).collect();
                out.push_str(&format!("[{}]", keys.join(",")));
            }
        }
    }
    out
}
