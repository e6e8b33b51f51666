//! A node with an API server: what the scenarios stand on.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Event, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::config::Kubeconfig;
use kube::runtime::wait::await_condition;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use switchyard_api::names::NODE_NETWORK;
use switchyard_api::{Network, Segment};
use switchyard_apiserver::Server;
use switchyard_apiserver::pki::{Identity, Names, Pki};
use switchyard_kubenet::Kubenet;
use switchyard_netstate::{Fragment, Link, LinkKind, Object, Place};
use switchyard_node::{Config, Underlay};
use switchyard_plugin::{Facts, NetworkPlugin, NodeFacts, Options, OptionsError, PodFacts, SegmentFacts};
use switchyard_plugin_host::{ProcessHost, Registry};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(40);

/// A node in this namespace, its API server in this process, its agent in another one.
pub(crate) struct Rig {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) client: Client,
    pki: Arc<Pki>,
    url: String,
    config: PathBuf,
    agent: Option<Child>,
}

/// Kubenet that panics about pods called `panic`, and has no answer about those called `hang`. A segment is a bridge with its number.
struct Moody(Kubenet);

// === impl Moody ===

impl NetworkPlugin for Moody {
    fn new(options: &Options) -> Result<Self, OptionsError> {
        Kubenet::new(options).map(Self)
    }

    fn node(&self, facts: &Facts, node: &NodeFacts) -> Fragment {
        self.0.node(facts, node)
    }

    fn pod(&self, facts: &Facts, node: &NodeFacts, pod: &PodFacts) -> Fragment {
        assert_ne!(pod.name, "panic", "told to");
        if pod.name == "hang" {
            loop {
                std::thread::park();
            }
        }
        self.0.pod(facts, node, pod)
    }

    fn segment(&self, _: &Facts, node: &NodeFacts, segment: &SegmentFacts) -> Fragment {
        let mut fragment = Fragment::new();
        let name = format!("seg{}", segment.id).parse().unwrap();
        let link = Link::new(name, LinkKind::Bridge { multicast_snooping: false });
        fragment.want(&Place::node(&node.name), Object::Link(link));
        fragment
    }
}

// === impl Rig ===

impl Rig {
    /// An API server with a network, and an agent.
    pub(crate) async fn new() -> Self {
        Self::on("kubenet").await
    }

