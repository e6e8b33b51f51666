//! `yard supervisor`: which parts a cluster has.

use std::ffi::OsString;

use anyhow::Context as _;
use switchyard_api::Cluster;
use switchyard_lab::boot;
use switchyard_lab::cluster::Topology;
use switchyard_lab::home::Directory;
use switchyard_lab::listeners;
use switchyard_lab::supervisor::{self, API_INSIDE, Config, Part, ROUTER_DNS, node_dns};
use switchyard_netstate::Place;

use super::{InDirectory, credentials, node};

pub(crate) fn run(args: &InDirectory) -> anyhow::Result<()> {
    super::log::start();
    let directory = args.directory();
    let cluster = read_cluster(&directory)?;
    let topology = Topology::of(&cluster)?;
    let parts = parts(&directory, &cluster, &topology);
    let (place, whole) = (directory.clone(), topology.clone());
    let credentials = Box::new(move || {
        credentials::write(&place, &cluster, &whole)?;
        node::write_configs(&place, &cluster, &whole)
    });
    let config = Config { directory, topology, parts, credentials };
    supervisor::run(config).inspect_err(|error| tracing::error!("{error:#}"))
}

/// The cluster of a folder, as it was checked by `yard up`.
pub(super) fn read_cluster(directory: &Directory) -> anyhow::Result<Cluster> {
    let path = directory.cluster_file();
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    serde_yaml_ng::from_str(&text).with_context(|| format!("read {}", path.display()))
}

fn parts(directory: &Directory, cluster: &Cluster, topology: &Topology) -> Vec<Part> {
    let of_cluster = |verb: &str| -> Vec<OsString> { vec![verb.into(), "--directory".into(), directory.path().into()] };
    let dns = [listeners::HOST_DNS, ROUTER_DNS].into_iter().flat_map(listeners::dns_names);
    // Who serves the host's listeners holds the lock: whoever gets it finds the ports free.
    let lock = boot::LOCK.to_owned();
    let router = Part {
        name: "router".into(),
        place: Place::Router,
        arguments: of_cluster("router"),
        first_arguments: vec![],
        listeners: (0..cluster.spec.host_ports.len()).map(listeners::name).chain(dns).chain([lock.clone()]).collect(),
        leaves_first: false,
    };
    let control_plane = Part {
        name: "control-plane".into(),
        place: Place::node(&topology.control_plane().name),
        arguments: of_cluster("control-plane"),
        first_arguments: vec!["--power-on".into()],
        listeners: vec![listeners::API.into(), API_INSIDE.into(), lock],
        leaves_first: false,
    };
    let nodes = topology.nodes.iter().map(|node| Part {
        name: format!("node-{}", node.name),
        place: Place::node(&node.name),
        arguments: vec!["node".into(), "--config".into(), node::config_file(directory, &node.name).into()],
        first_arguments: vec![],
        listeners: topology.dns.iter().flat_map(|_| listeners::dns_names(&node_dns(&node.name))).collect(),
        leaves_first: true,
    });
    [control_plane, router].into_iter().chain(nodes).collect()
}
