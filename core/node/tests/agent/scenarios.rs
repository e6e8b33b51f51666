//! What an agent does, seen from outside: the API, the network, the processes.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use axum::http;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use k8s_openapi::api::core::v1::Pod;
use kube::api::AttachParams;
use serde_json::{Value, json};
use switchyard_api::names::AGENT_PORT;
use switchyard_apiserver::pki::Identity;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::rig::{Rig, get, kill, processes, sh};

type Scenario = fn() -> LocalBoxFuture<'static, ()>;

pub(crate) const ALL: &[(&str, Scenario)] = &[
    ("a_pod_runs_and_answers", || a_pod_runs_and_answers().boxed_local()),
    ("a_killed_agent_finds_its_pods_again", || a_killed_agent_finds_its_pods_again().boxed_local()),
    ("what_dies_is_started_again", || what_dies_is_started_again().boxed_local()),
    ("a_pod_ends_with_grace_and_leaves_nothing", || a_pod_ends_with_grace_and_leaves_nothing().boxed_local()),
    ("an_ended_pod_leaves_its_address_to_the_next", || an_ended_pod_leaves_its_address_to_the_next().boxed_local()),
    ("probes_and_policies", || probes_and_policies().boxed_local()),
    ("what_cannot_start_says_why", || what_cannot_start_says_why().boxed_local()),
    ("environment_and_volumes", || environment_and_volumes().boxed_local()),
    ("a_plugin_that_fails_costs_its_pod", || a_plugin_that_fails_costs_its_pod().boxed_local()),
    ("an_agent_takes_over_what_it_can", || an_agent_takes_over_what_it_can().boxed_local()),
    ("what_was_in_the_way_is_missed_by_nobody", || what_was_in_the_way_is_missed_by_nobody().boxed_local()),
    ("commands_output_and_ports_are_carried", || commands_output_and_ports_are_carried().boxed_local()),
    ("only_the_api_server_may_ask", || only_the_api_server_may_ask().boxed_local()),
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
    sidecar_ends_last(&rig).await;
    assert!(started.elapsed().as_secs_f32() > 1.0, "the deaf container had its grace: {:?}", started.elapsed());
    rig.eventually("nothing is left", async |_| {
        let links = sh("ip -o link | grep -c veth || true");
        let good = links.trim() == "0" && processes("yard-pause").is_empty() && !dir.exists();
        good.then_some(()).ok_or(links)
    })
    .await;
}

/// Also of a pod that is over by itself: until then a sidecar goes on, and it has its own time to leave.
async fn sidecar_ends_last(rig: &Rig) {
    let polite = "trap 'exit 7' TERM; while :; do sleep 0.05; done";
    let mut sidecar = shell(polite);
    (sidecar["name"], sidecar["restartPolicy"]) = (json!("sidecar"), json!("Always"));
    let spec = json!({"restartPolicy": "Never", "initContainers": [sidecar], "containers": [shell("exit 0")]});
    rig.create("over", "10.40.1.6", spec).await;
    let over = rig.until("over", "succeeded", |pod| pod["status"]["phase"] == "Succeeded").await;
    let left = &over["status"]["initContainerStatuses"][0]["state"]["terminated"];
    assert_eq!(left["exitCode"], 7, "{}", over["status"]);
}