    /// The same with another network: `kubenet` or `moody`.
    pub(crate) async fn on(plugin: &str) -> Self {
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
        let server = Server::open(switchyard_apiserver::Config::new(Arc::clone(&pki))).unwrap();
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
            dns: Default::default(),
            role: Default::default(),
            labels: Default::default(),
            max_pods: 110,
            lease_duration_seconds: 40,
            run_dir: path("run"),
            log_dir: path("log"),
            hidden: None,
            plugin_path: Vec::new(),
            images: [("nginx:1.25".to_owned(), "yard/echo --port=80".to_owned())].into(),
            programs: Some(path("bin")),
        };
        std::fs::write(path("config"), serde_json::to_string(&config).unwrap()).unwrap();
        let mut rig = Self { config: path("config"), dir, client, pki, url, agent: None };
        rig.prepare(plugin).await;
        rig.start_agent();
        rig.node_is_ready().await;
        rig
    }

    async fn prepare(&self, plugin: &str) {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), "default");
        let account = serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
        let _ = accounts.create(&PostParams::default(), &account).await;
        let networks: Api<Network> = Api::all(self.client.clone());
        let network = json!({
            "apiVersion": "switchyard.dev/v1alpha1", "kind": "Network", "metadata": {"name": "default"},
            "spec": {"plugin": plugin},
        });
        networks.create(&PostParams::default(), &serde_json::from_value(network).unwrap()).await.unwrap();
        let active = json!({"plugin": plugin, "version": "1", "file": "", "sha256": "", "generation": 1});
        let status = json!({"status": {"observedGeneration": 1, "active": active, "conditions": [], "nodes": {}}});
        networks.patch_status("default", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    pub(crate) async fn node_is_ready(&self) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let ready = |node: Option<&Node>| {
            let mut conditions = node.and_then(|node| node.status.as_ref()?.conditions.as_ref()).into_iter().flatten();
            conditions.any(|one| one.type_ == "Ready" && one.status == "True")
        };
        if let Ok(seen) = timeout(PATIENCE, await_condition(nodes.clone(), "n1", ready)).await {
            seen.unwrap();
            return;
        }
        panic!("the node is not ready within {PATIENCE:?}: {:?}", nodes.get_opt("n1").await.unwrap());
    }

    /// Waits until the agent complains of the network in these words, or of nothing.
    pub(crate) async fn until_complaint(&self, part: Option<&str>) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let error = |node: &Node| {
            let report: Value = serde_json::from_str(node.annotations().get(NODE_NETWORK)?).ok()?;
            report["error"].as_str().map(str::to_owned)
        };
        let fits = |node: Option<&Node>| match (node.and_then(error), part) {
            (Some(error), Some(part)) => error.contains(part),
            (error, part) => error.is_none() && part.is_none(),
        };
        if timeout(PATIENCE, await_condition(nodes.clone(), "n1", fits)).await.is_err() {
            panic!("not within {PATIENCE:?}: {part:?}, but: {:?}", error(&nodes.get("n1").await.unwrap()));
        }
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

    /// A client of the API server over its socket, as WebSockets need one.
    pub(crate) async fn outside(&self) -> Client {
        self.client_of(&Identity::admin(), &self.url).await
    }

    /// A client that is `identity`, of the API server or of an agent, whose certificate names no address.
    pub(crate) async fn client_of(&self, identity: &Identity, url: &str) -> Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let kubeconfig = Kubeconfig::from_yaml(&self.pki.kubeconfig(identity, url).unwrap()).unwrap();
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
        config.accept_invalid_certs = true;
        Client::try_from(config).unwrap()
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

    /// Makes a segment.
    pub(crate) async fn segment(&self, name: &str, spec: Value) {
        let segments: Api<Segment> = Api::all(self.client.clone());
        let segment = json!({
            "apiVersion": "switchyard.dev/v1alpha1", "kind": "Segment", "metadata": {"name": name}, "spec": spec,
        });
        segments.create(&PostParams::default(), &serde_json::from_value(segment).unwrap()).await.unwrap();
    }

    /// Makes a Service of TCP port 80 that leads to one address; `more` is of its spec.
    pub(crate) async fn serve(&self, name: &str, more: Value, ip: &str) {
        let mut spec = json!({"ports": [{"port": 80}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let service = json!({"metadata": {"name": name}, "spec": spec});
        let slice = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}}, "addressType": "IPv4",
            "endpoints": [{"addresses": [ip], "nodeName": "n1"}], "ports": [{"port": 80}],
        });
        let (services, slices): (Api<Service>, Api<EndpointSlice>) =
            (Api::namespaced(self.client.clone(), "default"), Api::namespaced(self.client.clone(), "default"));
        services.create(&PostParams::default(), &serde_json::from_value(service).unwrap()).await.unwrap();
        slices.create(&PostParams::default(), &serde_json::from_value(slice).unwrap()).await.unwrap();
    }

    pub(crate) async fn unserve(&self, name: &str) {
        let services: Api<Service> = Api::namespaced(self.client.clone(), "default");
        services.delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// Waits until the pod looks as `holds` wants it; a pod that is not there is null.
    pub(crate) async fn until(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let fits = |pod: Option<&Pod>| holds(&serde_json::to_value(pod).unwrap());
        match timeout(PATIENCE, await_condition(self.pods(), name, fits)).await {
            Ok(pod) => serde_json::to_value(pod.unwrap()).unwrap(),
            Err(_) => panic!("not within {PATIENCE:?}: {what}\nbut: {}", self.pod(name).await["status"]),
        }
    }

    /// Waits until `count` pods look as `holds` wants them.
    pub(crate) async fn until_all(&self, count: usize, holds: impl Fn(&Value) -> bool) {
        let mut good = BTreeSet::new();
        let mut pods = pin!(watcher(self.pods(), watcher::Config::default()).applied_objects());
        let all = async {
            while good.len() < count {
                let pod = pods.next().await.unwrap().unwrap();
                if holds(&serde_json::to_value(&pod).unwrap()) {
                    good.insert(pod.name_any());
                }
            }
        };
        let over = timeout(PATIENCE, all).await;
        assert!(over.is_ok(), "not within {PATIENCE:?}: {count} pods, but only {good:?}");
    }

    pub(crate) async fn until_event(&self, reason: &str, part: &str) {
        let api: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let mut events = pin!(watcher(api, watcher::Config::default()).applied_objects());
        let mut said = Vec::new();
        let told = async {
            loop {
                let event = events.next().await.unwrap().unwrap();
                let (why, text) = (event.reason.unwrap_or_default(), event.message.unwrap_or_default());
                if why == reason && text.contains(part) {
                    return;
                }
                said.push(format!("{why}: {text}"));
            }
        };
        let over = timeout(PATIENCE, told).await;
        assert!(over.is_ok(), "not within {PATIENCE:?}: event {reason} with {part:?}\nbut: {}", said.join("\n"));
    }

    /// Tries until it holds or patience ends: for what is looked at from outside, where nobody tells when to look.
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
    let moody = json!({"name": "moody", "version": "1.0.0"}).to_string();
    let host = ProcessHost { deadline: Duration::from_secs(2), ..ProcessHost::default() };
    let plugins = Registry::new(Vec::new()).with_static::<Kubenet>(switchyard_kubenet::MANIFEST);
    let plugins = plugins.with_static::<Moody>(&moody).with_process_host(host);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(switchyard_node::run_with(config, plugins, None, Default::default())).unwrap();
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
