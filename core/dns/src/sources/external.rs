//! Names outside: hosts of Ingresses, and Services of type LoadBalancer, in the zones the cluster has.

use std::net::IpAddr;

use hickory_proto::rr::Name;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::Ingress;
use kube::ResourceExt as _;

use super::{HOSTNAME, below};
use crate::{Data, Entry};

/// Where something is reached from outside.
#[derive(Clone)]
enum Target {
    Address(IpAddr),
    Host(Name),
}

/// Each host of a rule leads to where the ingress controller says it serves the Ingress.
pub(super) fn ingress(zones: &[Name], object: &Ingress) -> Vec<Entry> {
    let published = object.status.iter().flat_map(|status| status.load_balancer.iter());
    let published = published.flat_map(|balancer| balancer.ingress.iter().flatten());
    let targets: Vec<_> = published.filter_map(|one| target(one.ip.as_deref(), one.hostname.as_deref())).collect();
    let rules = object.spec.iter().flat_map(|spec| spec.rules.iter().flatten());
    let hosts = rules.filter_map(|rule| rule.host.as_deref()).filter_map(|host| within(zones, host));
    entries(hosts, &targets)
}

/// `SERVICE.NAMESPACE.ZONE` in each zone, and the names it asks for.
pub(super) fn service(zones: &[Name], object: &Service) -> Vec<Entry> {
    if object.spec.as_ref().and_then(|spec| spec.type_.as_deref()) != Some("LoadBalancer") {
        return Vec::new();
    }
    let given = object.status.iter().flat_map(|status| status.load_balancer.iter());
    let given = given.flat_map(|balancer| balancer.ingress.iter().flatten());
    let targets: Vec<_> = given.filter_map(|one| target(one.ip.as_deref(), one.hostname.as_deref())).collect();
    let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
    let standard = zones.iter().filter_map(|zone| below(zone, [namespace.as_str(), &name]));
    let asked = object.annotations().get(HOSTNAME).map(String::as_str).unwrap_or_default();
    let asked = asked.split(',').filter_map(|host| within(zones, host.trim()));
    entries(standard.chain(asked), &targets)
}

fn entries(hosts: impl Iterator<Item = Name>, targets: &[Target]) -> Vec<Entry> {
    // An alias stands alone, so it counts only where there is no address.
    let addresses: Vec<_> = targets.iter().filter(|target| matches!(target, Target::Address(_))).cloned().collect();
    let targets = if addresses.is_empty() { &targets[..targets.len().min(1)] } else { &addresses };
    let entry = |host: &Name, target: &Target| match target {
        Target::Address(address) => Entry::new(host, *address),
        Target::Host(name) => Entry::new(host, Data::Cname(name.clone())),
    };
    hosts.flat_map(|host| targets.iter().map(|target| entry(&host, target)).collect::<Vec<_>>()).collect()
}

fn target(address: Option<&str>, host: Option<&str>) -> Option<Target> {
    let host = || {
        let mut name = Name::from_ascii(host?).ok()?;
        name.set_fqdn(true);
        Some(Target::Host(name))
    };
    address.and_then(|address| address.parse().ok()).map(Target::Address).or_else(host)
}

/// A name, if it is in one of the zones; the apex belongs to its zone.
fn within(zones: &[Name], host: &str) -> Option<Name> {
    // From labels as bytes: text with a `*` inside a label is no name to hickory.
    let name = Name::from_labels(host.trim_end_matches('.').split('.').map(str::as_bytes)).ok()?;
    zones.iter().any(|zone| zone.zone_of(&name)).then_some(name)
}