/// When a pod's end is told nothing of it is connected, so whoever hears of it may give its address away.
async fn an_ended_pod_leaves_its_address_to_the_next() {
    let mut rig = Rig::new().await;
    let ended = async |rig: &Rig, name: &str, phase: &str| {
        let pod = rig.until(name, phase, |pod| pod["status"]["phase"] == phase).await;
        assert_eq!(sh("ip -o link | grep -c veth || true").trim(), "0", "{name} is connected");
        assert!(pod["metadata"]["annotations"]["switchyard.dev/pod-ip"].is_null(), "{}", pod["metadata"]);
        assert_eq!(pod["status"]["podIP"], "10.40.1.5", "what it was is shown");
    };
    for n in 0..5 {
        let name = format!("once-{n}");
        let spec = json!({"restartPolicy": "Never", "containers": [shell("exit 0")]});
        rig.create(&name, "10.40.1.5", spec).await;
        ended(&rig, &name, "Succeeded").await;
    }
    // One of which nothing ever ran is connected as well.
    let no_image = json!({"name": "c", "image": "postgres:16"});
    rig.create("late", "10.40.1.5", json!({"activeDeadlineSeconds": 2, "containers": [no_image]})).await;
    ended(&rig, "late", "Failed").await;
    rig.kill_agent();
    rig.create("web", "10.40.1.5", echo(80)).await;
    rig.start_agent();
    rig.until("web", "runs", ready).await;
    answers(&rig, "10.40.1.5:80").await;
    for name in ["once-0", "late"] {
        assert_eq!(rig.pod(name).await["status"]["podIP"], "10.40.1.5", "also by an agent that never saw it run");
    }
    let events: kube::Api<k8s_openapi::api::core::v1::Event> = kube::Api::default_namespaced(rig.client.clone());
    for event in events.list(&Default::default()).await.unwrap() {
        assert_ne!(event.reason.as_deref(), Some("FailedCreatePodSandBox"), "{event:?}");
    }
}

