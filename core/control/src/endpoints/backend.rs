//! One pod behind a Service.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::pod;

pub(super) struct Backend {
    pub(super) pod: Arc<Pod>,
    pub(super) ip: IpAddr,
    pub(super) ready: bool,
    pub(super) serving: bool,
    pub(super) terminating: bool,
    /// Where the Service's ports are on this pod; those it does not have are missing.
    pub(super) ports: Vec<EndpointPort>,
}

/// Whether a change of a pod can matter to a Service.
pub(super) fn differs(old: &Pod, new: &Pod) -> bool {
    old.metadata.labels != new.metadata.labels
        || old.metadata.uid != new.metadata.uid
        || pod::is_terminating(old) != pod::is_terminating(new)
        || pod::is_terminal(old) != pod::is_terminal(new)
        || pod::is_ready(old) != pod::is_ready(new)
        || pod::node(old) != pod::node(new)
        || ip(old) != ip(new)
}

fn ip(pod: &Pod) -> Option<IpAddr> {
    pod.status.as_ref()?.pod_ip.as_deref()?.parse().ok()
}

// === impl Backend ===

impl Backend {
    /// None while the pod has no address, and once it has ended.
    pub(super) fn of(service: &Service, pod: &Arc<Pod>) -> Option<Self> {
        let ip = ip(pod).filter(|_| !pod::is_terminal(pod))?;
        let spec = service.spec.as_ref()?;
        let terminating = pod::is_terminating(pod);
        let serving = pod::is_ready(pod);
        let publish = spec.publish_not_ready_addresses == Some(true);
        let ports = spec.ports.iter().flatten().filter_map(|port| {
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
            let number = match &port.target_port {
                None => port.port,
                Some(IntOrString::Int(0)) => port.port,
                Some(IntOrString::Int(number)) => *number,
                Some(IntOrString::String(name)) => container_port(pod, name, &protocol)?,
            };
            Some(EndpointPort {
                // Without a name it is the empty one: readers look it up by the Service port's name.
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(number),
                protocol: Some(protocol),
                app_protocol: port.app_protocol.clone(),
            })
        });
        let mut ports: Vec<EndpointPort> = ports.collect();
        ports.sort_by(|a, b| a.name.cmp(&b.name));
        Some(Self {
            ip,
            ready: publish || (serving && !terminating),
            serving: publish || serving,
            terminating,
            ports,
            pod: pod.clone(),
        })
    }

    pub(super) fn target(&self) -> ObjectReference {
        ObjectReference {
            kind: Some("Pod".into()),
            namespace: self.pod.metadata.namespace.clone(),
            name: self.pod.metadata.name.clone(),
            uid: self.pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }
    }

    /// The name of its own that it has behind a headless Service.
    pub(super) fn hostname(&self, service: &Service) -> Option<String> {
        let spec = pod::spec(&self.pod)?;
        let here = spec.subdomain.is_some() && spec.subdomain == service.metadata.name;
        spec.hostname.clone().filter(|_| here)
    }

    pub(super) fn endpoint(&self, service: &Service) -> Endpoint {
        Endpoint {
            addresses: vec![self.ip.to_string()],
            conditions: Some(EndpointConditions {
                ready: Some(self.ready),
                serving: Some(self.serving),
                terminating: Some(self.terminating),
            }),
            hostname: self.hostname(service),
            node_name: pod::node(&self.pod).map(Into::into),
            target_ref: Some(self.target()),
            ..Endpoint::default()
        }
    }
}

fn container_port(pod: &Pod, name: &str, protocol: &str) -> Option<i32> {
    let ports = pod::spec(pod)?.containers.iter().flat_map(|container| container.ports.iter().flatten());
    let same = |port: &&k8s_openapi::api::core::v1::ContainerPort| {
        port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol
    };
    ports.into_iter().find(same).map(|port| port.container_port)
}
