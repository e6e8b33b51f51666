//! Addresses that span nodes.

mod rig;

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use rig::{Cluster, assert_addresses, ip_of, node_of, pod};
use serde_json::json;
use switchyard_api::Segment;
use switchyard_netstate::Fragment;
use switchyard_plugin::{Facts, NetworkPlugin, NodeFacts, Options, OptionsError, PodFacts, Pool, SegmentPool};
use switchyard_plugin_host::Registry;

/// A segment for each namespace, of subnets with room for five pods.
struct Segmented;

impl NetworkPlugin for Segmented {
    fn new(_: &Options) -> Result<Self, OptionsError> {
        Ok(Self)
    }

    fn pool(&self, _: &Facts, _: &NodeFacts, pod: &PodFacts) -> Pool {
        let segment = SegmentPool {
            name: pod.namespace.clone(),
            prefix_length: 29,
            kept: 1,
            ids: (7, 9),
            outside: Some("192.168.200.0/29".parse().unwrap()),
        };
        Pool { segment: Some(segment), ..Pool::of("10.40.128.0/27".parse().unwrap()) }
    }

    fn node(&self, _: &Facts, _: &NodeFacts) -> Fragment {
        Fragment::new()
    }

    fn pod(&self, _: &Facts, _: &NodeFacts, _: &PodFacts) -> Fragment {
        Fragment::new()
    }
}

async fn still() -> Cluster {
    let mut cluster = Cluster::still().await;
    let manifest = json!({"name": "segmented", "version": "1.0.0"}).to_string();
    cluster.config.plugins = Some(Arc::new(Registry::new(vec![]).with_static::<Segmented>(&manifest)));
    cluster.config.network.plugin = "segmented".into();
    cluster
}

async fn bound(cluster: &Cluster) -> usize {
    cluster.pods().await.iter().filter(|pod| node_of(pod).is_some()).count()
}

async fn segment(cluster: &Cluster, name: &str) -> Option<Segment> {
    cluster.all::<Segment>().get_opt(name).await.unwrap()
}

fn realised(segment: &Segment) -> Option<(&str, &str)> {
    let condition = segment.status.as_ref()?.conditions.iter().find(|one| one.kind == "Realised")?;
    Some((&condition.status, &condition.reason))
}

fn message(segment: &Segment) -> &str {
    let conditions = segment.status.as_ref().map(|status| &status.conditions);
    conditions.into_iter().flatten().find(|one| one.kind == "Realised").map_or("", |one| &one.message)
}

