//! Which backend answers, and what is said when none does.
#![allow(missing_docs)]

mod rig;

use std::sync::Arc;

use rig::{Ingress, Upstream, World, nobody};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

#[tokio::test(flavor = "multi_thread")]
async fn hosts_lead_to_their_services_and_pods_take_turns() {
    let (a, b, c) = (Upstream::echo("a").await, Upstream::echo("b").await, Upstream::echo("c").await);
    let world = World::new()
        .service("one", &[a.address, b.address])
        .service("two", &[c.address])
        .rule("sphinx-v1.example.net", "/", "one")
        .rule("sphinx-v*.example.net", "/", "two")
        .rule("*.example.net", "/", "one");
    let ingress = Ingress::start(world).await;

    // Every request on a connection of its own, so on either core: the turn is counted over all of them.
    let mut pods = Vec::new();
    for _ in 0..20 {
        pods.push(ingress.get("sphinx-v1.example.net", "/").await.pod().to_owned());
    }
    for pair in pods.windows(2) {
        assert_ne!(pair[0], pair[1], "in turn: {pods:?}");
    }
    assert_eq!(ingress.get("SPHINX-V7.example.net:8080", "/x?y=1").await.pod(), "c");
    assert_ne!(ingress.get("other.example.net.", "/").await.pod(), "c");
}

