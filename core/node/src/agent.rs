//! The agent as a whole: clients, watches, and the parts that act on what they hear.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Context as _;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use switchyard_api::names::{AGENT_PORT, NETWORK, OWNER_AGENT};
use switchyard_api::{Network as NetworkObject, Segment, edge_role, uplink_mtu};
use switchyard_dns::Sockets;
use switchyard_kernel::{Engine, Netns, Owner, Places};
use switchyard_netstate::{IfName, Place};
use switchyard_plugin::{Facts, NodeFacts};
use switchyard_plugin_host::Registry;
use switchyard_services::NodeServiceFacts;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::Config;
use crate::dns;
use crate::events::Recorder;
use crate::lease;
use crate::network::{Actor, Call, List, Network, follow_remote};
use crate::pods::Context;
use crate::pods::manager::Manager;
use crate::policy::{Policies, heard};
use crate::register::Registrar;
use crate::server::{self, Tls};
use crate::services::{Heard, Services};
use crate::view::{self, View};

/// Questions of the agent's server that may wait.
const ASKS: usize = 64;

/// Runs a node's agent until `shutdown`. Pods go on without it, and the next one takes them over.
///
/// It runs in the node's network namespace. One runtime thread is enough for it and keeps it small.
/// Sockets for DNS may be handed down; otherwise it opens its own.
pub async fn run(config: Config, dns: Option<Sockets>, shutdown: CancellationToken) -> anyhow::Result<()> {
    let plugins = Registry::new(config.plugin_path.clone());
    run_with(config, plugins, dns, shutdown).await
}

/// [`run`] with network plugins from elsewhere, linked ones for instance.
pub async fn run_with(
    config: Config,
    plugins: Registry,
    dns: Option<Sockets>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    std::fs::create_dir_all(config.pods_dir()).with_context(|| format!("make {}", config.pods_dir().display()))?;
    std::fs::create_dir_all(&config.log_dir).with_context(|| format!("make {}", config.log_dir.display()))?;
    let kubeconfig =
        Kubeconfig::read_from(&config.kubeconfig).with_context(|| format!("read {}", config.kubeconfig.display()))?;
    let tls = Tls::of_kubeconfig(&kubeconfig).with_context(|| format!("{}", config.kubeconfig.display()))?;
    let client_config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = switchyard_watch::client(client_config)?;
    let listener = TcpListener::bind((config.node_ip, AGENT_PORT))
        .await
        .with_context(|| format!("listen on {}:{AGENT_PORT}", config.node_ip))?;
    let mut agent = Agent { config: Arc::new(config), client, tasks: JoinSet::new() };
    let dns = dns::Server::new(Arc::clone(&agent.config), dns)?;
    let network = agent.start(listener, tls, plugins, &shutdown)?;
    if let Some(dns) = dns {
        agent.tasks.spawn(dns.run(agent.client.clone(), network, shutdown.clone()));
    }
    tokio::select! {
        () = shutdown.cancelled() => info!("leaving; pods go on"),
        Some(ended) = agent.tasks.join_next() => {
            ended.context("a part of the agent failed")?;
            anyhow::bail!("a part of the agent ended");
        }
    }
    Ok(())
}

struct Agent {
    config: Arc<Config>,
    client: Client,
    tasks: JoinSet<()>,
}

// === impl Agent ===

