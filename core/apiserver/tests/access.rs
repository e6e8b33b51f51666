//! Who may do what, and hostile input.

mod rig;

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
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

#[tokio::test]
async fn nothing_is_taken_from_who_may_not_ask() {
    let rig = Rig::start().await;
    let post = |path: &str| format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n");
    for (path, expected) in [
        ("/api/v1/namespaces/default/configmaps", 401),
        ("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", 401),
        ("/apis/nope/v1/things", 404),
        ("/healthz", 405),
    ] {
        // The body never comes: who reads it first never answers.
        let answer = tokio::time::timeout(std::time::Duration::from_secs(20), raw(&rig, &post(path))).await;
        assert_eq!(answer.expect("the head is enough").0, expected, "{path}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_body_that_does_not_come_and_a_connection_nobody_uses_end() {
    let rig = Rig::start_with(|config| {
        config.patience.body = std::time::Duration::from_millis(50);
        config.patience.idle = std::time::Duration::from_millis(50);
    })
    .await;
    let path = "/api/v1/namespaces/default/configmaps";
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{");
    let (code, text) = request(&rig, &head, Some(&Identity::admin())).await;
    assert_eq!(code, 408, "{text}");
    // It ends although nobody asked for that; `request` returns when it has.
    assert_eq!(request(&rig, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n", None).await.0, 200);
    rig.stop().await;
    let rig = Rig::start_with(|config| config.patience.head = std::time::Duration::from_millis(50)).await;
    for silent in ["", "PRI * HTTP/2.0\r\n", "GET / HT"] {
        request(&rig, silent, None).await;
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_pods_address_is_given_by_who_may_bind_it_and_goes_with_the_pods_end() {
    let rig = Rig::start().await;
    let admin = rig.server.client();
    let editor = rig.server.client_as(&Identity::new("eve", &[]));
    grant(&admin, "eve", "edit").await;
    let with_address = |address: &str| {
        let mut pod = serde_json::to_value(pod("p")).expect("JSON");
        pod["metadata"]["annotations"] = json!({"switchyard.dev/pod-ip": address});
        from::<Pod>(pod)
    };
    let pods: Api<Pod> = Api::default_namespaced(editor.clone());
    let error = pods.create(&create(), &with_address("10.96.0.1")).await.expect_err("it is not hers to give");
    assert!(error.to_string().contains("pods/binding"), "{error}");
    let mut set = json!({"metadata": {"name": "s"}, "spec": {"selector": {"matchLabels": {"app": "a"}}, "template": with_address("10.96.0.1")}});
    set["spec"]["template"]
        .as_object_mut()
        .expect("a template")
        .retain(|field, _| field == "metadata" || field == "spec");
    let sets: Api<k8s_openapi::api::apps::v1::ReplicaSet> = Api::default_namespaced(editor);
    assert_eq!(code(sets.create(&create(), &from(set)).await), 422, "nor anybody's to share");
    pods.create(&create(), &pod("p")).await.expect("create");
    let params = PatchParams::default();
    let patch = |address: serde_json::Value| {
        Patch::Merge(json!({"metadata": {"annotations": {"switchyard.dev/pod-ip": address}}}))
    };
    assert_eq!(code(pods.patch("p", &params, &patch(json!("10.96.0.1"))).await), 422);
    assert_eq!(code(pods.patch_status("p", &params, &patch(json!("10.96.0.1"))).await), 422);
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p", "annotations": {"switchyard.dev/pod-ip": "10.40.1.2"}},
        "target": {"kind": "Node", "name": "n1"}});
    let all: Api<Pod> = Api::default_namespaced(admin);
    assert_eq!(code(pods.create_subresource::<_, serde_json::Value>("binding", "p", &create(), &binding).await), 403);
    all.create_subresource::<_, serde_json::Value>("binding", "p", &create(), &binding).await.expect("bind");
    for api in [&pods, &all] {
        assert_eq!(code(api.patch("p", &params, &patch(json!("10.40.1.3"))).await), 422);
        assert_eq!(code(api.patch("p", &params, &patch(json!(null))).await), 422);
        assert_eq!(code(api.patch_status("p", &params, &patch(json!(null))).await), 422);
        api.patch("p", &params, &Patch::Merge(json!({"metadata": {"annotations": {"a": "b"}}})))
            .await
            .expect("another");
    }
    // Its node takes it back when nothing of the pod is connected any more, and then it has none for good.
    let node = |name: &str| Api::<Pod>::default_namespaced(rig.server.client_as(&Identity::node(name)));
    let end = |phase: &str| {
        let metadata = json!({"annotations": {"switchyard.dev/pod-ip": null}});
        Patch::Merge(json!({"metadata": metadata, "status": {"phase": phase}}))
    };
    assert_eq!(code(pods.patch_status("p", &params, &end("Failed")).await), 422, "not hers to take back");
    assert_eq!(code(node("n2").patch_status("p", &params, &end("Failed")).await), 403, "nor another node's");
    assert_eq!(code(node("n1").patch_status("p", &params, &end("Running")).await), 422, "it is in use");
    let ended = node("n1").patch_status("p", &params, &end("Succeeded")).await.expect("it has ended");
    assert!(!ended.metadata.annotations.unwrap_or_default().contains_key("switchyard.dev/pod-ip"));
    assert_eq!(code(all.create_subresource::<_, serde_json::Value>("binding", "p", &create(), &binding).await), 409);
    rig.stop().await;
}

#[tokio::test]
async fn nobody_grants_what_they_do_not_hold() {
    let rig = Rig::start().await;
    let admin = rig.server.client();
    grant(&admin, "adam", "admin").await;
    let roles: Api<Role> = Api::default_namespaced(rig.server.client_as(&Identity::new("adam", &[])));
    let bindings: Api<RoleBinding> = Api::default_namespaced(rig.server.client_as(&Identity::new("adam", &[])));
    let role = |name: &str, rules: serde_json::Value| from::<Role>(json!({"metadata": {"name": name}, "rules": rules}));
    let pods = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "delete"]}]);
    let nodes = json!([{"apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["get"]}]);
    roles.create(&create(), &role("r", pods)).await.expect("he holds that");
    let error = roles.create(&create(), &role("x", nodes.clone())).await.expect_err("he does not hold nodes");
    assert!(error.to_string().contains("not currently held"), "{error}");
    let grow = Patch::Merge(json!({ "rules": nodes }));
    assert_eq!(code(roles.patch("r", &PatchParams::default(), &grow).await), 403);
    let label = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    roles.patch("r", &PatchParams::default(), &label).await.expect("the rules stay as they are");
    let binding = |name: &str, kind: &str, role: &str| {
        from::<RoleBinding>(
            json!({"metadata": {"name": name}, "roleRef": {"kind": kind, "name": role, "apiGroup": "rbac.authorization.k8s.io"},
            "subjects": [{"kind": "User", "name": "eve", "apiGroup": "rbac.authorization.k8s.io"}]}),
        )
    };
    for (name, kind, role, refused) in [
        ("a", "ClusterRole", "view", false),
        ("b", "ClusterRole", "admin", false),
        ("c", "Role", "r", false),
        ("d", "ClusterRole", "cluster-admin", true),
        ("e", "ClusterRole", "nowhere", true),
    ] {
        let made = bindings.create(&create(), &binding(name, kind, role)).await;
        if refused {
            assert_eq!(code(made), 403, "{role}");
        } else {
            made.expect(role);
        }
    }
    let may = json!([{"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "verbs": ["bind"], "resourceNames": ["cluster-admin"]},
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["escalate"]}]);
    Api::<Role>::default_namespaced(admin.clone()).create(&create(), &role("may", may)).await.expect("create");
    let mut given = binding("given", "Role", "may");
    given.subjects.as_mut().expect("subjects")[0].name = "adam".into();
    Api::<RoleBinding>::default_namespaced(admin).create(&create(), &given).await.expect("create");
    bindings.create(&create(), &binding("d", "ClusterRole", "cluster-admin")).await.expect("he may bind that one");
    roles.patch("r", &PatchParams::default(), &grow).await.expect("and escalate");
    rig.stop().await;
}

/// Binds a user to a built-in role in the namespace `default`.
async fn grant(admin: &kube::Client, user: &str, role: &str) {
    let binding = json!({"metadata": {"name": user}, "roleRef": {"kind": "ClusterRole", "name": role, "apiGroup": "rbac.authorization.k8s.io"},
        "subjects": [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}]});
    Api::<RoleBinding>::default_namespaced(admin.clone()).create(&create(), &from(binding)).await.expect("create");
}

/// One request on a connection without a client certificate.
async fn raw(rig: &Rig, text: &str) -> (u16, String) {
    request(rig, text, None).await
}

/// Writes, and reads until the server closes the connection.
async fn request(rig: &Rig, request: &str, identity: Option<&Identity>) -> (u16, String) {
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
        .with_root_certificates(roots);
    let config = match identity {
        None => config.with_no_client_auth(),
        Some(identity) => {
            let (certificate, key) = rig.pki.client_certificate(identity).expect("a certificate");
            let certificate =
                rustls::pki_types::CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate");
            let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
            config.with_client_auth_cert(vec![certificate], key).expect("a good pair")
        }
    };
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
