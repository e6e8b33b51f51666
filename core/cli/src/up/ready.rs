//! When a cluster is ready: its network is, its nodes are, and everything its manifests describe runs and has its address.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::bail;
use futures::TryStreamExt as _;
use kube::core::WatchEvent;
use serde_json::Value;
use switchyard_api::Cluster;
use switchyard_api::names::ROUTE_PENDING;

use crate::api::{Api, JSON};

/// Objects of one list by namespace and name.
type Objects = BTreeMap<(String, String), Value>;

/// What is waited for, and what of it is missing now: empty when ready.
pub(crate) struct Condition {
    path: &'static str,
    names: BTreeSet<(String, String)>,
    is_ready: fn(&Value) -> bool,
    /// Whether it can never become ready, and why.
    is_hopeless: fn(&Value) -> Option<String>,
}

/// Everything to wait for before pods: network and nodes.
pub(crate) fn machines(cluster: &Cluster) -> Vec<Condition> {
    let nodes = cluster.spec.nodes.iter().map(|node| (String::new(), node.name.clone())).collect();
    let network = BTreeSet::from([(String::new(), switchyard_api::names::NETWORK.to_owned())]);
    vec![
        Condition {
            path: "/apis/switchyard.dev/v1alpha1/networks",
            names: network,
            is_ready: |network| condition(network, "Ready").is_some_and(|ready| ready["status"] == "True"),
            is_hopeless: network_error,
        },
        Condition { path: "/api/v1/nodes", names: nodes, is_ready: is_settled, is_hopeless: never },
    ]
}

/// Everything to wait for among the manifests.
pub(crate) fn workloads(manifests: &[Value]) -> Vec<Condition> {
    let conditions = [
        ("Pod", "/api/v1/pods", is_ready_by_condition as fn(&Value) -> bool),
        ("ReplicaSet", "/apis/apps/v1/replicasets", has_its_replicas),
        ("Deployment", "/apis/apps/v1/deployments", is_rolled_out),
        ("Service", "/api/v1/services", has_its_address),
    ];
    let conditions = conditions.into_iter().map(|(kind, path, is_ready)| {
        let names = manifests.iter().filter(|object| object["kind"] == kind).map(key).collect();
        Condition { path, names, is_ready, is_hopeless: never }
    });
    conditions.filter(|condition: &Condition| !condition.names.is_empty()).collect()
}

/// Whether pods come of an object at once.
pub(crate) fn makes_pods(object: &Value) -> bool {
    ["Pod", "ReplicaSet", "Deployment"].iter().any(|kind| object["kind"] == *kind)
}

fn never(_: &Value) -> Option<String> {
    None
}