impl Agent {
    fn start(
        &mut self,
        listener: TcpListener,
        tls: Tls,
        plugins: Registry,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Network> {
        let config = Arc::clone(&self.config);
        let (recorder, events) = Recorder::new(self.client.clone(), &config.name);
        self.tasks.spawn(events);
        self.tasks.spawn(lease::renew(self.client.clone(), config.name.clone(), config.lease_duration_seconds));

        let network = self.network(plugins)?;
        let view = self.view();
        let (policies, guard) = Policies::new(&config.name, self.client.clone(), network.clone(), view.clone());
        let objects = follow(&self.client, watcher::Config::default());
        let all = watcher::Config::default;
        let firewall = heard(follow(&self.client, all()), follow(&self.client, all()));
        self.tasks.spawn(policies.run(view.subscribe(), objects, firewall));
        let context = Context::new(Arc::clone(&config), self.client.clone(), recorder, network.clone(), guard)?;
        let (asks, questions) = mpsc::channel(ASKS);
        self.tasks.spawn(server::run(listener, tls, asks, shutdown.clone()));
        self.tasks.spawn(follow_remote(config.name.clone(), view.subscribe(), network.clone()));
        let own = watcher::Config::default().fields(&format!("spec.nodeName={}", config.name));
        let own = follow::<Pod>(&self.client, own).inspect(move |event| view.overhear(event));
        self.tasks.spawn(Manager::new(context).run(own, questions));

        let (node_seen, node) = watch::channel(None);
        self.tasks.spawn(nodes(Arc::clone(&config), self.client.clone(), network.clone(), node_seen));
        self.tasks.spawn(networks(self.client.clone(), network.clone()));
        self.tasks.spawn(segments(self.client.clone(), network.clone()));
        self.tasks.spawn(services(Arc::clone(&config), self.client.clone(), network.clone()));
        let registrar = Registrar::new(self.client.clone(), config);
        self.tasks.spawn(registrar.run(network.state(), node));
        Ok(network)
    }

    /// What the node knows of the cluster; its own pods are added where they are followed.
    fn view(&mut self) -> View {
        let view = View::default();
        let pods = follow(&self.client, view::elsewhere(&self.config.name));
        self.tasks.spawn(view::follow_elsewhere(view.clone(), pods));
        let namespaces = follow(&self.client, watcher::Config::default());
        self.tasks.spawn(view::follow_namespaces(view.clone(), namespaces));
        view
    }

    /// The task that owns the node's network, in the namespace the agent was started in.
    fn network(&mut self, plugins: Registry) -> anyhow::Result<Network> {
        let config = &self.config;
        let facts = Facts {
            cluster: config.cluster.clone(),
            pod_cidr: config.cluster_cidr,
            service_cidr: config.service_cidr,
            underlay_cidr: config.underlay.cidr,
            underlay_gateway: config.underlay.gateway,
            underlay_mtu: config.underlay.mtu,
        };
        let mut places = Places::new();
        places.add(Place::node(&config.name), Netns::current().context("open the node's network namespace")?);
        let engine = Engine::new(Owner { protocol: OWNER_AGENT }, places);
        let (actor, network) = Actor::new(&config.name, facts, plugins, engine, config.extra_dir())?;
        self.tasks.spawn(actor.run());
        Ok(network)
    }
}

/// Follows the Network object.
async fn networks(client: Client, network: Network) {
    let config = watcher::Config::default().fields(&format!("metadata.name={NETWORK}"));
    let mut events = std::pin::pin!(follow::<NetworkObject>(&client, config));
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(object) | Event::InitApply(object)) if object.name_any() == NETWORK => {
                let status = object.status.unwrap_or_default();
                network.tell(Call::Network { active: status.active.map(Box::new), swap: status.swap.map(Box::new) });
            }
            // The network stays as it is when its object goes.
            Ok(_) => {}
            Err(error) => warn!(%error, "watching the Network failed; trying again"),
        }
    }
}

/// Follows Segments.
async fn segments(client: Client, network: Network) {
    let mut events = std::pin::pin!(follow::<Segment>(&client, watcher::Config::default()));
    let mut known = Names::default();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => known.begin(),
            Ok(Event::Apply(segment) | Event::InitApply(segment)) => {
                known.add(segment.name_any());
                network.tell(Call::Segment(Box::new(segment.facts())));
            }
            Ok(Event::Delete(segment)) => {
                known.remove(&segment.name_any());
                network.tell(Call::SegmentGone(segment.name_any()));
            }
            Ok(Event::InitDone) => {
                known.complete().into_iter().for_each(|gone| network.tell(Call::SegmentGone(gone)));
                network.tell(Call::Listed(List::Segments));
            }
            Err(error) => warn!(%error, "watching Segments failed; trying again"),
        }
    }
}

