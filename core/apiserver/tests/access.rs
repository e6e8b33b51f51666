//! Who may do what, and hostile input.

mod rig;

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use rig::{Rig, code, from, pod};
use serde_json::json;
use switchyard_apiserver::pki::Identity;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn create() -> PostParams {
    PostParams::default()
}

async fn with_token(rig: &Rig, token: &str) -> kube::Client {
    let mut config = kube::Config::new(rig.url.parse().expect("a URL"));
    config.accept_invalid_certs = true;
    config.auth_info.token = Some(token.to_owned().into());
    kube::Client::try_from(config).expect("client")
}

#[tokio::test]
async fn a_token_is_good_as_long_as_its_account_and_pod_are_there() {
    let rig = Rig::start().await;
    let admin = rig.server.client();
    let accounts: Api<ServiceAccount> = Api::default_namespaced(admin.clone());
    accounts.create(&create(), &from(json!({"metadata": {"name": "bob"}}))).await.expect("create");
    let pods: Api<Pod> = Api::default_namespaced(admin.clone());
    let made = pods.create(&create(), &pod("p")).await.expect("create");
    let request: TokenRequest = from(
        json!({"spec": {"audiences": [], "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": made.metadata.uid}}}),
    );
    let token = accounts
        .create_token_request("bob", &create(), &request)
        .await
        .expect("token")
        .status
        .expect("status")
        .token
        .expect("a token");
    let bobs: Api<Pod> = Api::default_namespaced(with_token(&rig, &token).await);
    assert_eq!(code(bobs.list(&ListParams::default()).await), 403);
    let bindings: Api<RoleBinding> = Api::default_namespaced(admin);
    let binding = json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "view", "apiGroup": "rbac.authorization.k8s.io"},
        "subjects": [{"kind": "ServiceAccount", "name": "bob", "namespace": "default"}]});
    bindings.create(&create(), &from(binding)).await.expect("create");
    assert_eq!(bobs.list(&ListParams::default()).await.expect("bob may look").items.len(), 1);
    assert_eq!(code(bobs.create(&create(), &pod("q")).await), 403, "and nothing else");
    let forged = format!("{}x", &token[..token.len() - 1]);
    let forger: Api<Pod> = Api::default_namespaced(with_token(&rig, &forged).await);
    assert_eq!(code(forger.list(&ListParams::default()).await), 401);
    pods.delete("p", &DeleteParams::default()).await.expect("delete");
    assert_eq!(code(bobs.list(&ListParams::default()).await), 401, "the pod is gone");
}

