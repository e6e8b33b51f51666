//! Strategic merge patch, with its directives: `$patch`, `$retainKeys`, `$deleteFromPrimitiveList/f`, `$setElementOrder/f`.

use serde_json::{Map, Value};

use super::schema::{Field, List, Type};

const PATCH: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// Merges a patch into an object.
pub fn merge(target: &mut Value, patch: &Value, of: Type) -> Result<(), String> {
    let Value::Object(patch) = patch else { return Err("the patch must be a JSON object".into()) };
    let target = crate::meta::as_map(target);
    merge_map(target, patch, of)
}

fn merge_map(target: &mut Map<String, Value>, patch: &Map<String, Value>, of: Type) -> Result<(), String> {
    match patch.get(PATCH) {
        None => {}
        Some(Value::String(word)) if word == "merge" => {}
        Some(Value::String(word)) if word == "replace" => {
            *target = without_directives(patch);
            return Ok(());
        }
        Some(Value::String(word)) if word == "delete" => {
            target.clear();
            return Ok(());
        }
        Some(other) => return Err(format!("unknown $patch value {other} in a map: must be delete, merge or replace")),
    }
    if let Some(retain) = patch.get(RETAIN) {
        let keep = retain.as_array().ok_or("$retainKeys must be a list of field names")?;
        for field in patch.keys().filter(|field| !field.starts_with('$')) {
            if !patch[field].is_null() && !keep.iter().any(|item| item == field.as_str()) {
                return Err(format!("$retainKeys does not list {field:?}, which the patch sets"));
            }
        }
        target.retain(|field, _| keep.iter().any(|item| item == field.as_str()));
    }
    let ordered = patch.keys().filter_map(|field| field.strip_prefix(ORDER));
    let before: Map<String, Value> =
        ordered.filter_map(|field| Some((field.to_owned(), target.get(field)?.clone()))).collect();
    for (field, value) in patch {
        if let Some(field) = field.strip_prefix(DELETE_FROM) {
            let gone = value.as_array().ok_or_else(|| format!("{DELETE_FROM}{field} must be a list"))?;
            if let Some(list) = target.get_mut(field).and_then(Value::as_array_mut) {
                list.retain(|item| !gone.contains(item));
            }
            continue;
        }
        if field.starts_with('$') {
            continue;
        }
        let about = of.field(field);
        match value {
            Value::Null => {
                target.shift_remove(field);
            }
            Value::Object(map) => match target.get_mut(field) {
                Some(Value::Object(old)) => {
                    let delete = map.get(PATCH).is_some_and(|word| word == "delete");
                    merge_map(old, map, about.child)?;
                    if delete {
                        target.shift_remove(field);
                    }
                }
                _ => {
                    let mut new = Map::new();
                    // A fresh map still may hold directives and nulls, which mean nothing there.
                    merge_map(&mut new, map, about.child)?;
                    if map.get(PATCH).is_some_and(|word| word == "delete") {
                        target.shift_remove(field);
                    } else {
                        target.insert(field.clone(), Value::Object(new));
                    }
                }
            },
            Value::Array(items) => merge_list(target, field, items, about)?,
            value => {
                target.insert(field.clone(), value.clone());
            }
        }
    }
    for (field, order) in patch {
        let Some(field) = field.strip_prefix(ORDER) else { continue };
        let order = order.as_array().ok_or_else(|| format!("{ORDER}{field} must be a list"))?;
        let about = of.field(field);
        if let Some(list) = target.get_mut(field).and_then(Value::as_array_mut) {
            reorder(list, order, before.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice), about.list);
        }
    }
    Ok(())
}

fn merge_list(target: &mut Map<String, Value>, field: &str, items: &[Value], about: Field) -> Result<(), String> {
    let replace = items.iter().any(|item| item.get(PATCH).is_some_and(|word| word == "replace"));
    match about.list {
        List::Atomic => {
            target.insert(field.into(), Value::Array(items.iter().map(strip).collect()));
        }
        _ if replace => {
            let kept = items.iter().filter(|item| item.get(PATCH).is_none()).map(strip).collect();
            target.insert(field.into(), Value::Array(kept));
        }
        List::Set => {
            let list = target.entry(field).or_insert_with(|| Value::Array(vec![]));
            let Some(list) = list.as_array_mut() else { return Err(format!("{field} is not a list")) };
            let before = list.clone();
            for item in items {
                if !list.contains(item) {
                    list.push(item.clone());
                }
            }
            reorder(list, items, &before, about.list);
        }
        List::Map(key, _) => {
            let list = target.entry(field).or_insert_with(|| Value::Array(vec![]));
            if list.is_null() {
                *list = Value::Array(vec![]);
            }
            let Some(list) = list.as_array_mut() else { return Err(format!("{field} is not a list")) };
            let before = list.clone();
            for item in items {
                let Value::Object(map) = item else {
                    return Err(format!("an element of {field} is not an object: {item}"));
                };
                let Some(word) = map.get(key) else {
                    return Err(format!("map: {item} does not contain declared merge key: {key}"));
                };
                let at = list.iter().position(|old| old.get(key) == Some(word));
                match map.get(PATCH).and_then(Value::as_str) {
                    Some("delete") => list.retain(|old| old.get(key) != Some(word)),
                    Some("replace") | Some("merge") | None => match at {
                        Some(at) => {
                            let old = crate::meta::as_map(&mut list[at]);
                            merge_map(old, map, about.child)?;
                        }
                        None => {
                            let mut new = Map::new();
                            merge_map(&mut new, map, about.child)?;
                            list.push(Value::Object(new));
                        }
                    },
                    Some(other) => return Err(format!("unknown $patch value {other:?} in an element of {field}")),
                }
            }
            let order: Vec<Value> = items.iter().filter(|item| item.get(PATCH).is_none()).cloned().collect();
            reorder(list, &order, &before, about.list);
        }
    }
    Ok(())
}

/// Puts the elements the patch names in its order. The others keep theirs, and come before a named one only where both were there
/// before and stood so.
fn reorder(list: &mut Vec<Value>, order: &[Value], before: &[Value], how: List) {
    let word = |item: &Value| match how {
        List::Map(key, _) => item.get(key).cloned().unwrap_or(Value::Null),
        _ => item.clone(),
    };
    let place = |within: &[Value], item: &Value| {
        let wanted = word(item);
        within.iter().position(|other| word(other) == wanted)
    };
    let (mut named, others): (Vec<_>, Vec<_>) =
        std::mem::take(list).into_iter().partition(|item| place(order, item).is_some());
    named.sort_by_key(|item| place(order, item));
    let mut named = named.into_iter().peekable();
    for other in others {
        let stood = place(before, &other);
        while let Some(next) = named.peek() {
            let behind = place(before, next).zip(stood).is_some_and(|(next, stood)| stood < next);
            if behind {
                break;
            }
            list.extend(named.next());
        }
        list.push(other);
    }
    list.extend(named);
}

fn without_directives(map: &Map<String, Value>) -> Map<String, Value> {
    map.iter()
        .filter(|(field, _)| !field.starts_with('$'))
        .map(|(field, value)| (field.clone(), strip(value)))
        .collect()
}

/// A value of a patch that replaces: its directives and nulls are not data.
fn strip(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(without_directives(map)),
        Value::Array(list) => Value::Array(list.iter().map(strip).collect()),
        value => value.clone(),
    }
}