/// What a node's agent says of its network.
async fn report(cluster: &Cluster, node: &str, said: serde_json::Value) {
    let patch = json!({"metadata": {"annotations": {"switchyard.dev/network": said.to_string()}}});
    cluster.all::<Node>().patch(node, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

#[tokio::test]
async fn a_segment_grows_when_it_is_full_whoever_dies_meanwhile() {
    let mut cluster = still().await;
    cluster.start();
    // A block of a node keeps the segment out of itself.
    cluster.node("a", json!({"spec": {"podCIDR": "10.40.128.0/29"}})).await;
    cluster.node("b", json!({})).await;
    cluster.agent().await;
    for n in 0..8 {
        cluster.create::<Pod>(pod(&format!("pod-{n}"), json!({}))).await;
        if n == 5 {
            cluster.kill().await;
            cluster.start();
        }
    }
    eventually!("all to be bound", bound(&cluster).await == 8);
    let pods = cluster.pods().await;
    assert_addresses(&pods);
    let segment = segment(&cluster, "default").await.unwrap();
    let subnets: Vec<IpNet> = ["10.40.128.8/29", "10.40.128.16/29"].map(|net| net.parse().unwrap()).into();
    assert_eq!((segment.spec.id, &segment.spec.subnets), (7, &subnets));
    assert_eq!(segment.spec.outside, Some("192.168.200.2".parse().unwrap()));
    let used: BTreeSet<String> = pods.iter().filter_map(ip_of).collect();
    assert!(!used.contains("10.40.128.9") && !used.contains("10.40.128.17"), "gateways: {used:?}");
    assert!(used.iter().all(|ip| subnets.iter().any(|net| net.contains(&ip.parse::<std::net::IpAddr>().unwrap()))));
}

#[tokio::test]
async fn what_keeps_a_segment_from_growing_is_said() {
    let mut cluster = still().await;
    cluster.start();
    cluster.node("a", json!({})).await;
    cluster.agent().await;
    // Four subnets with five addresses each.
    for n in 0..21 {
        cluster.create::<Pod>(pod(&format!("pod-{n}"), json!({}))).await;
    }
    eventually!("twenty to be bound", bound(&cluster).await == 20);
    let waits = cluster.pods().await.into_iter().find(|pod| node_of(pod).is_none()).unwrap();
    let waits = waits.metadata.name.unwrap();
    let said = "no free pod address in segment default: no subnet of length 29 is free in 10.40.128.0/27";
    eventually!("it to be said", {
        let pod = cluster.api::<Pod>().get(&waits).await.unwrap();
        let conditions = pod.status.and_then(|status| status.conditions).unwrap_or_default();
        conditions.iter().any(|one| one.message.as_ref().is_some_and(|message| message.contains(said)))
    });
    eventually!("the segment to say so too", {
        let segment = segment(&cluster, "default").await.unwrap();
        realised(&segment) == Some(("False", "Exhausted"))
    });
    let victim = cluster.pods().await.into_iter().find(|pod| node_of(pod).is_some()).unwrap();
    cluster.api::<Pod>().delete(victim.metadata.name.as_deref().unwrap(), &DeleteParams::default()).await.unwrap();
    eventually!("the one that waited", node_of(&cluster.api::<Pod>().get(&waits).await.unwrap()).is_some());
}

#[tokio::test]
async fn a_segment_goes_with_its_namespace() {
    let mut cluster = still().await;
    cluster.start();
    cluster.node("a", json!({})).await;
    cluster.agent().await;
    let team: Namespace = serde_json::from_value(json!({"metadata": {"name": "team"}})).unwrap();
    cluster.all::<Namespace>().create(&PostParams::default(), &team).await.unwrap();
    cluster.create::<Pod>(pod("here", json!({}))).await;
    let there: Pod = serde_json::from_value(pod("there", json!({}))).unwrap();
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), "team");
    api.create(&PostParams::default(), &there).await.unwrap();
    eventually!("it to be said which node does not say that it has them", {
        let segment = segment(&cluster, "team").await;
        segment.is_some_and(|segment| {
            realised(&segment) == Some(("False", "Pending")) && message(&segment).ends_with("on a")
        })
    });
    report(&cluster, "a", json!({"generation": 1, "segments": {"team": "add link vx8: it is there already"}})).await;
    eventually!("a node that cannot carry one to be named", {
        let both = [segment(&cluster, "default").await.unwrap(), segment(&cluster, "team").await.unwrap()];
        realised(&both[0]) == Some(("True", "Realised"))
            && realised(&both[1]) == Some(("False", "Failed"))
            && message(&both[1]) == "a: add link vx8: it is there already"
    });
    report(&cluster, "a", json!({"generation": 1})).await;
    eventually!("both segments to be realised", {
        let both = [segment(&cluster, "default").await, segment(&cluster, "team").await];
        both.iter().flatten().filter(|segment| realised(segment) == Some(("True", "Realised"))).count() == 2
    });
    let ids: BTreeSet<u32> =
        cluster.all::<Segment>().list(&Default::default()).await.unwrap().iter().map(|one| one.spec.id).collect();
    assert_eq!(ids.len(), 2, "a number of its own for each");
    cluster.all::<Namespace>().delete("team", &DeleteParams::default()).await.unwrap();
    eventually!("its segment to go", segment(&cluster, "team").await.is_none());
    assert!(segment(&cluster, "default").await.is_some());
}
