use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};

use super::*;
use crate::cache::Key;

fn snapshot(nodes: &[(&str, Value)]) -> Snapshot {
    let mut snapshot = Snapshot::new();
    for (name, spec) in nodes {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"zone": name[..1], "kubernetes.io/hostname": name}}, "spec": spec,
            "status": {
                "allocatable": {"cpu": "2", "memory": "1Gi", "pods": "3"},
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }))
        .unwrap();
        snapshot.follow_node(name, Some(&node));
    }
    snapshot
}

fn pod(name: &str, node: Option<&str>, spec: Value) -> Arc<Pod> {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"}},
        "spec": {"nodeName": node, "containers": [{"name": "c"}]},
    });
    pod["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn place(snapshot: &mut Snapshot, name: &str, node: &str, spec: Value) {
    let pod = pod(name, Some(node), spec);
    snapshot.follow_pod(&Key::of(&pod.metadata), Some(&pod));
}

fn why(snapshot: &Snapshot, node: &str, spec: Value) -> Vec<Reason> {
    let pod = pod("new", None, spec);
    reasons(&PodInfo::of(&pod, None), &snapshot.nodes[node], &Spread::of(&pod, snapshot))
}

fn requests(cpu: &str, memory: &str) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]})
}

#[test]
fn a_node_is_full_when_what_is_asked_for_exceeds_what_is_left() {
    let mut snapshot = snapshot(&[("a", json!({}))]);
    place(&mut snapshot, "one", "a", requests("1500m", "512Mi"));
    assert!(why(&snapshot, "a", requests("500m", "512Mi")).is_empty());
    assert_eq!(why(&snapshot, "a", requests("501m", "1Gi")), ["Insufficient cpu", "Insufficient memory"]);
    for name in ["two", "three"] {
        place(&mut snapshot, name, "a", json!({}));
    }
    assert_eq!(why(&snapshot, "a", json!({})), ["Too many pods"]);
    snapshot.follow_pod(&Key::new("default", "one"), None);
    assert!(why(&snapshot, "a", requests("2", "1Gi")).is_empty(), "what is gone takes no room");
}

#[test]
fn an_init_container_counts_by_its_peak_and_one_that_stays_by_the_sum() {
    let container = |cpu: &str, restart: Value| json!({"name": "i", "restartPolicy": restart, "resources": {"requests": {"cpu": cpu}}});
    let of = |init: Value| {
        let mut spec = requests("1", "1Mi");
        spec["initContainers"] = init;
        PodInfo::of(&pod("p", None, spec), None).requests.cpu_milli
    };
    assert_eq!(of(json!([container("1500m", Value::Null)])), 1500);
    assert_eq!(of(json!([container("200m", json!("Always"))])), 1200);
    assert_eq!(of(json!([container("500m", json!("Always")), container("1", Value::Null)])), 1500);
}

#[test]
fn taints_keep_pods_away_that_do_not_tolerate_them() {
    let taint = json!({"taints": [{"key": "dedicated", "value": "db", "effect": "NoSchedule"}]});
    let snapshot = snapshot(&[("a", taint)]);
    assert_eq!(why(&snapshot, "a", json!({})), ["node(s) had untolerated taint {dedicated: db}"]);
    let tolerates = |toleration: Value| why(&snapshot, "a", json!({"tolerations": [toleration]})).is_empty();
    assert!(tolerates(json!({"key": "dedicated", "value": "db", "effect": "NoSchedule"})));
    assert!(tolerates(json!({"key": "dedicated", "operator": "Exists"})));
    assert!(tolerates(json!({"operator": "Exists"})));
    assert!(!tolerates(json!({"key": "dedicated", "value": "web"})));
    assert!(!tolerates(json!({"key": "dedicated", "operator": "Exists", "effect": "NoExecute"})));
}

#[test]
fn a_node_that_is_cordoned_takes_nothing_new() {
    let snapshot = snapshot(&[("a", json!({"unschedulable": true}))]);
    assert_eq!(why(&snapshot, "a", json!({})), ["node(s) were unschedulable"]);
}

#[test]
fn required_affinity_is_any_term_and_all_of_its_rules() {
    let snapshot = snapshot(&[("a1", json!({})), ("b1", json!({}))]);
    let affinity = |terms: Value| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}});
    let rule = |key: &str, operator: &str, values: Value| json!({"key": key, "operator": operator, "values": values});
    let terms = json!([{"matchExpressions": [rule("zone", "In", json!(["b"]))]}, {"matchFields": [rule("metadata.name", "In", json!(["a1"]))]}]);
    assert!(why(&snapshot, "a1", affinity(terms.clone())).is_empty());
    assert!(why(&snapshot, "b1", affinity(terms)).is_empty());
    let both = json!([{"matchExpressions": [rule("zone", "Exists", json!([])), rule("zone", "NotIn", json!(["a"]))]}]);
    assert!(!why(&snapshot, "a1", affinity(both.clone())).is_empty());
    assert!(why(&snapshot, "b1", affinity(both)).is_empty());
    assert!(!why(&snapshot, "a1", affinity(json!([{}]))).is_empty(), "an empty term describes nothing");
}

#[test]
fn hard_topology_spread_holds_domains_level() {
    let mut snapshot = snapshot(&[("a1", json!({})), ("b1", json!({}))]);
    place(&mut snapshot, "one", "a1", json!({}));
    let spread = json!({"topologySpreadConstraints": [{
        "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}},
    }]});
    assert_eq!(why(&snapshot, "a1", spread.clone()), ["node(s) didn't match pod topology spread constraints"]);
    assert!(why(&snapshot, "b1", spread).is_empty());
}

#[test]
fn the_sentence_counts_reasons_as_kubernetes_does() {
    let reasons: Vec<Reason> =
        ["Insufficient cpu", "node(s) had untolerated taint {a: }", "Insufficient cpu"].map(Into::into).into();
    assert_eq!(
        sentence(3, &reasons),
        "0/3 nodes are available: 1 node(s) had untolerated taint {a: }, 2 Insufficient cpu."
    );
    assert_eq!(sentence(0, &[]), "no nodes available to schedule pods");
}
