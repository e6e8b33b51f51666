//! What the node's own ways carry: to the underlay, and to each other node. The kernel tells when that changes.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use switchyard_kernel::Owner;
use switchyard_plugin::{Facts, NodeFacts};
use tokio::io::unix::AsyncFd;
use tracing::warn;

/// Nodes as they are told of, and as they are seen from here.
pub(super) struct Ways {
    name: String,
    kernel: AsyncFd<switchyard_kernel::Ways>,
    gateway: IpAddr,
    /// What the underlay carries, as the Cluster has it. No way carries more.
    most: u32,
    /// What the uplink carried when there last was a way by it.
    own: u32,
    told: BTreeMap<String, NodeFacts>,
}

// === impl Ways ===

impl Ways {
    /// In the namespace and the runtime of the caller.
    pub(super) fn new(name: &str, facts: &Facts, owner: Owner) -> io::Result<Self> {
        let kernel = switchyard_kernel::Ways::open(owner)?;
        #[expect(deprecated, reason = "its replacement is unsafe; Ways keeps its socket open as long as it lives")]
        let kernel = AsyncFd::new(kernel)?;
        let (gateway, most) = (facts.underlay_gateway, facts.underlay_mtu);
        Ok(Self { name: name.to_owned(), kernel, gateway, most, own: most, told: BTreeMap::new() })
    }

    /// Waits until some way may carry something else than it did.
    pub(super) async fn changed(&mut self) {
        loop {
            let Ok(mut ready) = self.kernel.readable_mut().await else { return std::future::pending().await };
            let is_news = ready.get_inner_mut().news();
            ready.clear_ready();
            if is_news {
                return;
            }
        }
    }

    /// The largest packet that leaves this node by its uplink.
    pub(super) fn own(&mut self) -> u32 {
        self.own = self.to(self.gateway).unwrap_or(self.own);
        self.own
    }

    /// A node as it is seen from here.
    pub(super) fn seen(&mut self, node: NodeFacts) -> NodeFacts {
        self.told.insert(node.name.clone(), node.clone());
        let carried = if node.name == self.name {
            Some(self.own())
        } else {
            node.mtu.into_iter().chain(self.to(node.address)).min()
        };
        NodeFacts { mtu: carried.filter(|mtu| *mtu < self.most), ..node }
    }

    pub(super) fn gone(&mut self, name: &str) {
        self.told.remove(name);
    }

    /// All nodes as they were told of.
    pub(super) fn told(&self) -> Vec<NodeFacts> {
        self.told.values().cloned().collect()
    }

    fn to(&mut self, address: IpAddr) -> Option<u32> {
        let mtu = self.kernel.get_mut().mtu(address);
        let mtu = mtu.inspect_err(|error| warn!(%address, %error, "cannot ask how large packets may be")).ok()??;
        Some(mtu.min(self.most))
    }
}