/// The host cases of ingress-controller-conformance.
#[tokio::test(flavor = "multi_thread")]
async fn conformance_of_hosts_and_paths() {
    let (a, b) = (Upstream::echo("wild").await, Upstream::echo("exact").await);
    let by_name = json!({ "service": { "name": "exact", "port": { "name": "http" } } });
    let spec = json!({ "ingressClassName": "yard", "rules": [{ "host": "foo.bar.com", "http": { "paths": [
        { "path": "/", "pathType": "ImplementationSpecific", "backend": by_name },
    ] } }] });
    let world = World::new()
        .service("wild", &[a.address])
        .service("exact", &[b.address])
        .ingress("exact", json!({}), spec)
        .rule("*.foo.com", "/", "wild")
        .rule("paths.net", "=/foo", "exact")
        .rule("paths.net", "/aaa/bbb", "exact")
        .rule("paths.net", "/aaa", "wild");
    let ingress = Ingress::start(world).await;
    let cases = [
        ("foo.bar.com", "/", 200, "exact"),
        ("subdomain.bar.com", "/", 404, ""),
        ("bar.foo.com", "/", 200, "wild"),
        ("baz.bar.foo.com", "/", 404, ""),
        ("foo.com", "/", 404, ""),
        ("paths.net", "/foo", 200, "exact"),
        ("paths.net", "/foo/", 404, ""),
        ("paths.net", "/FOO", 404, ""),
        ("paths.net", "/aaa/bbb/ccc", 200, "exact"),
        ("paths.net", "/aaa/ccc", 200, "wild"),
        ("paths.net", "/aaaccc", 404, ""),
    ];
    let mut client = ingress.client().await;
    for (host, path, status, pod) in cases {
        let reply = client.get(host, path).await;
        assert_eq!(reply.status, status, "{host}{path}: {}", reply.text());
        if status == 200 {
            assert_eq!(reply.pod(), pod, "{host}{path}");
            assert_eq!(reply.json()["headers"]["host"], host);
            assert_eq!(reply.json()["target"], path);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_default_backend_takes_what_no_rule_covers() {
    let (a, b) = (Upstream::echo("a").await, Upstream::echo("default").await);
    let spec = json!({ "ingressClassName": "yard", "defaultBackend": { "service": { "name": "default", "port": { "number": 80 } } } });
    let world = World::new()
        .service("a", &[a.address])
        .service("default", &[b.address])
        .rule("a.net", "/a", "a")
        .ingress("default", json!({}), spec);
    let ingress = Ingress::start(world).await;
    assert_eq!(ingress.get("a.net", "/a").await.pod(), "a");
    assert_eq!(ingress.get("a.net", "/b").await.pod(), "default");
    assert_eq!(ingress.get("b.net", "/").await.pod(), "default");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_ingresses_of_our_class_are_served() {
    let a = Upstream::echo("a").await;
    let rule = |host: &str| {
        json!([{ "host": host, "http": { "paths": [{ "path": "/", "pathType": "Prefix",
            "backend": { "service": { "name": "a", "port": { "number": 80 } } } }] } }])
    };
    let world = World::new()
        .service("a", &[a.address])
        .class("foreign", "example.com/other", false)
        .class("fallback", switchyard_ingress::table::CONTROLLER, true)
        .ingress("ours", json!({}), json!({ "ingressClassName": "yard", "rules": rule("ours.net") }))
        .ingress("theirs", json!({}), json!({ "ingressClassName": "foreign", "rules": rule("theirs.net") }))
        .ingress("unknown", json!({}), json!({ "ingressClassName": "nobody", "rules": rule("unknown.net") }))
        .ingress("legacy", json!({ "kubernetes.io/ingress.class": "yard" }), json!({ "rules": rule("legacy.net") }))
        .ingress(
            "contrary",
            json!({ "kubernetes.io/ingress.class": "foreign" }),
            json!({ "ingressClassName": "yard", "rules": rule("contrary.net") }),
        )
        .ingress("none", json!({}), json!({ "rules": rule("none.net") }));
    let ingress = Ingress::start(world).await;
    for (host, status) in [
        ("ours.net", 200),
        ("theirs.net", 404),
        ("unknown.net", 404),
        ("legacy.net", 200),
        ("contrary.net", 404),
        ("none.net", 200),
    ] {
        assert_eq!(ingress.get(host, "/").await.status, status, "{host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_told_apart_and_say_why() {
    let silent = Upstream::raw(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let rude = Upstream::raw(|stream| async move { drop(stream) }).await;
    let world = World::new()
        .service("empty", &[])
        .service("gone", &[nobody().await])
        .service("silent", &[silent.address])
        .service("rude", &[rude.address])
        .rule("empty.net", "/", "empty")
        .rule("missing.net", "/", "missing")
        .rule("gone.net", "/", "gone")
        .rule("silent.net", "/", "silent")
        .rule("rude.net", "/", "rude")
        .rule("paths.net", "/only", "empty");
    let ingress = Ingress::start_with(world, |c| c.limits.answer_timeout = std::time::Duration::from_millis(100)).await;
    let cases = [
        ("nowhere.net", 404, "no rule for host \"nowhere.net\"; rules exist for: "),
        ("paths.net", 404, "host \"paths.net\" has rules, but none for path \"/\""),
        ("empty.net", 503, "backend default/empty:80 cannot answer: no endpoint is ready"),
        ("missing.net", 503, "the Service does not exist"),
        ("gone.net", 502, "refused the connection"),
        ("rude.net", 502, "broke the connection before it answered"),
        ("silent.net", 504, "sent no answer within 100ms"),
    ];
    for (host, status, why) in cases {
        let reply = ingress.get(host, "/").await;
        assert_eq!(reply.status, status, "{host}: {}", reply.text());
        assert!(reply.text().contains(why), "{host}: expected {why:?} in {:?}", reply.text());
    }
    let request = http::Request::builder().uri("/").header("host", "nowhere.net").header("accept", "application/json");
    let reply = ingress.client().await.send(request.body(rig::full("")).expect("request")).await.expect("answer");
    assert_eq!((reply.json()["status"].as_u64(), reply.json()["reason"].as_str()), (Some(404), Some("no-host")));
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_metrics_and_probes_answer() {
    let a = Upstream::echo("a").await;
    let mut ingress = Ingress::start_with(
        World::new().service("a", &[a.address]).rule("v*.a.net", "/x", "a").rule("*.a.net", "/", "a"),
        |c| {
            c.drain_delay = std::time::Duration::from_secs(5);
        },
    )
    .await;
    ingress.get("v1.a.net", "/x").await;
    let explained = ingress.admin("/explain?host=V1.a.net&path=%2fx%2fy").await.json();
    assert_eq!((&explained["pattern"], &explained["rule"]), (&json!("v*.a.net"), &json!("Prefix /x")));
    assert_eq!(explained["shadowed"], json!(["*.a.net"]));
    let metrics = ingress.admin("/metrics").await.text();
    assert!(metrics.contains("yard_ingress_requests_total{code=\"200\"} 1\n"), "{metrics}");
    assert_eq!(ingress.admin("/healthz").await.status, 200);
    ingress.terminate();
    rig::eventually("/readyz says no", async || ingress.admin("/readyz").await.status == 503).await;
    let reply = ingress.get("v1.a.net", "/x").await;
    assert_eq!(
        (reply.pod(), reply.headers["connection"].as_bytes()),
        ("a", &b"close"[..]),
        "still served, for the last time"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn all_addresses_of_an_external_name_take_turns() {
    // The same port at another address, as one name has one port. There it may be somebody else's.
    let (a, other) = loop {
        let a = Upstream::echo("a").await;
        if let Ok(other) = TcpListener::bind(("127.0.0.2", a.address.port())).await {
            break (a, other);
        }
    };
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = other.accept().await {
            let mut asked = [0; 1024];
            let _ = stream.read(&mut asked).await;
            let said = b"HTTP/1.1 200 OK\r\nx-pod: b\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            let _ = stream.write_all(said).await;
        }
    });
    let port = a.address.port();
    let service = json!({ "metadata": { "name": "out", "namespace": "default" }, "spec": {
        "type": "ExternalName", "externalName": "www.elsewhere", "ports": [{ "name": "http", "port": port }] } });
    let backend = json!({ "service": { "name": "out", "port": { "name": "http" } } });
    let path = json!({ "path": "/", "pathType": "Prefix", "backend": backend });
    let rule = json!({ "host": "out.net", "http": { "paths": [path] } });
    let mut world = World::new().ingress("out", json!({}), json!({ "ingressClassName": "yard", "rules": [rule] }));
    world.0.services.insert(("default".into(), "out".into()), Arc::new(rig::from(service)));
    let addresses = ["127.0.0.1", "127.0.0.2"].map(|address| address.parse().expect("an address"));
    world.0.external.insert("www.elsewhere".into(), addresses.into());
    let ingress = Ingress::start(world).await;
    let mut pods = Vec::new();
    for _ in 0..20 {
        pods.push(ingress.get("out.net", "/").await.pod().to_owned());
    }
    assert_eq!(pods.iter().filter(|pod| *pod == "a").count(), 10, "half of them each: {pods:?}");
}
