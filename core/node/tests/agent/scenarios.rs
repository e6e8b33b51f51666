//! What an agent does, seen from outside: the API, the network, the processes.

use std::process::ExitCode;

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use serde_json::{Value, json};

use crate::rig::{Rig, get, kill, processes, sh};

type Scenario = fn() -> LocalBoxFuture<'static, ()>;

pub(crate) const ALL: &[(&str, Scenario)] = &[
    ("a_pod_runs_and_answers", || a_pod_runs_and_answers().boxed_local()),
    ("a_killed_agent_finds_its_pods_again", || a_killed_agent_finds_its_pods_again().boxed_local()),
    ("what_dies_is_started_again", || what_dies_is_started_again().boxed_local()),
    ("a_pod_ends_with_grace_and_leaves_nothing", || a_pod_ends_with_grace_and_leaves_nothing().boxed_local()),
    ("probes_and_policies", || probes_and_policies().boxed_local()),
    ("what_cannot_start_says_why", || what_cannot_start_says_why().boxed_local()),
    ("environment_and_volumes", || environment_and_volumes().boxed_local()),
    ("many_pods", || many_pods().boxed_local()),
];

pub(crate) fn run(name: &str) -> ExitCode {
    let Some((_, scenario)) = ALL.iter().find(|(known, _)| *known == name) else {
        eprintln!("no scenario {name}");
        return ExitCode::FAILURE;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(scenario());
    ExitCode::SUCCESS
}

fn ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
}

/// A container without a readiness probe is ready before it listens.
async fn answers(rig: &Rig, address: &str) {
    assert_eq!(rig.eventually("an answer", async |_| get(address)).await, "web\n");
}

fn echo(port: u16) -> Value {
    json!({"terminationGracePeriodSeconds": 2, "containers": [
        {"name": "app", "image": "yard/echo", "args": [format!("--port={port}")]},
    ]})
}

fn shell(script: &str) -> Value {
    json!({"name": "sh", "image": "host", "command": ["sh", "-c", script]})
}

