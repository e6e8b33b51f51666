//! ReplicaSets, Deployments, DaemonSets and Jobs.

mod rig;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams};
use rig::*;
use serde_json::{Value, json};

async fn patch<K>(cluster: &Cluster, name: &str, change: Value)
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    cluster.api::<K>().patch(name, &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
}

#[tokio::test]
async fn a_replica_set_heals_grows_and_shrinks() {
    let cluster = Cluster::with_nodes(&["a", "b"]).await;
    cluster.create::<ReplicaSet>(replica_set("web", 3)).await;
    eventually!("three pods", cluster.ready_pods().await == 3);
    let victim = cluster.pods().await[0].metadata.name.clone().unwrap();
    cluster.api::<Pod>().delete(&victim, &DeleteParams::default()).await.unwrap();
    eventually!(
        "three again",
        cluster.ready_pods().await == 3 && cluster.api::<Pod>().get_opt(&victim).await.unwrap().is_none()
    );
    patch::<ReplicaSet>(&cluster, "web", json!({"spec": {"replicas": 5}})).await;
    eventually!("five", cluster.ready_pods().await == 5);
    patch::<ReplicaSet>(&cluster, "web", json!({"spec": {"replicas": 1}})).await;
    eventually!("one", cluster.pods().await.len() == 1);
    eventually!("the status to say so", {
        let status = cluster.api::<ReplicaSet>().get("web").await.unwrap().status.unwrap();
        status.replicas == 1 && status.available_replicas == Some(1)
    });
}

#[tokio::test]
async fn a_replica_set_of_many_comes_in_parts() {
    let cluster = Cluster::with_nodes(&[]).await;
    cluster.create::<ReplicaSet>(replica_set("web", 501)).await;
    eventually!("all of them", cluster.pods().await.len() == 501);
}

#[tokio::test]
async fn a_replica_set_adopts_what_matches_and_releases_what_no_longer_does() {
    let cluster = Cluster::with_nodes(&["a"]).await;
    cluster.create::<Pod>(pod("web", json!({}))).await;
    cluster.create::<ReplicaSet>(replica_set("web", 2)).await;
    eventually!("two pods", cluster.ready_pods().await == 2);
    assert_eq!(cluster.pods().await.len(), 2, "the one that was there counts");
    patch::<Pod>(&cluster, "web", json!({"metadata": {"labels": {"app": "other"}}})).await;
    eventually!("another in its place", cluster.ready_pods().await == 3);
    let owners = cluster.api::<Pod>().get("web").await.unwrap().metadata.owner_references.unwrap_or_default();
    assert!(owners.is_empty(), "{owners:?}");
}

#[tokio::test]
async fn a_deployment_rolls_without_going_below_what_it_must_keep_and_can_be_undone() {
    let cluster = Cluster::with_nodes(&["a", "b"]).await;
    cluster.create::<Deployment>(deployment("web", 4, "echo:1")).await;
    eventually!("four pods", cluster.ready_pods().await == 4);
    let image = |image: &str| json!({"spec": {"template": {"spec": {"containers": containers(image)}}}});
    patch::<Deployment>(&cluster, "web", image("echo:2")).await;
    let mut least = 4;
    eventually!("four new pods", {
        let pods = cluster.pods().await;
        let ready = pods.iter().filter(|pod| is_ready(pod) && pod.metadata.deletion_timestamp.is_none()).count();
        least = least.min(ready);
        let is_new = |pod: &Pod| pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("echo:2");
        pods.len() == 4 && pods.iter().all(|pod| is_new(pod) && is_ready(pod))
    });
    assert!(least >= 3, "maxUnavailable 25% of 4 is 1, but only {least} were ready");
    eventually!("the status", {
        let web = cluster.api::<Deployment>().get("web").await.unwrap();
        let status = web.status.unwrap();
        let progressed = status.conditions.unwrap_or_default().iter().any(|condition| {
            condition.type_.as_deref() == Some("Progressing")
                && condition.reason.as_deref() == Some("NewReplicaSetAvailable")
        });
        progressed && status.updated_replicas == Some(4) && status.observed_generation == web.metadata.generation
    });
    let revision = |meta: &kube::api::ObjectMeta| {
        meta.annotations.as_ref().and_then(|all| all.get("deployment.kubernetes.io/revision").cloned())
    };
    assert_eq!(revision(&cluster.api::<Deployment>().get("web").await.unwrap().metadata).as_deref(), Some("2"));
    // What `kubectl rollout undo` does: the template of the older set again.
    patch::<Deployment>(&cluster, "web", image("echo:1")).await;
    eventually!("revision 3, of the set that was revision 1", {
        let sets = cluster.list::<ReplicaSet>().await;
        sets.len() == 2
            && sets.iter().any(|set| revision(&set.metadata).as_deref() == Some("3") && set.spec.replicas == Some(4))
    });
}

