//! Pods get a node and an address of their own, or people are told why not.

mod rig;

use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams};
use rig::*;
use serde_json::json;

async fn message(cluster: &Cluster, name: &str) -> String {
    let pod = cluster.api::<Pod>().get(name).await.unwrap();
    let conditions = pod.status.and_then(|status| status.conditions).unwrap_or_default();
    let scheduled =
        conditions.into_iter().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    scheduled.and_then(|condition| condition.message).unwrap_or_default()
}

#[tokio::test]
async fn a_pod_gets_a_node_and_an_address_of_the_nodes_block() {
    let cluster = Cluster::with_nodes(&["a"]).await;
    cluster.create::<Pod>(pod("one", json!({}))).await;
    eventually!("the pod to be ready", cluster.ready_pods().await == 1);
    let pods = cluster.pods().await;
    assert_eq!(node_of(&pods[0]).as_deref(), Some("a"));
    assert_eq!(ip_of(&pods[0]).as_deref(), Some("10.40.0.2"));
    eventually!("an event", {
        let said = cluster.list::<Event>().await;
        said.iter().any(|event| event.reason.as_deref() == Some("Scheduled"))
    });
}

#[tokio::test]
async fn the_pods_of_one_owner_are_spread_over_nodes() {
    let cluster = Cluster::with_nodes(&["a", "b", "c"]).await;
    cluster.create::<k8s_openapi::api::apps::v1::ReplicaSet>(replica_set("web", 6)).await;
    eventually!("six pods", cluster.ready_pods().await == 6);
    let pods = cluster.pods().await;
    assert!(per_node(&pods).values().all(|count| *count == 2), "{:?}", per_node(&pods));
    assert_addresses(&pods);
}

#[tokio::test]
async fn a_pod_that_fits_nowhere_says_why_in_kubernetes_words_and_goes_when_there_is_room() {
    let cluster = Cluster::with_nodes(&["a", "b"]).await;
    cluster
        .node(
            "c",
            json!({"spec": {"taints": [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]}}),
        )
        .await;
    cluster
        .create::<Pod>(pod(
            "big",
            json!({"containers": [{"name": "c", "image": "echo", "resources": {"requests": {"cpu": "5"}}}]}),
        ))
        .await;
    let expected = "0/3 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, 2 Insufficient cpu.";
    eventually!("the message", message(&cluster, "big").await == expected);
    cluster.create::<Pod>(pod("label", json!({"nodeSelector": {"disk": "ssd"}}))).await;
    eventually!(
        "the message",
        message(&cluster, "label").await.contains("2 node(s) didn't match Pod's node affinity/selector")
    );
    let labels = Patch::Merge(json!({"metadata": {"labels": {"disk": "ssd"}}}));
    cluster.all::<Node>().patch("b", &PatchParams::default(), &labels).await.unwrap();
    eventually!("the labelled node to take it", {
        node_of(&cluster.api::<Pod>().get("label").await.unwrap()).as_deref() == Some("b")
    });
}

#[tokio::test]
async fn two_pods_that_want_one_port_of_a_node_go_to_two_nodes() {
    let cluster = Cluster::with_nodes(&["a", "b"]).await;
    let spec =
        json!({"containers": [{"name": "c", "image": "echo", "ports": [{"containerPort": 80, "hostPort": 8080}]}]});
    for name in ["one", "two", "three"] {
        cluster.create::<Pod>(pod(name, spec.clone())).await;
    }
    eventually!("two to run", cluster.ready_pods().await == 2);
    assert_eq!(per_node(&cluster.pods().await).len(), 2);
    let said = "node(s) didn't have free ports for the requested pod ports";
    eventually!("the third to wait", {
        let pods = cluster.pods().await;
        let waits = pods.iter().find(|pod| node_of(pod).is_none()).unwrap();
        message(&cluster, waits.metadata.name.as_deref().unwrap()).await.contains(said)
    });
}

#[tokio::test]
async fn a_pod_on_the_hosts_network_gets_no_address() {
    let cluster = Cluster::with_nodes(&["a"]).await;
    cluster.create::<Pod>(pod("host", json!({"hostNetwork": true}))).await;
    eventually!("a node", node_of(&cluster.api::<Pod>().get("host").await.unwrap()).is_some());
    assert_eq!(ip_of(&cluster.api::<Pod>().get("host").await.unwrap()), None);
}