/// Names of objects that are followed, to tell after a new list which of them are gone.
#[derive(Default)]
struct Names {
    known: BTreeSet<String>,
    listing: Option<BTreeSet<String>>,
}

impl Names {
    fn begin(&mut self) {
        self.listing = Some(BTreeSet::new());
    }

    fn add(&mut self, name: String) {
        if let Some(listing) = &mut self.listing {
            listing.insert(name.clone());
        }
        self.known.insert(name);
    }

    fn remove(&mut self, name: &str) {
        self.known.remove(name);
    }

    /// A list is through; gives those that were known and not in it.
    fn complete(&mut self) -> Vec<String> {
        let listed = self.listing.take().unwrap_or_default();
        let gone = self.known.difference(&listed).cloned().collect();
        self.known = listed;
        gone
    }
}

/// Follows Nodes: the others are peers, and this one may get its block of addresses here.
async fn nodes(config: Arc<Config>, client: Client, network: Network, own: watch::Sender<Option<Node>>) {
    let mut events = std::pin::pin!(follow::<Node>(&client, watcher::Config::default()));
    let mut known = Names::default();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => known.begin(),
            Ok(Event::Apply(node) | Event::InitApply(node)) => {
                let name = node.name_any();
                known.add(name.clone());
                if let Some(facts) = facts(&config, &node) {
                    network.tell(Call::Node(Box::new(facts)));
                }
                if name == config.name {
                    own.send_replace(Some(node));
                }
            }
            Ok(Event::Delete(node)) => {
                known.remove(&node.name_any());
                network.tell(Call::NodeGone(node.name_any()));
            }
            Ok(Event::InitDone) => {
                known.complete().into_iter().for_each(|gone| network.tell(Call::NodeGone(gone)));
                network.tell(Call::Listed(List::Nodes));
            }
            Err(error) => warn!(%error, "watching Nodes failed; trying again"),
        }
    }
}

/// What a plugin is told about a node, once everything is known.
fn facts(config: &Config, node: &Node) -> Option<NodeFacts> {
    let name = node.name_any();
    let own = name == config.name;
    let block = node.spec.as_ref().and_then(|spec| spec.pod_cidr.as_deref()).and_then(|block| block.parse().ok());
    let block = if own { config.pod_cidr.or(block) } else { block };
    let mut addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let address = addresses.find(|one| one.type_ == "InternalIP").and_then(|one| one.address.parse().ok());
    let address = if own { Some(config.node_ip) } else { address };
    let uplink = IfName::new(config.underlay.uplink.clone()).ok()?;
    let (edge, mtu) = (edge_role(node), uplink_mtu(node));
    Some(NodeFacts { name, address: address?, pod_cidr: block?, uplink, mac: None, mtu, edge })
}

/// Follows Services.
async fn services(config: Arc<Config>, client: Client, network: Network) {
    let facts =
        NodeServiceFacts { node: config.name.clone(), address: config.node_ip, service_cidr: config.service_cidr };
    let services = follow::<Service>(&client, watcher::Config::default()).map(|event| event.map(Heard::Service));
    let slices = follow::<EndpointSlice>(&client, watcher::Config::default()).map(|event| event.map(Heard::Slice));
    Services::new(facts, network).run(futures::stream::select(services, slices)).await;
}

/// Watches objects of a kind for ever, trying again after failures.
fn follow<K>(client: &Client, config: watcher::Config) -> impl Stream<Item = watcher::Result<Event<K>>> + Send + use<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    switchyard_watch::watch(Api::<K>::all(client.clone()), config)
}
