//! Which slices a Service should have, with as few writes as possible: an endpoint stays in the slice it is in.

use std::collections::BTreeMap;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use kube::api::ObjectMeta;

use super::backend::Backend;
use crate::context::SERVICE_NAME;
use crate::meta;

/// What is to be done about a Service's slices.
pub(super) struct Plan {
    /// Those without a name are new.
    pub(super) write: Vec<EndpointSlice>,
    pub(super) delete: Vec<Arc<EndpointSlice>>,
}

/// Endpoints of one slice at most.
pub(super) const MOST_ENDPOINTS: usize = 100;
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";

/// The Service a slice belongs to.
pub(super) fn service(slice: &EndpointSlice) -> Option<&str> {
    slice.metadata.labels.as_ref()?.get(SERVICE_NAME).map(String::as_str)
}

pub(super) fn is_ours(slice: &EndpointSlice) -> bool {
    slice.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|by| by == MANAGER)
}

/// The same ports and the same kind of address go together.
type Group = (&'static str, String);

pub(super) fn plan(service: &Service, backends: &[Backend], slices: &[Arc<EndpointSlice>]) -> Plan {
    let mut groups = BTreeMap::<Group, (&[EndpointPort], Vec<Endpoint>)>::new();
    for backend in backends {
        let kind = if backend.ip.is_ipv4() { "IPv4" } else { "IPv6" };
        let group = groups.entry((kind, ports_word(&backend.ports))).or_insert_with(|| (&backend.ports, vec![]));
        group.1.push(backend.endpoint(service));
    }
    let mut plan = Plan { write: vec![], delete: vec![] };
    let labels = labels(service);
    let mut empty: Vec<Arc<EndpointSlice>> = vec![];
    for slice in slices {
        let group = (slice.address_type.as_str(), ports_word(slice.ports.as_deref().unwrap_or(&[])));
        if !groups.keys().any(|(kind, ports)| (*kind, ports) == (group.0, &group.1)) {
            empty.push(slice.clone());
        }
    }
    for ((kind, word), (ports, endpoints)) in groups {
        let here: Vec<_> = slices
            .iter()
            .filter(|slice| slice.address_type == kind && ports_word(slice.ports.as_deref().unwrap_or(&[])) == word)
            .collect();
        let (kept, mut new) = keep(&here, endpoints);
        let mut filled: Vec<(Option<&Arc<EndpointSlice>>, Vec<Endpoint>)> = vec![];
        for (slice, endpoints) in here.iter().zip(kept) {
            filled.push((Some(slice), endpoints));
        }
        // New ones go where a write is due anyway, then where there is room.
        filled.sort_by_key(|(slice, endpoints)| {
            let untouched = slice.is_some_and(|slice| slice.endpoints.as_deref().unwrap_or(&[]) == *endpoints);
            (untouched, std::cmp::Reverse(endpoints.len()))
        });
        for (_, endpoints) in &mut filled {
            let room = MOST_ENDPOINTS.saturating_sub(endpoints.len()).min(new.len());
            endpoints.extend(new.drain(..room));
        }
        while !new.is_empty() {
            filled.push((None, new.drain(..new.len().min(MOST_ENDPOINTS)).collect()));
        }
        for (slice, endpoints) in filled {
            match slice {
                Some(slice) if endpoints.is_empty() => empty.push(slice.clone()),
                _ => {
                    let wanted = make(service, slice.map(AsRef::as_ref), &labels, kind, ports, endpoints);
                    if slice.is_none_or(|slice| **slice != wanted) {
                        plan.write.push(wanted);
                    }
                }
            }
        }
    }
    // A Service always has a slice, so that "none are ready" and "nobody looked yet" differ.
    if plan.write.is_empty() && empty.len() == slices.len() {
        let wanted = |slice| make(service, slice, &labels, "IPv4", &[], vec![]);
        match empty.pop() {
            None => plan.write.push(wanted(None)),
            Some(slice) if slice.address_type == "IPv4" => {
                let wanted = wanted(Some(&*slice));
                if *slice != wanted {
                    plan.write.push(wanted);
                }
            }
            Some(slice) => {
                empty.push(slice);
                plan.write.push(wanted(None));
            }
        }
    }
    plan.delete = empty;
    plan
}

/// What each slice keeps, brought up to date, and what none has.
fn keep(slices: &[&Arc<EndpointSlice>], endpoints: Vec<Endpoint>) -> (Vec<Vec<Endpoint>>, Vec<Endpoint>) {
    let mut wanted: HashMap<String, Endpoint> = HashMap::with_capacity(endpoints.len());
    let mut order = vec![];
    for endpoint in endpoints {
        let id = id(&endpoint);
        order.push(id.clone());
        wanted.insert(id, endpoint);
    }
    let mut seen = HashSet::new();
    let kept = slices.iter().map(|slice| {
        let mut here: Vec<Endpoint> = vec![];
        for endpoint in slice.endpoints.iter().flatten() {
            let id = id(endpoint);
            if seen.insert(id.clone())
                && here.len() < MOST_ENDPOINTS
                && let Some(endpoint) = wanted.remove(&id)
            {
                here.push(endpoint);
            }
        }
        here
    });
    let kept = kept.collect();
    (kept, order.into_iter().filter_map(|id| wanted.remove(&id)).collect())
}

fn id(endpoint: &Endpoint) -> String {
    let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.as_deref()).unwrap_or("");
    format!("{uid} {}", endpoint.addresses.first().map_or("", String::as_str))
}

fn ports_word(ports: &[EndpointPort]) -> String {
    let mut words: Vec<String> =
        ports.iter().map(|p| format!("{:?} {:?} {:?} {:?}", p.name, p.port, p.protocol, p.app_protocol)).collect();
    words.sort();
    words.join(",")
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.retain(|key, _| key != HEADLESS);
    labels.insert(SERVICE_NAME.into(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    if service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None") {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels
}

fn make(
    service: &Service,
    old: Option<&EndpointSlice>,
    labels: &BTreeMap<String, String>,
    kind: &str,
    ports: &[EndpointPort],
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    let owner = meta::controlled_by(service);
    let metadata = match old {
        Some(old) => {
            ObjectMeta { labels: Some(labels.clone()), owner_references: Some(vec![owner]), ..old.metadata.clone() }
        }
        None => ObjectMeta {
            generate_name: service.metadata.name.as_deref().map(|name| format!("{}-", &name[..name.len().min(57)])),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels.clone()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
    };
    let as_read = old.is_some_and(|old| old.endpoints.is_some());
    EndpointSlice {
        address_type: kind.into(),
        endpoints: (as_read || !endpoints.is_empty()).then_some(endpoints),
        ports: if ports.is_empty() {
            old.and_then(|old| old.ports.clone()).filter(Vec::is_empty)
        } else {
            Some(ports.to_vec())
        },
        metadata,
    }
}

#[cfg(test)]
mod tests;
