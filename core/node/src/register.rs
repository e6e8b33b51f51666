//! The Node object: made once, described, kept true.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use switchyard_api::Role;
use switchyard_api::names::{
    AGENT_PORT, CONTROL_PLANE_LABEL, NO_ROUTE_CREATED, NODE_NETWORK, ROUTE_CREATED, ROUTE_PENDING, SWAP_PLAN,
    UPLINK_MTU,
};
use tokio::sync::watch;
use tracing::warn;

use crate::config::Config;
use crate::network::State;

const FIRST_RETRY: Duration = Duration::from_millis(50);
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// Reason of a condition that the control plane writes: the node's block of addresses overlaps another's.
const BLOCK_NOT_AVAILABLE: &str = "BlockNotAvailable";

/// Writes what the agent knows of its node.
#[derive(Clone)]
pub(crate) struct Registrar {
    nodes: Api<Node>,
    config: std::sync::Arc<Config>,
}

// === impl Registrar ===

impl Registrar {
    pub(crate) fn new(client: Client, config: std::sync::Arc<Config>) -> Self {
        Self { nodes: Api::all(client), config }
    }

    /// Registers, and keeps the Node true: follows the network's state, and says again what somebody else has overwritten, as a
    /// control plane does that has not heard of the agent for a while.
    pub(crate) async fn run(self, mut state: watch::Receiver<State>, mut node: watch::Receiver<Option<Node>>) {
        let mut registered = self.persist("registering the node", || self.register()).await;
        loop {
            if let Some(newer) = node.borrow_and_update().clone() {
                registered = newer;
            }
            let now = state.borrow_and_update().clone();
            let silent = now == State { mtu: now.mtu, ..State::default() };
            let says = condition(&registered, "Ready").unwrap_or_default() == if now.ready { "True" } else { "False" };
            if !silent && !annotated(&registered, &now) {
                registered = self.persist("reporting the network", || self.annotate(&now)).await;
            }
            if !silent && !says {
                registered = self.persist("reporting the network", || self.network(&registered, &now)).await;
            }
            tokio::select! {
                changed = state.changed() => if changed.is_err() { return },
                changed = node.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Tries until it succeeds.
    async fn persist<F: Future<Output = kube::Result<Node>>>(&self, what: &str, again: impl Fn() -> F) -> Node {
        let mut pause = FIRST_RETRY;
        loop {
            match again().await {
                Ok(node) => return node,
                Err(error) => warn!(%error, "{what} failed; trying again"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_RETRY);
        }
    }

    /// Makes the Node, or brings labels of an existing one up to date, and says what the machine is. The network is not ready yet
    /// unless it was before: an agent that comes back does not send its pods away.
    pub(crate) async fn register(&self) -> kube::Result<Node> {
        let name = &self.config.name;
        let existing = self.nodes.get_opt(name).await?;
        let node = match &existing {
            Some(_) => {
                let patch = json!({"metadata": {"labels": self.labels()}});
                self.nodes.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?
            }
            None => {
                let node = serde_json::from_value(self.object()).map_err(kube::Error::SerdeError)?;
                self.nodes.create(&PostParams::default(), &node).await?
            }
        };
        let ready = existing.as_ref().is_some_and(|node| condition(node, "Ready") == Some("True"));
        let mut status = self.status();
        status["conditions"] =
            self.conditions(&node, if ready { Ok(()) } else { Err("the network is being set up") }, false);
        self.nodes.patch_status(name, &PatchParams::default(), &Patch::Strategic(json!({ "status": status }))).await
    }

    /// Says how the network does, on annotations.
    async fn annotate(&self, state: &State) -> kube::Result<Node> {
        let annotations: BTreeMap<_, _> = annotations(state).into();
        let patch = json!({"metadata": {"annotations": annotations}});
        self.nodes.patch(&self.config.name, &PatchParams::default(), &Patch::Merge(patch)).await
    }

    /// Says how the network does, in the conditions.
    async fn network(&self, node: &Node, state: &State) -> kube::Result<Node> {
        let name = &self.config.name;
        let reason = state.status.error.as_deref().unwrap_or("the network is being set up");
        let conditions = self.conditions(node, if state.ready { Ok(()) } else { Err(reason) }, state.needs_route);
        let patch = json!({"status": {"conditions": conditions}});
        self.nodes.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.config.labels.clone();
        let mut add = |key: &str, value: &str| {
            labels.entry(key.to_owned()).or_insert_with(|| value.to_owned());
        };
        add("kubernetes.io/hostname", &self.config.name);
        add("kubernetes.io/os", "linux");
        add("kubernetes.io/arch", arch());
        if self.config.role == Role::ControlPlane {
            add(CONTROL_PLANE_LABEL, "");
        }
        labels
    }

    fn object(&self) -> Value {
        let mut spec = json!({});
        if let Some(block) = &self.config.pod_cidr {
            spec["podCIDR"] = json!(block);
            spec["podCIDRs"] = json!([block]);
        }
        if self.config.role == Role::ControlPlane {
            spec["taints"] = json!([{"key": CONTROL_PLANE_LABEL, "effect": "NoSchedule"}]);
        }
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": self.config.name, "labels": self.labels()},
            "spec": spec,
        })
    }

    fn status(&self) -> Value {
        let info = rustix::system::sysinfo();
        let text = |value: &std::ffi::CStr| value.to_string_lossy().into_owned();
        let system = rustix::system::uname();
        let memory = info.totalram * u64::from(info.mem_unit) / 1024;
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let capacity = json!({
            "cpu": cpus.to_string(), "memory": format!("{memory}Ki"), "pods": self.config.max_pods.to_string(),
            "ephemeral-storage": "1Ti",
        });
        json!({
            "capacity": capacity,
            "allocatable": capacity,
            "addresses": [
                {"type": "InternalIP", "address": self.config.node_ip},
                {"type": "Hostname", "address": self.config.name},
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": AGENT_PORT}},
            "nodeInfo": {
                "architecture": arch(),
                "operatingSystem": "linux",
                "osImage": os_image(),
                "kernelVersion": text(system.release()),
                "kubeletVersion": concat!("v", env!("CARGO_PKG_VERSION"), "+switchyard"),
                "kubeProxyVersion": "",
                "containerRuntimeVersion": concat!("yard-pause://", env!("CARGO_PKG_VERSION")),
                "machineID": read_line("/etc/machine-id"),
                "systemUUID": "",
                "bootID": read_line("/proc/sys/kernel/random/boot_id"),
            },
        })
    }

    fn conditions(&self, node: &Node, network: Result<(), &str>, needs_route: bool) -> Value {
        let now = format!("{:.0}", Timestamp::now());
        let entry = |kind: &str, holds: bool, reason: &str, message: &str| {
            let status = if holds { "True" } else { "False" };
            // A condition that stays as it was keeps the time of its last change.
            let old = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
            let old = old.filter(|one| one.type_ == kind && one.status == status);
            let since = old.filter_map(|one| serde_json::to_value(&one.last_transition_time).ok()).next();
            json!({
                "type": kind, "status": status, "reason": reason, "message": message,
                "lastHeartbeatTime": now, "lastTransitionTime": since.filter(|since| !since.is_null()).unwrap_or(json!(now)),
            })
        };
        let why = network.err().unwrap_or_default();
        let (ready, reason, message) = match network {
            Ok(()) => (true, "KubeletReady", "the agent is ready"),
            Err(why) => (false, "NetworkNotReady", why),
        };
        let unavailable = match (ready, needs_route) {
            (false, _) => entry("NetworkUnavailable", true, "NetworkNotReady", why),
            (true, true) => {
                entry("NetworkUnavailable", true, ROUTE_PENDING, "nobody has said that there is a route yet")
            }
            (true, false) => entry("NetworkUnavailable", false, "NetworkApplied", ""),
        };
        let mut conditions = json!([
            unavailable,
            entry("MemoryPressure", false, "KubeletHasSufficientMemory", ""),
            entry("DiskPressure", false, "KubeletHasNoDiskPressure", ""),
            entry("PIDPressure", false, "KubeletHasSufficientPID", ""),
            entry("Ready", ready, reason, message),
        ]);
        // What others find out about the node's block of addresses and its route is not the agent's to overwrite.
        let theirs = [BLOCK_NOT_AVAILABLE, NO_ROUTE_CREATED, ROUTE_PENDING, ROUTE_CREATED];
        let mut all = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let foreign = all.any(|one| one.reason.as_deref().is_some_and(|reason| theirs.contains(&reason)));
        if let (true, Some(list)) = (foreign, conditions.as_array_mut()) {
            list.remove(0);
        }
        conditions
    }
}

/// The annotations that speak of the network, as they should be.
fn annotations(state: &State) -> [(&'static str, Option<String>); 3] {
    let plan = state.plan.as_ref().and_then(|lines| serde_json::to_string(lines).ok());
    let mtu = state.mtu.map(|mtu| mtu.to_string());
    [(NODE_NETWORK, serde_json::to_string(&state.status).ok()), (SWAP_PLAN, plan), (UPLINK_MTU, mtu)]
}

fn annotated(node: &Node, state: &State) -> bool {
    annotations(state).iter().all(|(name, text)| node.annotations().get(*name) == text.as_ref())
}

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a str> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|one| one.type_ == kind).map(|one| one.status.as_str())
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn os_image() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or("Linux").trim_matches('"').to_owned()
}

fn read_line(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
