//! A pod and a Service that are asked for while somebody waits for them.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;

use super::{Cluster, Yard, manifests};
use crate::load::ports;

/// Both, described and not asked for yet.
pub(crate) struct Fresh {
    yard: Yard,
    file: PathBuf,
    /// Where the Service will answer.
    pub(crate) target: SocketAddr,
}

// === impl Fresh ===

impl Fresh {
    /// Asks for them.
    pub(crate) fn ask(&self) -> anyhow::Result<()> {
        self.yard.run(&["apply", "-f", &self.file.to_string_lossy()]).map(drop)
    }

    /// Deletes them; nobody waits until they are gone.
    pub(crate) fn forget(&self) -> anyhow::Result<()> {
        self.yard.run(&["delete", "-f", &self.file.to_string_lossy(), "--grace-period", "0", "--no-wait"]).map(drop)
    }
}

// === impl Cluster ===

impl Cluster {
    /// A pod on the other node and its Service, for a block.
    pub(crate) fn fresh(&self, block: usize) -> anyhow::Result<Fresh> {
        let address = manifests::fresh_address(block);
        let file = self.yard.home().join(format!("fresh-{block}.yaml"));
        std::fs::write(&file, manifests::fresh(block)?).context("write a manifest")?;
        Ok(Fresh { yard: self.yard.clone(), file, target: SocketAddr::new(address, ports::ECHO) })
    }
}