fn first(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

async fn a_pod_runs_and_answers() {
    let rig = Rig::new().await;
    rig.create(
        "web",
        "10.40.1.5",
        json!({"containers": [
            {"name": "a", "image": "yard/echo", "args": ["--port=80"]},
            {"name": "b", "image": "nginx:1.25", "args": ["--port=90"]},
        ]}),
    )
    .await;
    let pod = rig.until("web", "two containers are ready", ready).await;
    assert_eq!(pod["status"]["podIP"], "10.40.1.5");
    assert_eq!(pod["status"]["phase"], "Running");
    for port in [80, 90] {
        answers(&rig, &format!("10.40.1.5:{port}")).await;
    }
    rig.until_event("Started", "Started container b").await;
    // The bridge goes and comes back, and so does the answer.
    sh("ip link del cbr0");
    rig.eventually("the network is repaired", async |_| get("10.40.1.5:80")).await;
}

async fn a_killed_agent_finds_its_pods_again() {
    let mut rig = Rig::new().await;
    rig.create("web", "10.40.1.5", echo(80)).await;
    rig.create("old", "10.40.1.6", echo(80)).await;
    let before = rig.until("web", "ready", ready).await;
    rig.until("old", "ready", ready).await;
    let names = [("holder", "10.96.0.20"), ("other", "10.96.0.21")];
    for (name, cluster_ip) in names {
        rig.serve(name, json!({"clusterIP": cluster_ip, "externalIPs": ["10.140.0.77"]}), "10.40.1.5").await;
    }
    let links = sh("ip -o link | sed 's/ .*UP.*//' | sort");
    let runs = processes("yard-echo");
    answers(&rig, "10.40.1.5:80").await;
    rig.kill_agent();
    assert_eq!(get("10.40.1.5:80").as_deref(), Ok("web\n"));
    rig.delete("old").await;
    rig.start_agent();
    rig.until("old", "the deleted pod is gone", Value::is_null).await;
    rig.create("new", "10.40.1.7", echo(80)).await;
    rig.until("new", "ready", ready).await;
    let after = rig.pod("web").await;
    assert_eq!(first(&after)["restartCount"], 0);
    assert_eq!(first(&after)["containerID"], first(&before)["containerID"]);
    assert!(ready(&after));
    assert!(processes("yard-echo").iter().any(|pid| runs.contains(pid)));
    answers(&rig, "10.40.1.5:80").await;
    // Two Services want the same packets: one has them, now and after the other's end.
    rig.node_is_ready().await;
    for (gone, _) in names {
        answers(&rig, "10.140.0.77:80").await;
        rig.unserve(gone).await;
    }
    assert_eq!(links.lines().count(), sh("ip -o link").lines().count());
}

async fn what_dies_is_started_again() {
    let rig = Rig::new().await;
    rig.create("web", "10.40.1.5", echo(80)).await;
    let pod = rig.until("web", "ready", ready).await;
    kill(processes("yard-echo")[0]);
    let again = rig.until("web", "the container runs again", |pod| ready(pod) && first(pod)["restartCount"] == 1).await;
    assert_eq!(first(&again)["lastState"]["terminated"]["exitCode"], 137);
    answers(&rig, "10.40.1.5:80").await;
    // The pod's first process: the whole pod comes again, with its address.
    let pause = processes("yard-pause sandbox");
    assert_eq!(pause.len(), 1, "{pause:?}");
    kill(pause[0]);
    rig.until("web", "the pod runs again", |pod| ready(pod) && first(pod)["restartCount"] == 2).await;
    answers(&rig, "10.40.1.5:80").await;
    rig.until_event("SandboxChanged", "re-created").await;
    assert_eq!(rig.pod("web").await["status"]["podIP"], pod["status"]["podIP"]);
}

async fn a_pod_ends_with_grace_and_leaves_nothing() {
    let rig = Rig::new().await;
    let polite = "trap 'echo bye; sleep 0.3; exit 0' TERM; echo up; while :; do sleep 0.05; done";
    let mut deaf = shell("trap '' TERM; while :; do sleep 0.05; done");
    deaf["name"] = json!("deaf");
    rig.create("web", "10.40.1.5", json!({"terminationGracePeriodSeconds": 2, "containers": [shell(polite), deaf]}))
        .await;
    let pod = rig.until("web", "ready", ready).await;
    let dir = rig.run_dir(&pod);
    assert!(dir.join("netns").exists());
    rig.delete("web").await;
    let leaving = rig.until("web", "not ready while it ends", |pod| !ready(pod)).await;
    assert!(leaving.is_null() || leaving["metadata"]["deletionTimestamp"].is_string());
    let started = std::time::Instant::now();
    rig.until("web", "gone", Value::is_null).await;
    assert!(started.elapsed().as_secs_f32() > 1.0, "the deaf container had its grace: {:?}", started.elapsed());
    rig.eventually("nothing is left", async |_| {
        let links = sh("ip -o link | grep -c veth || true");
        let good = links.trim() == "0" && processes("yard-pause").is_empty() && !dir.exists();
        good.then_some(()).ok_or(links)
    })
    .await;
}

async fn probes_and_policies() {
    let rig = Rig::new().await;
    let mut ill = shell("sleep 1000");
    ill["livenessProbe"] = json!({"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1});
    let mut well = shell("sleep 1; touch /tmp/well; sleep 1000");
    well["name"] = json!("well");
    well["image"] = json!("host");
    well["readinessProbe"] = json!({"exec": {"command": ["sh", "-c", "exit 1"]}, "periodSeconds": 1});
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [ill, well]});
    rig.create("ill", "10.40.1.5", spec).await;
    let mut http = echo(80);
    http["containers"][0]["readinessProbe"] = json!({"httpGet": {"port": 80}});
    http["containers"][0]["startupProbe"] = json!({"tcpSocket": {"port": 80}, "periodSeconds": 1});
    rig.create("http", "10.40.1.6", http).await;
    let once = |script: &str, policy: &str| {
        json!({"restartPolicy": policy, "initContainers": [{"name": "i", "image": "host", "command": ["true"]}],
               "containers": [shell(script)]})
    };
    rig.create("good", "10.40.1.7", once("exit 0", "OnFailure")).await;
    rig.create("bad", "10.40.1.8", once("echo no >/dev/termination-log; exit 3", "Never")).await;
    rig.create("loop", "10.40.1.9", once("exit 1", "Always")).await;
    rig.until("http", "ready by its probe", ready).await;
    rig.until("ill", "restarted by its probe", |pod| first(pod)["restartCount"].as_i64() >= Some(1)).await;
    rig.until_event("Unhealthy", "Liveness probe failed").await;
    assert!(!ready(&rig.pod("ill").await));
    rig.until("good", "succeeded", |pod| pod["status"]["phase"] == "Succeeded").await;
    let bad = rig.until("bad", "failed", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(first(&bad)["state"]["terminated"]["exitCode"], 3);
    assert_eq!(first(&bad)["state"]["terminated"]["message"], "no\n");
    rig.until("loop", "held back", |pod| first(pod)["state"]["waiting"]["reason"] == "CrashLoopBackOff").await;
    rig.until_event("BackOff", "Back-off restarting failed container").await;
}

async fn what_cannot_start_says_why() {
    let rig = Rig::new().await;
    rig.create("image", "10.40.1.5", json!({"containers": [{"name": "db", "image": "postgres:16"}]})).await;
    rig.create("command", "10.40.1.6", json!({"containers": [{"name": "c", "image": "host", "command": ["no-such"]}]}))
        .await;
    let env = json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "k"}}}]);
    rig.create(
        "env",
        "10.40.1.7",
        json!({"containers": [{"name": "c", "image": "host", "command": ["true"], "env": env}]}),
    )
    .await;
    let reason = |pod: &Value| first(pod)["state"]["waiting"]["reason"].as_str().unwrap_or_default().to_owned();
    rig.until("image", "image", |pod| reason(pod) == "ErrImagePull").await;
    rig.until_event("Failed", "spec.images").await;
    rig.until("command", "command", |pod| reason(pod) == "RunContainerError").await;
    rig.until("env", "environment", |pod| reason(pod) == "CreateContainerConfigError").await;
}

