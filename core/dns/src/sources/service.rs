//! Services with an address of their own, and names for what is elsewhere.

use std::net::IpAddr;

use hickory_proto::rr::Name;
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt as _;

use super::{port_name, service_name};
use crate::{Data, Entry};

/// A headless Service says nothing by itself: its slices do.
pub fn service(domain: &Name, object: &Service) -> Vec<Entry> {
    let (Some(spec), Some(namespace)) = (&object.spec, object.namespace()) else { return Vec::new() };
    let Some(name) = service_name(domain, &namespace, &object.name_any()) else { return Vec::new() };
    if spec.type_.as_deref() == Some("ExternalName") {
        let target = spec.external_name.as_deref().and_then(|target| Name::from_ascii(target).ok());
        return target
            .map(|mut target| {
                target.set_fqdn(true);
                Entry::new(&name, Data::Cname(target))
            })
            .into_iter()
            .collect();
    }
    let addresses = addresses(object);
    let mut entries = Vec::new();
    for address in &addresses {
        entries.push(Entry::new(&name, *address));
        entries.push(Entry::new(&Name::from(*address), Data::Ptr(name.clone())));
    }
    if addresses.is_empty() {
        return entries;
    }
    for port in spec.ports.iter().flatten() {
        let Ok(number) = u16::try_from(port.port) else { continue };
        let srv = Data::Srv { port: number, target: name.clone() };
        // Asked for the Service itself, CoreDNS answers with all ports, and clients came to expect it.
        entries.push(Entry::new(&name, srv.clone()));
        if let Some(port) = port_name(&name, port.name.as_deref(), port.protocol.as_deref()) {
            entries.push(Entry::new(&port, srv));
        }
    }
    entries
}

/// Its addresses in the cluster; a headless Service has none.
pub(super) fn addresses(object: &Service) -> Vec<IpAddr> {
    let Some(spec) = &object.spec else { return Vec::new() };
    let all = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in all.filter_map(|address| address.parse().ok()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// Whether its name means its endpoints.
pub(super) fn is_headless(object: &Service) -> bool {
    let Some(spec) = &object.spec else { return false };
    spec.type_.as_deref() != Some("ExternalName") && spec.cluster_ip.as_deref() == Some("None")
}
