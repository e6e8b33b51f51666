//! Who this server is: the pod's downward API, or what the namespace says.

use std::cell::Cell;

/// Names and address of the pod; readiness can be turned from outside, and once it is asked to end it is leaving.
pub(crate) struct Identity {
    pub(crate) pod: String,
    pub(crate) namespace: String,
    pub(crate) node: String,
    pub(crate) address: String,
    pub(crate) container: String,
    pub(crate) ready: Cell<bool>,
    pub(crate) leaving: Cell<bool>,
}

impl Identity {
    /// From POD_NAME, POD_NAMESPACE, NODE_NAME, POD_IP and CONTAINER_NAME; the pod's name defaults to the host name.
    pub(crate) fn from_env() -> Self {
        let var = |name: &str| std::env::var(name).unwrap_or_default();
        let mut pod = var("POD_NAME");
        if pod.is_empty() {
            pod = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        }
        Self {
            pod,
            namespace: var("POD_NAMESPACE"),
            node: var("NODE_NAME"),
            address: var("POD_IP"),
            container: var("CONTAINER_NAME"),
            ready: Cell::new(true),
            leaving: Cell::new(false),
        }
    }
}
