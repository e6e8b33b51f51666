//! Endpoints of headless Services.

use std::net::IpAddr;

use hickory_proto::rr::Name;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt as _;

use super::service::is_headless;
use super::{below, dashed, port_name, service_name};
use crate::{Data, Entry};

/// What the endpoints of one slice mean, if its Service is headless: those that are ready, or all if the Service says so.
pub fn slice(domain: &Name, of: &Service, object: &EndpointSlice) -> Vec<Entry> {
    if !is_headless(of) || object.address_type == "FQDN" {
        return Vec::new();
    }
    let namespace = of.namespace().unwrap_or_default();
    let Some(name) = service_name(domain, &namespace, &of.name_any()) else { return Vec::new() };
    let all = of.spec.as_ref().is_some_and(|spec| spec.publish_not_ready_addresses == Some(true));
    let mut entries = Vec::new();
    for endpoint in object.endpoints.iter().flatten() {
        let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
        if !(ready || all) {
            continue;
        }
        for address in endpoint.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok()) {
            let hostname = endpoint.hostname.clone().filter(|name| !name.is_empty());
            let Some(host) = below(&name, [hostname.unwrap_or_else(|| dashed(address)).as_str()]) else { continue };
            entries.push(Entry::new(&name, address));
            entries.push(Entry::new(&host, address));
            entries.push(Entry::new(&Name::from(address), Data::Ptr(host.clone())));
            for port in object.ports.iter().flatten() {
                let Some(number) = port.port.and_then(|port| u16::try_from(port).ok()) else { continue };
                let srv = Data::Srv { port: number, target: host.clone() };
                entries.push(Entry::new(&name, srv.clone()));
                if let Some(port) = port_name(&name, port.name.as_deref(), port.protocol.as_deref()) {
                    entries.push(Entry::new(&port, srv));
                }
            }
        }
    }
    entries
}
