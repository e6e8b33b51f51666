//! A cluster without machines: the real API server in memory, the control plane under test, and nodes that only pretend.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use switchyard_apiserver::Server;
use switchyard_apiserver::pki::{Names, Pki};
use switchyard_control::Config;
use switchyard_netstate::Fragment;
use switchyard_plugin::{Facts, NetworkPlugin, NodeFacts, Options, OptionsError, PodFacts, Pool};
use switchyard_plugin_host::{ProcessHost, Registry};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
/// Longest that a plugin is waited for.
pub(crate) const PLUGIN_DEADLINE: Duration = Duration::from_secs(3);
pub(crate) const POD_IP: &str = "switchyard.dev/pod-ip";

pub(crate) struct Cluster {
    pub(crate) client: Client,
    pub(crate) config: Config,
    control: Option<JoinHandle<()>>,
    agents: Vec<JoinHandle<()>>,
    _server: Server,
    _dir: tempfile::TempDir,
}

/// Takes pods' addresses from the node's block, the first one excepted. Asked about a pod called `panic` or `hang`, it does.
struct Flat;

impl NetworkPlugin for Flat {
    fn new(options: &Options) -> Result<Self, OptionsError> {
        match options.keys().next() {
            None => Ok(Self),
            Some(option) => Err(OptionsError { option: option.clone(), problem: "there is no such option".into() }),
        }
    }

    fn pool(&self, _: &Facts, node: &NodeFacts, pod: &PodFacts) -> Pool {
        assert_ne!(pod.name, "panic", "told to");
        if pod.name == "hang" {
            loop {
                std::thread::park();
            }
        }
        Pool { reserved: node.pod_cidr.hosts().take(1).collect(), ..Pool::of(node.pod_cidr) }
    }

    fn node(&self, _: &Facts, _: &NodeFacts) -> Fragment {
        Fragment::new()
    }

    fn pod(&self, _: &Facts, _: &NodeFacts, _: &PodFacts) -> Fragment {
        Fragment::new()
    }
}

impl Cluster {
    /// A cluster with the control plane running and these nodes.
    pub(crate) async fn with_nodes(nodes: &[&str]) -> Self {
        let mut cluster = Self::still().await;
        cluster.start();
        for node in nodes {
            cluster.node(node, json!({})).await;
        }
        cluster.agent().await;
        cluster.take_pods(nodes).await;
        cluster
    }

    /// Waits until all these nodes take pods: what is scheduled before goes to those that do.
    async fn take_pods(&self, names: &[&str]) {
        crate::eventually!("blocks of addresses, and no taints", {
            let nodes = self.all::<Node>().list(&ListParams::default()).await.unwrap().items;
            let takes = |node: &Node| {
                let spec = node.spec.clone().unwrap_or_default();
                spec.pod_cidr.is_some() && spec.taints.unwrap_or_default().is_empty()
            };
            nodes.iter().filter(|node| takes(node)).count() == names.len()
        });
    }

    /// Without a control plane yet.
    pub(crate) async fn still() -> Self {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let dir = tempfile::tempdir().unwrap();
        let pki = Arc::new(Pki::load_or_create(dir.path(), &Names::default()).unwrap());
        let server = Server::open(switchyard_apiserver::Config::new(pki)).unwrap();
        let facts = Facts {
            cluster: "test".into(),
            pod_cidr: "10.40.0.0/16".parse().unwrap(),
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            underlay_cidr: "10.140.0.0/24".parse().unwrap(),
            underlay_gateway: "10.140.0.1".parse().unwrap(),
            underlay_mtu: 1500,
        };
        let mut config = Config::new(facts, "10.140.0.10:6443".parse().unwrap());
        let manifest = json!({"name": "flat", "version": "1.0.0"}).to_string();
        let host = ProcessHost { deadline: PLUGIN_DEADLINE, ..ProcessHost::default() };
        let registry = Registry::new(vec![]).with_static::<Flat>(&manifest).with_process_host(host);
        config.plugins = Some(Arc::new(registry));
        config.network.plugin = "flat".into();
        config.load_balancer_pool = Some("192.168.100.0/29".parse().unwrap());
        config.ca_pem = "a certificate".into();
        Self { client: server.client(), config, control: None, agents: vec![], _server: server, _dir: dir }
    }

    pub(crate) fn start(&mut self) {
        let run = switchyard_control::run(self.client.clone(), self.config.clone(), CancellationToken::new());
        self.control = Some(tokio::spawn(run));
    }

    /// As kill -9 would: at whatever await it stands.
    pub(crate) async fn kill(&mut self) {
        if let Some(control) = self.control.take() {
            control.abort();
            let _ = control.await;
        }
    }

