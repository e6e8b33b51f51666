//! What the cluster's API says is what is served.
#![allow(missing_docs)]

mod rig;

use std::time::Duration;

use rig::{Ingress, Upstream, eventually, kube_api::KubeApi};
use serde_json::{Value, json};
use switchyard_ingress::Origin;

fn class() -> Value {
    json!({ "metadata": { "name": "yard" }, "spec": { "controller": "switchyard.dev/ingress" } })
}

fn service(name: &str) -> Value {
    json!({ "metadata": { "name": name, "namespace": "default" }, "spec": { "ports": [{ "name": "http", "port": 80, "targetPort": "web" }] } })
}

fn slice(service: &str, port: u16, ready: bool, terminating: bool) -> Value {
    json!({
        "metadata": { "name": format!("{service}-x"), "namespace": "default", "labels": { "kubernetes.io/service-name": service } },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "port": port, "protocol": "TCP" }],
        "endpoints": [{ "addresses": ["127.0.0.1"], "conditions": { "ready": ready, "serving": true, "terminating": terminating } }],
    })
}

fn ingress(name: &str, class: &str, host: &str, service: &str) -> Value {
    json!({ "metadata": { "name": name, "namespace": "default" }, "spec": { "ingressClassName": class, "rules": [{
        "host": host, "http": { "paths": [{ "path": "/", "pathType": "Prefix",
            "backend": { "service": { "name": service, "port": { "name": "http" } } } }] } }] } })
}

fn origin(api: &KubeApi, publish: bool) -> Origin {
    let publish = publish.then(|| ("default".to_owned(), "front".to_owned()));
    Origin::Cluster { client: api.client(), namespace: None, publish, secrets: false }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_api_holds_is_served_and_changes_follow() {
    let (a, b) = (Upstream::echo("a").await, Upstream::echo("b").await);
    let api = KubeApi::start().await;
    api.put("ingressclasses", class());
    api.put("services", service("web"));
    api.put("endpointslices", slice("web", a.address.port(), true, false));
    api.put("ingresses", ingress("one", "yard", "one.net", "web"));
    let ingress_ = Ingress::start_from(origin(&api, false), |_| {}).await;
    assert_eq!(ingress_.get("one.net", "/").await.pod(), "a");

    api.put("endpointslices", slice("web", b.address.port(), true, false));
    eventually("the new endpoint answers", async || ingress_.get("one.net", "/").await.pod() == "b").await;
    api.put("endpointslices", slice("web", b.address.port(), true, true));
    eventually("a terminating endpoint gets nothing", async || ingress_.get("one.net", "/").await.status == 503).await;
    api.put("ingresses", ingress("two", "yard", "two*.net.org", "web"));
    eventually("a new rule counts", async || ingress_.get("two2.net.org", "/").await.status == 503).await;
    api.delete("ingresses", "default", "one");
    eventually("a rule is gone", async || ingress_.get("one.net", "/").await.status == 404).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_is_written_for_served_ingresses_only() {
    let api = KubeApi::start().await;
    api.put("ingressclasses", class());
    let mut front = service("front");
    front["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": "192.168.100.244" }] } });
    api.put("services", front.clone());
    api.put("ingresses", ingress("ours", "yard", "ours.net", "web"));
    api.put("ingresses", ingress("theirs", "other", "theirs.net", "web"));
    let _ingress = Ingress::start_from(origin(&api, true), |_| {}).await;
    eventually("status is written", async || !api.patches().is_empty()).await;
    front["status"]["loadBalancer"]["ingress"][0]["ip"] = "192.168.100.245".into();
    api.put("services", front);
    eventually("a new address is written", async || api.patches().len() >= 2).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut patches = api.patches();
    // The second may be written once more, as it is not known yet what came of the first.
    patches.dedup();
    assert_eq!(patches.len(), 2, "in their order: {patches:?}");
    for ((path, patch), ip) in patches.iter().zip(["192.168.100.244", "192.168.100.245"]) {
        assert_eq!(path, "/apis/networking.k8s.io/v1/namespaces/default/ingresses/ours/status");
        assert_eq!(patch["status"]["loadBalancer"]["ingress"], json!([{ "ip": ip }]));
    }
    // Whoever writes over it: with something else, and with nothing.
    for lost in [json!({ "loadBalancer": { "ingress": [{ "ip": "10.0.0.1" }] } }), json!({})] {
        let times = api.patches().len();
        let mut ours = ingress("ours", "yard", "ours.net", "web");
        ours["status"] = lost;
        api.put("ingresses", ours);
        eventually("status is written again", async || api.patches().len() > times).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_external_name_is_a_backend_too() {
    let a = Upstream::echo("a").await;
    let api = KubeApi::start().await;
    api.put("ingressclasses", class());
    api.put("services", json!({ "metadata": { "name": "out", "namespace": "default" }, "spec": {
        "type": "ExternalName", "externalName": "localhost", "ports": [{ "name": "http", "port": a.address.port() }] } }));
    api.put("ingresses", ingress("out", "yard", "out.net", "out"));
    let ingress = Ingress::start_from(origin(&api, false), |_| {}).await;
    eventually("the name is resolved", async || ingress.get("out.net", "/").await.status == 200).await;
}
