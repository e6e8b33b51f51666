//! Pods by address: `10-40-1-7.NAMESPACE.pod.DOMAIN`. Only for addresses that a pod of the namespace really has.

use std::net::IpAddr;

use hickory_proto::rr::Name;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

use super::{below, dashed};
use crate::Entry;

/// A pod that has ended has no name any more.
pub fn pod(domain: &Name, object: &Pod) -> Vec<Entry> {
    let Some(status) = &object.status else { return Vec::new() };
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return Vec::new();
    }
    let namespace = object.namespace().unwrap_or_default();
    let all = status.pod_ips.iter().flatten().map(|one| &one.ip).chain(&status.pod_ip);
    let mut addresses: Vec<IpAddr> = all.filter_map(|address| address.parse().ok()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    let entry = |address: IpAddr| Some(Entry::new(&below(domain, ["pod", &namespace, &dashed(address)])?, address));
    addresses.into_iter().filter_map(entry).collect()
}
