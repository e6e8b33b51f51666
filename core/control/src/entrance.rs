//! Says on a Service which of its addresses and ports it does without, as another Service holds them. Nodes find that out for
//! themselves, by the same rule ([`Claims`]); this is for people: a condition, and an event when it begins.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use switchyard_services::{Claims, ServiceId, Taken};

use crate::cache::Key;
use crate::context::Context;
use crate::error::{Result, unless_gone};
use crate::queue::{Next, Queue};

const NAME: &str = "service-controller";
/// The condition's type; its status is True while something is taken.
const CONFLICT: &str = "AddressConflict";
const TAKEN: &str = "HeldByAnotherService";
const FREE: &str = "NoConflict";
/// Entrances that are named; the rest is counted.
const MOST_NAMED: usize = 8;

pub(crate) fn controller(context: &Arc<Context>) -> BoxFuture<'static, ()> {
    let queue = Queue::<Key>::new();
    let claims = Arc::new(Mutex::new(Claims::default()));
    let (wake, known, weak) = (queue.clone(), claims.clone(), Arc::downgrade(context));
    context.caches.services.on_change(move |old, new| {
        let Some(key) = old.or(new).map(|service| Key::of(&service.metadata)) else { return };
        let Some(context) = weak.upgrade() else { return };
        let mut claims = known.lock().unwrap_or_else(PoisonError::into_inner);
        // Calls may overtake each other: what is in the cache decides.
        let touched = claims.update(&id(&key), context.caches.services.get(&key).as_deref());
        touched.iter().for_each(|(namespace, name)| wake.add(Key::new(namespace, name)));
        wake.add(key);
    });
    let context = context.clone();
    Box::pin(async move {
        context.caches.services.synced().await;
        let step = |key: Key| {
            let taken = claims.lock().unwrap_or_else(PoisonError::into_inner).taken(&id(&key));
            step(&context, key, taken)
        };
        queue.run(NAME, 1, step).await;
    })
}

async fn step(context: &Context, key: Key, taken: Taken) -> Result<Next> {
    let Some(service) = context.caches.services.get(&key) else { return Ok(Next::Change) };
    let conditions = service.status.as_ref().and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    let shown = conditions.into_iter().find(|condition| condition.type_ == CONFLICT);
    let Some(wanted) = condition(&service, shown, &taken) else { return Ok(Next::Change) };
    if wanted.status == "True" {
        context.events.warning(NAME, &*service, CONFLICT, wanted.message.clone());
    }
    let patch = json!({"metadata": {"uid": service.metadata.uid}, "status": {"conditions": [wanted]}});
    let api = context.api::<Service>(&key.namespace);
    let written = api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
    if let Some(service) = unless_gone(written)? {
        context.caches.services.wrote(service);
    }
    Ok(Next::Change)
}

/// The condition as it should be, if it is not. A Service that never had a conflict needs none.
fn condition(service: &Service, shown: Option<&Condition>, taken: &Taken) -> Option<Condition> {
    let (status, reason, message) = match taken.is_empty() {
        true => ("False", FREE, String::new()),
        false => ("True", TAKEN, message(taken)),
    };
    if shown.map_or(status == "False", |shown| shown.status == status && shown.message == message) {
        return None;
    }
    let since = shown.filter(|shown| shown.status == status).map(|shown| shown.last_transition_time.0);
    Some(Condition {
        type_: CONFLICT.into(),
        status: status.into(),
        reason: reason.into(),
        message,
        observed_generation: service.metadata.generation,
        last_transition_time: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
            since.unwrap_or_else(Timestamp::now),
        ),
    })
}

fn message(taken: &Taken) -> String {
    let holders: BTreeSet<String> = taken.values().map(|(namespace, name)| format!("{namespace}/{name}")).collect();
    let mut entrances: Vec<String> = taken.keys().take(MOST_NAMED).map(ToString::to_string).collect();
    if taken.len() > MOST_NAMED {
        entrances.push(format!("{} more", taken.len() - MOST_NAMED));
    }
    let holders: Vec<String> = holders.into_iter().take(MOST_NAMED).collect();
    format!("{} held by Service {}, which came first", entrances.join(", "), holders.join(", "))
}

fn id(key: &Key) -> ServiceId {
    (key.namespace.to_string(), key.name.to_string())
}
