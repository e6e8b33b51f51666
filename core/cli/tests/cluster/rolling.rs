//! Pods are replaced, and there are more and fewer of them, under requests of all kinds that notice nothing.

use std::collections::BTreeSet;
use std::fs;

use crate::policy::apply;
use crate::rig::{Cluster, Dialogue, Powers, Traffic, eventually, measured, scenarios};

scenarios! {
    backends_roll
    the_ingress_rolls
    replicas_come_and_go
}

const HOST: &str = "web.esxcloud.net";
/// A Deployment behind a Service behind an Ingress, nothing said about how it rolls. Its pods serve on for longer than by default, as
/// everything takes longer on a machine with other clusters on it, the withdrawal of endpoints too.
const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
        - name: web
          image: yard/echo
          args: [--port=80, --drain-delay=5]
          ports: [{name: web, containerPort: 80}]
          readinessProbe: {httpGet: {path: /readyz, port: web}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: web, port: 80, targetPort: web}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  rules:
    - host: web.esxcloud.net
      http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {name: web}}}}]}
"#;

/// A cluster whose `web` answers.
fn boot(powers: Powers) -> Cluster {
    let cluster = Cluster::prepare_with(powers, |folder| {
        let file = folder.join("controller.yaml");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("- --https=", "- --drain-delay=5\n            - --https=")).unwrap();
    });
    cluster.up();
    apply(&cluster, &[WEB.to_owned()]);
    cluster.kubectl(&["rollout", "status", "deploy/web", "--timeout=60s"]);
    eventually("web answers", || (cluster.ask(HOST).status == 200).then_some(()));
    cluster
}

/// The pods of a Deployment, by name.
fn pods(cluster: &Cluster, namespace: &str, label: &str) -> BTreeSet<String> {
    let names = cluster.kubectl(&["get", "pods", "-n", namespace, "-l", label, "-o", "name"]);
    names.lines().map(str::to_owned).collect()
}

/// Waits for the end of a rollout, and of the pods that were there before.
#[track_caller]
fn rolled(cluster: &Cluster, namespace: &str, name: &str, before: &BTreeSet<String>) {
    let told = cluster.kubectl(&["rollout", "status", "-n", namespace, &format!("deploy/{name}"), "--timeout=60s"]);
    assert!(told.ends_with("successfully rolled out\n"), "{told}");
    let left = || pods(cluster, namespace, &format!("app={name}")).is_disjoint(before).then_some(());
    measured("every pod was replaced", left);
}

fn backends_roll(powers: Powers) {
    let cluster = boot(powers);
    let traffic = Traffic::of_all_kinds(cluster.door(), HOST);
    let address = cluster.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]);
    let inside = Dialogue::of_strangers(&cluster, "worker-1", &address);
    traffic.more(100);
    let roll = |verb: &[&str]| {
        let before = pods(&cluster, "default", "app=web");
        cluster.kubectl(verb);
        rolled(&cluster, "default", "web", &before);
        assert_eq!(pods(&cluster, "default", "app=web").len(), 3);
        traffic.more(50);
    };
    roll(&["rollout", "restart", "deploy/web"]);
    roll(&["set", "env", "deploy/web", "COLOUR=green"]);
    let colour = || cluster.kubectl(&["set", "env", "deploy/web", "--list"]).contains("COLOUR=green");
    assert!(colour());
    let history = cluster.kubectl(&["rollout", "history", "deploy/web"]);
    assert_eq!(revisions(&history), ["1", "2", "3"], "{history}");
    roll(&["rollout", "undo", "deploy/web"]);
    assert!(!colour(), "undone");
    // What was undone to is the newest now.
    let history = cluster.kubectl(&["rollout", "history", "deploy/web"]);
    assert_eq!(revisions(&history), ["1", "3", "4"], "{history}");
    let third = cluster.kubectl(&["rollout", "history", "deploy/web", "--revision=3"]);
    assert!(third.contains("green"), "{third}");
    roll(&["rollout", "undo", "deploy/web", "--to-revision=3"]);
    assert!(colour());
    inside.end().lost_nothing();
    traffic.stop().lost_nothing();
}

fn revisions(history: &str) -> Vec<&str> {
    let lines = history.lines().filter_map(|line| line.split_whitespace().next());
    lines.filter(|word| word.bytes().all(|byte| byte.is_ascii_digit())).collect()
}

fn the_ingress_rolls(powers: Powers) {
    let cluster = boot(powers);
    let traffic = Traffic::of_all_kinds(cluster.door(), HOST);
    traffic.more(100);
    for verb in [&["rollout", "restart"][..], &["set", "env"], &["rollout", "undo"]] {
        let before = pods(&cluster, "ingress", "app=yard-ingress");
        let value: &[&str] = if verb[0] == "set" { &["RUST_LOG=warn"] } else { &[] };
        cluster.kubectl(&[verb, &["-n", "ingress", "deploy/yard-ingress"], value].concat());
        rolled(&cluster, "ingress", "yard-ingress", &before);
        traffic.more(50);
    }
    traffic.stop().lost_nothing();
}

fn replicas_come_and_go(powers: Powers) {
    let cluster = boot(powers);
    let traffic = Traffic::of_all_kinds(cluster.door(), HOST);
    traffic.more(100);
    for count in [5, 1, 3] {
        cluster.kubectl(&["scale", "deploy/web", &format!("--replicas={count}")]);
        cluster.kubectl(&["rollout", "status", "deploy/web", "--timeout=60s"]);
        measured("as many as asked for", || (pods(&cluster, "default", "app=web").len() == count).then_some(()));
        traffic.more(100);
    }
    traffic.stop().lost_nothing();
}