#[tokio::test]
async fn a_deployment_that_cannot_progress_keeps_the_old_pods() {
    let cluster = Cluster::with_nodes(&["a"]).await;
    let mut object = deployment("web", 3, "echo");
    object["spec"]["progressDeadlineSeconds"] = json!(1);
    cluster.create::<Deployment>(object).await;
    eventually!("three pods", cluster.ready_pods().await == 3);
    patch::<Deployment>(
        &cluster,
        "web",
        json!({"spec": {"template": {"spec": {"containers": containers("never-ready")}}}}),
    )
    .await;
    eventually!("the deadline to be said", {
        let conditions =
            cluster.api::<Deployment>().get("web").await.unwrap().status.unwrap().conditions.unwrap_or_default();
        conditions.iter().any(|condition| condition.reason.as_deref() == Some("ProgressDeadlineExceeded"))
    });
    assert!(cluster.ready_pods().await >= 3, "maxUnavailable 25% of 3 is none");
}

#[tokio::test]
async fn a_deployment_that_recreates_never_runs_two_templates_at_once() {
    let cluster = Cluster::with_nodes(&["a"]).await;
    let mut object = deployment("web", 2, "echo:1");
    object["spec"]["strategy"] = json!({"type": "Recreate"});
    cluster.create::<Deployment>(object).await;
    eventually!("two pods", cluster.ready_pods().await == 2);
    patch::<Deployment>(&cluster, "web", json!({"spec": {"template": {"spec": {"containers": containers("echo:2")}}}}))
        .await;
    eventually!("two new pods", {
        let pods = cluster.pods().await;
        let mut images: Vec<_> = pods.iter().filter_map(|pod| pod.spec.as_ref()?.containers[0].image.clone()).collect();
        images.sort();
        images.dedup();
        assert!(images.len() <= 1, "{images:?}");
        images == ["echo:2"] && cluster.ready_pods().await == 2
    });
}

#[tokio::test]
async fn a_deleted_deployment_takes_its_pods_along_and_an_orphaning_delete_leaves_them() {
    let cluster = Cluster::with_nodes(&["a"]).await;
    for name in ["gone", "left"] {
        cluster.create::<Deployment>(deployment(name, 2, "echo")).await;
    }
    eventually!("four pods", cluster.ready_pods().await == 4);
    let orphan =
        DeleteParams { propagation_policy: Some(kube::api::PropagationPolicy::Orphan), ..DeleteParams::default() };
    cluster.api::<Deployment>().delete("left", &orphan).await.unwrap();
    cluster.api::<Deployment>().delete("gone", &DeleteParams::foreground()).await.unwrap();
    eventually!("both gone", cluster.list::<Deployment>().await.is_empty());
    eventually!("two pods left", cluster.pods().await.len() == 2);
    let sets = cluster.list::<ReplicaSet>().await;
    assert_eq!(sets.len(), 1);
    assert!(sets[0].metadata.owner_references.clone().unwrap_or_default().is_empty());
}

#[tokio::test]
async fn a_daemon_set_has_a_pod_on_every_node_that_takes_it() {
    let cluster = Cluster::with_nodes(&["a", "b"]).await;
    cluster.node("c", json!({"spec": {"taints": [{"key": "dedicated", "effect": "NoSchedule"}]}})).await;
    let set = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent"},
        "spec": {"selector": {"matchLabels": {"app": "agent"}}, "template": template("agent", "echo")},
    });
    cluster.create::<DaemonSet>(set).await;
    eventually!("two pods", cluster.ready_pods().await == 2);
    cluster.node("d", json!({})).await;
    eventually!("a third on the new node", per_node(&cluster.pods().await).get("d") == Some(&1));
    assert_eq!(per_node(&cluster.pods().await).get("c"), None);
    eventually!("the status", {
        let status = cluster.api::<DaemonSet>().get("agent").await.unwrap().status.unwrap();
        (status.desired_number_scheduled, status.number_available, status.updated_number_scheduled)
            == (3, Some(3), Some(3))
    });
    let taint = async |node: &str, effect: &str| {
        let taints = json!({"spec": {"taints": [{"key": "dedicated", "effect": effect}]}});
        cluster.all::<Node>().patch(node, &PatchParams::default(), &Patch::Merge(taints)).await.unwrap();
    };
    taint("a", "NoSchedule").await;
    taint("b", "NoExecute").await;
    eventually!("one more to be driven away", {
        let status = cluster.api::<DaemonSet>().get("agent").await.unwrap().status.unwrap();
        let nodes = per_node(&cluster.pods().await);
        (status.desired_number_scheduled, status.number_misscheduled) == (1, 1) && !nodes.contains_key("b")
    });
    assert_eq!(per_node(&cluster.pods().await).get("a"), Some(&1), "what runs stays");
}

