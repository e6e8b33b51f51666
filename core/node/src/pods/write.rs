//! Writing a pod's status: one request at a time, the newest status when the last request is through, nothing if nothing changed.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use switchyard_api::names::POD_IP;
use tokio::time::Instant;

const FIRST_RETRY: Duration = Duration::from_millis(200);
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// What was written of one pod's status, and what is under way.
#[derive(Debug, Default)]
pub(crate) struct Written {
    last: Option<Box<str>>,
    under_way: Option<Box<str>>,
    retry: Duration,
    /// When a write that failed is tried again.
    pub(crate) retry_at: Option<Instant>,
}

// === impl Written ===

impl Written {
    /// The status to write now, if there is something to write.
    pub(crate) fn next(&mut self, status: Value, now: Instant) -> Option<Value> {
        let held_back = self.retry_at.is_some_and(|at| at > now);
        if self.under_way.is_some() || held_back {
            return None;
        }
        let text = text(&status);
        if self.last.as_ref() == Some(&text) {
            return None;
        }
        self.under_way = Some(text);
        self.retry_at = None;
        Some(status)
    }

    /// The request is through.
    pub(crate) fn done(&mut self, ok: bool, now: Instant) {
        let status = self.under_way.take();
        if ok {
            (self.last, self.retry) = (status, Duration::ZERO);
        } else {
            self.retry_soon(now);
        }
    }

    /// Comes back soon although nothing changed.
    pub(crate) fn retry_soon(&mut self, now: Instant) {
        self.retry = if self.retry.is_zero() { FIRST_RETRY } else { (self.retry * 2).min(LONGEST_RETRY) };
        self.retry_at = Some(now + self.retry);
    }

    /// Somebody else wrote: what was written last does not hold any more.
    pub(crate) fn forget(&mut self) {
        self.last = None;
    }

    /// Whether this status is the one in the API, as far as we know.
    pub(crate) fn is_current(&self, status: &Value) -> bool {
        self.under_way.is_none() && self.last.as_ref() == Some(&text(status))
    }
}

/// A tenth of what the value holds of memory, for as long as the pod lives.
fn text(status: &Value) -> Box<str> {
    status.to_string().into()
}

/// Writes the status of this very pod, not of one that was made since under its name. With its end goes its address, in one write.
pub(crate) async fn status(client: &Client, pod: &Pod, status: Value) -> kube::Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let mut metadata = json!({"uid": pod.uid()});
    if matches!(status["phase"].as_str(), Some("Succeeded" | "Failed")) {
        metadata["annotations"] = json!({POD_IP: null});
    }
    let patch = Patch::Merge(json!({"metadata": metadata, "status": status}));
    gone_is_good(pods.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await.map(drop))
}

/// Takes the object away, now that nothing runs any more.
pub(crate) async fn delete(client: &Client, pod: &Pod) -> kube::Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }),
        ..DeleteParams::default()
    };
    gone_is_good(pods.delete(&pod.name_any(), &params).await.map(drop))
}

/// Not found, or another object under the name: there is nothing left to write to.
fn gone_is_good(result: kube::Result<()>) -> kube::Result<()> {
    match result {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_changes_is_two_writes() {
        let (mut written, now) = (Written::default(), Instant::now());
        assert_eq!(written.next(json!(1), now), Some(json!(1)));
        assert_eq!(written.next(json!(2), now), None);
        assert_eq!(written.next(json!(3), now), None);
        written.done(true, now);
        assert_eq!(written.next(json!(3), now), Some(json!(3)));
        written.done(true, now);
        assert_eq!(written.next(json!(3), now), None);
        assert!(written.is_current(&json!(3)));
    }

    #[test]
    fn a_failed_write_is_tried_again_later() {
        let (mut written, now) = (Written::default(), Instant::now());
        written.next(json!(1), now);
        written.done(false, now);
        assert_eq!(written.next(json!(1), now), None);
        assert_eq!(written.next(json!(1), written.retry_at.unwrap()), Some(json!(1)));
    }
}
