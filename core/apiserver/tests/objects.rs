//! Objects through a kube client: verbs, admission, watches.

mod rig;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ResourceQuota, Service};
use kube::api::{
    Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, WatchEvent, WatchParams,
};
use kube::runtime::watcher;
use rig::{Rig, code, eventually, from, pod};
use serde_json::json;
use switchyard_api::Segment;
use switchyard_apiserver::pki::Identity;

fn create() -> PostParams {
    PostParams::default()
}

#[tokio::test]
async fn objects_are_made_read_changed_and_deleted_in_process_and_over_tls() {
    let rig = Rig::start().await;
    for client in [rig.server.client(), rig.client(&Identity::admin()).await] {
        let pods: Api<Pod> = Api::default_namespaced(client);
        let made = pods.create(&create(), &pod("p")).await.expect("create");
        assert_eq!(made.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()), Some("Always"));
        assert_eq!(code(pods.create(&create(), &pod("p")).await), 409);
        let mut stale = made.clone();
        let label = Patch::Merge(json!({"metadata": {"labels": {"b": "1"}}}));
        let merged = pods.patch("p", &PatchParams::default(), &label).await.expect("patch");
        assert_eq!(merged.metadata.labels.expect("labels").len(), 2);
        stale.metadata.labels = None;
        assert_eq!(code(pods.replace("p", &create(), &stale).await), 409, "a stale resourceVersion");
        assert_eq!(pods.list(&ListParams::default().labels("app=a,b")).await.expect("list").items.len(), 1);
        assert_eq!(pods.list(&ListParams::default().fields("spec.nodeName=n")).await.expect("list").items.len(), 0);
        let status = json!({"status": {"phase": "Running"}, "spec": {"nodeName": "elsewhere"}});
        let patched = pods.patch_status("p", &PatchParams::default(), &Patch::Merge(status)).await.expect("status");
        assert_eq!(patched.spec.expect("spec").node_name, None, "a status write leaves the spec alone");
        let wrong = DeleteParams {
            preconditions: Some(Preconditions { uid: Some("x".into()), resource_version: None }),
            ..Default::default()
        };
        assert_eq!(code(pods.delete("p", &wrong).await), 409);
        pods.delete("p", &DeleteParams::default()).await.expect("delete");
        assert_eq!(code(pods.get("p").await), 404);
    }
    rig.stop().await;
}

#[tokio::test]
async fn wrong_objects_are_refused_with_the_field_that_is_wrong() {
    let rig = Rig::start().await;
    let client = rig.server.client();
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    for (field, patch) in [
        ("metadata.name", json!({"metadata": {"name": "Not_Good"}})),
        ("spec.containers", json!({"spec": {"containers": []}})),
        ("spec.restartPolicy", json!({"spec": {"restartPolicy": "Sometimes"}})),
        (
            "spec.containers[0].ports[0].containerPort",
            json!({"spec": {"containers": [{"name": "c", "image": "x", "ports": [{"containerPort": 70000}]}]}}),
        ),
        (
            "spec.containers[1].name",
            json!({"spec": {"containers": [{"name": "c", "image": "x"}, {"name": "c", "image": "x"}]}}),
        ),
    ] {
        let mut object = serde_json::to_value(pod("p")).expect("JSON");
        json_patch::merge(&mut object, &patch);
        let error = pods.create(&create(), &from(object)).await.expect_err(field);
        let kube::Error::Api(status) = error else { panic!("{error}") };
        assert_eq!(status.code, 422, "{field}: {}", status.message);
        let causes = status.details.as_ref().expect("details").causes.clone();
        assert!(causes.iter().any(|cause| cause.field == field), "{field}: {causes:?}");
    }
    assert_eq!(code(Api::<Pod>::namespaced(client, "nowhere").create(&create(), &pod("p")).await), 404);
}

