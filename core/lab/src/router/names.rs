//! Names as they are seen from outside: the zones, and the cluster's domain for the host.
//!
//! The same records as every node has, on a thread of its own; the sockets stay with the supervisor, as the splice's do.

use std::net::IpAddr;

use kube::Client;
use switchyard_api::{ClusterSpec, DnsSpec, names};
use switchyard_dns::sources::Naming;
use switchyard_dns::{Config, Shared, Sockets, follow, spawn};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::error;

/// Follows the records for ever, and serves them as soon as they are complete.
pub(super) async fn serve(
    sockets: Vec<Sockets>,
    client: Client,
    spec: ClusterSpec,
    gateway: IpAddr,
    shutdown: CancellationToken,
) {
    let naming = Naming::new(names::CLUSTER_DOMAIN, &spec.dns.zones);
    let index = Shared::new(naming.index(&[spec.service_cidr, spec.pod_cidr], Some(gateway)));
    let (complete, mut known) = watch::channel(false);
    let mut following = std::pin::pin!(follow(client, naming, index.clone(), complete));
    tokio::select! {
        () = &mut following => return,
        _ = known.wait_for(|known| *known) => {}
    }
    let upstreams = spec.dns.upstreams.iter().filter_map(|upstream| DnsSpec::upstream(upstream)).collect();
    if let Err(error) = spawn(sockets, index, Config { upstreams, ..Config::default() }, shutdown) {
        error!(%error, "no thread for DNS");
    }
    following.await;
}