#[tokio::test]
async fn a_job_runs_to_its_completions_or_gives_up() {
    let cluster = Cluster::with_nodes(&["a"]).await;
    let job = |name: &str, image: &str| {
        json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
            "spec": {"completions": 3, "parallelism": 2, "backoffLimit": 1, "template": {"spec": {
                "restartPolicy": "Never", "containers": [{"name": "c", "image": image}]}}},
        })
    };
    cluster.create::<Job>(job("good", "succeeds")).await;
    cluster.create::<Job>(job("bad", "fails")).await;
    let ended = async |name: &str, kind: &str| {
        let status = cluster.api::<Job>().get(name).await.unwrap().status.unwrap_or_default();
        status.conditions.unwrap_or_default().iter().any(|condition| condition.type_ == kind)
    };
    eventually!("the good one to complete", ended("good", "Complete").await);
    assert_eq!(cluster.api::<Job>().get("good").await.unwrap().status.unwrap().succeeded, Some(3));
    eventually!("the bad one to fail", ended("bad", "Failed").await);
}

/// Names and images of the pods that are ready and not going.
async fn members(cluster: &Cluster) -> Vec<(String, String)> {
    let pods = cluster.pods().await.into_iter();
    let ready = pods.filter(|pod| is_ready(pod) && pod.metadata.deletion_timestamp.is_none());
    let mut members: Vec<_> =
        ready.map(|pod| (pod.metadata.name.unwrap(), pod.spec.unwrap().containers[0].image.clone().unwrap())).collect();
    members.sort();
    members
}

fn named(members: &[(&str, &str)]) -> Vec<(String, String)> {
    members.iter().map(|(name, image)| ((*name).to_owned(), (*image).to_owned())).collect()
}

#[tokio::test]
async fn a_stateful_set_makes_its_pods_in_order_and_keeps_their_names() {
    let cluster = Cluster::with_nodes(&["a", "b"]).await;
    cluster.create::<StatefulSet>(stateful_set("db", 3, "echo")).await;
    let three = named(&[("db-0", "echo"), ("db-1", "echo"), ("db-2", "echo")]);
    eventually!("three pods", members(&cluster).await == three);
    let pods = cluster.pods().await;
    let times: Vec<_> = pods.iter().map(|pod| pod.metadata.uid.clone()).collect();
    assert!(times.is_sorted(), "one after the other: {times:?}");
    let spec = pods[1].spec.as_ref().unwrap();
    assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("db-1"), Some("db")));
    cluster.api::<Pod>().delete("db-1", &DeleteParams::default()).await.unwrap();
    eventually!("another with its name", {
        let pod = cluster.api::<Pod>().get_opt("db-1").await.unwrap();
        pod.is_some_and(|pod| is_ready(&pod) && pod.metadata.uid != pods[1].metadata.uid)
    });
    patch::<StatefulSet>(&cluster, "db", json!({"spec": {"replicas": 1}})).await;
    eventually!("the first alone", members(&cluster).await == three[..1] && cluster.pods().await.len() == 1);
    cluster.create::<StatefulSet>(stateful_set("ill", 3, "never-ready")).await;
    eventually!("the first that is never ready", cluster.api::<Pod>().get_opt("ill-0").await.unwrap().is_some());
    eventually!("the status to say so", {
        let status = cluster.api::<StatefulSet>().get("ill").await.unwrap().status.unwrap_or_default();
        (status.replicas, status.ready_replicas) == (1, Some(0))
    });
    assert_eq!(cluster.pods().await.len(), 2, "the second waits for the first");
}

