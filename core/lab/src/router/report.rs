//! What the router says of itself: annotations on the Network, as it has no object of its own.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use switchyard_api::{Network, NodeNetworkStatus, names};
use tokio::sync::watch;
use tracing::debug;

/// A handle on the task that writes; it ends with the handle.
pub(super) struct Report {
    said: watch::Sender<Said>,
}

/// What is to be read on the Network.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Said {
    pub(super) status: NodeNetworkStatus,
    /// What a swap would change here; there during a dry run.
    pub(super) plan: Option<Vec<String>>,
}

/// Pause before what failed is tried again.
const PAUSE: Duration = Duration::from_millis(200);

// === impl Report ===

impl Report {
    pub(super) fn start(client: Client) -> Self {
        let (said, seen) = watch::channel(Said::default());
        tokio::spawn(write(client, seen));
        Self { said }
    }

    /// Has this written, unless it was before.
    pub(super) fn say(&self, said: Said) {
        self.said.send_if_modified(|known| {
            let changed = *known != said;
            *known = said;
            changed
        });
    }

    /// Writes again what somebody has removed.
    pub(super) fn seen(&self, network: Option<&Network>) {
        let annotations = network.and_then(|network| network.metadata.annotations.as_ref());
        let is_there = annotations.is_some_and(|all| all.contains_key(names::ROUTER_NETWORK));
        if network.is_some() && !is_there && *self.said.borrow() != Said::default() {
            self.said.send_modify(|_| {});
        }
    }
}

async fn write(client: Client, mut said: watch::Receiver<Said>) {
    let networks: Api<Network> = Api::all(client);
    while said.changed().await.is_ok() {
        loop {
            let now = said.borrow_and_update().clone();
            let plan = now.plan.as_ref().and_then(|plan| serde_json::to_string(plan).ok());
            let status = serde_json::to_string(&now.status).ok();
            let annotations = json!({names::ROUTER_NETWORK: status, names::SWAP_PLAN: plan});
            let patch = json!({"metadata": {"annotations": annotations}});
            match networks.patch(names::NETWORK, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => break,
                Err(error) => debug!(%error, "cannot write the router's report; trying again"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
