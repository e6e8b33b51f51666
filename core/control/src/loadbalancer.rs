//! External addresses of Services of type LoadBalancer. An address is in use exactly while a Service holds it in its status.

use std::net::IpAddr;
use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Service;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::cache::Key;
use crate::context::Context;
use crate::error::{Result, unless_gone};
use crate::queue::{Next, Queue};

const NAME: &str = "service-controller";

pub(crate) fn controller(context: &Arc<Context>) -> BoxFuture<'static, ()> {
    let queue = Queue::<Key>::new();
    let (wake, weak) = (queue.clone(), Arc::downgrade(context));
    context.caches.services.on_change(move |old, new| {
        if let Some(service) = new {
            wake.add(Key::of(&service.metadata));
        }
        // An address was given up: somebody may wait for it.
        if let (Some(_), Some(context)) =
            (old.and_then(|old| held(old)).filter(|ip| new.and_then(|new| held(new)) != Some(*ip)), weak.upgrade())
        {
            let waiting =
                context.caches.services.all().into_iter().filter(|service| is_ours(service) && held(service).is_none());
            waiting.for_each(|service| wake.add(Key::of(&service.metadata)));
        }
    });
    let context = context.clone();
    Box::pin(async move {
        context.caches.services.synced().await;
        // One worker: the next step sees what the last one gave.
        queue.run(NAME, 1, |key| step(&context, key)).await;
    })
}

async fn step(context: &Context, key: Key) -> Result<Next> {
    let Some(service) = context.caches.services.get(&key) else { return Ok(Next::Change) };
    let held = held(&service);
    if !is_ours(&service) {
        if held.is_some() && !has_class(&service) {
            write(context, &service, None).await?;
        }
        return Ok(Next::Change);
    }
    let services = context.caches.services.all();
    match choose(context, &service, &services) {
        Ok(ip) if Some(ip) == held => {}
        Ok(ip) => {
            write(context, &service, Some(ip)).await?;
            context.events.normal(NAME, &*service, "EnsuredLoadBalancer", format!("Ensured load balancer at {ip}"));
        }
        Err(problem) => {
            context.events.warning(NAME, &*service, "SyncLoadBalancerFailed", problem);
            if held.is_some() {
                write(context, &service, None).await?;
            }
        }
    }
    Ok(Next::Change)
}

/// The address a Service should hold.
fn choose(context: &Context, service: &Service, services: &[Arc<Service>]) -> std::result::Result<IpAddr, String> {
    let pool = context.config.load_balancer_pool.ok_or("this cluster has no pool of external addresses")?;
    let others = || services.iter().filter(|other| other.metadata.uid != service.metadata.uid);
    let holder = |ip: IpAddr| others().find(|other| held(other) == Some(ip));
    let wanted =
        service.spec.as_ref().and_then(|spec| spec.load_balancer_ip.as_deref()).filter(|text| !text.is_empty());
    if let Some(text) = wanted {
        let ip: IpAddr = text.parse().map_err(|_| format!("spec.loadBalancerIP {text:?} is not an address"))?;
        if !pool.contains(&ip) {
            return Err(format!("spec.loadBalancerIP {ip} is not in the pool {pool}"));
        }
        return match holder(ip) {
            // The one that has it keeps it, unless both do: then the older one.
            Some(other) if held(service) != Some(ip) || age(other) < age(service) => {
                Err(format!("spec.loadBalancerIP {ip} is held by Service {}", Key::of(&other.metadata)))
            }
            _ => Ok(ip),
        };
    }
    if let Some(ip) = held(service)
        && pool.contains(&ip)
        && holder(ip).is_none_or(|other| age(service) < age(other))
    {
        return Ok(ip);
    }
    let asked: Vec<IpAddr> = others()
        .filter(|other| is_ours(other))
        .filter_map(|other| other.spec.as_ref()?.load_balancer_ip.as_deref()?.parse().ok())
        .collect();
    let mut free = pool.hosts().filter(|ip| holder(*ip).is_none() && !asked.contains(ip));
    free.next().ok_or_else(|| format!("no address is free in the pool {pool}"))
}

fn age(service: &Service) -> (Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>, Option<&String>) {
    (service.metadata.creation_timestamp.as_ref(), service.metadata.uid.as_ref())
}

fn is_ours(service: &Service) -> bool {
    let kind = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
    kind == Some("LoadBalancer") && !has_class(service) && service.metadata.deletion_timestamp.is_none()
}

/// Another controller looks after a Service with a class.
fn has_class(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.load_balancer_class.is_some())
}

/// The address a Service holds.
fn held(service: &Service) -> Option<IpAddr> {
    let ingress = service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?;
    ingress.iter().find_map(|ingress| ingress.ip.as_deref()?.parse().ok())
}

async fn write(context: &Context, service: &Service, ip: Option<IpAddr>) -> Result<()> {
    let ingress = ip.map(|ip| json!([{"ip": ip, "ipMode": "VIP"}]));
    let pinned = json!({"uid": service.metadata.uid, "resourceVersion": service.metadata.resource_version});
    let patch = Patch::Merge(json!({"metadata": pinned, "status": {"loadBalancer": {"ingress": ingress}}}));
    let key = Key::of(&service.metadata);
    let api = context.api::<Service>(&key.namespace);
    if let Some(service) = unless_gone(api.patch_status(&key.name, &PatchParams::default(), &patch).await)? {
        context.caches.services.wrote(service);
    }
    Ok(())
}