#[tokio::test]
async fn a_node_sees_and_writes_what_is_its_own() {
    let rig = Rig::start().await;
    let admin = rig.server.client();
    let node = rig.client(&Identity::node("n1")).await;
    let nodes: Api<Node> = Api::all(node.clone());
    nodes.create(&create(), &from(json!({"metadata": {"name": "n1"}}))).await.expect("its own node");
    Api::<Node>::all(admin.clone())
        .create(&create(), &from(json!({"metadata": {"name": "n2"}})))
        .await
        .expect("create");
    assert_eq!(code(nodes.delete("n2", &DeleteParams::default()).await), 403);
    let secrets: Api<Secret> = Api::default_namespaced(admin.clone());
    for name in ["used", "other"] {
        secrets
            .create(&create(), &from(json!({"metadata": {"name": name}, "stringData": {"a": "b"}})))
            .await
            .expect("create");
    }
    let mut uses = serde_json::to_value(pod("p")).expect("JSON");
    uses["spec"]["nodeName"] = json!("n1");
    uses["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "used"}}]);
    Api::<Pod>::default_namespaced(admin).create(&create(), &from(uses)).await.expect("create");
    let its: Api<Secret> = Api::default_namespaced(node);
    assert_eq!(its.get("used").await.expect("a pod of the node uses it").data.expect("data")["a"].0, b"b");
    assert_eq!(code(its.get("other").await), 403);
    assert_eq!(code(its.list(&ListParams::default()).await), 403);
}

#[tokio::test]
async fn nobody_without_credentials_sees_objects() {
    let rig = Rig::start().await;
    for (path, expected) in [
        ("/healthz", 200),
        ("/readyz", 200),
        ("/version", 200),
        ("/api", 401),
        ("/api/v1/pods", 401),
        ("/metrics", 401),
    ] {
        assert_eq!(
            raw(&rig, &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await.0,
            expected,
            "{path}"
        );
    }
}

#[tokio::test]
async fn hostile_requests_get_an_answer_and_do_no_harm() {
    let rig = Rig::start().await;
    let admin = rig.client(&Identity::admin()).await;
    let post = |path: &str, media: &str, body: Vec<u8>| {
        http::Request::post(path).header("content-type", media).body(body).expect("a request")
    };
    let deep = "[".repeat(100_000);
    for (what, request, expected) in [
        ("JSON too deep", post("/api/v1/namespaces/default/configmaps", "application/json", deep.into_bytes()), 400),
        ("too much", post("/api/v1/namespaces/default/configmaps", "application/json", vec![b' '; 4 << 20]), 413),
        ("no JSON", post("/api/v1/namespaces/default/configmaps", "application/json", b"{".to_vec()), 400),
        ("a list", post("/api/v1/namespaces/default/configmaps", "application/json", b"[]".to_vec()), 400),
        (
            "metadata no object",
            post("/api/v1/namespaces/default/configmaps", "application/json", br#"{"metadata":[1]}"#.to_vec()),
            400,
        ),
        (
            "labels no strings",
            post(
                "/api/v1/namespaces/default/configmaps",
                "application/json",
                br#"{"metadata":{"name":"x","labels":{"a":1}}}"#.to_vec(),
            ),
            400,
        ),
        (
            "another kind",
            post(
                "/api/v1/namespaces/default/configmaps",
                "application/json",
                br#"{"kind":"Pod","metadata":{"name":"x"}}"#.to_vec(),
            ),
            400,
        ),
        (
            "protobuf rubbish",
            post(
                "/api/v1/namespaces/default/configmaps",
                "application/vnd.kubernetes.protobuf",
                b"k8s\0\xff\xff".to_vec(),
            ),
            400,
        ),
        ("cbor", post("/api/v1/namespaces/default/configmaps", "application/cbor", vec![]), 415),
        ("a way out", post("/api/v1/namespaces/..%2f..%2fx/configmaps", "application/json", b"{}".to_vec()), 400),
        ("no such kind", post("/apis/nope/v1/things", "application/json", b"{}".to_vec()), 404),
        (
            "spec a string",
            post(
                "/api/v1/namespaces/default/pods",
                "application/json",
                br#"{"metadata":{"name":"x"},"spec":"x"}"#.to_vec(),
            ),
            400,
        ),
    ] {
        let error = admin.request::<serde_json::Value>(request).await.expect_err(what);
        match error {
            kube::Error::Api(status) => assert_eq!(status.code, expected, "{what}: {}", status.message),
            // The server may close before a body that is too large has been sent.
            other => assert_eq!(expected, 413, "{what}: {other}"),
        }
    }
    let get = |path: &str| http::Request::get(path).body(Vec::new()).expect("a request");
    for path in [
        "/api/v1/pods?labelSelector=%28%28%28",
        "/api/v1/pods?fieldSelector=spec.nope%3Dx",
        "/api/v1/pods?limit=x",
        "/api/v1/pods?limit=1&continue=zzz",
        "/api/v1/pods?watch=1&resourceVersion=-1",
        "/api/v1/pods?watch=1&timeoutSeconds=x",
    ] {
        assert_eq!(code(admin.request::<serde_json::Value>(get(path)).await), 400, "{path}");
    }
    let maps: Api<ConfigMap> = Api::default_namespaced(admin);
    assert!(maps.list(&ListParams::default()).await.expect("it still answers").items.is_empty());
    assert_eq!(raw(&rig, &format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(200_000))).await.0, 431);
}

/// One request on a connection without a client certificate.
async fn raw(rig: &Rig, request: &str) -> (u16, String) {
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(
            rustls::pki_types::CertificateDer::from_pem_slice(rig.pki.ca_certificate().as_bytes())
                .expect("a certificate"),
        )
        .expect("a root");
    let config = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let address = rig.url.trim_start_matches("https://");
    let socket = tokio::net::TcpStream::connect(address).await.expect("connect");
    let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
    let mut stream =
        tokio_rustls::TlsConnector::from(std::sync::Arc::new(config)).connect(name, socket).await.expect("TLS");
    stream.write_all(request.as_bytes()).await.ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok();
    let text = String::from_utf8_lossy(&answer).into_owned();
    let code = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (code, text)
}
