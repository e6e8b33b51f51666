//! Endpoints of Services: EndpointSlices, which everything here reads, and the older Endpoints, which `kubectl describe` shows.

mod apiserver;
mod backend;
mod dns;
mod legacy;
mod slice;

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream;
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::PostParams;

use crate::cache::Key;
use crate::context::{Context, POD_NAMESPACE, SERVICE_NAMESPACE, SLICE_SERVICE, gone_or_replaced, this_one};
use crate::error::{Error, Result, code};
use crate::queue::{Next, Queue};
use backend::Backend;

const NAME: &str = "endpointslice-controller";
const WORKERS: usize = 8;
/// A Service's slices are written at once after a quiet time, and then no more often than this.
const PACE: Duration = Duration::from_millis(5);
/// The one Endpoints object of a large Service is as large; nothing of ours waits for it.
const LEGACY_PACE: Duration = Duration::from_millis(250);

pub(crate) fn controller(context: &Arc<Context>) -> BoxFuture<'static, ()> {
    let queue = Queue::<Key>::paced(PACE);
    let caches = &context.caches;
    let wake = queue.clone();
    caches.services.on_change(move |old, new| {
        if let Some(service) = new.or(old) {
            wake.add(Key::of(&service.metadata));
        }
    });
    let wake = queue.clone();
    caches.endpoint_slices.on_change(move |old, new| {
        if let Some((slice, service)) = new.or(old).and_then(|slice| Some((slice, slice::service(slice)?))) {
            wake.add(Key::new(slice.metadata.namespace.as_deref().unwrap_or(""), service));
        }
    });
    let wake = queue.clone();
    caches.endpoints.on_change(move |old, new| {
        if let Some(endpoints) = new.or(old) {
            wake.add(Key::of(&endpoints.metadata));
        }
    });
    let (wake, weak): (_, Weak<Context>) = (queue.clone(), Arc::downgrade(context));
    caches.pods.on_change(move |old, new| {
        let Some(context) = weak.upgrade() else { return };
        if let (Some(old), Some(new)) = (old, new)
            && !backend::differs(old, new)
        {
            return;
        }
        for pod in [old, new].into_iter().flatten() {
            let services =
                context.caches.services.by(SERVICE_NAMESPACE, pod.metadata.namespace.as_deref().unwrap_or(""));
            services
                .iter()
                .filter(|service| selects(service, pod))
                .for_each(|service| wake.add(Key::of(&service.metadata)));
        }
    });
    let context = context.clone();
    Box::pin(async move {
        let caches = &context.caches;
        tokio::join!(
            caches.services.synced(),
            caches.endpoint_slices.synced(),
            caches.endpoints.synced(),
            caches.pods.synced()
        );
        // Slices of Services that went away while nobody looked.
        for slice in caches.endpoint_slices.all() {
            if let Some(service) = slice::service(&slice) {
                queue.add(Key::new(slice.metadata.namespace.as_deref().unwrap_or(""), service));
            }
        }
        queue.add(apiserver::key());
        queue.add(dns::key());
        let legacy = Queue::<Key>::paced(LEGACY_PACE);
        let slices = queue.run(NAME, WORKERS, |key| step(&context, &legacy, key));
        tokio::join!(slices, legacy.clone().run("endpoint-controller", 2, |key| legacy::step(&context, key)));
    })
}

async fn step(context: &Context, legacy: &Queue<Key>, key: Key) -> Result<Next> {
    if key == apiserver::key() {
        apiserver::step(context).await?;
        return Ok(Next::Change);
    }
    if key == dns::key() {
        dns::step(context).await?;
        return Ok(Next::Change);
    }
    let service = context.caches.services.get(&key).filter(|service| service.metadata.deletion_timestamp.is_none());
    let slices = ours(context, &key);
    let Some(service) = service else {
        for slice in slices {
            delete(context, &slice).await?;
        }
        legacy.add(key);
        return Ok(Next::Change);
    };
    // Without a selector, and for another name, somebody else says what the endpoints are.
    let Some(backends) = backends(context, &service) else { return Ok(Next::Change) };
    let plan = slice::plan(&service, &backends, &slices);
    let (changed, surplus) = (plan.write.len(), plan.delete.len());
    let writes =
        stream::iter(plan.write).map(|slice| write(context, slice)).buffer_unordered(WORKERS).collect::<Vec<_>>();
    for result in writes.await {
        result?;
    }
    for slice in plan.delete {
        delete(context, &slice).await?;
    }
    if changed + surplus > 0 {
        tracing::debug!(service = %key, endpoints = backends.len(), changed, surplus, "slices");
    }
    legacy.add(key);
    Ok(Next::Change)
}

/// What the Service leads to; none if it has no selector.
fn backends(context: &Context, service: &Service) -> Option<Vec<Backend>> {
    let spec = service.spec.as_ref()?;
    spec.selector.as_ref().filter(|selector| !selector.is_empty())?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let pods = context.caches.pods.by(POD_NAMESPACE, service.metadata.namespace.as_deref()?);
    let mut backends: Vec<_> =
        pods.iter().filter(|pod| selects(service, pod)).filter_map(|pod| Backend::of(service, pod)).collect();
    backends.sort_by(|a, b| a.pod.metadata.name.cmp(&b.pod.metadata.name));
    Some(backends)
}

fn selects(service: &Service, pod: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let labels = pod.metadata.labels.as_ref();
    selector.is_some_and(|selector| {
        !selector.is_empty()
            && selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)).is_some_and(|v| v == value))
    })
}

/// The slices of a Service that this controller made.
fn ours(context: &Context, key: &Key) -> Vec<Arc<EndpointSlice>> {
    let mut slices = context.caches.endpoint_slices.by(SLICE_SERVICE, &key.to_string());
    slices.retain(|slice| slice::is_ours(slice) && slice.metadata.deletion_timestamp.is_none());
    slices.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    slices
}

async fn write(context: &Context, slice: EndpointSlice) -> Result<()> {
    let api = context.api::<EndpointSlice>(slice.metadata.namespace.as_deref().unwrap_or(""));
    let params = PostParams::default();
    let written = match &slice.metadata.name {
        Some(name) => api.replace(name, &params, &slice).await,
        None => api.create(&params, &slice).await,
    };
    context.caches.endpoint_slices.wrote(written?);
    Ok(())
}

async fn delete(context: &Context, slice: &EndpointSlice) -> Result<()> {
    let key = Key::of(&slice.metadata);
    let api = context.api::<EndpointSlice>(&key.namespace);
    if gone_or_replaced(api.delete(&key.name, &this_one(&slice.metadata.uid)).await)? {
        context.caches.endpoint_slices.deleted(slice);
    }
    Ok(())
}

/// Creates or replaces the Endpoints object of a Service.
async fn write_legacy(context: &Context, endpoints: Endpoints) -> Result<()> {
    let key = Key::of(&endpoints.metadata);
    let api = context.api::<Endpoints>(&key.namespace);
    let params = PostParams::default();
    let written = match &endpoints.metadata.resource_version {
        Some(_) => api.replace(&key.name, &params, &endpoints).await,
        None => api.create(&params, &endpoints).await,
    };
    match written {
        Ok(endpoints) => context.caches.endpoints.wrote(endpoints),
        Err(error) if code(&error) == Some(404) => return Err(Error::Missing(key)),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
