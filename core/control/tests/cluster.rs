//! Nodes, namespaces, the network.

mod rig;

use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, Pod, Secret, ServiceAccount};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use rig::*;
use serde_json::json;
use switchyard_api::Network;

async fn network(cluster: &Cluster) -> switchyard_api::NetworkStatus {
    cluster.all::<Network>().get_opt("default").await.unwrap().and_then(|network| network.status).unwrap_or_default()
}

fn reason(status: &switchyard_api::NetworkStatus) -> (&str, &str) {
    status.conditions.first().map_or(("", ""), |condition| (&condition.status, &condition.reason))
}

#[tokio::test]
async fn nodes_get_blocks_that_do_not_overlap_and_one_that_does_is_refused() {
    let cluster = Cluster::with_nodes(&[]).await;
    cluster.node("given", json!({"spec": {"podCIDR": "10.40.0.0/24"}})).await;
    cluster.node("a", json!({})).await;
    let block = async |name: &str| cluster.all::<Node>().get(name).await.unwrap().spec.and_then(|spec| spec.pod_cidr);
    eventually!("the next block", block("a").await.as_deref() == Some("10.40.1.0/24"));
    cluster.node("z", json!({"spec": {"podCIDR": "10.40.1.128/25"}})).await;
    eventually!("the overlap to be said", {
        let events: Vec<Event> =
            Api::<Event>::all(cluster.client.clone()).list(&Default::default()).await.unwrap().items;
        events
            .iter()
            .any(|event| event.message.as_deref().is_some_and(|text| text.contains("overlaps 10.40.1.0/24 of node a")))
    });
    eventually!("no pods for it", {
        let taints = cluster.all::<Node>().get("z").await.unwrap().spec.unwrap().taints.unwrap_or_default();
        taints.iter().any(|taint| taint.key == "node.kubernetes.io/network-unavailable")
    });
}

#[tokio::test]
async fn the_pods_of_a_node_that_falls_silent_move_and_it_is_taken_back_when_it_returns() {
    let mut cluster = Cluster::still().await;
    cluster.config.node_grace = Duration::from_millis(1500);
    cluster.config.default_toleration = Duration::ZERO;
    cluster.start();
    for node in ["alive", "dead"] {
        cluster.node(node, json!({})).await;
    }
    cluster.agent().await;
    let client = cluster.client.clone();
    let renewals = tokio::spawn(async move {
        loop {
            let lease: Api<k8s_openapi::api::coordination::v1::Lease> =
                Api::namespaced(client.clone(), "kube-node-lease");
            let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(jiff::Timestamp::now());
            let _ =
                lease.patch("alive", &PatchParams::default(), &Patch::Merge(json!({"spec": {"renewTime": now}}))).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let mut set = replica_set("web", 2);
    // Otherwise the API server's own default, five minutes, holds.
    let leaves = json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0}]);
    set["spec"]["template"]["spec"]["tolerations"] = leaves;
    cluster.create::<ReplicaSet>(set).await;
    eventually!("one on each", per_node(&cluster.pods().await).len() == 2);
    eventually!("both on the one that is alive", {
        let pods = cluster.pods().await;
        pods.iter().filter(|pod| node_of(pod).as_deref() == Some("alive") && is_ready(pod)).count() == 2
    });
    let node = cluster.all::<Node>().get("dead").await.unwrap();
    assert!(node.spec.unwrap().taints.unwrap().iter().any(|taint| taint.key == "node.kubernetes.io/unreachable"));
    cluster.renew("dead").await;
    cluster.ready("dead").await;
    eventually!("no taints", {
        let spec = cluster.all::<Node>().get("dead").await.unwrap().spec.unwrap();
        spec.taints.unwrap_or_default().is_empty()
    });
    cluster.all::<Node>().delete("dead", &DeleteParams::default()).await.unwrap();
    eventually!(
        "no pods of the node that was deleted",
        cluster.pods().await.iter().all(|pod| node_of(pod).as_deref() != Some("dead"))
    );
    renewals.abort();
}