async fn environment_and_volumes() {
    let rig = Rig::new().await;
    let map =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm"}, "data": {"k": "from the map"}});
    let maps: kube::Api<k8s_openapi::api::core::v1::ConfigMap> = kube::Api::namespaced(rig.client.clone(), "default");
    maps.create(&Default::default(), &serde_json::from_value(map).unwrap()).await.unwrap();
    let limits = json!({"limits": {"memory": "64Mi"}});
    let script = "echo $IP $NODE $K; cat /config/k; echo; cat /etc/podinfo/name; echo; echo shared >/scratch/x; \
                  cat /var/run/secrets/kubernetes.io/serviceaccount/namespace; echo; \
                  test -s /var/run/secrets/kubernetes.io/serviceaccount/token && echo token; hostname; echo $KUBERNETES_SERVICE_HOST";
    let mut container = shell(script);
    container["resources"] = limits;
    container["env"] = json!([
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "K", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}},
    ]);
    container["volumeMounts"] = json!([
        {"name": "config", "mountPath": "/config"}, {"name": "info", "mountPath": "/etc/podinfo"},
        {"name": "scratch", "mountPath": "/scratch"},
    ]);
    let volumes = json!([
        {"name": "config", "configMap": {"name": "cm"}}, {"name": "scratch", "emptyDir": {}},
        {"name": "info", "downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
    ]);
    rig.create("web", "10.40.1.5", json!({"restartPolicy": "Never", "containers": [container], "volumes": volumes}))
        .await;
    rig.until("web", "done", |pod| matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))).await;
    let log = sh(&format!("cat {}/log/default_web_*/sh/0.log", rig.dir.path().display()));
    let lines: Vec<_> = log.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
    let expected = ["10.40.1.5 n1 from the map", "from the map", "web", "default", "token", "web", "10.96.0.1"];
    assert_eq!(lines, expected, "{log}");
    rig.until_event("LimitsNotEnforced", "sh on memory").await;
}

async fn many_pods() {
    let rig = Rig::new().await;
    let started = std::time::Instant::now();
    for n in 0..50 {
        let spec = json!({"containers": [{"name": "c", "image": "host", "command": ["sleep", "1000"]}]});
        rig.create(&format!("p{n}"), &format!("10.40.1.{}", n + 2), spec).await;
    }
    rig.until_all(50, ready).await;
    println!("50 pods in {:?}", started.elapsed());
}
