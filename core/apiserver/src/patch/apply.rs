//! Server-side apply: each manager owns the fields it applied; what it no longer applies goes, what others own is a conflict.
//!
//! Ownership is kept from an object's first apply on. Until then nobody owns anything and updates cost nothing; at the first apply, what
//! was there is recorded as `before-first-apply`'s, as Kubernetes does for objects from before it had apply. What `kubectl apply` did on the
//! client's side before, and nobody changed since, is no other's: `kubectl apply --server-side` goes on with it.

use serde_json::{Map, Value, json};

use super::fields::{self, Leaves, Path, Set, Step};
use super::schema::{List, Type};
use crate::kinds::Kind;
use crate::meta;
use crate::status::{ApiError, Result};

/// One entry of `metadata.managedFields`.
#[derive(Clone, PartialEq)]
struct Owner {
    manager: String,
    operation: String,
    version: String,
    subresource: String,
    time: String,
    set: Set,
}

/// Who `kubectl apply` is, on either side.
const KUBECTL: &str = "kubectl";
/// Annotation: what `kubectl apply` applied last.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What a manager's apply makes of an object.
pub fn apply(kind: &Kind, old: &Value, wanted: &Value, manager: &str, force: bool, status: bool) -> Result<Value> {
    if !meta::list(wanted, "/metadata/managedFields").is_empty() {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let of = Type::of(kind);
    let given = format!("{wanted}\n");
    let mut wanted = wanted.clone();
    meta::tidy(&mut wanted);
    if status {
        // An apply of the status says nothing about the rest.
        meta::as_map(&mut wanted)
            .retain(|field, _| matches!(field.as_str(), "apiVersion" | "kind" | "metadata" | "status"));
        meta::metadata_mut(&mut wanted)
            .retain(|field, _| matches!(field.as_str(), "name" | "namespace" | "resourceVersion" | "uid"));
    } else if kind.status {
        meta::as_map(&mut wanted).shift_remove("status");
    }
    let subresource = if status { "status" } else { "" };
    let mut owners = owners(old);
    let exists = !meta::text(old, "/metadata/uid").is_empty();
    let old_leaves = fields::leaves(old, of);
    if owners.is_empty() && exists {
        owners.push(Owner {
            manager: "before-first-apply".into(),
            operation: "Update".into(),
            version: kind.api_version(),
            subresource: String::new(),
            time: meta::now(),
            set: old_leaves.keys().cloned().collect(),
        });
    }
    let wanted_set: Set = fields::leaves(&wanted, of).into_keys().collect();
    let mut merged = old.clone();
    merge_object(&mut merged, &wanted, of);
    let mine =
        |owner: &Owner| owner.manager == manager && owner.operation == "Apply" && owner.subresource == subresource;
    let mut previous = owners.iter().find(|owner| mine(owner)).map(|owner| owner.set.clone()).unwrap_or_default();
    if manager == KUBECTL && !status {
        let own = applied_by_client(old, &old_leaves, of);
        owners.iter_mut().filter(|owner| owner.operation == "Update").for_each(|owner| {
            owner.set.retain(|path| !own.contains(path));
        });
        previous.extend(own);
        if meta::map(old, "/metadata/annotations").is_some_and(|all| all.contains_key(LAST_APPLIED)) {
            // Or the next apply on the client's side would compare with an old one.
            meta::child(meta::metadata_mut(&mut merged), "annotations").insert(LAST_APPLIED.into(), given.into());
        }
    }
    resolve_conflicts(&mut owners, mine, &wanted_set, &old_leaves, &fields::leaves(&merged, of), force)?;
    let others: Set = owners.iter().filter(|owner| !mine(owner)).flat_map(|owner| owner.set.iter().cloned()).collect();
    // Shortest first: an element nobody else has a part in goes as a whole.
    let mut gone: Vec<&Path> = previous.difference(&wanted_set).filter(|path| !others.contains(*path)).collect();
    gone.sort_by_key(|path| path.len());
    for path in gone {
        let shared = || others.iter().chain(&wanted_set).any(|other| other.starts_with(path));
        let stays = match path.as_slice() {
            [.., Step::Key(_)] => shared(),
            // What is left of an element keeps its keys.
            [.., Step::Key(key), Step::Field(field)] => {
                serde_json::from_str::<Map<String, Value>>(key).is_ok_and(|keys| keys.contains_key(field))
            }
            // What was empty is not now.
            _ => shared(),
        };
        if !stays {
            fields::remove(&mut merged, of, List::Atomic, path);
        }
    }
    match owners.iter_mut().find(|owner| mine(owner)) {
        Some(owner) if owner.set == wanted_set => {}
        Some(owner) => {
            owner.set = wanted_set;
            owner.time = meta::now();
        }
        None => owners.push(Owner {
            manager: manager.into(),
            operation: "Apply".into(),
            version: kind.api_version(),
            subresource: subresource.into(),
            time: meta::now(),
            set: wanted_set,
        }),
    }
    write_owners(&mut merged, owners);
    Ok(merged)
}

/// Notes who changed what by other means than an apply, in objects that somebody applies.
pub fn track_update(kind: &Kind, old: &Value, new: &mut Value, manager: &str, status: bool) {
    let before = meta::list(old, "/metadata/managedFields");
    if before.is_empty() || before != meta::list(new, "/metadata/managedFields") {
        return;
    }
    let of = Type::of(kind);
    let mut owners = owners(old);
    let old_leaves = fields::leaves(old, of);
    let new_leaves = fields::leaves(new, of);
    let changed: Set = new_leaves
        .iter()
        .filter(|(path, value)| old_leaves.get(*path) != Some(*value))
        .map(|(path, _)| path.clone())
        .collect();
    let removed: Vec<&Path> = old_leaves.keys().filter(|path| !new_leaves.contains_key(*path)).collect();
    if changed.is_empty() && removed.is_empty() {
        return;
    }
    let subresource = if status { "status" } else { "" };
    let mine =
        |owner: &Owner| owner.manager == manager && owner.operation == "Update" && owner.subresource == subresource;
    for owner in owners.iter_mut() {
        let keep_own = mine(owner);
        owner.set.retain(|path| (keep_own || !changed.contains(path)) && !removed.contains(&path));
    }
    if !changed.is_empty() {
        match owners.iter_mut().find(|owner| mine(owner)) {
            Some(owner) => {
                owner.set.extend(changed);
                owner.time = meta::now();
            }
            None => owners.push(Owner {
                manager: manager.into(),
                operation: "Update".into(),
                version: kind.api_version(),
                subresource: subresource.into(),
                time: meta::now(),
                set: changed,
            }),
        }
    }
    write_owners(new, owners);
}

/// The fields that `kubectl apply` set on the client's side and that still are as it set them.
fn applied_by_client(object: &Value, leaves: &Leaves<'_>, of: Type) -> Set {
    let annotation = meta::map(object, "/metadata/annotations").and_then(|all| all.get(LAST_APPLIED)?.as_str());
    let Some(applied) = annotation.and_then(|text| serde_json::from_str::<Value>(text).ok()) else { return Set::new() };
    let applied = fields::leaves(&applied, of);
    applied.into_iter().filter(|(path, value)| leaves.get(path) == Some(value)).map(|(path, _)| path).collect()
}

fn resolve_conflicts(
    owners: &mut [Owner],
    mine: impl Fn(&Owner) -> bool,
    wanted: &Set,
    old: &Leaves<'_>,
    merged: &Leaves<'_>,
    force: bool,
) -> Result<()> {
    let mut causes = Vec::new();
    let mut lines = Vec::new();
    for owner in owners.iter_mut().filter(|owner| !mine(owner)) {
        let conflicts: Vec<Path> =
            owner.set.intersection(wanted).filter(|path| old.get(*path) != merged.get(*path)).cloned().collect();
        if conflicts.is_empty() {
            continue;
        }
        if force {
            owner.set.retain(|path| !conflicts.contains(path));
            continue;
        }
        let who = format!("conflict with \"{}\" using {}", owner.manager, owner.version);
        for path in &conflicts {
            let field = fields::show(path);
            lines.push(format!("{who}: {field}"));
            causes.push(json!({"reason": "FieldManagerConflict", "message": who, "field": field}));
        }
    }
    match lines.len() {
        0 => Ok(()),
        1 => Err(ApiError::apply_conflict(format!("Apply failed with 1 conflict: {}", lines[0]), causes)),
        n => Err(ApiError::apply_conflict(format!("Apply failed with {n} conflicts: {}", lines.join("; ")), causes)),
    }
}

fn merge_object(target: &mut Value, wanted: &Value, of: Type) {
    let Some(wanted) = wanted.as_object() else { return };
    let target = meta::as_map(target);
    for (field, value) in wanted {
        let about = of.field(field);
        match (value, about.list) {
            (Value::Object(map), _) => {
                let inner = target.entry(field).or_insert_with(|| Value::Object(Map::new()));
                if map.is_empty() && !inner.is_object() {
                    *inner = Value::Object(Map::new());
                }
                merge_object(inner, value, about.child);
            }
            (Value::Array(items), List::Map(_, keys)) => {
                let list = target.entry(field).or_insert_with(|| Value::Array(vec![]));
                if !list.is_array() {
                    *list = Value::Array(vec![]);
                }
                let list = list.as_array_mut().expect("it was just made a list");
                for item in items {
                    let key = fields::key_of(item, keys);
                    match list.iter_mut().find(|old| fields::key_of(old, keys) == key) {
                        Some(old) => merge_object(old, item, about.child),
                        None => list.push(item.clone()),
                    }
                }
            }
            (Value::Array(items), List::Set) => {
                let list = target.entry(field).or_insert_with(|| Value::Array(vec![]));
                if let Some(list) = list.as_array_mut() {
                    for item in items {
                        if !list.contains(item) {
                            list.push(item.clone());
                        }
                    }
                }
            }
            (value, _) => {
                target.insert(field.clone(), value.clone());
            }
        }
    }
}

fn owners(object: &Value) -> Vec<Owner> {
    let entries = meta::list(object, "/metadata/managedFields").iter();
    entries
        .map(|entry| Owner {
            manager: meta::text(entry, "/manager").into(),
            operation: meta::text(entry, "/operation").into(),
            version: meta::text(entry, "/apiVersion").into(),
            subresource: meta::text(entry, "/subresource").into(),
            time: meta::text(entry, "/time").into(),
            set: fields::decode(entry.get("fieldsV1").unwrap_or(&Value::Null)),
        })
        .collect()
}

fn write_owners(object: &mut Value, owners: Vec<Owner>) {
    let entries: Vec<Value> = owners
        .into_iter()
        .filter(|owner| !owner.set.is_empty())
        .map(|owner| {
            let mut entry = json!({"manager": owner.manager, "operation": owner.operation, "apiVersion": owner.version,
                "time": owner.time, "fieldsType": "FieldsV1", "fieldsV1": fields::encode(&owner.set)});
            if !owner.subresource.is_empty() {
                entry["subresource"] = json!(owner.subresource);
            }
            entry
        })
        .collect();
    meta::metadata_mut(object).insert("managedFields".into(), entries.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(group: &str, plural: &str) -> std::sync::Arc<Kind> {
        crate::kinds::Kinds::built_in().now().get(group, "v1", plural).expect("a built-in kind").clone()
    }

    fn deployment(replicas: Option<i64>, image: &str) -> Value {
        let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"a": "1"}},
            "spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}});
        if let Some(replicas) = replicas {
            object["spec"]["replicas"] = json!(replicas);
        }
        object
    }

    fn created(kind: &Kind, wanted: &Value, manager: &str) -> Value {
        let empty = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}});
        let mut object = apply(kind, &empty, wanted, manager, false, false).expect("the first apply");
        object["metadata"]["uid"] = json!("u");
        object
    }

    #[test]
    fn what_was_applied_empty_can_be_filled() {
        let kind = kind("", "configmaps");
        let with =
            |data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data});
        let mut object =
            apply(&kind, &with(json!({})), &with(json!({})), "one", false, false).expect("the first apply");
        object["metadata"]["uid"] = json!("u");
        let filled = apply(&kind, &object, &with(json!({"a": "b"})), "one", false, false).expect("the second");
        assert_eq!(filled["data"], json!({"a": "b"}));
        let emptied = apply(&kind, &filled, &with(json!({})), "one", false, false).expect("the third");
        assert_eq!(emptied["data"].get("a"), None);
    }

    #[test]
    fn what_another_manager_owns_is_a_conflict_unless_forced() {
        let kind = kind("apps", "deployments");
        let object = created(&kind, &deployment(Some(1), "a"), "one");
        let error =
            apply(&kind, &object, &deployment(Some(2), "a"), "two", false, false).expect_err("one owns replicas");
        assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"one\" using apps/v1: .spec.replicas");
        let forced = apply(&kind, &object, &deployment(Some(2), "a"), "two", true, false).expect("forced");
        assert_eq!(forced["spec"]["replicas"], 2);
        let same = apply(&kind, &object, &deployment(Some(1), "a"), "two", false, false)
            .expect("the same value is no conflict");
        assert_eq!(meta::list(&same, "/metadata/managedFields").len(), 2);
    }

    #[test]
    fn what_a_manager_no_longer_applies_goes_unless_another_owns_it() {
        let kind = kind("apps", "deployments");
        let object = created(&kind, &deployment(Some(1), "a"), "one");
        let without = apply(&kind, &object, &deployment(None, "a"), "one", false, false).expect("apply");
        assert_eq!(without["spec"].get("replicas"), None);
        let shared = apply(&kind, &object, &deployment(Some(1), "a"), "two", false, false).expect("apply");
        let kept = apply(&kind, &shared, &deployment(None, "a"), "one", false, false).expect("apply");
        assert_eq!(kept["spec"]["replicas"], 1);
    }

    #[test]
    fn the_same_apply_twice_changes_nothing() {
        let kind = kind("apps", "deployments");
        let object = created(&kind, &deployment(Some(1), "a"), "one");
        let again = apply(&kind, &object, &deployment(Some(1), "a"), "one", false, false).expect("apply");
        assert_eq!(object, again);
    }

    #[test]
    fn an_update_takes_over_what_it_changes() {
        let kind = kind("apps", "deployments");
        let object = created(&kind, &deployment(Some(1), "a"), "one");
        let mut new = object.clone();
        new["spec"]["replicas"] = json!(5);
        track_update(&kind, &object, &mut new, "scaler", false);
        let error = apply(&kind, &new, &deployment(Some(1), "a"), "one", false, false).expect_err("scaler owns it now");
        assert!(error.message.contains("scaler"), "{}", error.message);
    }

    #[test]
    fn elements_of_keyed_lists_come_and_go_by_their_keys() {
        let kind = kind("", "services");
        let service = |ports: &[i64]| {
            let ports: Vec<Value> = ports.iter().map(|port| json!({"port": port})).collect();
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": ports}})
        };
        let object = created(&kind, &service(&[80, 90]), "one");
        let fewer = apply(&kind, &object, &service(&[90]), "one", false, false).expect("apply");
        assert_eq!(fewer["spec"]["ports"], json!([{"port": 90}]));
    }

    #[test]
    fn kubectl_goes_on_on_the_servers_side_with_what_it_did_on_the_clients() {
        let kind = kind("apps", "deployments");
        let mut first = deployment(Some(1), "a");
        first["spec"]["paused"] = json!(true);
        let mut object = first.clone();
        object["metadata"]["uid"] = json!("u");
        object["metadata"]["annotations"] = json!({ LAST_APPLIED: first.to_string() });
        object["spec"]["revisionHistoryLimit"] = json!(10);
        let made = apply(&kind, &object, &deployment(Some(2), "b"), "kubectl", false, false).expect("its own fields");
        assert_eq!((&made["spec"]["replicas"], made["spec"].get("paused")), (&json!(2), None), "{made}");
        assert_eq!(made["spec"]["revisionHistoryLimit"], 10);
        let noted =
            meta::map(&made, "/metadata/annotations").expect("annotations")[LAST_APPLIED].as_str().expect("text");
        assert_eq!(serde_json::from_str::<Value>(noted).expect("JSON"), deployment(Some(2), "b"));
        let again = apply(&kind, &made, &deployment(Some(2), "b"), "kubectl", false, false).expect("apply");
        assert_eq!(made, again);
        object["spec"]["replicas"] = json!(5);
        let error =
            apply(&kind, &object, &deployment(Some(2), "b"), "kubectl", false, false).expect_err("scaled since");
        assert_eq!(
            error.message,
            "Apply failed with 1 conflict: conflict with \"before-first-apply\" using apps/v1: .spec.replicas"
        );
        let error = apply(&kind, &object, &deployment(Some(1), "b"), "other", false, false).expect_err("not kubectl");
        assert!(error.message.starts_with("Apply failed with 2 conflicts"), "{}", error.message);
    }
}
