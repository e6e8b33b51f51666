//! The program itself: credentials from a file, probes, `explain`, a signal, a kill.
#![allow(missing_docs)]

mod rig;

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rig::{Client, Upstream, kube_api::KubeApi};
use serde_json::json;

struct Program {
    child: Child,
    http: SocketAddr,
    admin: SocketAddr,
}

impl Program {
    /// Returns once it serves.
    fn start(kubeconfig: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_yard-ingress"))
            .args(["--http=127.0.0.1:0", "--admin=127.0.0.1:0", "--threads=1", "--drain-delay=0", "--kubeconfig"])
            .arg(kubeconfig)
            .stderr(Stdio::piped())
            .spawn()
            .expect("start");
        let mut lines = BufReader::new(child.stderr.take().expect("stderr")).lines();
        let line =
            lines.find_map(|line| line.ok().filter(|l| l.contains("serving"))).expect("a line that says serving");
        std::thread::spawn(move || lines.for_each(drop));
        let part = |key: &str| {
            let rest = line.split_once(key).unwrap_or_else(|| panic!("{key} in {line:?}")).1;
            rest.split_whitespace().next().expect("a word").parse().expect("an address")
        };
        Self { http: part("http="), admin: part("admin="), child }
    }

    fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("status");
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("VmRSS");
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_serves_explains_and_leaves() {
    let a = Upstream::echo("a").await;
    let api = KubeApi::start().await;
    api.put(
        "ingressclasses",
        json!({ "metadata": { "name": "yard" }, "spec": { "controller": "switchyard.dev/ingress" } }),
    );
    api.put("services", json!({ "metadata": { "name": "web", "namespace": "default" }, "spec": { "ports": [{ "name": "http", "port": 80 }] } }));
    api.put("endpointslices", json!({
        "metadata": { "name": "web-1", "namespace": "default", "labels": { "kubernetes.io/service-name": "web" } },
        "addressType": "IPv4", "ports": [{ "name": "http", "port": a.address.port() }], "endpoints": [{ "addresses": ["127.0.0.1"] }],
    }));
    let backend = json!({ "service": { "name": "web", "port": { "number": 80 } } });
    let paths = json!([{ "path": "/", "pathType": "Prefix", "backend": backend }]);
    api.put(
        "ingresses",
        json!({ "metadata": { "name": "web", "namespace": "default" }, "spec": {
        "ingressClassName": "yard", "rules": [{ "host": "v*.web.net", "http": { "paths": paths } }] } }),
    );
    let folder = tempfile::tempdir().expect("folder");
    let kubeconfig = folder.path().join("kubeconfig");
    let config = json!({ "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{ "name": "c", "cluster": { "server": format!("http://{}", api.address) } }],
        "users": [{ "name": "u", "user": {} }], "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }] });
    std::fs::write(&kubeconfig, config.to_string()).expect("kubeconfig");

    for _ in 0..2 {
        let started = Instant::now();
        let mut program = Program::start(&kubeconfig);
        println!("served after {:?}, {} KiB resident", started.elapsed(), program.resident_kib());
        assert_eq!(Client::connect(program.http).await.get("v1.web.net", "/").await.pod(), "a");
        assert_eq!(Client::connect(program.admin).await.get("x", "/readyz").await.status, 200);
        let explained = Command::new(env!("CARGO_BIN_EXE_yard-ingress"))
            .args(["explain", "v1.web.net", "/x", "--admin", &program.admin.to_string()])
            .output()
            .expect("explain");
        let said: serde_json::Value = serde_json::from_slice(&explained.stdout).expect("JSON");
        assert_eq!((&said["pattern"], &said["ingress"]), (&json!("v*.web.net"), &json!("default/web")));
        // Once asked to leave, once killed: the next one starts from nothing but the API.
        let asked = Command::new("kill").arg(program.child.id().to_string()).status().expect("kill");
        assert!(asked.success());
        let deadline = Instant::now() + Duration::from_secs(10);
        let status = loop {
            match program.child.try_wait().expect("wait") {
                Some(status) => break status,
                None => assert!(Instant::now() < deadline, "still running"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert!(status.success(), "{status}");
    }
    drop(Program::start(&kubeconfig));
    let again = Program::start(&kubeconfig);
    assert_eq!(Client::connect(again.http).await.get("v2.web.net", "/").await.pod(), "a");
}

#[test]
fn a_wrong_option_is_one_clear_line() {
    let output = Command::new(env!("CARGO_BIN_EXE_yard-ingress"))
        .args(["--kubeconfig=/nowhere", "--http=127.0.0.1:0", "--admin=127.0.0.1:0"])
        .output()
        .expect("run");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.lines().count() == 1 && said.starts_with("yard-ingress: kubeconfig: "), "{said}");
}