async fn probes_and_policies() {
    let rig = Rig::new().await;
    let mut ill = shell("trap '' TERM; while :; do sleep 0.05; done");
    ill["livenessProbe"] = json!({"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1});
    ill["livenessProbe"]["terminationGracePeriodSeconds"] = json!(1);
    let mut no_http = shell("exec sleep 1000");
    no_http["name"] = json!("no-http");
    no_http["livenessProbe"] = json!({"httpGet": {"port": 81}, "periodSeconds": 1, "failureThreshold": 1});
    let mut no_tcp = shell("exec sleep 1000");
    no_tcp["name"] = json!("no-tcp");
    no_tcp["livenessProbe"] = json!({"tcpSocket": {"port": 81}, "periodSeconds": 1, "failureThreshold": 1});
    // Longer than anybody waits here: it is the probe's own grace that ends the first of them.
    let spec = json!({"terminationGracePeriodSeconds": 600, "containers": [ill, no_http, no_tcp]});
    rig.create("ill", "10.40.1.5", spec).await;
    let mut turning = shell("exec sleep 1000");
    turning["volumeMounts"] = json!([{"name": "state", "mountPath": "/state"}]);
    turning["readinessProbe"] =
        json!({"exec": {"command": ["test", "-e", "/state/well"]}, "periodSeconds": 1, "failureThreshold": 1});
    let spec = json!({"containers": [turning], "volumes": [{"name": "state", "emptyDir": {}}]});
    rig.create("turning", "10.40.1.10", spec).await;
    let mut http = echo(80);
    http["containers"][0]["readinessProbe"] = json!({"httpGet": {"port": 80}});
    http["containers"][0]["startupProbe"] = json!({"tcpSocket": {"port": 80}, "periodSeconds": 1});
    rig.create("http", "10.40.1.6", http).await;
    let mut hooked = shell("exec sleep 1000");
    hooked["lifecycle"] = json!({"postStart": {"exec": {"command": ["true"]}}});
    hooked["startupProbe"] = json!({"exec": {"command": ["true"]}, "periodSeconds": 1});
    rig.create("hooked", "10.40.1.12", json!({"containers": [hooked]})).await;
    let once = |script: &str, policy: &str| {
        json!({"restartPolicy": policy, "initContainers": [{"name": "i", "image": "host", "command": ["true"]}],
               "containers": [shell(script)]})
    };
    rig.create("good", "10.40.1.7", once("exit 0", "OnFailure")).await;
    rig.create("bad", "10.40.1.8", once("echo no >/dev/termination-log; exit 3", "Never")).await;
    rig.create("loop", "10.40.1.9", once("exit 1", "Always")).await;
    let mut late = once("exec sleep 1000", "Always");
    late["activeDeadlineSeconds"] = json!(2);
    rig.create("late", "10.40.1.11", late).await;
    rig.until("http", "ready by its probe", ready).await;
    rig.until("hooked", "ready after its hook and its probe", ready).await;
    let restarted = |pod: &Value| {
        let all = pod["status"]["containerStatuses"].as_array();
        all.is_some_and(|all| all.iter().all(|one| one["restartCount"].as_i64() >= Some(1)))
    };
    rig.until("ill", "each restarted by its probe", restarted).await;
    let turning = rig.until("turning", "runs", |pod| first(pod)["state"]["running"].is_object()).await;
    assert!(!ready(&turning));
    let well = rig.run_dir(&turning).join("volumes/state/well");
    for _ in 0..2 {
        std::fs::write(&well, "").unwrap();
        rig.until("turning", "ready", ready).await;
        std::fs::remove_file(&well).unwrap();
        rig.until("turning", "not ready again", |pod| !ready(pod)).await;
    }
    rig.until_event("Unhealthy", "Liveness probe failed").await;
    rig.until("good", "succeeded", |pod| pod["status"]["phase"] == "Succeeded").await;
    let bad = rig.until("bad", "failed", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(first(&bad)["state"]["terminated"]["exitCode"], 3);
    assert_eq!(first(&bad)["state"]["terminated"]["message"], "no\n");
    let late = rig.until("late", "over", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(late["status"]["reason"], "DeadlineExceeded");
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
    let root = json!({"containers": [shell("true")], "securityContext": {"runAsNonRoot": true}});
    rig.create("root", "10.40.1.8", root).await;
    rig.until("root", "root", |pod| reason(pod) == "CreateContainerConfigError").await;
    rig.until("command", "command", |pod| reason(pod) == "RunContainerError").await;
    rig.until("env", "environment", |pod| reason(pod) == "CreateContainerConfigError").await;
}

async fn environment_and_volumes() {
    let rig = Rig::new().await;
    let map =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm"}, "data": {"k": "from the map"}});
    let maps: kube::Api<k8s_openapi::api::core::v1::ConfigMap> = kube::Api::namespaced(rig.client.clone(), "default");
    maps.create(&Default::default(), &serde_json::from_value(map).unwrap()).await.unwrap();
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "my-db"},
        "spec": {"clusterIP": "10.96.0.77", "ports": [{"port": 5432}]}});
    let services: kube::Api<k8s_openapi::api::core::v1::Service> = kube::Api::namespaced(rig.client.clone(), "default");
    services.create(&Default::default(), &serde_json::from_value(service).unwrap()).await.unwrap();
    let limits = json!({"limits": {"memory": "64Mi"}});
    let script = "echo $IP $NODE $K; cat /config/k; echo; cat /etc/podinfo/name; echo; echo shared >/scratch/x; \
                  cat /var/run/secrets/kubernetes.io/serviceaccount/namespace; echo; \
                  test -s /var/run/secrets/kubernetes.io/serviceaccount/token && echo token; hostname; echo $KUBERNETES_SERVICE_HOST $MY_DB_PORT";
    let mut container = shell(script);
    container["resources"] = limits;
    container["securityContext"] = json!({"privileged": true, "readOnlyRootFilesystem": true});
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
    let expected = [
        "10.40.1.5 n1 from the map",
        "from the map",
        "web",
        "default",
        "token",
        "web",
        "10.96.0.1 tcp://10.96.0.77:5432",
    ];
    assert_eq!(lines, expected, "{log}");
    what_changed_is_seen_by_the_next_run(&rig, &maps).await;
    rig.until_event("LimitsNotEnforced", "sh on memory").await;
    rig.until_event("FieldsNotEnforced", "privileged, readOnlyRootFilesystem of sh").await;
}

async fn what_changed_is_seen_by_the_next_run(rig: &Rig, maps: &kube::Api<k8s_openapi::api::core::v1::ConfigMap>) {
    let mut container = shell("echo $K; exec sleep 4246");
    container["env"] = json!([{"name": "K", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}}]);
    rig.create("again", "10.40.1.6", json!({"containers": [container]})).await;
    rig.until("again", "runs", ready).await;
    let change = kube::api::Patch::Merge(json!({"data": {"k": "changed"}}));
    maps.patch("cm", &Default::default(), &change).await.unwrap();
    let running =
        rig.eventually("the command runs", async |_| processes("sleep 4246").pop().ok_or("none".into())).await;
    kill(running);
    rig.until("again", "runs again", |pod| ready(pod) && first(pod)["restartCount"] == 1).await;
    let log = format!("cat {}/log/default_again_*/sh/1.log", rig.dir.path().display());
    rig.eventually("its new value", async |_| Some(sh(&log)).filter(|log| log.contains("changed")).ok_or("old".into()))
        .await;
}