#[tokio::test]
async fn a_pod_that_names_its_node_gets_an_address_of_it() {
    let cluster = Cluster::with_nodes(&["a", "b"]).await;
    cluster.create::<Pod>(pod("mine", json!({"nodeName": "b"}))).await;
    cluster.create::<Pod>(pod("other", json!({"nodeName": "b"}))).await;
    eventually!("the pods to be ready", cluster.ready_pods().await == 2);
    let addresses: Vec<_> = cluster.pods().await.iter().filter_map(ip_of).collect();
    assert!(addresses[0] != addresses[1] && addresses.iter().all(|ip| ip.starts_with("10.40.1.")), "{addresses:?}");
}

#[tokio::test]
async fn a_full_block_is_said_and_an_address_is_free_when_its_pod_is_gone() {
    let mut cluster = Cluster::still().await;
    cluster.start();
    cluster.node("a", json!({"spec": {"podCIDR": "10.40.7.0/29"}})).await;
    cluster.agent().await;
    for n in 0..6 {
        cluster.create::<Pod>(pod(&format!("pod-{n}"), json!({}))).await;
    }
    // Eight addresses, less the ends and the gateway's.
    eventually!("five to run", cluster.ready_pods().await == 5);
    let waits = cluster.pods().await.into_iter().find(|pod| node_of(pod).is_none()).unwrap();
    let waits = waits.metadata.name.unwrap();
    eventually!(
        "it to be said",
        message(&cluster, &waits).await.contains("1 node(s) had no free pod address in 10.40.7.0/29")
    );
    let victim = cluster.pods().await.into_iter().find(|pod| node_of(pod).is_some()).unwrap();
    cluster.api::<Pod>().delete(victim.metadata.name.as_deref().unwrap(), &DeleteParams::default()).await.unwrap();
    eventually!("the one that waited", node_of(&cluster.api::<Pod>().get(&waits).await.unwrap()).is_some());
    assert_eq!(ip_of(&cluster.api::<Pod>().get(&waits).await.unwrap()), ip_of(&victim));
}

#[tokio::test]
async fn more_pods_run_to_their_end_on_a_node_than_it_has_addresses() {
    let mut cluster = Cluster::still().await;
    cluster.start();
    cluster.node("a", json!({"spec": {"podCIDR": "10.40.7.0/29"}})).await;
    cluster.agent().await;
    for n in 0..12 {
        let containers = json!({"restartPolicy": "Never", "containers": containers("succeeds")});
        cluster.create::<Pod>(pod(&format!("pod-{n}"), containers)).await;
    }
    let succeeded = |pods: &[Pod]| {
        let phases = pods.iter().filter_map(|pod| pod.status.as_ref()?.phase.as_deref());
        phases.filter(|phase| *phase == "Succeeded").count()
    };
    eventually!("all to end", succeeded(&cluster.pods().await) == 12);
    let shown: std::collections::BTreeSet<_> =
        cluster.pods().await.into_iter().filter_map(|pod| pod.status?.pod_ip).collect();
    assert_eq!(shown.len(), 5, "each was used, and each pod shows what it had: {shown:?}");
}

#[tokio::test]
async fn the_more_important_pod_goes_first() {
    let mut cluster = Cluster::still().await;
    for (name, class) in [("low", None), ("high", Some("system-cluster-critical"))] {
        let resources = json!({"requests": {"cpu": "3"}});
        let containers = json!([{"name": "c", "image": "echo", "resources": resources}]);
        cluster.create::<Pod>(pod(name, json!({"priorityClassName": class, "containers": containers}))).await;
    }
    cluster.node("a", json!({})).await;
    cluster.agent().await;
    cluster.start();
    eventually!("one to run", cluster.ready_pods().await == 1);
    let pods = cluster.pods().await;
    let running: Vec<_> = pods.iter().filter(|pod| node_of(pod).is_some()).collect();
    assert_eq!(running[0].metadata.name.as_deref(), Some("high"));
}
