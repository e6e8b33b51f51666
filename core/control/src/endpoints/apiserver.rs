//! The Service `kubernetes` in `default`: how pods reach the API server.

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service, ServicePort, ServiceSpec,
};
use k8s_openapi::api::discovery::v1::{self as discovery, Endpoint, EndpointConditions, EndpointSlice};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{ObjectMeta, PostParams};
use switchyard_api::names;

use crate::cache::Key;
use crate::context::{Context, SERVICE_NAME};
use crate::error::{Result, code};

const NAME: &str = "kubernetes";
const NAMESPACE: &str = "default";
const PORT: i32 = 443;
const PORT_NAME: &str = "https";

pub(super) fn key() -> Key {
    Key::new(NAMESPACE, NAME)
}

/// Makes the Service with the first address of the range, its slice and its Endpoints, or brings them up to date.
pub(super) async fn step(context: &Context) -> Result<()> {
    if context.caches.services.get(&key()).is_none() {
        let made = context.api(NAMESPACE).create(&PostParams::default(), &service(context)).await;
        match made {
            Ok(service) => context.caches.services.wrote(service),
            Err(error) if code(&error) == Some(409) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let old = context.caches.endpoint_slices.get(&key());
    let mut wanted = slice(context);
    let same = old.as_ref().is_some_and(|old| old.endpoints == wanted.endpoints && old.ports == wanted.ports);
    if !same {
        let api = context.api::<EndpointSlice>(NAMESPACE);
        let written = match &old {
            Some(old) => {
                wanted.metadata.resource_version.clone_from(&old.metadata.resource_version);
                api.replace(NAME, &PostParams::default(), &wanted).await
            }
            None => api.create(&PostParams::default(), &wanted).await,
        };
        context.caches.endpoint_slices.wrote(written?);
    }
    let old = context.caches.endpoints.get(&key());
    let mut wanted = endpoints(context);
    if old.as_ref().is_none_or(|old| old.subsets != wanted.subsets) {
        wanted.metadata.resource_version = old.and_then(|old| old.metadata.resource_version.clone());
        super::write_legacy(context, wanted).await?;
    }
    Ok(())
}

fn metadata() -> ObjectMeta {
    ObjectMeta { name: Some(NAME.into()), namespace: Some(NAMESPACE.into()), ..ObjectMeta::default() }
}

fn service(context: &Context) -> Service {
    let labels =
        [("component", "apiserver"), ("provider", "kubernetes")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let port = ServicePort {
        name: Some(PORT_NAME.into()),
        port: PORT,
        protocol: Some("TCP".into()),
        target_port: Some(IntOrString::Int(i32::from(names::API_PORT))),
        ..ServicePort::default()
    };
    let spec = ServiceSpec {
        cluster_ip: context.config.facts.service_cidr.hosts().next().map(|ip| ip.to_string()),
        ports: Some(vec![port]),
        session_affinity: Some("None".into()),
        type_: Some("ClusterIP".into()),
        ..ServiceSpec::default()
    };
    Service { metadata: ObjectMeta { labels: Some(labels.into()), ..metadata() }, spec: Some(spec), status: None }
}

fn slice(context: &Context) -> EndpointSlice {
    let address = context.config.api_address;
    let labels = [(SERVICE_NAME.to_owned(), NAME.to_owned())];
    EndpointSlice {
        address_type: if address.is_ipv4() { "IPv4" } else { "IPv6" }.into(),
        endpoints: Some(vec![Endpoint {
            addresses: vec![address.ip().to_string()],
            conditions: Some(EndpointConditions { ready: Some(true), serving: Some(true), terminating: Some(false) }),
            ..Endpoint::default()
        }]),
        ports: Some(vec![discovery::EndpointPort {
            name: Some(PORT_NAME.into()),
            port: Some(i32::from(address.port())),
            protocol: Some("TCP".into()),
            app_protocol: None,
        }]),
        metadata: ObjectMeta { labels: Some(labels.into()), ..metadata() },
    }
}

fn endpoints(context: &Context) -> Endpoints {
    let address = context.config.api_address;
    let subset = EndpointSubset {
        addresses: Some(vec![EndpointAddress { ip: address.ip().to_string(), ..EndpointAddress::default() }]),
        not_ready_addresses: None,
        ports: Some(vec![EndpointPort {
            name: Some(PORT_NAME.into()),
            port: i32::from(address.port()),
            protocol: Some("TCP".into()),
            app_protocol: None,
        }]),
    };
    Endpoints { metadata: metadata(), subsets: Some(vec![subset]) }
}
