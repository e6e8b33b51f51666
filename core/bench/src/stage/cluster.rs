//! A cluster that lives as long as the experiment.

use std::net::IpAddr;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::manifests::{self, CLIENT_NODE};
use super::{Agent, Yard};
use crate::experiment::{Experiment, Impairments, Route};

/// A running cluster; stopped when dropped.
pub(crate) struct Cluster {
    pub(crate) yard: Yard,
    pub(crate) targets: Targets,
    /// The process above all of the cluster's, as the host sees it.
    pub(crate) supervisor: u32,
    /// The network as it is now, by its place in the experiment.
    pub(super) network: Option<usize>,
}

/// Where load can go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Targets {
    pub(super) near: IpAddr,
    pub(super) far: IpAddr,
    pub(super) cluster_ip: IpAddr,
    pub(super) node: IpAddr,
    pub(super) load_balancer: IpAddr,
    /// Of no meaning without a path through the ingress.
    pub(super) ingress: IpAddr,
}

/// The uplink of a node.
const CARD: &str = "eth0";

// === impl Cluster ===

impl Cluster {
    pub(super) fn boot(yard: Yard, experiment: &Experiment) -> anyhow::Result<Self> {
        let file = yard.home().join("experiment.yaml");
        std::fs::write(&file, manifests::text(experiment)?).context("write the cluster's files")?;
        // From here on there may be something to stop.
        let unknown = IpAddr::from([0, 0, 0, 0]);
        let none = Targets {
            near: unknown,
            far: unknown,
            cluster_ip: unknown,
            node: unknown,
            load_balancer: unknown,
            ingress: unknown,
        };
        let mut cluster = Self { yard, targets: none, supervisor: 0, network: Some(0) };
        cluster.yard.run(&["up", "-f", &file.to_string_lossy(), "--timeout", "120"])?;
        let status = cluster.yard.json(&["status"])?;
        cluster.supervisor = status[0]["supervisorPid"].as_u64().context("the cluster has no supervisor")? as u32;
        cluster.targets = cluster.find(experiment)?;
        Ok(cluster)
    }

    fn find(&self, experiment: &Experiment) -> anyhow::Result<Targets> {
        let ip = |value: &Value, what: &str| -> anyhow::Result<IpAddr> {
            value.as_str().with_context(|| format!("{what} has no address"))?.parse().context(what.to_owned())
        };
        let get = |kind: &str, name: &str| self.yard.json(&["get", kind, name]);
        let pod = |name: &str| ip(&get("pods", name)?["status"]["podIP"], name);
        let service = get("services", "far")?;
        let external = |service: &Value| ip(&service["status"]["loadBalancer"]["ingress"][0]["ip"], "a Service");
        let node = get("nodes", CLIENT_NODE)?;
        let addresses = node["status"]["addresses"].as_array().map_or(&[][..], Vec::as_slice);
        let internal =
            addresses.iter().find(|address| address["type"] == "InternalIP").context("no internal address")?;
        let load_balancer = external(&service)?;
        let ingress = match experiment.spec.paths.contains(&Route::Ingress) {
            true => external(&self.yard.json(&["get", "services", "yard-ingress", "-n", "ingress"])?)?,
            false => load_balancer,
        };
        let cluster_ip = ip(&service["spec"]["clusterIP"], "the Service")?;
        let node = ip(&internal["address"], CLIENT_NODE)?;
        Ok(Targets { near: pod("near")?, far: pod("far")?, cluster_ip, node, load_balancer, ingress })
    }

    /// Spoils the cards of all workers.
    pub(super) fn impair(&self, impairments: &Impairments) -> anyhow::Result<()> {
        let impairments = serde_json::to_string(impairments)?;
        let nodes = self.yard.json(&["get", "nodes"])?;
        let names =
            nodes["items"].as_array().into_iter().flatten().filter_map(|node| node["metadata"]["name"].as_str());
        for name in names.filter(|name| name.starts_with("worker-")) {
            Agent::start(&self.yard, name, &["impair", CARD, "--impairments", &impairments])
                .with_context(|| format!("impair {name}"))?;
        }
        Ok(())
    }

    /// Waits until a path of the cluster leads somewhere: what was swapped a moment ago may still be settling.
    pub(crate) fn ready(&self) -> anyhow::Result<()> {
        let network = self.yard.json(&["get", "networks", "default"])?;
        let conditions = network["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
        match conditions.iter().find(|condition| condition["type"] == "Ready") {
            Some(ready) if ready["status"] == "True" => Ok(()),
            Some(ready) => bail!("the network is not ready: {}", ready["message"].as_str().unwrap_or_default()),
            None => bail!("the network does not say how it is"),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The supervisor is asked first and killed if it does not listen; there is nobody to tell if that fails too.
        let _ = self.yard.run(&["down", "--grace", "0"]);
    }
}
