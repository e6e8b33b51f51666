//! Which records an object means, as values: the Kubernetes DNS specification 1.1.0 inside, and the zones outside.

mod external;
mod pod;
mod service;
mod slice;

use std::net::IpAddr;

use hickory_proto::rr::Name;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use kube::ResourceExt as _;

pub use pod::pod;
pub use service::service;
pub use slice::slice;

use crate::{Entry, Index, Unit, Zone, reverse_zones};

/// The domain and zones that records are made for.
#[derive(Clone, Debug)]
pub struct Naming {
    /// The cluster's domain, `cluster.local.`
    pub domain: Name,
    /// Zones outside, `esxcloud.net.`
    pub zones: Vec<Name>,
}

/// Annotation on a LoadBalancer Service: further names for it, separated by commas. External-dns's.
pub const HOSTNAME: &str = "external-dns.alpha.kubernetes.io/hostname";
/// Label that ties an EndpointSlice to its Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

// === impl Naming ===

impl Naming {
    /// Names as they are written in files. Those that DNS cannot have are left out; whoever reads the files has checked them.
    pub fn new(domain: &str, zones: &[String]) -> Self {
        let name = |text: &str| {
            let mut name = Name::from_ascii(text).ok()?.to_lowercase();
            name.set_fqdn(true);
            Some(name)
        };
        Self { domain: name(domain).unwrap_or_default(), zones: zones.iter().filter_map(|zone| name(zone)).collect() }
    }

    /// What the cluster's domain has before anybody says anything.
    pub fn entries(&self) -> Vec<Entry> {
        crate::index::cluster_entries(&self.domain)
    }

    /// An index for the domain, the zones, and the names of some prefixes' addresses. The zones' name server is at an address, if one
    /// is known; the domain's is the Service `kube-dns`.
    pub fn index(&self, prefixes: &[IpNet], name_server: Option<IpAddr>) -> Index {
        let inside = service_name(&self.domain, "kube-system", "kube-dns").unwrap_or_else(|| self.domain.clone());
        let mut zones = vec![Zone::new(self.domain.clone(), inside.clone())];
        zones.extend(prefixes.iter().flat_map(reverse_zones).map(|apex| Zone::new(apex, inside.clone())));
        let mut hosts = Vec::new();
        for apex in &self.zones {
            let host = below(apex, ["ns"]).unwrap_or_else(|| apex.clone());
            hosts.extend(name_server.map(|address| Entry::new(&host, address)));
            zones.push(Zone::new(apex.clone(), host));
        }
        let mut index = Index::new(zones);
        index.set(Unit::new("NameServer", "", ""), hosts);
        index
    }

    /// All that a Service means: inside and outside.
    pub fn service(&self, object: &Service) -> Vec<Entry> {
        let mut entries = service(&self.domain, object);
        entries.extend(external::service(&self.zones, object));
        entries
    }

    /// What an EndpointSlice of a Service means.
    pub fn slice(&self, of: &Service, object: &EndpointSlice) -> Vec<Entry> {
        slice(&self.domain, of, object)
    }

    /// What a Pod means.
    pub fn pod(&self, object: &Pod) -> Vec<Entry> {
        pod(&self.domain, object)
    }

    /// What an Ingress means.
    pub fn ingress(&self, object: &Ingress) -> Vec<Entry> {
        external::ingress(&self.zones, object)
    }
}

/// The unit of an object.
pub fn unit(kind: &'static str, object: &impl kube::Resource) -> Unit {
    Unit::new(kind, object.namespace().unwrap_or_default(), object.name_any())
}

/// `LABEL.…PARENT`; a name that DNS cannot have is none.
fn below<'a>(parent: &Name, labels: impl IntoIterator<Item = &'a str>) -> Option<Name> {
    labels.into_iter().try_fold(parent.clone(), |parent, label| parent.prepend_label(label).ok())
}

/// `NAME.NAMESPACE.svc.DOMAIN`.
fn service_name(domain: &Name, namespace: &str, name: &str) -> Option<Name> {
    below(domain, ["svc", namespace, name])
}

/// An address as a label: `10-40-1-7`, `fd00--7`.
fn dashed(address: IpAddr) -> String {
    let label = address.to_string().replace(['.', ':'], "-");
    // A label neither begins nor ends with a dash.
    match (label.starts_with('-'), label.ends_with('-')) {
        (false, false) => label,
        (begin, end) => format!("{}{label}{}", if begin { "0" } else { "" }, if end { "0" } else { "" }),
    }
}

/// `_PORT._PROTOCOL.PARENT`, for ports with a name.
fn port_name(parent: &Name, name: Option<&str>, protocol: Option<&str>) -> Option<Name> {
    let name = name.filter(|name| !name.is_empty())?;
    let protocol = format!("_{}", protocol.unwrap_or("TCP").to_ascii_lowercase());
    below(parent, [protocol.as_str(), &format!("_{}", name.to_ascii_lowercase())])
}
