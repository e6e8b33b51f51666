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

/// The Deployment's rollouts so far, under whatever traffic there is.
struct Rollouts<'a> {
    cluster: &'a Cluster,
    namespace: &'a str,
    name: &'a str,
    replicas: usize,
    /// Pods of before, some of which may still be serving their last requests.
    replaced: BTreeSet<String>,
}

impl Rollouts<'_> {
    fn pods(&self) -> BTreeSet<String> {
        pods(self.cluster, self.namespace, &format!("app={}", self.name))
    }

    /// Starts one more, and waits until it has rolled out.
    #[track_caller]
    fn roll(&mut self, verb: &[&str]) {
        self.replaced.extend(self.pods());
        self.cluster.kubectl(&[verb, &["-n", self.namespace]].concat());
        let name = format!("deploy/{}", self.name);
        let told = self.cluster.kubectl(&["rollout", "status", &name, "-n", self.namespace, "--timeout=60s"]);
        assert!(told.ends_with("successfully rolled out\n"), "{told}");
    }

    /// Waits until every pod was replaced.
    #[track_caller]
    fn end(self) {
        measured("every pod was replaced", || self.pods().is_disjoint(&self.replaced).then_some(()));
        assert_eq!(self.pods().len(), self.replicas);
    }
}

fn backends_roll(powers: Powers) {
    let cluster = boot(powers);
    let traffic = Traffic::of_all_kinds(cluster.door(), HOST);
    let address = cluster.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]);
    let inside = Dialogue::of_strangers(&cluster, "worker-1", &address);
    traffic.more(100);
    let mut rollouts =
        Rollouts { cluster: &cluster, namespace: "default", name: "web", replicas: 3, replaced: BTreeSet::new() };
    let mut roll = |verb: &[&str]| {
        rollouts.roll(verb);
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
    rollouts.end();
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
    let mut rollouts = Rollouts {
        cluster: &cluster,
        namespace: "ingress",
        name: "yard-ingress",
        replicas: 1,
        replaced: BTreeSet::new(),
    };
    const NAME: &str = "deploy/yard-ingress";
    for verb in [&["rollout", "restart", NAME][..], &["set", "env", NAME, "RUST_LOG=warn"], &["rollout", "undo", NAME]]
    {
        rollouts.roll(verb);
        traffic.more(50);
    }
    rollouts.end();
    traffic.stop().lost_nothing();
}

fn replicas_come_and_go(powers: Powers) {
    let cluster = boot(powers);
    let traffic = Traffic::of_all_kinds(cluster.door(), HOST);
    traffic.more(100);
    for count in [5, 1, 3] {
        cluster.kubectl(&["scale", "deploy/web", &format!("--replicas={count}")]);
        cluster.kubectl(&["rollout", "status", "deploy/web", "--timeout=60s"]);
        traffic.more(100);
    }
    measured("as many as asked for", || (pods(&cluster, "default", "app=web").len() == 3).then_some(()));
    traffic.stop().lost_nothing();
}
