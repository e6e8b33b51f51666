//! Keys, certificates and kubeconfigs, before anybody needs them.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use switchyard_api::Cluster;
use switchyard_apiserver::pki::{Identity, Names, Pki};
use switchyard_lab::cluster::Topology;
use switchyard_lab::home::Directory;
use switchyard_lab::listeners::Ports;

/// Name of the controllers' kubeconfig.
const CONTROLLERS: &str = "controllers";
/// Name of the router's kubeconfig.
pub(super) const ROUTER: &str = "router";

/// Name of a node's kubeconfig.
pub(super) fn node(name: &str) -> String {
    format!("node-{name}")
}

/// The cluster's authority, made at its first start.
pub(super) fn authority(directory: &Directory, cluster: &Cluster, topology: &Topology) -> anyhow::Result<Arc<Pki>> {
    let service = switchyard_apiserver::Config::first_service_address(&cluster.spec.service_cidr);
    let addresses = [Some(topology.control_plane().address), service].into_iter().flatten().collect();
    let names = Names { addresses, names: vec![topology.control_plane().name.clone()] };
    Ok(Arc::new(Pki::load_or_create(&directory.pki(), &names)?))
}

/// Writes a kubeconfig for everybody: the person on the host, the controllers, the router, each node.
pub(super) fn write(directory: &Directory, cluster: &Cluster, topology: &Topology) -> anyhow::Result<()> {
    let pki = authority(directory, cluster, topology)?;
    let outside = Ports::remembered(directory).api.context("the API server has no port on the host")?;
    secret(&directory.kubeconfig(), &pki.kubeconfig(&Identity::admin(), &format!("https://{outside}"))?)?;
    let inside = format!("https://{}", topology.api());
    let nodes = topology.nodes.iter().map(|place| (node(&place.name), Identity::node(&place.name)));
    let parts = [(CONTROLLERS.to_owned(), Identity::controllers()), (ROUTER.to_owned(), Identity::router())];
    for (name, identity) in parts.into_iter().chain(nodes) {
        secret(&directory.kubeconfig_of(&name), &pki.kubeconfig(&identity, &inside)?)?;
    }
    Ok(())
}

/// Whole or not at all, and never readable by others.
pub(crate) fn secret(path: &Path, text: &str) -> anyhow::Result<()> {
    let fresh = path.with_extension("new");
    let write = || {
        let mut file = fs::File::options().create(true).truncate(true).write(true).mode(0o600).open(&fresh)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&fresh, path)
    };
    write().with_context(|| format!("write {}", path.display()))
}
