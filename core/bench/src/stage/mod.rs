//! Where an experiment happens: a cluster of its own, agents in its pods, and wires made by hand beside it.

mod agent;
mod cluster;
mod crowd;
mod manifests;
mod network;
mod trial;
mod watch;
mod yard;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use anyhow::Context as _;

pub(crate) use agent::Agent;
pub(crate) use cluster::Cluster;
pub(crate) use manifests::HOST;
pub(crate) use network::Swapped;
pub(crate) use yard::Yard;

use crate::experiment::{Experiment, Impairments, LoadKind, Route, Wiring};
use crate::load::{Order, Reply, ports};
use crate::wires;

/// Everything that load can go along.
pub(crate) struct Stage {
    // Agents end before the cluster does.
    /// In the client's pod, for load.
    pod: Agent,
    /// In the same pod, for the flow that is followed.
    follower: Agent,
    /// Outside.
    outside: Agent,
    /// On the node of the client's pod.
    node: Agent,
    /// On the node of the pod that the client reaches on another node.
    far_node: Agent,
    wires: BTreeMap<Wiring, Agent>,
    pub(crate) cluster: Cluster,
}

// === impl Stage ===

impl Stage {
    /// Boots the cluster, starts agents and wires.
    pub(crate) fn set(yard: Yard, experiment: &Experiment, say: &dyn Fn(&str)) -> anyhow::Result<Self> {
        let spec = &experiment.spec;
        say("starting a cluster");
        let cluster = Cluster::boot(yard, experiment)?;
        say("starting agents");
        let agent = |place: &str| Agent::start(&cluster.yard, place, &["agent"]);
        let (pod, follower) = (agent("pod/client")?, agent("pod/client")?);
        let (outside, node, far_node) =
            (agent("router")?, agent(manifests::CLIENT_NODE)?, agent(manifests::OTHER_NODE)?);
        let wire = |wiring: Wiring| {
            let mtu = spec.topology.mtu.to_string();
            let mut arguments = vec!["wires", wiring.name(), "--mtu", &mtu];
            let impairments = serde_json::to_string(&spec.impairments)?;
            arguments.extend(["--impairments", &impairments]);
            Agent::start(&cluster.yard, "router", &arguments)
                .with_context(|| format!("wires by hand: {}", wiring.name()))
                .map(|agent| (wiring, agent))
        };
        let wirings = spec.by_hand.iter().copied().chain([Wiring::Veth]);
        let wires = wirings.map(wire).collect::<anyhow::Result<_>>()?;
        if spec.impairments != Impairments::default() {
            cluster.impair(&spec.impairments)?;
        }
        Ok(Self { cluster, pod, follower, outside, node, far_node, wires })
    }

    /// Who sends along a path of the cluster, and where to.
    pub(crate) fn route(&mut self, route: Route, kind: LoadKind) -> (&mut Agent, SocketAddr) {
        let port = port(kind);
        let targets = &self.cluster.targets;
        match route {
            Route::SameNode => (&mut self.pod, SocketAddr::new(targets.near, port)),
            Route::OtherNode => (&mut self.pod, SocketAddr::new(targets.far, port)),
            Route::ClusterIp => (&mut self.pod, SocketAddr::new(targets.cluster_ip, port)),
            Route::NodePort => (&mut self.pod, SocketAddr::new(targets.node, manifests::node_port(port))),
            Route::LoadBalancer => (&mut self.outside, SocketAddr::new(targets.load_balancer, port)),
            Route::Ingress => (&mut self.outside, SocketAddr::new(targets.ingress, 80)),
        }
    }

    /// Who sends along wires made by hand, and where to.
    pub(crate) fn wiring(&mut self, wiring: Wiring, kind: LoadKind) -> (&mut Agent, SocketAddr) {
        let agent = self.wires.get_mut(&wiring).expect("every wiring of the experiment, and the baseline, was made");
        (agent, wires::target(wiring, port(kind)))
    }

    /// Who follows a flow to the pod on the other node, and where that is.
    pub(crate) fn followed(&mut self) -> (&mut Agent, SocketAddr) {
        (&mut self.follower, SocketAddr::new(self.cluster.targets.far, ports::UDP))
    }

    /// The largest packet from the client's pod to the pod on the other node.
    pub(crate) fn pod_mtu(&mut self) -> anyhow::Result<u32> {
        let target = SocketAddr::new(self.cluster.targets.far, ports::UDP);
        match self.pod.ask(&Order::Mtu { target })? {
            Reply::Mtu(mtu) => Ok(mtu),
            other => anyhow::bail!("an MTU was asked for, not {other:?}"),
        }
    }

    /// What there is on the upstream device and on the nodes that load passes, by place.
    pub(crate) fn state(&mut self) -> anyhow::Result<BTreeMap<String, BTreeSet<String>>> {
        let places = [
            ("router", &mut self.outside),
            (manifests::CLIENT_NODE, &mut self.node),
            (manifests::OTHER_NODE, &mut self.far_node),
        ];
        let of_place = |(place, agent): (&str, &mut Agent)| match agent.ask(&Order::State)? {
            Reply::State(state) => Ok((place.to_owned(), state)),
            other => anyhow::bail!("what there is was asked for, not {other:?}"),
        };
        places.into_iter().map(of_place).collect()
    }

    /// What the devices of the client's node have counted.
    pub(crate) fn devices(&mut self) -> anyhow::Result<Vec<crate::gauge::Device>> {
        match self.node.ask(&Order::Devices)? {
            Reply::Devices(devices) => Ok(devices),
            other => anyhow::bail!("devices were asked for, not {other:?}"),
        }
    }
}

fn port(kind: LoadKind) -> u16 {
    match kind {
        LoadKind::Stream => ports::SINK,
        LoadKind::Rr => ports::ECHO,
        LoadKind::Crr => ports::CRR,
        LoadKind::Http | LoadKind::Peak => ports::HTTP,
        LoadKind::Udp | LoadKind::Flood => ports::UDP,
    }
}
