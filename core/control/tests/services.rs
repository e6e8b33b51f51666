//! What Services lead to, and their external addresses.

mod rig;

use k8s_openapi::api::core::v1::{Endpoints, Event, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::api::{DeleteParams, Patch, PatchParams};
use rig::*;
use serde_json::json;

async fn endpoints(cluster: &Cluster, service: &str) -> Vec<Endpoint> {
    let slices = cluster.list::<EndpointSlice>().await;
    let of = |slice: &EndpointSlice| {
        slice.metadata.labels.as_ref().and_then(|all| all.get("kubernetes.io/service-name").cloned())
    };
    slices
        .into_iter()
        .filter(|slice| of(slice).as_deref() == Some(service))
        .flat_map(|slice| slice.endpoints.unwrap_or_default())
        .collect()
}

fn ready(endpoints: &[Endpoint]) -> usize {
    endpoints.iter().filter(|endpoint| endpoint.conditions.as_ref().is_some_and(|c| c.ready == Some(true))).count()
}

async fn external(cluster: &Cluster, name: &str) -> Option<String> {
    let status = cluster.api::<Service>().get(name).await.unwrap().status?;
    status.load_balancer?.ingress?.first()?.ip.clone()
}

#[tokio::test]
async fn a_service_leads_to_its_ready_pods_by_their_named_ports() {
    let cluster = Cluster::with_nodes(&["a"]).await;
    cluster.create::<Service>(service("web", json!({}))).await;
    eventually!("an empty slice", !cluster.list::<EndpointSlice>().await.is_empty());
    cluster.create::<k8s_openapi::api::apps::v1::ReplicaSet>(replica_set("web", 3)).await;
    eventually!("three endpoints", ready(&endpoints(&cluster, "web").await) == 3);
    let endpoint = endpoints(&cluster, "web").await.remove(0);
    assert_eq!(endpoint.node_name.as_deref(), Some("a"));
    assert_eq!(endpoint.target_ref.unwrap().kind.as_deref(), Some("Pod"));
    let slices = cluster.list::<EndpointSlice>().await;
    let slice = slices.iter().find(|slice| slice.metadata.name.as_deref().unwrap().starts_with("web-")).unwrap();
    assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(80));
    eventually!("the Endpoints object too", {
        let old = cluster.api::<Endpoints>().get_opt("web").await.unwrap();
        old.and_then(|old| Some(old.subsets?.first()?.addresses.as_ref()?.len())) == Some(3)
    });
    let victim = cluster.pods().await[0].metadata.name.clone().unwrap();
    let status = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    cluster.api::<Pod>().patch_status(&victim, &PatchParams::default(), &Patch::Strategic(status)).await.unwrap();
    cluster.api::<Service>().delete("web", &DeleteParams::default()).await.unwrap();
    eventually!("its slices to go with it", endpoints(&cluster, "web").await.is_empty());
}

#[tokio::test]
async fn a_hundred_endpoints_go_into_a_slice() {
    let cluster = Cluster::with_nodes(&["a", "b", "c"]).await;
    cluster.create::<Service>(service("web", json!({}))).await;
    cluster.create::<k8s_openapi::api::apps::v1::ReplicaSet>(replica_set("web", 150)).await;
    eventually!("all endpoints", ready(&endpoints(&cluster, "web").await) == 150);
    let slices = cluster.list::<EndpointSlice>().await;
    let sizes: Vec<_> = slices.iter().map(|slice| slice.endpoints.as_ref().map_or(0, Vec::len)).collect();
    assert!(sizes.iter().all(|size| *size <= 100), "{sizes:?}");
}

#[tokio::test]
async fn the_api_server_is_a_service_too() {
    let cluster = Cluster::with_nodes(&[]).await;
    eventually!(
        "its endpoint",
        endpoints(&cluster, "kubernetes").await.iter().any(|endpoint| endpoint.addresses == ["10.140.0.10"])
    );
    let spec = cluster.api::<Service>().get("kubernetes").await.unwrap().spec.unwrap();
    assert_eq!(spec.cluster_ip.as_deref(), Some("10.96.0.1"));
}

#[tokio::test]
async fn an_external_address_is_in_use_while_a_service_holds_it() {
    let cluster = Cluster::with_nodes(&[]).await;
    let balanced = |more: serde_json::Value| {
        let mut spec = json!({"type": "LoadBalancer"});
        merge(&mut spec, more);
        spec
    };
    cluster.create::<Service>(service("asks", balanced(json!({"loadBalancerIP": "192.168.100.2"})))).await;
    eventually!("the one it asked for", external(&cluster, "asks").await.as_deref() == Some("192.168.100.2"));
    cluster.create::<Service>(service("second", balanced(json!({"loadBalancerIP": "192.168.100.2"})))).await;
    eventually!("a conflict to be said", {
        let events = cluster.list::<Event>().await;
        events
            .iter()
            .any(|event| event.message.as_deref().is_some_and(|text| text.contains("held by Service default/asks")))
    });
    cluster.create::<Service>(service("any", balanced(json!({})))).await;
    eventually!("any address", external(&cluster, "any").await.as_deref() == Some("192.168.100.1"));
    cluster.api::<Service>().delete("asks", &DeleteParams::default()).await.unwrap();
    eventually!("the one that waited", external(&cluster, "second").await.as_deref() == Some("192.168.100.2"));
    let plain = Patch::Merge(json!({"spec": {"type": "ClusterIP"}}));
    cluster.api::<Service>().patch("second", &PatchParams::default(), &plain).await.unwrap();
    eventually!("its address to be given up", external(&cluster, "second").await.is_none());
}

#[tokio::test]
async fn a_service_is_told_that_another_one_holds_its_address() {
    let cluster = Cluster::with_nodes(&[]).await;
    let outside = json!({"externalIPs": ["192.0.2.1"]});
    cluster.create::<Service>(service("b", outside.clone())).await;
    cluster.create::<Service>(service("a", outside)).await;
    let conflict = async |name: &str| {
        let status = cluster.api::<Service>().get(name).await.unwrap().status?;
        let condition = status.conditions?.into_iter().find(|condition| condition.type_ == "AddressConflict")?;
        Some((condition.status, condition.message))
    };
    let is_told =
        |(status, text): &(String, String)| status == "True" && text.contains("192.0.2.1:80/tcp held by Service");
    eventually!("one of them to be told", {
        conflict("a").await.as_ref().is_some_and(is_told) || conflict("b").await.as_ref().is_some_and(is_told)
    });
    // Made within a second, the first by name holds it; else the older one.
    let (holder, other) = if conflict("a").await.as_ref().is_some_and(is_told) { ("b", "a") } else { ("a", "b") };
    eventually!("an event, too", {
        let events = cluster.list::<Event>().await;
        events.iter().any(|event| event.reason.as_deref() == Some("AddressConflict"))
    });
    cluster.api::<Service>().delete(holder, &DeleteParams::default()).await.unwrap();
    eventually!(
        "the conflict to end with its holder",
        conflict(other).await.is_some_and(|(status, _)| status == "False")
    );
}