#[tokio::test]
async fn a_namespace_is_furnished_and_emptied_of_everything_when_it_goes() {
    let cluster = Cluster::with_nodes(&["a"]).await;
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "team"}})).unwrap();
    cluster.all::<Namespace>().create(&PostParams::default(), &namespace).await.unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client.clone(), "team");
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "team");
    eventually!("its account", accounts.get_opt("default").await.unwrap().is_some());
    eventually!("its authority", maps.get_opt("kube-root-ca.crt").await.unwrap().is_some());
    let sets: Api<ReplicaSet> = Api::namespaced(cluster.client.clone(), "team");
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), "team");
    sets.create(&PostParams::default(), &serde_json::from_value(replica_set("web", 3)).unwrap()).await.unwrap();
    eventually!(
        "pods",
        pods.list(&Default::default()).await.unwrap().items.iter().filter(|pod| is_ready(pod)).count() == 3
    );
    let kept = json!({"metadata": {"name": "kept", "finalizers": ["example.net/wait"]}});
    maps.create(&PostParams::default(), &serde_json::from_value(kept).unwrap()).await.unwrap();
    cluster.all::<Namespace>().delete("team", &DeleteParams::default()).await.unwrap();
    let condition = async |kind: &str| {
        let status = cluster.all::<Namespace>().get("team").await.unwrap().status.unwrap_or_default();
        let found = status.conditions.into_iter().flatten().find(|condition| condition.type_ == kind);
        found.map(|found| (found.status, found.message.unwrap_or_default())).unwrap_or_default()
    };
    let told = |status: &str, message: &str| (status.to_owned(), message.to_owned());
    eventually!(
        "it to say what keeps it",
        condition("NamespaceContentRemaining").await
            == told("True", "Some resources are remaining: configmaps has 1 resource instances")
    );
    assert_eq!(
        condition("NamespaceFinalizersRemaining").await,
        told(
            "True",
            "Some content in the namespace has finalizers remaining: example.net/wait in 1 resource instances"
        )
    );
    assert_eq!(condition("NamespaceDeletionContentFailure").await.0, "False");
    let done = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    maps.patch("kept", &PatchParams::default(), &done).await.unwrap();
    eventually!("it to be gone", cluster.all::<Namespace>().get_opt("team").await.unwrap().is_none());
    assert!(pods.list(&Default::default()).await.unwrap().items.is_empty());
    for name in ["default", "kube-system", "kube-node-lease", "kube-public"] {
        assert!(cluster.all::<Namespace>().get_opt(name).await.unwrap().is_some(), "{name}");
    }
}

#[tokio::test]
async fn a_bad_network_is_refused_with_its_reason_and_the_good_one_goes_on() {
    let cluster = Cluster::with_nodes(&["a"]).await;
    eventually!("the first network", network(&cluster).await.active.is_some_and(|active| active.plugin == "flat"));
    let spec = |spec: serde_json::Value| Patch::Merge(json!({"spec": spec}));
    let api = cluster.all::<Network>();
    for (change, expected) in [
        (json!({"options": {"colour": "red"}}), "BadOptions"),
        (json!({"plugin": "nowhere", "options": null}), "PluginNotFound"),
        (json!({"plugin": "/dev/null"}), "NotALibrary"),
    ] {
        api.patch("default", &PatchParams::default(), &spec(change)).await.unwrap();
        eventually!(expected, reason(&network(&cluster).await) == ("False", expected));
        let status = network(&cluster).await;
        assert_eq!(status.active.unwrap().generation, 1, "nothing else changes");
    }
    cluster.create::<Pod>(pod("one", json!({}))).await;
    eventually!("a pod on the network that goes on", cluster.ready_pods().await == 1);
    api.patch("default", &PatchParams::default(), &spec(json!({"plugin": "flat"}))).await.unwrap();
    eventually!("the new generation", {
        let status = network(&cluster).await;
        status.active.as_ref().is_some_and(|active| active.generation > 1)
            && reason(&status) == ("False", "NodesPending")
    });
    let generation = network(&cluster).await.active.map_or(0, |active| active.generation);
    let report = json!({"generation": generation, "plugin": "flat"}).to_string();
    let annotation = Patch::Merge(json!({"metadata": {"annotations": {"switchyard.dev/network": report}}}));
    cluster.all::<Node>().patch("a", &PatchParams::default(), &annotation).await.unwrap();
    eventually!("it to be ready when its nodes are", reason(&network(&cluster).await) == ("True", "Active"));
}

