use super::*;
use serde_json::{Value, json};

fn pod(name: &str, node: Option<&str>, ready: bool, created: &str) -> Arc<Pod> {
    let condition =
        json!({"type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": created});
    let object: Value = json!({
        "metadata": {"name": name, "creationTimestamp": created},
        "spec": {"nodeName": node, "containers": []},
        "status": {"phase": if node.is_some() { "Running" } else { "Pending" }, "conditions": [condition]},
    });
    Arc::new(serde_json::from_value(object).unwrap())
}

fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
    pods.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect()
}

#[test]
fn pods_without_a_node_go_first_then_those_not_ready_then_the_newest() {
    let old = "2026-01-01T00:00:00Z";
    let new = "2026-01-02T00:00:00Z";
    let pods = [
        pod("old", Some("a"), true, old),
        pod("new", Some("b"), true, new),
        pod("sick", Some("c"), false, old),
        pod("lost", None, false, old),
    ];
    assert_eq!(names(&ranked(&pods)), ["lost", "sick", "new", "old"]);
}

#[test]
fn what_is_left_is_spread_over_nodes() {
    let at = "2026-01-01T00:00:00Z";
    let pods: Vec<_> =
        [("1", "a"), ("2", "a"), ("3", "a"), ("4", "b")].map(|(name, node)| pod(name, Some(node), true, at)).into();
    let ranked = ranked(&pods);
    let left: Vec<_> = ranked[2..].iter().filter_map(|pod| pod::node(pod)).collect();
    assert!(left.contains(&"a") && left.contains(&"b"), "{left:?}");
}
