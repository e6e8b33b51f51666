//! Since when a node's taints are there: how long a pod may stay counts from then.

use serde_json::Value;

use crate::meta;

/// Notes it at those that drive pods away, unless their author did or it was noted before.
pub(super) fn date_taints(old: &Value, node: &mut Value) {
    let before = meta::list(old, "/spec/taints");
    let taints = node.pointer_mut("/spec/taints").and_then(Value::as_array_mut);
    for taint in taints.into_iter().flatten().filter_map(Value::as_object_mut) {
        let drives = taint.get("effect").is_some_and(|effect| effect == "NoExecute");
        if drives && taint.get("timeAdded").is_none_or(Value::is_null) {
            let is = |old: &&Value| ["key", "value", "effect"].iter().all(|field| old.get(field) == taint.get(*field));
            let noted = before.iter().find(is).and_then(|old| old.get("timeAdded")).cloned();
            taint.insert("timeAdded".into(), noted.unwrap_or_else(|| meta::now().into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_taint_that_drives_pods_away_is_dated_once() {
        let node = |taints: Value| json!({"spec": {"taints": taints}});
        let added = |old: &Value, taint: Value| {
            let mut new = node(json!([taint]));
            date_taints(old, &mut new);
            meta::text(&new, "/spec/taints/0/timeAdded").to_owned()
        };
        let long_ago = "2020-01-01T00:00:00Z";
        let old = node(json!([{"key": "a", "effect": "NoExecute", "timeAdded": long_ago}]));
        assert_eq!(added(&old, json!({"key": "a", "effect": "NoSchedule"})), "");
        assert_eq!(added(&old, json!({"key": "a", "effect": "NoExecute"})), long_ago);
        assert_eq!(added(&json!({}), json!({"key": "a", "effect": "NoExecute", "timeAdded": long_ago})), long_ago);
        assert!(added(&old, json!({"key": "b", "effect": "NoExecute"})).as_str() > long_ago);
    }
}