#[tokio::test]
async fn segments_that_no_node_could_carry_are_refused() {
    let rig = Rig::start().await;
    let segments: Api<Segment> = Api::all(rig.server.client());
    let segment = |name: &str, id: u32, subnets: &[&str]| -> Segment {
        from(json!({
            "apiVersion": "switchyard.dev/v1alpha1", "kind": "Segment", "metadata": {"name": name},
            "spec": {"plugin": "nsx", "namespace": name, "id": id, "subnets": subnets},
        }))
    };
    segments.create(&create(), &segment("default", 4096, &["10.40.128.0/24"])).await.expect("a good one");
    for (what, field, bad) in [
        ("a number of 25 bits", "spec.id", segment("a", 16_777_216, &["10.40.129.0/24"])),
        ("another's number", "spec.id", segment("a", 4096, &["10.40.129.0/24"])),
        ("another's addresses", "spec.subnets", segment("a", 4097, &["10.40.128.128/25"])),
        ("not of pods", "spec.subnets[1]", segment("a", 4097, &["10.40.129.0/24", "10.41.0.0/24"])),
    ] {
        let error = segments.create(&create(), &bad).await.expect_err(what);
        let kube::Error::Api(status) = error else { panic!("{error}") };
        let causes = status.details.as_ref().map(|details| details.causes.clone()).unwrap_or_default();
        assert!(status.code == 422 && causes.iter().any(|cause| cause.field == field), "{what}: {}", status.message);
    }
    let patch = |spec: serde_json::Value| {
        let (segments, patch) = (segments.clone(), Patch::Merge(json!({"spec": spec})));
        async move { segments.patch("default", &PatchParams::default(), &patch).await }
    };
    assert_eq!(code(patch(json!({"id": 16_777_216})).await), 422);
    assert_eq!(code(patch(json!({"id": 4098})).await), 422);
    assert_eq!(code(patch(json!({"subnets": ["10.40.130.0/24"]})).await), 422);
    patch(json!({"subnets": ["10.40.128.0/24", "10.40.130.0/24"]})).await.expect("it grows");
}

#[tokio::test]
async fn a_pod_is_bound_once_and_then_deleted_with_grace() {
    let rig = Rig::start().await;
    let client = rig.server.client();
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    pods.create(&create(), &pod("p")).await.expect("create");
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p", "annotations": {"switchyard.dev/pod-ip": "10.40.1.2"}},
        "target": {"kind": "Node", "name": "n1"}});
    let params = create();
    let bind = || pods.create_subresource::<_, serde_json::Value>("binding", "p", &params, &binding);
    bind().await.expect("bind");
    assert_eq!(code(bind().await), 409);
    let bound = pods.get("p").await.expect("get");
    assert_eq!(bound.metadata.annotations.expect("annotations")["switchyard.dev/pod-ip"], "10.40.1.2");
    assert_eq!(bound.status.expect("status").conditions.expect("conditions")[0].type_, "PodScheduled");
    pods.delete("p", &DeleteParams::default()).await.expect("delete");
    let going = pods.get("p").await.expect("it is still there");
    assert_eq!(going.metadata.deletion_grace_period_seconds, Some(30));
    pods.delete("p", &DeleteParams::default().grace_period(0)).await.expect("the agent's own delete");
    assert_eq!(code(pods.get("p").await), 404);
}

#[tokio::test]
async fn finalizers_keep_an_object_until_they_are_gone() {
    let rig = Rig::start().await;
    let client = rig.server.client();
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    maps.create(&create(), &from(json!({"metadata": {"name": "m", "finalizers": ["example.net/wait"]}})))
        .await
        .expect("create");
    maps.delete("m", &DeleteParams::default()).await.expect("delete");
    assert!(maps.get("m").await.expect("it waits").metadata.deletion_timestamp.is_some());
    let more = Patch::Merge(json!({"metadata": {"finalizers": ["example.net/wait", "example.net/more"]}}));
    assert_eq!(code(maps.patch("m", &PatchParams::default(), &more).await), 422, "it is too late for another one");
    maps.patch("m", &PatchParams::default(), &Patch::Merge(json!({"metadata": {"finalizers": null}})))
        .await
        .expect("patch");
    assert_eq!(code(maps.get("m").await), 404);
    let namespaces: Api<Namespace> = Api::all(client);
    namespaces.create(&create(), &from(json!({"metadata": {"name": "ns"}}))).await.expect("create");
    namespaces.delete("ns", &DeleteParams::default()).await.expect("delete");
    assert_eq!(
        namespaces.get("ns").await.expect("it waits").status.expect("status").phase.as_deref(),
        Some("Terminating")
    );
    let in_it: Api<ConfigMap> = Api::namespaced(rig.server.client(), "ns");
    assert_eq!(code(in_it.create(&create(), &from(json!({"metadata": {"name": "m"}}))).await), 403);
    let done: Namespace = from(json!({"metadata": {"name": "ns"}, "spec": {"finalizers": []}}));
    namespaces.replace_subresource("finalize", "ns", &create(), &done).await.expect("finalize");
    assert_eq!(code(namespaces.get("ns").await), 404);
}

