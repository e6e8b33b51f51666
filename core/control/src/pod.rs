//! What controllers ask about a pod.

use k8s_openapi::api::core::v1::{Pod, PodCondition, PodSpec};
use std::time::Duration;

use crate::meta;

pub(crate) fn spec(pod: &Pod) -> Option<&PodSpec> {
    pod.spec.as_ref()
}

pub(crate) fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("")
}

/// Its containers have ended and will not be started again.
pub(crate) fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

pub(crate) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Counts towards what its owner wants.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !is_terminating(pod)
}

pub(crate) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// How long until it has been ready for `min_ready`; none if it is not ready.
pub(crate) fn available_in(pod: &Pod, min_ready: Duration) -> Option<Duration> {
    let ready = condition(pod, "Ready").filter(|ready| ready.status == "True")?;
    if min_ready.is_zero() {
        return Some(Duration::ZERO);
    }
    Some(min_ready.saturating_sub(meta::age(ready.last_transition_time.as_ref()?)))
}

pub(crate) fn is_host_network(pod: &Pod) -> bool {
    spec(pod).and_then(|spec| spec.host_network) == Some(true)
}
