//! Where the collector's graph comes from: the caches that are there anyway, and for every other kind a watch of metadata alone.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use foldhash::HashSet;
use futures::StreamExt;
use kube::api::DynamicObject;
use kube::core::{ApiResource, PartialObjectMeta};
use kube::discovery::{Discovery, Scope, verbs};
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::Collector;
use crate::cache::Cache;
use crate::error::{Result, code};

/// The kinds there are, by apiVersion and kind.
#[derive(Default)]
pub(super) struct Kinds(Mutex<HashMap<(String, String), Known>>);

type Known = (Arc<ApiResource>, Scope);

/// Kinds whose objects are not all known yet. Until they are, nobody can say that an object has no dependents.
#[derive(Default)]
pub(super) struct Lists(Mutex<Unknown>);

#[derive(Default)]
pub(super) struct Unknown {
    discovered: bool,
    kinds: usize,
    postponed: Vec<String>,
}

/// Never owned, or without end.
const LEFT_OUT: [&str; 1] = ["Event"];
const DEFINITION: &str = "CustomResourceDefinition";

// === impl Kinds ===

impl Kinds {
    pub(super) fn get(&self, api_version: &str, kind: &str) -> Option<(Arc<ApiResource>, Scope)> {
        let kinds = self.0.lock().expect("no panic while locked");
        kinds.get(&(api_version.into(), kind.into())).cloned()
    }

    async fn discover(&self, client: &Client) -> Result<Vec<Arc<ApiResource>>> {
        let discovery = Discovery::new(client.clone()).run().await?;
        let mut kinds = HashMap::new();
        let mut watched = vec![];
        for (resource, capabilities) in discovery.groups().flat_map(|group| group.recommended_resources()) {
            let resource = Arc::new(resource);
            let can = |verb| capabilities.supports_operation(verb);
            if can(verbs::LIST)
                && can(verbs::WATCH)
                && can(verbs::DELETE)
                && !LEFT_OUT.contains(&resource.kind.as_str())
            {
                watched.push(resource.clone());
            }
            kinds.insert((resource.api_version.clone(), resource.kind.clone()), (resource, capabilities.scope));
        }
        *self.0.lock().expect("no panic while locked") = kinds;
        Ok(watched)
    }
}

// === impl Lists ===

impl Lists {
    /// Whether an owner has to wait; it is among those that [`Self::learn`] gives back.
    pub(super) fn postpone(&self, uid: &str) -> bool {
        let mut unknown = self.0.lock().expect("no panic while locked");
        let waits = !unknown.discovered || unknown.kinds > 0;
        if waits {
            unknown.postponed.push(uid.into());
        }
        waits
    }

    /// Notes what is known now; says who need not wait any longer.
    pub(super) fn learn(&self, note: impl FnOnce(&mut Unknown)) -> Vec<String> {
        let mut unknown = self.0.lock().expect("no panic while locked");
        note(&mut unknown);
        if unknown.discovered && unknown.kinds == 0 { std::mem::take(&mut unknown.postponed) } else { vec![] }
    }
}

/// Feeds the graph from a cache.
pub(super) fn follow<K>(collector: &Arc<Collector>, cache: &Cache<K>)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let resource = Arc::new(ApiResource::erase::<K>(&()));
    let (collector, known) = (collector.clone(), cache.clone());
    cache.on_change(move |old, new| {
        let metas = [old, new].map(|object| object.map(|object| object.meta()));
        collector.followed(&resource, metas, |key| known.get(key));
    });
}

/// Watches the kinds that no cache covers, also those that are defined later.
pub(super) async fn watch(collector: Arc<Collector>, covered: Vec<String>) {
    let redefined = Arc::new(Notify::new());
    let mut watches = JoinSet::new();
    let mut watched: HashSet<String> = covered.into_iter().collect();
    let mut back_off = std::time::Duration::from_millis(100);
    loop {
        match collector.kinds.discover(&collector.context.client).await {
            Ok(kinds) => {
                for resource in kinds {
                    if watched.insert(format!("{} {}", resource.api_version, resource.kind)) {
                        collector.learn(|unknown| unknown.kinds += 1);
                        watches.spawn(watch_kind(collector.clone(), resource, redefined.clone()));
                    }
                }
                collector.learn(|unknown| unknown.discovered = true);
                redefined.notified().await;
            }
            Err(error) => {
                tracing::debug!(%error, "discovery");
                tokio::time::sleep(back_off).await;
                back_off = (back_off * 2).min(std::time::Duration::from_secs(10));
            }
        }
    }
}

async fn watch_kind(collector: Arc<Collector>, resource: Arc<ApiResource>, redefined: Arc<Notify>) {
    let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(collector.context.client.clone(), resource.as_ref());
    let mut events = switchyard_watch::watch(api, watcher::Config::default()).boxed();
    let mut known = HashSet::<String>::default();
    let mut listed = HashSet::<String>::default();
    let mut first = true;
    while let Some(event) = events.next().await {
        // A kind that is gone again has no objects.
        let all = matches!(&event, Ok(watcher::Event::InitDone)) || event.as_ref().is_err_and(is_gone);
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => {
                let uid = object.metadata.uid.clone().unwrap_or_default();
                listed.insert(uid.clone());
                known.insert(uid);
                collector.changed(&resource, &object.metadata);
                if resource.kind == DEFINITION {
                    redefined.notify_one();
                }
            }
            Ok(watcher::Event::InitDone) => {
                for gone in known.difference(&listed) {
                    collector.removed(gone);
                }
                known.retain(|uid| listed.contains(uid));
                listed.clear();
            }
            Ok(watcher::Event::Delete(object)) => {
                let uid = object.metadata.uid.unwrap_or_default();
                known.remove(&uid);
                collector.removed(&uid);
            }
            Err(error) => tracing::debug!(kind = resource.kind, %error, "watch"),
        }
        if all && std::mem::take(&mut first) {
            collector.learn(|unknown| unknown.kinds -= 1);
        }
    }
}

fn is_gone(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
    matches!(error, InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error) if code(error) == Some(404))
}
