//! `yard control-plane`: store, API server, controllers and scheduler.

use anyhow::Context as _;
use kube::api::{Patch, PatchParams};
use switchyard_api::{Cluster, names};
use switchyard_apiserver::{Config, Server};
use switchyard_lab::channel::Channel;
use switchyard_lab::cluster::Topology;
use switchyard_lab::handover::Handover;
use switchyard_lab::listeners;
use switchyard_lab::supervisor::API_INSIDE;

use super::supervisor::read_cluster;
use super::{InDirectory, credentials};

pub(crate) fn run(args: &InDirectory) -> anyhow::Result<()> {
    super::log();
    let directory = args.directory();
    let cluster = read_cluster(&directory)?;
    let topology = Topology::of(&cluster)?;
    let mut handover = Handover::receive(&Channel::from_stdin()?).context("receive the listeners")?;
    let listeners = vec![handover.listener(listeners::API)?, handover.listener(API_INSIDE)?];
    let pki = credentials::authority(&directory, &cluster, &topology)?;
    super::block_on(async {
        let config = Config {
            store: Some(directory.store().join("state.redb")),
            service_cidr: cluster.spec.service_cidr,
            ..Config::new(pki)
        };
        let server = Server::open(config)?;
        let client = server.client();
        let shutdown = super::terminated()?;
        tokio::spawn(async move {
            if let Err(error) = record(&client, &cluster).await {
                tracing::error!("record the cluster: {error:#}");
            }
        });
        server.serve(listeners, shutdown.clone().cancelled_owned()).await?;
        Ok(())
    })
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