async fn commands_output_and_ports_are_carried() {
    let rig = Rig::new().await;
    let mut app = echo(80);
    app["containers"][0]["workingDir"] = json!("/usr/share");
    rig.create("web", "10.40.1.5", app).await;
    rig.until("web", "ready", ready).await;
    answers(&rig, "10.40.1.5:80").await;
    let pods: kube::Api<Pod> = kube::Api::namespaced(rig.outside().await, "default");

    // More than pipes and sockets hold: input and output have to go on at the same time.
    let both = AttachParams::default().stdin(true).stdout(true).stderr(false);
    let mut cat = pods.exec("web", ["sh", "-c", "pwd; exec cat"], &both).await.unwrap();
    let (mut to, mut from) = (cat.stdin().unwrap(), cat.stdout().unwrap());
    let typed = tokio::spawn(async move {
        to.write_all(&vec![b'x'; 10 << 20]).await.unwrap();
        to.shutdown().await.unwrap();
    });
    let mut said = Vec::new();
    from.read_to_end(&mut said).await.unwrap();
    typed.await.unwrap();
    assert!(said.starts_with(b"/usr/share\n"));
    assert_eq!(said.len(), "/usr/share\n".len() + (10 << 20));

    let output = AttachParams::default().stdin(false).stdout(true).stderr(true);
    let mut missing = pods.exec("web", ["no-such-program"], &output).await.unwrap();
    let status = missing.take_status().unwrap().await.unwrap_or_default();
    assert_eq!(status.reason.as_deref(), Some("InternalError"), "{status:?}");
    assert!(status.message.as_deref().is_some_and(|said| said.contains("not found in PATH")), "{status:?}");

    // Who leaves takes the command along.
    let sleep = pods.exec("web", ["sleep", "4245"], &both).await.unwrap();
    rig.eventually("the command runs", async |_| some(processes("sleep 4245"))).await;
    sleep.abort();
    rig.eventually("the command is gone", async |_| none(processes("sleep 4245"))).await;

    let mut forwarder = pods.portforward("web", &[80, 81]).await.unwrap();
    let mut stream = forwarder.take_stream(80).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("\r\n\r\nweb\n"), "{answer}");
    let error = forwarder.take_error(81).unwrap().await.unwrap_or_default();
    assert!(error.contains("port 81") && error.contains("refused"), "{error}");

    rig.create("says", "10.40.1.6", json!({"containers": [shell("while :; do echo here; sleep 0.1; done")]})).await;
    rig.until("says", "ready", ready).await;
    let output = AttachParams::default().stdin(false).stdout(true).stderr(false);
    let mut attached = pods.attach("says", &output).await.unwrap();
    let mut line = [0; 5];
    attached.stdout().unwrap().read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"here\n");
    let refused = pods.attach("says", &both).await.err().map(|error| error.to_string());
    assert!(refused.is_some(), "there is no input to attach to");
}

fn some(processes: Vec<i32>) -> Result<(), String> {
    if processes.is_empty() { Err("no such process".into()) } else { Ok(()) }
}

fn none(processes: Vec<i32>) -> Result<(), String> {
    if processes.is_empty() { Ok(()) } else { Err(format!("{processes:?}")) }
}