#[tokio::test]
async fn a_stateful_set_rolls_down_to_its_partition_and_can_be_undone() {
    let cluster = Cluster::with_nodes(&["a", "b"]).await;
    let mut set = stateful_set("db", 3, "echo:1");
    set["spec"]["podManagementPolicy"] = json!("Parallel");
    set["spec"]["updateStrategy"] = json!({"rollingUpdate": {"partition": 1}});
    cluster.create::<StatefulSet>(set).await;
    eventually!("three pods", members(&cluster).await.len() == 3);
    let image = |image: &str| json!({"spec": {"template": {"spec": {"containers": template("db", image)["spec"]["containers"]}}}});
    patch::<StatefulSet>(&cluster, "db", image("echo:2")).await;
    let parted = named(&[("db-0", "echo:1"), ("db-1", "echo:2"), ("db-2", "echo:2")]);
    eventually!("all above the partition", members(&cluster).await == parted);
    let before = cluster.api::<Pod>().get("db-0").await.unwrap().metadata.uid;
    cluster.api::<Pod>().delete("db-0", &DeleteParams::default()).await.unwrap();
    eventually!("another as it was", {
        let pod = cluster.api::<Pod>().get_opt("db-0").await.unwrap();
        pod.is_some_and(|pod| pod.metadata.uid != before) && members(&cluster).await == parted
    });
    patch::<StatefulSet>(&cluster, "db", json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0}}}}))
        .await;
    eventually!("all of them", members(&cluster).await.iter().all(|(_, image)| image == "echo:2"));
    eventually!("the status to say so", {
        let status = cluster.api::<StatefulSet>().get("db").await.unwrap().status.unwrap();
        status.current_revision == status.update_revision && status.updated_replicas == Some(3)
    });
    patch::<StatefulSet>(&cluster, "db", image("echo:1")).await;
    eventually!("the first again", {
        let members = members(&cluster).await;
        members.len() == 3 && members.iter().all(|(_, image)| image == "echo:1")
    });
    let revisions = cluster.list::<ControllerRevision>().await;
    let numbers: Vec<_> = revisions.iter().filter_map(|revision| revision.revision).collect();
    assert!(numbers.len() == 2 && numbers.contains(&3), "the old one is the newest now: {numbers:?}");
    let claims = json!({"spec": {"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}});
    let refused = cluster.api::<StatefulSet>().patch("db", &PatchParams::default(), &Patch::Merge(claims)).await;
    assert!(refused.unwrap_err().to_string().contains("no persistent volumes"));
}

#[tokio::test]
async fn a_stateful_set_takes_in_what_one_of_its_name_left_behind() {
    let cluster = Cluster::with_nodes(&["a"]).await;
    cluster.create::<StatefulSet>(stateful_set("db", 2, "echo")).await;
    eventually!("two pods", cluster.ready_pods().await == 2);
    let before = cluster.pods().await;
    let orphan =
        DeleteParams { propagation_policy: Some(kube::api::PropagationPolicy::Orphan), ..DeleteParams::default() };
    cluster.api::<StatefulSet>().delete("db", &orphan).await.unwrap();
    eventually!("it to go", cluster.list::<StatefulSet>().await.is_empty());
    let set = cluster.create::<StatefulSet>(stateful_set("db", 3, "echo")).await;
    eventually!("a third pod", cluster.ready_pods().await == 3);
    let pods = cluster.pods().await;
    assert!(before.iter().all(|old| pods.iter().any(|pod| pod.metadata.uid == old.metadata.uid)), "the two stay");
    let revisions = cluster.list::<ControllerRevision>().await;
    assert_eq!(revisions.len(), 1);
    assert_eq!(revisions[0].metadata.owner_references.as_ref().unwrap()[0].uid, set.metadata.uid.unwrap());
    // Now something else has the name.
    cluster.api::<StatefulSet>().delete("db", &DeleteParams::foreground()).await.unwrap();
    eventually!("all of it to go", cluster.list::<ControllerRevision>().await.is_empty());
    let name = revisions[0].metadata.name.as_deref().unwrap();
    let other =
        json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": {"name": name}, "revision": 1});
    cluster.create::<ControllerRevision>(other).await;
    cluster.create::<StatefulSet>(stateful_set("db", 1, "echo")).await;
    eventually!("a pod again", cluster.ready_pods().await == 1);
    assert_eq!(cluster.list::<ControllerRevision>().await.len(), 2);
}
