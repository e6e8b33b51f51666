//! This node's DNS server: pods ask it at the Service address that every node has on its loopback interface.
//!
//! It answers on a thread of its own, from records that this task follows. The sockets may come from whoever started the agent, and stay
//! open while it is started again: what is asked meanwhile waits in them, and is answered as soon as the records are known. The
//! address belongs to the agent's units, so it stays while nobody serves it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Context as _;
use ipnet::IpNet;
use kube::Client;
use switchyard_api::names::{CLUSTER_DOMAIN, DNS_PORT};
use switchyard_dns::sources::Naming;
use switchyard_dns::{Shared, Sockets, follow, spawn};
use switchyard_netstate::{Address, Fragment, IfName, Link, LinkKind, Object, Place, UnitId};
use switchyard_services::Stale;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::config::Config;
use crate::network::{Call, Network};

/// The node's own server.
pub(crate) struct Server {
    config: Arc<Config>,
    address: IpAddr,
    sockets: Sockets,
}

// === impl Server ===

impl Server {
    /// Takes the sockets, or opens them; none if pods resolve as the node does.
    pub(crate) fn new(config: Arc<Config>, sockets: Option<Sockets>) -> anyhow::Result<Option<Self>> {
        let Some(address) = config.cluster_dns else { return Ok(None) };
        let at = SocketAddr::new(address, DNS_PORT);
        let sockets = match sockets {
            Some(sockets) => sockets,
            None => Sockets::bind(at).with_context(|| format!("listen on {at} for DNS"))?,
        };
        Ok(Some(Self { config, address, sockets }))
    }

    /// Follows the records for ever, and serves them as soon as they are complete.
    pub(crate) async fn run(self, client: Client, network: Network, shutdown: CancellationToken) {
        let units = BTreeMap::from([(UnitId("dns".into()), fragment(&self.config.name, self.address))]);
        network.tell(Call::Services { units, stale: Stale::default() });
        let dns = &self.config.dns;
        let naming = Naming::new(CLUSTER_DOMAIN, &dns.zones);
        let index = naming.index(&[self.config.service_cidr, self.config.cluster_cidr], dns.name_server);
        let index = Shared::new(index);
        let (complete, mut known) = watch::channel(false);
        let mut following = std::pin::pin!(follow(client, naming, index.clone(), complete));
        tokio::select! {
            () = &mut following => return,
            _ = known.wait_for(|known| *known) => {}
        }
        let config = switchyard_dns::Config { upstreams: dns.upstreams.clone(), ..Default::default() };
        if let Err(error) = spawn(vec![self.sockets], index, config, shutdown) {
            error!(%error, "no thread for DNS");
        }
        following.await;
    }
}

/// The address, on the interface that is always there.
fn fragment(node: &str, address: IpAddr) -> Option<Fragment> {
    let lo = IfName::new("lo").ok()?;
    let place = Place::node(node);
    let mut fragment = Fragment::new();
    fragment.want(&place, Object::Link(Link::new(lo.clone(), LinkKind::Existing)));
    let address = Address { dev: lo, address: IpNet::from(address), noprefixroute: false };
    fragment.want(&place, Object::Address(address));
    Some(fragment)
}
