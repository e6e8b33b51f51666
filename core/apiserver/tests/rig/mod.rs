//! A server of one's own: a directory, a port, a kubeconfig, kubectl if the machine has one.

#![allow(dead_code, reason = "each test program uses a part of the rig")]

use std::future::Future;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use serde_json::{Value, json};
use switchyard_apiserver::pki::{Identity, Names, Pki};
use switchyard_apiserver::{Config, Server};

pub(crate) struct Rig {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) pki: Arc<Pki>,
    pub(crate) server: Server,
    pub(crate) url: String,
    stop: tokio_util::sync::CancellationToken,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Rig {
    /// A server on a port of its own, with everything in memory.
    pub(crate) async fn start() -> Self {
        Self::with(false).await
    }

    /// The same with a store on disk.
    pub(crate) async fn start_on_disk() -> Self {
        Self::with(true).await
    }

    /// The same with another configuration.
    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::open(tempfile::tempdir().expect("a directory"), change).await
    }

    /// Stops the server and starts it again over what it left on disk.
    pub(crate) async fn restart(mut self) -> Self {
        self.stop.cancel();
        self.task.take().expect("it serves").await.expect("the server stops");
        let store = self.dir.path().join("state.redb");
        Self::open(self.dir, |config| config.store = Some(store)).await
    }

    async fn with(disk: bool) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = disk.then(|| dir.path().join("state.redb"));
        Self::open(dir, |config| config.store = store).await
    }

    async fn open(dir: tempfile::TempDir, change: impl FnOnce(&mut Config)) -> Self {
        let pki = Arc::new(Pki::load_or_create(&dir.path().join("pki"), &Names::default()).expect("pki"));
        let mut config = Config::new(pki.clone());
        config.pod_cidr = Some("10.40.0.0/16".parse().expect("a constant prefix"));
        change(&mut config);
        let server = Server::open(config).expect("open the server");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let url = format!("https://{}", listener.local_addr().expect("address"));
        let kubeconfig = pki.kubeconfig(&Identity::admin(), &url).expect("kubeconfig");
        std::fs::write(dir.path().join("kubeconfig"), kubeconfig).expect("write the kubeconfig");
        let stop = tokio_util::sync::CancellationToken::new();
        let task = tokio::spawn({
            let (server, stop) = (server.clone(), stop.clone());
            async move { server.serve(vec![listener], stop.cancelled_owned()).await.expect("serve") }
        });
        Self { dir, pki, server, url, stop, task: Some(task) }
    }

    /// A client over TLS as somebody.
    pub(crate) async fn client(&self, identity: &Identity) -> Client {
        let text = self.pki.kubeconfig(identity, &self.url).expect("kubeconfig");
        let kubeconfig = kube::config::Kubeconfig::from_yaml(&text).expect("a good kubeconfig");
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.expect("config");
        Client::try_from(config).expect("client")
    }

    /// Runs kubectl; `None` where there is none. Its answer and whether it was content.
    pub(crate) fn kubectl(&self, args: &[&str], stdin: &str) -> Option<(bool, String)> {
        run_kubectl(&kubectl_program(), &self.dir.path().join("kubeconfig"), self.dir.path(), args, stdin)
    }

    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            task.await.expect("the server stops");
        }
    }
}

/// `SWITCHYARD_KUBECTL` names another one than the path's.
pub(crate) fn kubectl_program() -> String {
    std::env::var("SWITCHYARD_KUBECTL").unwrap_or_else(|_| "kubectl".into())
}

/// Whether this is a kubectl of before 1.30, which for instance wants more of OpenAPI v2 to explain a kind.
pub(crate) fn kubectl_is_old() -> bool {
    let output = Command::new(kubectl_program()).args(["version", "--client", "-o", "json"]).output();
    let version: Value = output.ok().and_then(|output| serde_json::from_slice(&output.stdout).ok()).unwrap_or_default();
    let minor = version["clientVersion"]["minor"].as_str().unwrap_or_default().trim_end_matches('+');
    minor.parse().is_ok_and(|minor: u32| minor < 30)
}

pub(crate) fn run_kubectl(
    program: &str,
    kubeconfig: &std::path::Path,
    home: &std::path::Path,
    args: &[&str],
    stdin: &str,
) -> Option<(bool, String)> {
    use std::io::Write;
    let mut child = Command::new(program)
        .args(args)
        .env("KUBECONFIG", kubeconfig)
        .env("HOME", home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    child.stdin.take().expect("stdin").write_all(stdin.as_bytes()).ok();
    let Output { status, stdout, stderr } = child.wait_with_output().expect("kubectl ends");
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    Some((status.success(), text))
}

pub(crate) fn pod(name: &str) -> Pod {
    from(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "a"}},
        "spec": {"containers": [{"name": "c", "image": "x"}]}}))
}

pub(crate) fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a good object")
}

/// Waits until a condition holds. It looks again and again: watches are themselves what is tested here.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !check().await {
        assert!(tokio::time::Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The code of a refused request.
pub(crate) fn code<T: std::fmt::Debug>(result: kube::Result<T>) -> u16 {
    match result {
        Err(kube::Error::Api(status)) => status.code,
        other => panic!("expected a refusal, got {other:?}"),
    }
}
