//! `yard control-plane`: store, API server, controllers and scheduler.

use std::time::Duration;

use anyhow::Context as _;
use kube::api::{Patch, PatchParams};
use switchyard_api::{Cluster, names};
use switchyard_apiserver::pki::Pki;
use switchyard_apiserver::{Config, Server};
use switchyard_lab::boot;
use switchyard_lab::channel::Channel;
use switchyard_lab::cluster::Topology;
use switchyard_lab::handover::Handover;
use switchyard_lab::listeners;
use switchyard_lab::supervisor::API_INSIDE;
use switchyard_plugin::Facts;

use super::supervisor::read_cluster;
use super::{InDirectory, credentials, plugins, power};

/// Run the API server and the controllers.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    within: InDirectory,
    /// Every machine of the cluster has just been switched on: nothing that was running runs.
    #[arg(long)]
    power_on: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    super::log::start();
    let directory = args.within.directory();
    let cluster = read_cluster(&directory)?;
    let topology = Topology::of(&cluster)?;
    let mut handover = Handover::receive(&Channel::from_stdin()?).context("receive the listeners")?;
    let _running = handover.take(boot::LOCK).context("receive the lock")?;
    let listeners = vec![handover.listener(listeners::API)?, handover.listener(API_INSIDE)?];
    let pki = credentials::authority(&directory, &cluster, &topology)?;
    super::block_on_threads(async {
        let config = Config {
            store: Some(directory.store().join("state.redb")),
            service_cidr: cluster.spec.service_cidr,
            pod_cidr: Some(cluster.spec.pod_cidr),
            default_toleration_seconds: cluster.spec.default_toleration_seconds.into(),
            ..Config::new(pki.clone())
        };
        let server = Server::open(config)?;
        let client = server.client();
        if args.power_on {
            power::on(&client).await.context("note that all machines were off")?;
        }
        let shutdown = super::terminated()?;
        let controllers = controllers(&cluster, &topology, &pki);
        let control = tokio::spawn(switchyard_control::run(client.clone(), controllers, shutdown.clone()));
        tokio::spawn(async move {
            if let Err(error) = record(&client, &cluster).await {
                tracing::error!("record the cluster: {error:#}");
            }
        });
        // An API without controllers would only look alive: both end, and the supervisor starts them again.
        let either = async {
            tokio::select! {
                () = shutdown.cancelled() => {}
                _ = control => {}
            }
        };
        server.serve(listeners, either).await?;
        anyhow::ensure!(shutdown.is_cancelled(), "the controllers ended");
        Ok(())
    })
}

fn controllers(cluster: &Cluster, topology: &Topology, pki: &Pki) -> switchyard_control::Config {
    let spec = &cluster.spec;
    let facts = Facts {
        cluster: topology.cluster.clone(),
        pod_cidr: spec.pod_cidr,
        service_cidr: spec.service_cidr,
        underlay_cidr: topology.underlay,
        underlay_gateway: topology.gateway,
        underlay_mtu: topology.mtu,
    };
    switchyard_control::Config {
        node_prefix_length: spec.node_prefix_length,
        load_balancer_pool: Some(spec.load_balancer.pool),
        ca_pem: pki.ca_certificate().to_owned(),
        plugin_path: plugins::search_path(),
        network: spec.network.clone(),
        node_grace: Duration::from_secs(spec.node_monitor_grace_period_seconds.into()),
        default_toleration: Duration::from_secs(spec.default_toleration_seconds.into()),
        ..switchyard_control::Config::new(facts, topology.api())
    }
}

/// The Cluster object is an account of what was started; changing it changes nothing.
async fn record(client: &kube::Client, cluster: &Cluster) -> anyhow::Result<()> {
    let clusters: kube::Api<Cluster> = kube::Api::all(client.clone());
    let name = cluster.metadata.name.as_deref().unwrap_or_default();
    let fields = serde_json::json!({
        "apiVersion": format!("{}/{}", names::GROUP, names::VERSION),
        "kind": "Cluster",
        "metadata": {"name": name},
        "spec": cluster.spec,
    });
    clusters.patch(name, &PatchParams::apply("yard").force(), &Patch::Apply(fields)).await?;
    Ok(())
}