    pub(crate) fn api<K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), "default")
    }

    pub(crate) fn all<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    /// A node that is ready, with 4 cores and 8 GiB; `with` is merged into it.
    pub(crate) async fn node(&self, name: &str, with: Value) {
        let mut node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        merge(&mut node, with);
        let node: Node = serde_json::from_value(node).unwrap();
        self.all::<Node>().create(&PostParams::default(), &node).await.unwrap();
        self.renew(name).await;
        self.ready(name).await;
    }

    pub(crate) async fn ready(&self, name: &str) {
        let address = format!("10.140.0.{}", 11 + name.bytes().map(u32::from).sum::<u32>() % 200);
        let status = json!({"status": {
            "conditions": [{"type": "Ready", "status": "True", "reason": "AgentReady"}],
            "addresses": [{"type": "InternalIP", "address": address}],
            "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"},
            "capacity": {"cpu": "4", "memory": "8Gi", "pods": "110"},
        }});
        self.all::<Node>().patch_status(name, &PatchParams::default(), &Patch::Strategic(status)).await.unwrap();
    }

    /// Renews a node's lease.
    pub(crate) async fn renew(&self, name: &str) {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), "kube-node-lease");
        let lease = Lease {
            metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec { renew_time: Some(MicroTime(jiff::Timestamp::now())), ..LeaseSpec::default() }),
        };
        if api.create(&PostParams::default(), &lease).await.is_err() {
            api.patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": lease.spec}))).await.unwrap();
        }
    }

    /// Plays all nodes' agents: bound pods run and are ready, deleted ones go.
    pub(crate) async fn agent(&mut self) {
        let client = self.client.clone();
        self.agents.push(tokio::spawn(async move {
            let mut events = watcher(Api::<Pod>::all(client.clone()), watcher::Config::default()).boxed();
            while let Some(event) = events.next().await {
                let (Ok(watcher::Event::Apply(pod)) | Ok(watcher::Event::InitApply(pod))) = event else { continue };
                tokio::spawn(act(client.clone(), pod));
            }
        }));
    }

    pub(crate) async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
    {
        let object: K = serde_json::from_value(object).unwrap();
        self.api::<K>().create(&PostParams::default(), &object).await.unwrap()
    }

    pub(crate) async fn list<K>(&self) -> Vec<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        self.api::<K>().list(&ListParams::default()).await.unwrap().items
    }

    pub(crate) async fn pods(&self) -> Vec<Pod> {
        self.list::<Pod>().await
    }

    /// Pods that are ready and not going.
    pub(crate) async fn ready_pods(&self) -> usize {
        self.pods().await.iter().filter(|pod| is_ready(pod) && pod.metadata.deletion_timestamp.is_none()).count()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.control.iter().chain(&self.agents).for_each(JoinHandle::abort);
    }
}

async fn act(client: Client, pod: Pod) {
    let name = pod.metadata.name.clone().unwrap();
    let api: Api<Pod> = Api::namespaced(client, pod.metadata.namespace.as_deref().unwrap());
    let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) else { return };
    if node.starts_with("dead") {
        return;
    }
    if pod.metadata.deletion_timestamp.is_some() {
        let _ = api.delete(&name, &DeleteParams::default().grace_period(0)).await;
        return;
    }
    let image = pod.spec.as_ref().map(|spec| spec.containers[0].image.clone().unwrap_or_default()).unwrap_or_default();
    if is_ready(&pod) || image == "never-ready" {
        return;
    }
    let (phase, ready) = match image.as_str() {
        "succeeds" => ("Succeeded", "False"),
        "fails" => ("Failed", "False"),
        _ => ("Running", "True"),
    };
    if pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some(phase) {
        return;
    }
    let ip = pod.metadata.annotations.as_ref().and_then(|all| all.get(POD_IP)).cloned();
    let mut status = json!({"status": {
        "phase": phase, "podIP": ip, "podIPs": ip.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>(),
        "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": jiff::Timestamp::now().round(jiff::Unit::Second).unwrap().to_string()}],
    }});
    if phase != "Running" {
        status["metadata"] = json!({"annotations": {POD_IP: null}});
    }
    let _ = api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(status)).await;
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

pub(crate) fn node_of(pod: &Pod) -> Option<String> {
    pod.spec.as_ref()?.node_name.clone()
}

pub(crate) fn ip_of(pod: &Pod) -> Option<String> {
    pod.metadata.annotations.as_ref()?.get(POD_IP).cloned()
}

/// How many pods each node has.
pub(crate) fn per_node(pods: &[Pod]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for node in pods.iter().filter_map(node_of) {
        *counts.entry(node).or_default() += 1;
    }
    counts
}

/// No two pods have one address, and every bound one has one.
pub(crate) fn assert_addresses(pods: &[Pod]) {
    let bound: Vec<_> = pods.iter().filter(|pod| node_of(pod).is_some()).collect();
    let addresses: BTreeSet<_> = bound.iter().filter_map(|pod| ip_of(pod)).collect();
    assert_eq!(addresses.len(), bound.len(), "an address of its own for every pod");
}

pub(crate) fn containers(image: &str) -> Value {
    json!([{"name": "c", "image": image, "ports": [{"name": "web", "containerPort": 80}]}])
}

pub(crate) fn pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": containers("echo"), "terminationGracePeriodSeconds": 1},
    });
    merge(&mut pod["spec"], spec);
    pod
}

pub(crate) fn template(app: &str, image: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": containers(image), "terminationGracePeriodSeconds": 1}})
}

pub(crate) fn replica_set(name: &str, replicas: i32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template(name, "echo")},
    })
}

pub(crate) fn deployment(name: &str, replicas: i32, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template(name, image)},
    })
}

pub(crate) fn stateful_set(name: &str, replicas: i32, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name},
        "spec": {"replicas": replicas, "serviceName": name, "selector": {"matchLabels": {"app": name}},
            "template": template(name, image)},
    })
}

pub(crate) fn service(name: &str, spec: Value) -> Value {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"name": "web", "port": 80, "targetPort": "web"}]},
    });
    merge(&mut service["spec"], spec);
    service
}

pub(crate) fn merge(into: &mut Value, with: Value) {
    match (into, with) {
        (Value::Object(into), Value::Object(with)) => {
            for (key, value) in with {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, with) => *into = with,
    }
}

/// Waits until `$check` is true, or fails saying what was waited for. It looks again and again: a check asks about any kinds, and a
/// watch of each would be a second implementation of what is tested.
#[macro_export]
macro_rules! eventually {
    ($what:expr, $check:expr) => {{
        let begin = std::time::Instant::now();
        loop {
            if $check {
                break;
            }
            assert!(begin.elapsed() < $crate::rig::DEADLINE, "still waiting: {}", $what);
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }};
}