#[tokio::test]
async fn a_watch_follows_selectors_across_their_edges() {
    let rig = Rig::start().await;
    let pods: Api<Pod> = Api::default_namespaced(rig.client(&Identity::admin()).await);
    let revision =
        pods.list(&ListParams::default()).await.expect("list").metadata.resource_version.expect("a revision");
    let mut watch = pods.watch(&WatchParams::default().labels("app=a"), &revision).await.expect("watch").boxed();
    pods.create(&create(), &pod("p")).await.expect("create");
    let label = |value: &str| Patch::Merge(json!({"metadata": {"labels": {"app": value}}}));
    for value in ["b", "c", "a"] {
        pods.patch("p", &PatchParams::default(), &label(value)).await.expect("patch");
    }
    pods.delete("p", &DeleteParams::default()).await.expect("delete");
    let mut seen = Vec::new();
    while seen.len() < 4 {
        seen.push(match watch.try_next().await.expect("watch").expect("an event") {
            WatchEvent::Added(_) => "ADDED",
            WatchEvent::Modified(_) => "MODIFIED",
            WatchEvent::Deleted(_) => "DELETED",
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(seen, ["ADDED", "DELETED", "ADDED", "DELETED"]);
    let mut old = pods.watch(&WatchParams::default(), "999999999").await.expect("watch").boxed();
    let Some(WatchEvent::Error(status)) = old.try_next().await.expect("watch") else { panic!("an error") };
    assert_eq!(status.code, 410);
}

#[tokio::test]
async fn streaming_lists_begin_with_what_is_there_and_say_where_it_ends() {
    let rig = Rig::start().await;
    let client = rig.client(&Identity::admin()).await;
    let pods: Api<Pod> = Api::default_namespaced(client);
    for n in 0..5 {
        pods.create(&create(), &pod(&format!("p{n}"))).await.expect("create");
    }
    for config in [watcher::Config::default().streaming_lists(), watcher::Config::default().page_size(2)] {
        let mut events = watcher::watcher(pods.clone(), config).boxed();
        let mut names = Vec::new();
        loop {
            match events.try_next().await.expect("watch").expect("an event") {
                watcher::Event::Init => names.clear(),
                watcher::Event::InitApply(pod) => names.push(pod.metadata.name.expect("a name")),
                watcher::Event::InitDone => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(names, ["p0", "p1", "p2", "p3", "p4"]);
        pods.patch(
            "p0",
            &PatchParams::default(),
            &Patch::Merge(json!({"metadata": {"labels": {"n": null}, "annotations": {"x": uid()}}})),
        )
        .await
        .expect("patch");
        assert!(matches!(events.try_next().await.expect("watch"), Some(watcher::Event::Apply(_))));
    }
}

fn uid() -> String {
    uuid::Uuid::new_v4().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_lets_exactly_as_many_through_as_it_says() {
    let rig = Rig::start().await;
    let client = rig.server.client();
    let quotas: Api<ResourceQuota> = Api::default_namespaced(client.clone());
    quotas
        .create(&create(), &from(json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "10"}}})))
        .await
        .expect("create");
    let pods: Api<Pod> = Api::default_namespaced(client);
    let attempts = (0..50).map(|n| {
        let pods = pods.clone();
        tokio::spawn(async move { pods.create(&create(), &pod(&format!("p{n}"))).await })
    });
    let mut made = 0;
    for attempt in attempts.collect::<Vec<_>>() {
        match attempt.await.expect("an attempt") {
            Ok(_) => made += 1,
            Err(kube::Error::Api(status)) => {
                assert_eq!(status.code, 403);
                assert!(
                    status.message.contains("exceeded quota: q, requested: pods=1, used: pods=10, limited: pods=10"),
                    "{}",
                    status.message
                );
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(made, 10);
    let used = || async {
        quotas.get("q").await.expect("get").status.and_then(|status| status.used).map(|used| used["pods"].0.clone())
    };
    eventually("the status says ten", || async { used().await.as_deref() == Some("10") }).await;
    let first = pods.list(&ListParams::default()).await.expect("list").items[0].metadata.name.clone().expect("a name");
    pods.delete(&first, &DeleteParams::default()).await.expect("delete");
    eventually("the status says nine", || async { used().await.as_deref() == Some("9") }).await;
    pods.create(&create(), &pod("again")).await.expect("there is room again");
}

#[tokio::test(flavor = "multi_thread")]
async fn services_get_addresses_and_ports_of_their_own_and_give_them_back() {
    let rig = Rig::start().await;
    let services: Api<Service> = Api::default_namespaced(rig.server.client());
    let service = |name: &str, spec: serde_json::Value| -> Service {
        let mut object = json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
        json_patch::merge(&mut object["spec"], &spec);
        from(object)
    };
    let attempts = (0..40).map(|n| {
        let (services, service) = (services.clone(), service(&format!("s{n}"), json!({})));
        tokio::spawn(async move { services.create(&create(), &service).await.expect("create").spec.expect("spec") })
    });
    let (mut addresses, mut ports) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
    for attempt in attempts.collect::<Vec<_>>() {
        let spec = attempt.await.expect("an attempt");
        addresses.insert(spec.cluster_ip.expect("an address"));
        ports.insert(spec.ports.expect("ports")[0].node_port.expect("a node port"));
    }
    assert_eq!((addresses.len(), ports.len()), (40, 40));
    let taken = addresses.first().expect("an address").clone();
    assert_eq!(code(services.create(&create(), &service("x", json!({ "clusterIP": taken }))).await), 422);
    assert_eq!(code(services.create(&create(), &service("x", json!({"clusterIP": "1.2.3.4"}))).await), 422);
    for outside in ["10.96.0.1", "127.0.0.1", "169.254.1.1", "224.0.0.9", "0.0.0.0", "fe80::1", "192.0.2.1/32", ""] {
        let refused = services.create(&create(), &service("x", json!({ "externalIPs": [outside] }))).await;
        let error = refused.expect_err(outside).to_string();
        assert!(error.contains("spec.externalIPs[0]"), "{outside}: {error}");
    }
    for n in 0..40 {
        services.delete(&format!("s{n}"), &DeleteParams::default()).await.expect("delete");
    }
    services.create(&create(), &service("x", json!({ "clusterIP": taken }))).await.expect("it is free again");
    let headless = services
        .create(&create(), &service("h", json!({"clusterIP": "None", "type": "ClusterIP"})))
        .await
        .expect("create");
    assert_eq!(headless.spec.expect("spec").cluster_ip.as_deref(), Some("None"));
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_of_one_service_at_the_same_time_do_not_take_its_address_from_each_other() {
    let rig = Rig::start().await;
    let services: Api<Service> = Api::default_namespaced(rig.server.client());
    let service: Service =
        from(json!({"metadata": {"name": "s"}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}}));
    let made = services.create(&create(), &service).await.expect("create").spec.expect("spec");
    let writes = (0..40).map(|n: u8| {
        let services = services.clone();
        tokio::spawn(async move {
            let params = PatchParams::default();
            let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": format!("192.168.100.{n}")}]}}});
            let labels = json!({"metadata": {"labels": {"n": n.to_string()}}});
            services.patch_status("s", &params, &Patch::Merge(status)).await?;
            services.patch("s", &params, &Patch::Merge(labels)).await
        })
    });
    for write in writes.collect::<Vec<_>>() {
        match write.await.expect("a write") {
            // Others came first, sixteen times.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            result => drop(result.expect("only a conflict may refuse it")),
        }
    }
    let now = services.get("s").await.expect("get").spec.expect("spec");
    assert_eq!((now.cluster_ip, now.ports), (made.cluster_ip, made.ports));
}

#[tokio::test]
async fn server_side_apply_creates_owns_and_conflicts() {
    let rig = Rig::start().await;
    let deployments: Api<Deployment> = Api::default_namespaced(rig.server.client());
    let wanted = |replicas: i32| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"replicas": replicas,
            "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "x"}]}}}})
    };
    let apply = |manager: &str, replicas| {
        let (deployments, params, wanted) = (deployments.clone(), PatchParams::apply(manager), wanted(replicas));
        async move { deployments.patch("d", &params, &Patch::Apply(wanted)).await }
    };
    let first = apply("one", 1).await.expect("apply creates");
    let again = apply("one", 1).await.expect("apply");
    assert_eq!(first.metadata.resource_version, again.metadata.resource_version, "nothing changed");
    assert_eq!(code(apply("two", 2).await), 409);
    let second = apply("one", 3).await.expect("apply");
    assert_eq!((first.metadata.generation, second.metadata.generation), (Some(1), Some(2)));
    let scale = deployments
        .patch_scale("d", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 7}})))
        .await
        .expect("scale");
    assert_eq!(scale.spec.expect("spec").replicas, Some(7));
    let dry = PatchParams { dry_run: true, ..PatchParams::default() };
    deployments.patch("d", &dry, &Patch::Merge(json!({"spec": {"replicas": 0}}))).await.expect("dry run");
    assert_eq!(deployments.get("d").await.expect("get").spec.replicas, Some(7));
}

