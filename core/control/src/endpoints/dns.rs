//! The Service `kube-dns` in `kube-system`: where pods ask for names. Every node answers at its address itself, so it has no endpoints, and
//! the nodes' data plane leaves it alone.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{ObjectMeta, PostParams};
use switchyard_api::names;

use crate::cache::Key;
use crate::context::Context;
use crate::error::{Result, code};

/// The proxy that serves it, as its label says.
const PROXY: &str = "switchyard-dns";

pub(super) fn key() -> Key {
    Key::new(names::SYSTEM_NAMESPACE, names::DNS_SERVICE)
}

/// Makes the Service, if the range has room for it.
pub(super) async fn step(context: &Context) -> Result<()> {
    let Some(address) = names::dns_address(&context.config.facts.service_cidr) else { return Ok(()) };
    if context.caches.services.get(&key()).is_some() {
        return Ok(());
    }
    match context.api(names::SYSTEM_NAMESPACE).create(&PostParams::default(), &service(&address.to_string())).await {
        Ok(service) => context.caches.services.wrote(service),
        Err(error) if code(&error) == Some(409) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn service(address: &str) -> Service {
    let labels = [
        ("k8s-app", names::DNS_SERVICE),
        ("kubernetes.io/cluster-service", "true"),
        (names::SERVICE_PROXY_LABEL, PROXY),
    ];
    let port = |name: &str, protocol: &str| ServicePort {
        name: Some(name.into()),
        port: i32::from(names::DNS_PORT),
        protocol: Some(protocol.into()),
        target_port: Some(IntOrString::Int(i32::from(names::DNS_PORT))),
        ..ServicePort::default()
    };
    let spec = ServiceSpec {
        cluster_ip: Some(address.into()),
        ports: Some(vec![port("dns", "UDP"), port("dns-tcp", "TCP")]),
        session_affinity: Some("None".into()),
        type_: Some("ClusterIP".into()),
        ..ServiceSpec::default()
    };
    let metadata = ObjectMeta {
        name: Some(names::DNS_SERVICE.into()),
        namespace: Some(names::SYSTEM_NAMESPACE.into()),
        labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
        ..ObjectMeta::default()
    };
    Service { metadata, spec: Some(spec), status: None }
}
