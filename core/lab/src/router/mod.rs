//! The upstream L3 device: static routes, the external load balancer, and the way in from the host.
//!
//! A process of its own in the router's namespace. What it wants lives in the kernel, so packets go on while it is away; when it
//! is started again it takes over what it finds, and removes what nobody wants only once it knows everything that is wanted.

mod balancer;
mod health;
mod herald;
mod kernel;
mod names;
mod report;
mod splice;
mod swap;
mod underlay;
mod upstream;
mod watch;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use anyhow::Context as _;
use futures::StreamExt as _;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use switchyard_api::names::NETWORK;
use switchyard_api::{ClusterSpec, Network};
use switchyard_dns::Sockets;
use switchyard_netstate::{Fragment, IfName, UnitId};
use switchyard_plugin::Facts;
use switchyard_plugin_host::Registry;
use switchyard_services::external_base;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::hardware::{CARD, EXTERNAL};
use balancer::{Balancer, able_address};
use health::Checks;
use herald::Herald;
use kernel::Kernel;
use report::Report;
use underlay::{UNIT, Underlay};
use upstream::Upstream;
use watch::{Mirror, ObjectName, watch};

/// What the router is told.
#[derive(Debug)]
pub struct Config {
    /// The cluster's name.
    pub name: String,
    /// How to reach the API server.
    pub kubeconfig: PathBuf,
    /// Sockets that were opened on the host, non-blocking, and where each one leads.
    pub listeners: Vec<(TcpListener, SocketAddr)>,
    /// Sockets for DNS, the host's and the router's own.
    pub dns: Vec<Sockets>,
    /// Addresses for Services of type LoadBalancer.
    pub pool: IpNet,
    /// Where network plugins are looked for.
    pub plugin_path: Vec<PathBuf>,
    /// The cluster.
    pub cluster: ClusterSpec,
}

/// What units want from now on; `None`: nothing any more.
type Changes = BTreeMap<UnitId, Option<Fragment>>;

/// Runs in the current network namespace until `shutdown`. Leaves the kernel as it is.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    for (listener, to) in config.listeners {
        let listener = tokio::net::TcpListener::from_std(listener).with_context(|| format!("listener to {to}"))?;
        tokio::spawn(splice::serve(listener, to, shutdown.clone()));
    }
    let facts = facts(config.name, &config.cluster)?;
    let kubeconfig = Kubeconfig::read_from(&config.kubeconfig)?;
    let options = KubeConfigOptions::default();
    let client = switchyard_watch::client(kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?)?;
    let upstream = Upstream::new(config.cluster.underlay.routes.clone());
    let gateway = facts.underlay_gateway;
    tokio::spawn(names::serve(config.dns, client.clone(), config.cluster, gateway, shutdown.clone()));
    route(client, facts, config.pool, upstream, Registry::new(config.plugin_path), shutdown).await
}

async fn route(
    client: Client,
    facts: Facts,
    pool: IpNet,
    upstream: Upstream,
    plugins: Registry,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let (reports, findings) = mpsc::unbounded_channel();
    let name = |constant| IfName::new(constant).expect("a valid constant name");
    let router = Router {
        kernel: Kernel::open()?,
        nodes: Mirror::default(),
        networks: Mirror::default(),
        underlay: Underlay::new(facts, name(CARD), plugins),
        upstream,
        herald: Herald::new(client.clone()),
        ongoing: None,
        report: Report::start(client.clone()),
        balancer: Balancer::new(pool, name(EXTERNAL), Checks::new(reports)),
    };
    router.run(client, findings, shutdown).await
}

fn facts(cluster: String, spec: &ClusterSpec) -> anyhow::Result<Facts> {
    let underlay = &spec.underlay;
    let gateway = underlay.gateway.or_else(|| underlay.cidr.hosts().next());
    Ok(Facts {
        cluster,
        pod_cidr: spec.pod_cidr,
        service_cidr: spec.service_cidr,
        underlay_cidr: underlay.cidr,
        underlay_gateway: gateway.with_context(|| format!("underlay {} holds no address", underlay.cidr))?,
        underlay_mtu: underlay.mtu,
    })
}