/// One bad pod: the Network says so, nobody waits in line behind it, and others get their addresses.
#[tokio::test]
async fn a_plugin_that_fails_for_one_pod_is_reported_and_goes_on_for_others() {
    let mut cluster = Cluster::with_nodes(&["a", "b"]).await;
    let clock = tokio::spawn(longest_gap());
    for (bad, expected) in [("panic", "PluginPanicked"), ("hang", "PluginHung")] {
        cluster.create::<Pod>(pod(bad, json!({}))).await;
        eventually!(expected, reason(&network(&cluster).await) == ("False", expected));
        let message = network(&cluster).await.conditions[0].message.clone();
        assert!(message.starts_with(&format!("pod default/{bad}: pool: the plugin ")), "{message}");
        let good = format!("beside-{bad}");
        cluster.create::<Pod>(pod(&good, json!({}))).await;
        eventually!(good, cluster.api::<Pod>().get(&good).await.is_ok_and(|pod| node_of(&pod).is_some()));
        assert_eq!(reason(&network(&cluster).await), ("False", expected), "the bad one still waits");
        cluster.api::<Pod>().delete(bad, &DeleteParams::default()).await.unwrap();
        eventually!("no complaint", reason(&network(&cluster).await) == ("False", "NodesPending"));
    }
    clock.abort();
    let gap = GAP.lock().map_or(Duration::ZERO, |gap| *gap);
    assert!(gap < PLUGIN_DEADLINE - Duration::from_secs(1), "the API server's thread stood still for {gap:?}");
    cluster.kill().await;
}

/// How long a thread that serves the API did nothing else.
static GAP: std::sync::Mutex<Duration> = std::sync::Mutex::new(Duration::ZERO);

async fn longest_gap() {
    let mut beat = tokio::time::interval(Duration::from_millis(10));
    let mut last = std::time::Instant::now();
    loop {
        beat.tick().await;
        let mut gap = GAP.lock().expect("no panic while locked");
        *gap = last.elapsed().max(*gap);
        last = std::time::Instant::now();
    }
}

#[tokio::test]
async fn owners_that_go_wait_until_all_that_is_owned_is_known() {
    let mut cluster = Cluster::still().await;
    for number in 0..5 {
        let name = format!("s{number}");
        let account: ServiceAccount = cluster.create(json!({"metadata": {"name": name}})).await;
        let owner = json!({"apiVersion": "v1", "kind": "ServiceAccount", "name": name, "uid": account.metadata.uid});
        cluster.create::<Secret>(json!({"metadata": {"name": name, "ownerReferences": [owner]}})).await;
        let orphan =
            DeleteParams { propagation_policy: Some(kube::api::PropagationPolicy::Orphan), ..DeleteParams::default() };
        cluster.api::<ServiceAccount>().delete(&name, &orphan).await.unwrap();
    }
    cluster.start();
    let owners = async || {
        let accounts = cluster.list::<ServiceAccount>().await;
        accounts.iter().filter(|account| account.metadata.deletion_timestamp.is_some()).count()
    };
    eventually!("the owners to go", owners().await == 0);
    let secrets = cluster.list::<Secret>().await;
    assert_eq!(secrets.len(), 5);
    assert!(secrets.iter().all(|secret| secret.metadata.owner_references.as_deref().unwrap_or_default().is_empty()));
}
