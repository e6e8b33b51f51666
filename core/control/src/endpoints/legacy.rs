//! The Endpoints object of a Service: one object, at most a thousand addresses, kept for those who still read it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service};
use kube::api::ObjectMeta;

use super::backend::Backend;
use crate::cache::Key;
use crate::context::{Context, gone_or_replaced, this_one};
use crate::error::Result;
use crate::queue::Next;
use crate::{meta, pod};

const MOST_ADDRESSES: usize = 1000;
/// Marks what this controller made; what a person made for a Service without selector is theirs.
const OURS: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";

pub(super) async fn step(context: &Context, key: Key) -> Result<Next> {
    let service = context.caches.services.get(&key).filter(|service| service.metadata.deletion_timestamp.is_none());
    let Some(service) = &service else {
        delete(context, &key).await?;
        return Ok(Next::Change);
    };
    let Some(backends) = super::backends(context, service) else { return Ok(Next::Change) };
    let old = context.caches.endpoints.get(&key);
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(OURS.into(), MANAGER.into());
    let base = old.as_ref().map(|old| old.metadata.clone()).unwrap_or_else(|| ObjectMeta {
        name: Some(key.name.to_string()),
        namespace: Some(key.namespace.to_string()),
        ..ObjectMeta::default()
    });
    let metadata =
        ObjectMeta { labels: Some(labels), owner_references: Some(vec![meta::controlled_by(&**service)]), ..base };
    let subsets = subsets(service, &backends);
    let as_read = old.as_ref().is_some_and(|old| old.subsets.is_some());
    let new = Endpoints { metadata, subsets: (as_read || !subsets.is_empty()).then_some(subsets) };
    if old.is_none_or(|old| *old != new) {
        super::write_legacy(context, new).await?;
    }
    Ok(Next::Change)
}

async fn delete(context: &Context, key: &Key) -> Result<()> {
    let Some(old) = context.caches.endpoints.get(key) else { return Ok(()) };
    let ours = old.metadata.labels.as_ref().and_then(|labels| labels.get(OURS)).is_some_and(|by| by == MANAGER);
    if ours {
        let api = context.api::<Endpoints>(&key.namespace);
        gone_or_replaced(api.delete(&key.name, &this_one(&old.metadata.uid)).await)?;
    }
    Ok(())
}

fn subsets(service: &Service, backends: &[Backend]) -> Vec<EndpointSubset> {
    let mut groups = BTreeMap::<
        Vec<(Option<String>, Option<i32>, Option<String>)>,
        (Vec<EndpointPort>, [Vec<EndpointAddress>; 2]),
    >::new();
    let mut shown: Vec<&Backend> = backends.iter().filter(|backend| backend.ready || !backend.terminating).collect();
    shown.sort_by_key(|backend| !backend.ready);
    shown.truncate(MOST_ADDRESSES);
    shown.sort_by_key(|backend| backend.ip);
    for backend in shown {
        let id = backend.ports.iter().map(|port| (port.name.clone(), port.port, port.protocol.clone())).collect();
        let ports = backend.ports.iter().map(|port| EndpointPort {
            name: port.name.clone().filter(|name| !name.is_empty()),
            port: port.port.unwrap_or(0),
            protocol: port.protocol.clone(),
            app_protocol: port.app_protocol.clone(),
        });
        let group = groups.entry(id).or_insert_with(|| (ports.collect(), Default::default()));
        group.1[usize::from(!backend.ready)].push(EndpointAddress {
            ip: backend.ip.to_string(),
            hostname: backend.hostname(service),
            node_name: pod::node(&backend.pod).map(Into::into),
            target_ref: Some(backend.target()),
        });
    }
    let some = |list: Vec<EndpointAddress>| Some(list).filter(|list| !list.is_empty());
    let subset = |(ports, [ready, not_ready]): (Vec<EndpointPort>, [Vec<EndpointAddress>; 2])| EndpointSubset {
        addresses: some(ready),
        not_ready_addresses: some(not_ready),
        ports: Some(ports).filter(|ports| !ports.is_empty()),
    };
    groups.into_values().map(subset).collect()
}
