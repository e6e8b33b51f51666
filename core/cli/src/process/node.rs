//! `yard node`: a node's agent, in the laboratory or on another machine.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;

use anyhow::Context as _;
use switchyard_api::{Cluster, DnsSpec};
use switchyard_lab::channel::Channel;
use switchyard_lab::cluster::Topology;
use switchyard_lab::handover::Handover;
use switchyard_lab::hardware::CARD;
use switchyard_lab::home::Directory;
use switchyard_lab::listeners;
use switchyard_lab::supervisor::node_dns;
use switchyard_node::{Config, Dns, DnsSockets, Underlay};

use super::{credentials, plugins};

/// Run a node's agent.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What the agent is told, as YAML or JSON.
    #[arg(long)]
    config: PathBuf,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    super::log::start();
    let read = || anyhow::Ok(serde_yaml_ng::from_str::<Config>(&fs::read_to_string(&args.config)?)?);
    let config = read().with_context(|| format!("read {}", args.config.display()))?;
    let dns = handed_down(&config.name).context("receive the sockets for DNS")?;
    super::block_on(async {
        let shutdown = super::terminated()?;
        switchyard_node::run(config, dns, shutdown).await?;
        Ok(())
    })
}

/// Sockets that stay open while the agent is started again, if standard input brings any.
fn handed_down(node: &str) -> io::Result<Option<DnsSockets>> {
    if !fs::metadata("/proc/self/fd/0").is_ok_and(|stdin| stdin.file_type().is_socket()) {
        return Ok(None);
    }
    let mut handover = Handover::receive(&Channel::from_stdin()?)?;
    listeners::take_dns(&node_dns(node), &mut handover).map(Some)
}

/// Where the agent of a node finds its configuration.
pub(super) fn config_file(directory: &Directory, node: &str) -> PathBuf {
    directory.run().join("nodes").join(format!("{node}.yaml"))
}

/// Writes the configuration of every agent. Nothing in it says that the nodes are namespaces.
pub(super) fn write_configs(directory: &Directory, cluster: &Cluster, topology: &Topology) -> anyhow::Result<()> {
    fs::create_dir_all(directory.run().join("nodes")).context("make the folder of nodes")?;
    for (place, node) in topology.nodes.iter().zip(&cluster.spec.nodes) {
        let config = Config {
            name: place.name.clone(),
            cluster: topology.cluster.clone(),
            kubeconfig: directory.kubeconfig_of(&credentials::node(&place.name)),
            node_ip: place.address,
            pod_cidr: place.pod_cidr,
            cluster_cidr: cluster.spec.pod_cidr,
            service_cidr: cluster.spec.service_cidr,
            underlay: Underlay {
                cidr: topology.underlay,
                gateway: topology.gateway,
                mtu: topology.mtu,
                uplink: CARD.into(),
            },
            cluster_dns: topology.dns,
            dns: Dns {
                zones: cluster.spec.dns.zones.clone(),
                name_server: Some(topology.gateway),
                upstreams: cluster.spec.dns.upstreams.iter().filter_map(|one| DnsSpec::upstream(one)).collect(),
            },
            role: place.role,
            labels: node.labels.clone(),
            max_pods: node.max_pods,
            lease_duration_seconds: cluster.spec.node_monitor_grace_period_seconds,
            run_dir: directory.run(),
            log_dir: directory.logs().join("pods"),
            hidden: Some(directory.path().to_owned()),
            plugin_path: plugins::search_path(),
            images: cluster.spec.images.iter().map(|(name, image)| (name.clone(), image.0.clone())).collect(),
            programs: Some(plugins::programs()),
        };
        credentials::secret(&config_file(directory, &place.name), &serde_yaml_ng::to_string(&config)?)?;
    }
    Ok(())
}