async fn only_the_api_server_may_ask() {
    let rig = Rig::new().await;
    let agent = format!("https://10.140.0.11:{AGENT_PORT}");
    let code = async |identity: &Identity, path: &str| {
        let client = rig.client_of(identity, &agent).await;
        match client.request_text(http::Request::get(path).body(Vec::new()).unwrap()).await {
            Ok(_) => 200,
            Err(kube::Error::Api(status)) => status.code,
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(code(&Identity::agent_client(), "/pods").await, 200);
    assert_eq!(code(&Identity::admin(), "/pods").await, 200);
    for stranger in [Identity::node("n1"), Identity::node("other"), Identity::new("jane", &["developers"])] {
        assert_eq!(code(&stranger, "/pods").await, 403, "{stranger:?}");
        assert_eq!(code(&stranger, "/exec/default/web/app?command=id").await, 403, "{stranger:?}");
        assert_eq!(code(&stranger, "/healthz").await, 200, "{stranger:?}");
    }
}

async fn a_plugin_that_fails_costs_its_pod() {
    let rig = Rig::on("moody").await;
    rig.create("panic", "10.40.1.5", echo(80)).await;
    rig.until_complaint(Some("pod default/panic: pod: the plugin panicked")).await;
    rig.create("sound", "10.40.1.6", echo(80)).await;
    rig.until("sound", "ready on another instance", ready).await;
    rig.delete("panic").await;
    rig.create("hang", "10.40.1.7", echo(80)).await;
    rig.until_complaint(Some("pod default/hang: pod: the plugin gave no answer")).await;
    rig.create("after", "10.40.1.8", echo(80)).await;
    rig.until("after", "ready all the same", ready).await;
    assert_eq!(rig.eventually("an answer", async |_| get("10.40.1.6:80")).await, "sound\n");
    rig.delete("hang").await;
    rig.until_complaint(None).await;
}

/// Somebody else's interface has the name of a pod's, and about another pod the plugin fails: the rest is served by the next agent.
async fn an_agent_takes_over_what_it_can() {
    let mut rig = Rig::on("moody").await;
    for (name, ip) in [("web", "10.40.1.5"), ("robbed", "10.40.1.7")] {
        rig.create(name, ip, echo(80)).await;
        rig.until(name, "ready", ready).await;
    }
    rig.create("panic", "10.40.1.6", echo(80)).await;
    rig.until_complaint(Some("panic")).await;
    let port = sh("bridge fdb show | sed -n 's/^0a:58:0a:28:01:07 dev \\(veth[^ ]*\\) .*/\\1/p'");
    let port = port.trim();
    rig.kill_agent();
    sh(&format!("ip link del {port}; ip link add {port} type bridge"));
    rig.start_agent();
    rig.create("new", "10.40.1.8", echo(80)).await;
    rig.until("new", "ready", ready).await;
    answers(&rig, "10.40.1.5:80").await;
    assert_eq!(first(&rig.pod("web").await)["restartCount"], 0);
    rig.delete("panic").await;
    rig.until("panic", "gone", Value::is_null).await;
    rig.until_complaint(Some(port)).await;

    sh(&format!("ip link del {port}"));
    assert_eq!(rig.eventually("its cable is back", async |_| get("10.40.1.7:80")).await, "robbed\n");
    rig.until_complaint(None).await;
}

/// What the kernel refused is there as soon as what it was refused for has gone.
async fn what_was_in_the_way_is_missed_by_nobody() {
    let rig = Rig::on("moody").await;
    sh("ip link add seg7 type veth peer name theirs");
    rig.segment("blue", json!({"plugin": "moody", "namespace": "default", "id": 7, "subnets": ["10.50.0.0/24"]})).await;
    rig.until_complaint(Some("seg7")).await;
    // By now the pauses between attempts are of eight seconds; nothing tells of the attempts.
    tokio::time::sleep(Duration::from_millis(8500)).await;
    sh("ip link del seg7");
    let gone = Instant::now();
    rig.eventually("the segment", async |_| {
        let link = sh("ip -d link show dev seg7 2>&1 || true");
        if link.contains("bridge forward_delay") { Ok(()) } else { Err(link) }
    })
    .await;
    assert!(gone.elapsed() < Duration::from_secs(4), "after {:?}", gone.elapsed());
    rig.until_complaint(None).await;
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