struct Router {
    kernel: Kernel,
    nodes: Mirror<Node>,
    networks: Mirror<Network>,
    underlay: Underlay,
    upstream: Upstream,
    herald: Herald,
    balancer: Balancer,
    /// How far it is in a swap.
    ongoing: Option<swap::Ongoing>,
    report: Report,
}

// === impl Router ===

impl Router {
    async fn run(
        mut self,
        client: Client,
        mut findings: mpsc::UnboundedReceiver<health::Report>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let all = watcher::Config::default;
        let mut nodes = watch(Api::<Node>::all(client.clone()), all());
        let the_one = all().fields(&format!("metadata.name={}", NETWORK));
        let mut networks = watch(Api::<Network>::all(client.clone()), the_one);
        let mut services = watch(Api::<Service>::all(client.clone()), all());
        let mut slices = watch(Api::<EndpointSlice>::all(client), all());
        self.kernel.set([(UnitId("external-base".into()), Some(external_base()))].into()).await;
        loop {
            let changes = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                Some(event) = nodes.next() => self.node(event).await,
                Some(event) = networks.next() => self.network(event).await,
                Some(event) = services.next() => self.balancer.service(event, &self.nodes),
                Some(event) = slices.next() => self.balancer.slice(event, &self.nodes),
                Some(report) = findings.recv() => self.balancer.report(&report, &self.nodes),
                () = self.kernel.again() => Changes::new(),
                () = self.upstream.due() => Changes::new(),
                () = self.underlay.due(), if self.ongoing.is_none() => self.underlay.try_again(&self.nodes).await,
            };
            let changes = self.through_upstream(changes).await;
            self.kernel.set(changes).await;
            self.kernel.drop_flows(self.balancer.take_stale()).await;
            self.herald.tell(&self.upstream, &self.kernel, &self.nodes);
            if self.nodes.is_complete() && self.underlay.is_settled() && self.balancer.is_settled() {
                // A swap that it comes back into has its routes in the kernel already; they are wanted, too.
                self.take_part().await;
                if self.kernel.keep().await {
                    self.kernel.drop_flows(self.balancer.stale_from_before()).await;
                }
            } else if self.underlay.state().1.is_some() {
                self.tell(None);
            }
        }
    }

    /// Keeps back what the upstream device does not do yet, or not at all.
    async fn through_upstream(&mut self, mut changes: Changes) -> Changes {
        let asked: Vec<UnitId> = changes.keys().filter(|unit| unit.0.starts_with(UNIT)).cloned().collect();
        let asked: Changes = asked.into_iter().filter_map(|unit| changes.remove_entry(&unit)).collect();
        let there = self.kernel.left_behind(&asked).await;
        changes.extend(self.upstream.ask(asked, Instant::now(), &there));
        changes
    }

    async fn node(&mut self, event: Event<Node>) -> Changes {
        let name = match &event {
            Event::Apply(node) | Event::Delete(node) => Some(ObjectName::of(node)),
            _ => None,
        };
        let before = name.as_ref().and_then(|name| self.nodes.get(name)).map(able_address);
        let touched = self.nodes.take(event);
        if touched.is_empty() && !self.nodes.is_complete() {
            return Changes::new();
        }
        let mut changes = self.underlay.nodes(&touched, &self.nodes).await;
        let after = name.as_ref().and_then(|name| self.nodes.get(name)).map(able_address);
        if before != after || name.is_none() {
            changes.extend(self.balancer.nodes(&self.nodes));
        }
        changes
    }

    async fn network(&mut self, event: Event<Network>) -> Changes {
        self.networks.take(event);
        if !self.networks.is_complete() {
            return Changes::new();
        }
        let network = self.networks.get(&ObjectName::new("", NETWORK)).cloned();
        self.report.seen(network.as_ref());
        let changes = match self.is_part_of(network.as_ref()) {
            // What is in force is the swap's business until it is over.
            true if self.underlay.is_settled() => Changes::new(),
            _ => self.underlay.network(network.as_ref(), &self.nodes).await,
        };
        if !changes.is_empty() {
            info!(units = changes.len(), "underlay follows the network");
            if let Err(why) = self.upstream.fits(changes.values().flatten()) {
                warn!(%why, "some nodes stay without a route");
            }
        }
        changes
    }
}
