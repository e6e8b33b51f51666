//! The node's heartbeat: a Lease that is renewed while the agent lives.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use switchyard_api::names::LEASE_NAMESPACE;
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

/// Heartbeats in the time after which the node is taken for dead: some may be late, or lost.
const BEATS: u32 = 4;

/// Renews the lease until dropped. The control plane waits `duration_seconds` before it takes the node for dead.
pub(crate) async fn renew(client: Client, node: String, duration_seconds: u32) {
    let leases: Api<Lease> = Api::namespaced(client, LEASE_NAMESPACE);
    let mut beat = interval(Duration::from_secs(duration_seconds.max(1).into()) / BEATS);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        if let Err(error) = renew_once(&leases, &node, duration_seconds).await {
            warn!(%error, "renewing the lease failed");
        }
    }
}

async fn renew_once(leases: &Api<Lease>, node: &str, duration_seconds: u32) -> kube::Result<()> {
    let spec = json!({
        "holderIdentity": node,
        "leaseDurationSeconds": duration_seconds,
        "renewTime": format!("{:.6}", Timestamp::now()),
    });
    let patch = Patch::Merge(json!({ "spec": spec }));
    match leases.patch(node, &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        other => return other.map(drop),
    }
    let lease =
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": node}, "spec": spec});
    let lease: Lease = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
    debug_assert_eq!(lease.name_any(), node);
    leases.create(&PostParams::default(), &lease).await.map(drop)
}