#[tokio::test]
async fn a_patch_makes_no_object_that_could_not_be_kept_or_read() {
    let rig = Rig::start_on_disk().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(rig.client(&Identity::admin()).await);
    maps.create(&create(), &from(json!({"metadata": {"name": "m"}, "data": {"a": "x".repeat(1000)}})))
        .await
        .expect("create");
    let nested = |levels: usize| (0..levels).fold(json!({}), |inner, _| json!({ "a": inner }));
    let further = "/a".repeat(60);
    let deep = json!([{"op": "add", "path": "/x", "value": nested(60)}, {"op": "add", "path": format!("/x{further}/b"), "value": nested(60)}]);
    let doubling = (0..40).map(|n| json!({"op": "copy", "from": "/data", "path": format!("/data/a{n}")})).collect();
    let moved = json!([{"op": "add", "path": "/x", "value": nested(60)}, {"op": "add", "path": "/y", "value": nested(60)},
        {"op": "move", "from": "/y", "path": format!("/x{further}/b")}]);
    let long = json!([{"op": "add", "path": "/x", "value": "x".repeat(2 << 20)}]);
    for (patch, expected) in [(deep, 400), (moved, 400), (serde_json::Value::Array(doubling), 413), (long, 413)] {
        for dry_run in [true, false] {
            let params = PatchParams { dry_run, ..PatchParams::default() };
            assert_eq!(code(maps.patch("m", &params, &Patch::Json::<()>(from(patch.clone()))).await), expected);
        }
    }
    let body = json!({"metadata": {"name": "n"}, "x": nested(110)}).to_string();
    let post = http::Request::post("/api/v1/namespaces/default/configmaps").body(body.into_bytes()).expect("a request");
    assert_eq!(code(rig.client(&Identity::admin()).await.request::<serde_json::Value>(post).await), 400);
    let fits = json!([{"op": "copy", "from": "/data/a", "path": "/data/b"}, {"op": "test", "path": "/data/b", "value": "x".repeat(1000)}]);
    let made =
        maps.patch("m", &PatchParams::default(), &Patch::Json::<()>(from(fits))).await.expect("a copy that fits");
    assert_eq!(made.data.expect("data").len(), 2);
    let wrong = json!([{"op": "add", "path": "/data/c", "value": "c"}, {"op": "remove", "path": "/nowhere"}]);
    let error =
        maps.patch("m", &PatchParams::default(), &Patch::Json::<()>(from(wrong))).await.expect_err("nothing is there");
    assert!(error.to_string().contains("operation '/1'"), "{error}");
    let again = rig.restart().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(again.client(&Identity::admin()).await);
    assert_eq!(maps.get("m").await.expect("the store opens again").data.expect("data").len(), 2);
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_about_the_pods_in_its_scopes_and_any_resource() {
    let rig = Rig::start().await;
    let client = rig.server.client();
    let quotas: Api<ResourceQuota> = Api::default_namespaced(client.clone());
    let selector = json!({"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["system-node-critical"]}]});
    for (name, spec) in [
        ("cpu", json!({"hard": {"requests.cpu": "1"}, "scopes": ["NotBestEffort"]})),
        ("critical", json!({"hard": {"pods": "0"}, "scopeSelector": selector})),
        ("devices", json!({"hard": {"requests.example.net/gpu": "1", "ephemeral-storage": "1Gi"}})),
    ] {
        quotas.create(&create(), &from(json!({"metadata": {"name": name}, "spec": spec}))).await.expect(name);
    }
    let unknown = json!({"metadata": {"name": "x"}, "spec": {"hard": {"pods": "1"}, "scopes": ["Sometimes"]}});
    assert_eq!(code(quotas.create(&create(), &from(unknown)).await), 422);
    let pods: Api<Pod> = Api::default_namespaced(client);
    pods.create(&create(), &pod("best-effort")).await.expect("it is in no quota's scope");
    let asking = |name: &str, requests: serde_json::Value, class: &str| {
        let mut pod = serde_json::to_value(pod(name)).expect("JSON");
        let limits = requests.as_object().expect("a map").iter().filter(|(what, _)| what.contains('/'));
        let limits: serde_json::Map<_, _> = limits.map(|(what, amount)| (what.clone(), amount.clone())).collect();
        pod["spec"]["containers"][0]["resources"] = json!({"requests": requests, "limits": limits});
        pod["spec"]["priorityClassName"] = json!(class);
        from::<Pod>(pod)
    };
    for (name, requests, class, refused) in [
        ("a", json!({"cpu": "600m"}), "", None),
        ("b", json!({"cpu": "600m"}), "", Some("exceeded quota: cpu")),
        ("c", json!({"memory": "1Mi"}), "", Some("failed quota: cpu: must specify requests.cpu")),
        ("d", json!({}), "system-node-critical", Some("exceeded quota: critical")),
        ("e", json!({"cpu": "1m", "example.net/gpu": "1"}), "", None),
        ("f", json!({"cpu": "1m", "example.net/gpu": "1"}), "", Some("exceeded quota: devices")),
        ("g", json!({"cpu": "1m", "ephemeral-storage": "2Gi"}), "", Some("exceeded quota: devices")),
    ] {
        match (pods.create(&create(), &asking(name, requests, class)).await, refused) {
            (Ok(_), None) => {}
            (Err(error), Some(why)) => assert!(error.to_string().contains(why), "{name}: {error}"),
            (result, refused) => panic!("{name}: {result:?}, expected {refused:?}"),
        }
    }
    let used = || async {
        let status = quotas.get("devices").await.expect("get").status.and_then(|status| status.used);
        status.and_then(|used| used.get("requests.example.net/gpu").map(|amount| amount.0.clone()))
    };
    eventually("the status says one", || async { used().await.as_deref() == Some("1") }).await;
    rig.stop().await;
}

#[tokio::test]
async fn versions_of_a_kind_are_views_of_the_same_objects_and_end_with_their_definition() {
    let rig = Rig::start().await;
    let client = rig.client(&Identity::admin()).await;
    let send = |method: &str, path: &str, body: serde_json::Value| {
        let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let body = if body.is_null() { vec![] } else { body.to_string().into_bytes() };
        let request = http::Request::builder().method(method).uri(path).header("content-type", media).body(body);
        let client = client.clone();
        async move { client.request::<serde_json::Value>(request.expect("a request")).await }
    };
    let versions = |stored: &str| {
        let version = |name: &str| json!({"name": name, "served": true, "storage": name == stored, "schema": {"openAPIV3Schema": {"type": "object"}}});
        json!([version("v1"), version("v2")])
    };
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "tiers.example.net"},
        "spec": {"group": "example.net", "scope": "Namespaced", "names": {"plural": "tiers", "kind": "Tier"}, "versions": versions("v1")}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let mut shadow = definition.clone();
    shadow["metadata"]["name"] = json!("ingresses.networking.k8s.io");
    shadow["spec"]["group"] = json!("networking.k8s.io");
    shadow["spec"]["names"]["plural"] = json!("ingresses");
    assert_eq!(code(send("POST", definitions, shadow).await), 422, "the server's own kinds stay what they are");
    send("POST", definitions, definition.clone()).await.expect("define");
    let at = |version: &str, name: &str| format!("/apis/example.net/{version}/namespaces/default/tiers{name}");
    let tier = |version: &str, name: &str, finalizers: &[&str]| {
        json!({"apiVersion": format!("example.net/{version}"), "kind": "Tier",
        "metadata": {"name": name, "finalizers": finalizers}, "spec": {"n": 1}})
    };
    for (version, name, finalizers) in [("v1", "one", &[][..]), ("v2", "two", &["example.net/wait"])] {
        let made = send("POST", &at(version, ""), tier(version, name, finalizers)).await.expect("create");
        assert_eq!(made["apiVersion"], format!("example.net/{version}"));
    }
    let change = json!({"spec": {"versions": versions("v2")}});
    send("PATCH", &format!("{definitions}/tiers.example.net"), change).await.expect("another storage version");
    for version in ["v1", "v2"] {
        let wanted = format!("example.net/{version}");
        assert_eq!(send("GET", &at(version, "/one"), json!(null)).await.expect("get")["apiVersion"], wanted);
        let list = send("GET", &at(version, ""), json!(null)).await.expect("list");
        let items = list["items"].as_array().expect("items");
        assert!(items.len() == 2 && items.iter().all(|item| item["apiVersion"] == wanted.as_str()), "{list}");
        let patched = send("PATCH", &at(version, "/one"), json!({"spec": {"by": version}})).await.expect("patch");
        assert_eq!((&patched["apiVersion"], &patched["spec"]["n"]), (&json!(wanted), &json!(1)));
        let again = send("PATCH", &at(version, "/one"), json!({"spec": {"by": version}})).await.expect("patch");
        assert_eq!(patched["metadata"]["resourceVersion"], again["metadata"]["resourceVersion"], "nothing changed");
        let watch = format!("{}?watch=1&timeoutSeconds=1", at(version, ""));
        let request = http::Request::get(watch).body(vec![]).expect("a request");
        let events: Vec<WatchEvent<serde_json::Value>> =
            client.request_events(request).await.expect("watch").take(2).try_collect().await.expect("events");
        assert!(
            events
                .iter()
                .all(|event| matches!(event, WatchEvent::Added(tier) if tier["apiVersion"] == wanted.as_str()))
        );
    }
    send("DELETE", &format!("{definitions}/tiers.example.net"), json!(null)).await.expect("delete");
    let gone = |path: String| {
        let asked = send("GET", &path, json!(null));
        async move { matches!(asked.await, Err(kube::Error::Api(status)) if status.code == 404) }
    };
    eventually("the first is gone", || gone(at("v1", "/one"))).await;
    let second = at("v1", "/two");
    eventually("the second waits for its finalizer", || {
        let asked = send("GET", &second, json!(null));
        async move { asked.await.expect("it is there")["metadata"]["deletionTimestamp"].is_string() }
    })
    .await;
    assert_eq!(code(send("POST", &at("v1", ""), tier("v1", "three", &[])).await), 405);
    send("PATCH", &at("v1", "/two"), json!({"metadata": {"finalizers": null}})).await.expect("patch");
    eventually("the definition is gone", || gone(format!("{definitions}/tiers.example.net"))).await;
    send("POST", definitions, definition).await.expect("define again");
    let list = send("GET", &at("v1", ""), json!(null)).await.expect("list");
    assert_eq!(list["items"].as_array().map(Vec::len), Some(0), "nothing comes back: {list}");
    rig.stop().await;
}