fn key(object: &Value) -> (String, String) {
    let text = |field: &str| object["metadata"][field].as_str().map(str::to_owned);
    (text("namespace").unwrap_or_else(|| "default".into()), text("name").unwrap_or_default())
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// Whether a node is ready and what keeps pods away from it is known. One that gets no route stays as it is.
fn is_settled(node: &Value) -> bool {
    let unavailable = condition(node, "NetworkUnavailable");
    let pending = unavailable.is_some_and(|unavailable| unavailable["reason"] == ROUTE_PENDING);
    let is_unavailable = unavailable.is_some_and(|unavailable| unavailable["status"] == "True");
    // Taints follow conditions a moment later.
    let taints = node["spec"]["taints"].as_array();
    let tainted = |key: &str| taints.into_iter().flatten().any(|taint| taint["key"] == key);
    is_ready_by_condition(node)
        && !pending
        && !tainted("node.kubernetes.io/not-ready")
        && tainted("node.kubernetes.io/network-unavailable") == is_unavailable
}

fn is_ready_by_condition(object: &Value) -> bool {
    condition(object, "Ready").is_some_and(|ready| ready["status"] == "True")
}

fn has_its_replicas(object: &Value) -> bool {
    let wanted = object["spec"]["replicas"].as_i64().unwrap_or(1);
    let seen = object["status"]["observedGeneration"].as_i64() >= object["metadata"]["generation"].as_i64();
    seen && object["status"]["readyReplicas"].as_i64().unwrap_or(0) >= wanted
}

/// Whether what runs is all of the newest template, as in `kubectl rollout status`.
fn is_rolled_out(deployment: &Value) -> bool {
    let count = |of: &Value| of.as_i64().unwrap_or(0);
    let (status, wanted) = (&deployment["status"], deployment["spec"]["replicas"].as_i64().unwrap_or(1));
    let updated = count(&status["updatedReplicas"]);
    has_its_replicas(deployment) && updated >= wanted && count(&status["replicas"]) == updated
}

fn has_its_address(service: &Value) -> bool {
    service["spec"]["type"] != "LoadBalancer" || service["status"]["loadBalancer"]["ingress"][0]["ip"].is_string()
}

/// A plugin or an option that is no good stays so until somebody changes it.
fn network_error(network: &Value) -> Option<String> {
    let ready = condition(network, "Ready").filter(|ready| ready["status"] == "False")?;
    let waiting =
        ready["reason"].as_str().is_some_and(|reason| reason.contains("Pending") || reason.contains("Progress"));
    let seen = network["status"]["observedGeneration"].as_i64() >= network["metadata"]["generation"].as_i64();
    let message = ready["message"].as_str().unwrap_or("not ready");
    (seen && !waiting).then(|| format!("network: {message}; the cluster runs, change it with: yard network use PLUGIN"))
}

// === impl Condition ===

impl Condition {
    /// Waits until it holds. `missing` always tells what is missing still.
    pub(crate) async fn hold(&self, api: &Api, missing: impl Fn(Vec<String>)) -> anyhow::Result<()> {
        let list = api.get(self.path, JSON).await?;
        let mut objects = Objects::new();
        for item in list["items"].as_array().into_iter().flatten() {
            self.note(&mut objects, item);
        }
        if self.check(&objects, &missing)? {
            return Ok(());
        }
        let version = list["metadata"]["resourceVersion"].as_str().unwrap_or("0");
        let path = format!("{}?watch=true&resourceVersion={version}", self.path);
        let mut events = std::pin::pin!(api.watch(&path, JSON).await?);
        while let Some(event) = events.try_next().await? {
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => self.note(&mut objects, &object),
                WatchEvent::Deleted(object) => drop(objects.remove(&self.key(&object))),
                WatchEvent::Bookmark(_) => continue,
                WatchEvent::Error(status) => bail!("watch {}: {}", self.path, status.message),
            }
            if self.check(&objects, &missing)? {
                return Ok(());
            }
        }
        bail!("watch {}: the API server ended it", self.path)
    }

    /// Cluster-scoped objects have no namespace, and our names say so.
    fn key(&self, object: &Value) -> (String, String) {
        let (namespace, name) = key(object);
        let scoped = !object["metadata"]["namespace"].is_null();
        (if scoped { namespace } else { String::new() }, name)
    }

    fn note(&self, objects: &mut Objects, object: &Value) {
        objects.insert(self.key(object), object.clone());
    }

    fn check(&self, objects: &Objects, missing: impl Fn(Vec<String>)) -> anyhow::Result<bool> {
        let mut names = Vec::new();
        for key in &self.names {
            let object = objects.get(key);
            if let Some(reason) = object.and_then(self.is_hopeless) {
                bail!("{reason}");
            }
            if !object.is_some_and(self.is_ready) {
                names.push(key.1.clone());
            }
        }
        let ready = names.is_empty();
        missing(names);
        Ok(ready)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_deployment_is_ready_when_the_old_pods_are_gone() {
        let deployment = |generation: i64, replicas: i64, ready: i64, updated: i64| {
            let status = json!({"observedGeneration": generation, "replicas": replicas, "readyReplicas": ready,
                "updatedReplicas": updated});
            json!({"metadata": {"generation": 2}, "spec": {"replicas": 3}, "status": status})
        };
        assert!(is_rolled_out(&deployment(2, 3, 3, 3)));
        for (why, generation, replicas, ready, updated) in [
            ("not seen", 1, 3, 3, 3),
            ("only old pods", 2, 4, 3, 1),
            ("one new pod is not ready", 2, 3, 2, 3),
            ("an old pod is left", 2, 4, 4, 3),
        ] {
            assert!(!is_rolled_out(&deployment(generation, replicas, ready, updated)), "{why}");
        }
        assert!(is_rolled_out(&json!({"spec": {"replicas": 0}})));
    }
}
