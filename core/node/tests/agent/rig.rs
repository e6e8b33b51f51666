//! A node with an API server: what the scenarios stand on.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Node, Pod, ServiceAccount};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use switchyard_api::Network;
use switchyard_apiserver::Server;
use switchyard_apiserver::pki::{Identity, Names, Pki};
use switchyard_node::{Config, Underlay};
use switchyard_plugin_host::Registry;

const PATIENCE: Duration = Duration::from_secs(40);

/// A node in this namespace, its API server in this process, its agent in another one.
pub(crate) struct Rig {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) client: Client,
    config: PathBuf,
    agent: Option<Child>,
}

// === impl Rig ===

impl Rig {
    /// An API server with a network, and an agent.
    pub(crate) async fn new() -> Self {
        sh("ip link set lo up; ip link add eth0 type bridge; ip addr add 10.140.0.11/24 dev eth0; ip link set eth0 up");
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["run", "log", "bin"] {
            std::fs::create_dir(path(name)).unwrap();
        }
        sh(&format!("mount -t tmpfs run {}", path("run").display()));
        for name in ["yard-pause", "yard-echo"] {
            std::os::unix::fs::symlink(std::env::current_exe().unwrap(), path("bin").join(name)).unwrap();
        }
        let pki = Arc::new(Pki::load_or_create(&path("pki"), &Names::default()).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        std::fs::write(path("kubeconfig"), pki.kubeconfig(&Identity::node("n1"), &url).unwrap()).unwrap();
        let server = Server::open(switchyard_apiserver::Config::new(pki)).unwrap();
        let client = server.client();
        tokio::spawn(async move { server.serve(vec![listener], std::future::pending()).await });
        let config = Config {
            name: "n1".into(),
            cluster: "test".into(),
            kubeconfig: path("kubeconfig"),
            node_ip: "10.140.0.11".parse().unwrap(),
            pod_cidr: Some("10.40.1.0/24".parse().unwrap()),
            cluster_cidr: "10.40.0.0/16".parse().unwrap(),
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            underlay: Underlay {
                cidr: "10.140.0.0/24".parse().unwrap(),
                gateway: "10.140.0.1".parse().unwrap(),
                mtu: 1500,
                uplink: "eth0".into(),
            },
            cluster_dns: None,
            role: Default::default(),
            labels: Default::default(),
            max_pods: 110,
            run_dir: path("run"),
            log_dir: path("log"),
            hidden: None,
            plugin_path: Vec::new(),
            images: [("nginx:1.25".to_owned(), "yard/echo --port=80".to_owned())].into(),
            programs: Some(path("bin")),
        };
        std::fs::write(path("config"), serde_json::to_string(&config).unwrap()).unwrap();
        let mut rig = Self { config: path("config"), dir, client, agent: None };
        rig.prepare().await;
        rig.start_agent();
        rig.eventually("the node is ready", async |rig| {
            let node = Api::<Node>::all(rig.client.clone()).get_opt("n1").await.unwrap();
            let node = node.unwrap_or_default();
            let mut conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
            let ready = conditions.any(|one| one.type_ == "Ready" && one.status == "True");
            ready.then_some(()).ok_or_else(|| format!("{:?}", node.annotations()))
        })
        .await;
        rig
    }

    async fn prepare(&self) {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), "default");
        let account = serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
        let _ = accounts.create(&PostParams::default(), &account).await;
        let networks: Api<Network> = Api::all(self.client.clone());
        let network = json!({
            "apiVersion": "switchyard.dev/v1alpha1", "kind": "Network", "metadata": {"name": "default"},
            "spec": {"plugin": "kubenet"},
        });
        networks.create(&PostParams::default(), &serde_json::from_value(network).unwrap()).await.unwrap();
        let active = json!({"plugin": "kubenet", "version": "1", "file": "", "sha256": "", "generation": 1});
        let status = json!({"status": {"observedGeneration": 1, "active": active, "conditions": [], "nodes": {}}});
        networks.patch_status("default", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    pub(crate) fn start_agent(&mut self) {
        let own = std::env::current_exe().unwrap();
        self.agent = Some(Command::new(own).arg("--agent").arg(&self.config).spawn().unwrap());
    }

    pub(crate) fn kill_agent(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// Makes a pod that is bound to the node already.
    pub(crate) async fn create(&self, name: &str, ip: &str, spec: Value) {
        let mut spec = spec;
        spec["nodeName"] = json!("n1");
        let pod = json!({"metadata": {"name": name, "annotations": {"switchyard.dev/pod-ip": ip}}, "spec": spec});
        self.pods().create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    }

    pub(crate) async fn pod(&self, name: &str) -> Value {
        let pod = self.pods().get_opt(name).await.unwrap();
        serde_json::to_value(pod).unwrap()
    }

    pub(crate) async fn delete(&self, name: &str) {
        self.pods().delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// Waits until the pod looks as `holds` wants it.
    pub(crate) async fn until(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        self.eventually(what, async |rig| {
            let pod = rig.pod(name).await;
            if holds(&pod) { Ok(pod) } else { Err(format!("{}", pod["status"])) }
        })
        .await
    }

    pub(crate) async fn until_event(&self, reason: &str, part: &str) {
        let events: Api<Event> = Api::namespaced(self.client.clone(), "default");
        self.eventually(&format!("event {reason} with {part:?}"), async |_| {
            let all = events.list(&Default::default()).await.unwrap().items;
            let fits = |event: &Event| {
                event.reason.as_deref() == Some(reason)
                    && event.message.as_deref().is_some_and(|text| text.contains(part))
            };
            let said: Vec<_> = all.iter().map(|event| format!("{:?} {:?}", event.reason, event.message)).collect();
            all.iter().any(fits).then_some(()).ok_or_else(|| said.join("\n"))
        })
        .await;
    }

    /// Tries until it holds or patience ends.
    pub(crate) async fn eventually<T>(&self, what: &str, holds: impl AsyncFn(&Self) -> Result<T, String>) -> T {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let why = match holds(self).await {
                Ok(value) => return value,
                Err(why) => why,
            };
            assert!(tokio::time::Instant::now() < deadline, "not within {PATIENCE:?}: {what}\nbut: {why}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Where a pod's files are on the node.
    pub(crate) fn run_dir(&self, pod: &Value) -> PathBuf {
        self.dir.path().join("run/nodes/n1/pods").join(pod["metadata"]["uid"].as_str().unwrap())
    }
}

/// One GET, from the node.
pub(crate) fn get(address: &str) -> Result<String, String> {
    let mut stream = TcpStream::connect_timeout(&address.parse().unwrap(), Duration::from_secs(1)).map_err(text)?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).map_err(text)?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").map_err(text)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(text)?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).ok_or(answer)
}

fn text(error: std::io::Error) -> String {
    error.to_string()
}

/// Every process in this pid namespace whose command line holds `part`.
pub(crate) fn processes(part: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).replace('\0', " ").contains(part) {
            found.push(pid);
        }
    }
    found
}

pub(crate) fn kill(pid: i32) {
    sh(&format!("kill -9 {pid}"));
}

pub(crate) fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn agent(config: &str) {
    let config: Config = serde_json::from_str(&std::fs::read_to_string(Path::new(config)).unwrap()).unwrap();
    let plugins = Registry::new(Vec::new()).with_static::<switchyard_kubenet::Kubenet>(switchyard_kubenet::MANIFEST);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(switchyard_node::run_with(config, plugins, Default::default())).unwrap();
}

/// Answers every connection with its own process number in the pod.
pub(crate) fn serve(port: &str) {
    let port = port.strip_prefix("--port=").unwrap();
    let listener = TcpListener::bind(format!("0.0.0.0:{port}")).unwrap();
    println!("listening on {port}");
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let mut request = [0; 1024];
        let _ = stream.read(&mut request);
        let body = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
        let _ = write!(stream, "HTTP/1.0 200 OK\r\n\r\n{body}");
    }
}
