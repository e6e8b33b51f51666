//! What the API says after all machines of the cluster were off.
//!
//! The store remembers nodes and pods that were ready when the supervisor ended. None of them is now, and nobody is there to say so
//! until the agents have started; meanwhile everybody who asks would be told otherwise. Called before the API server takes requests.

use futures::{StreamExt as _, TryStreamExt as _};
use http::Request;
use serde_json::{Map, Value, json};

/// Requests under way at once.
const AT_ONCE: usize = 16;

/// Takes out of a status what does not outlive the cluster.
type Forget = fn(&mut Map<String, Value>);

/// Lists whose objects have a status, and how that is after a night.
const KINDS: [(&str, Forget); 5] = [
    ("/api/v1/nodes", nodes),
    ("/api/v1/pods", pods),
    ("/apis/apps/v1/replicasets", sets),
    ("/apis/apps/v1/deployments", sets),
    ("/apis/switchyard.dev/v1alpha1/networks", networks),
];

/// Corrects the status of everything that said it was running.
pub(super) async fn on(client: &kube::Client) -> anyhow::Result<()> {
    let mut stale = Vec::new();
    for (path, correct) in KINDS {
        let list: Value = client.request(Request::get(path).body(Vec::new())?).await?;
        let (Value::Array(items), kind, version) = (list["items"].clone(), &list["kind"], &list["apiVersion"]) else {
            continue;
        };
        for mut object in items {
            let before = object["status"].clone();
            let Some(status) = object["status"].as_object_mut() else { continue };
            correct(status);
            if object["status"] == before {
                continue;
            }
            object["kind"] = kind.as_str().unwrap_or_default().trim_end_matches("List").into();
            object["apiVersion"] = version.clone();
            stale.push((status_path(path, &object["metadata"]), object));
        }
    }
    let put = |(path, object): (String, Value)| async move {
        let request = Request::put(path).header(http::header::CONTENT_TYPE, "application/json");
        client.request::<Value>(request.body(serde_json::to_vec(&object)?)?).await?;
        anyhow::Ok(())
    };
    futures::stream::iter(stale).map(put).buffer_unordered(AT_ONCE).try_collect().await
}

fn status_path(list: &str, metadata: &Value) -> String {
    let name = metadata["name"].as_str().unwrap_or_default();
    match (metadata["namespace"].as_str(), list.rsplit_once('/')) {
        (Some(namespace), Some((version, plural))) => {
            format!("{version}/namespaces/{namespace}/{plural}/{name}/status")
        }
        _ => format!("{list}/{name}/status"),
    }
}

fn conditions(status: &mut Map<String, Value>, of: &[&str], now: &str) {
    for condition in status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        if of.iter().any(|kind| condition["type"] == *kind) {
            condition["status"] = now.into();
            condition["reason"] = "PowerOn".into();
            condition["message"] = "the machine has just been switched on".into();
        }
    }
}

fn nodes(status: &mut Map<String, Value>) {
    conditions(status, &["Ready"], "Unknown");
}

fn pods(status: &mut Map<String, Value>) {
    if status.get("phase").is_some_and(|phase| phase == "Succeeded" || phase == "Failed") {
        return;
    }
    conditions(status, &["Ready", "ContainersReady"], "False");
    for container in status.get_mut("containerStatuses").and_then(Value::as_array_mut).into_iter().flatten() {
        container["ready"] = false.into();
    }
}

fn sets(status: &mut Map<String, Value>) {
    for count in ["readyReplicas", "availableReplicas"] {
        status.remove(count);
    }
}

fn networks(status: &mut Map<String, Value>) {
    status.insert("nodes".into(), json!({}));
    status.insert("conditions".into(), json!([]));
}
