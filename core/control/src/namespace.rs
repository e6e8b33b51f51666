//! Namespaces: the standard ones, what every one contains, and their end.

mod content;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kube::api::{DeleteParams, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::discovery::{Discovery, Scope, verbs};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::cache::Key;
use crate::context::{Context, ROOT_CA};
use crate::error::{Result, code, unless_gone};
use crate::queue::{Next, Queue};
use content::Content;

const NAME: &str = "namespace-controller";
const WORKERS: usize = 4;
const STANDARD: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];
const FINALIZER: &str = "kubernetes";
const ACCOUNT: &str = "default";
/// Objects of kinds that nobody here watches may have finalizers; they are looked for again after this long.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

pub(crate) fn controller(context: &Arc<Context>) -> BoxFuture<'static, ()> {
    let queue = Queue::<Key>::paced(Duration::from_millis(5));
    let caches = &context.caches;
    let wake = queue.clone();
    caches.namespaces.on_change(move |_, new| {
        if let Some(namespace) = new {
            wake.add(Key::of(&namespace.metadata));
        }
    });
    let wake = queue.clone();
    caches.service_accounts.on_change(move |old, new| {
        if let (Some(old), None) = (old, new) {
            wake.add(Key::cluster(old.metadata.namespace.as_deref().unwrap_or("")));
        }
    });
    let wake = queue.clone();
    caches.root_cas.on_change(move |old, new| {
        if let Some(map) = new.or(old) {
            wake.add(Key::cluster(map.metadata.namespace.as_deref().unwrap_or("")));
        }
    });
    let (wake, weak) = (queue.clone(), Arc::downgrade(context));
    caches.pods.on_change(move |old, new| {
        let (Some(old), None, Some(context)) = (old, new, weak.upgrade()) else { return };
        let key = Key::cluster(old.metadata.namespace.as_deref().unwrap_or(""));
        if context.caches.namespaces.get(&key).is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some())
        {
            wake.add(key);
        }
    });
    let context = context.clone();
    Box::pin(async move {
        let caches = &context.caches;
        tokio::join!(caches.namespaces.synced(), caches.service_accounts.synced(), caches.root_cas.synced());
        STANDARD.iter().for_each(|name| queue.add(Key::cluster(name)));
        queue.run(NAME, WORKERS, |key| step(&context, key)).await;
    })
}

async fn step(context: &Context, key: Key) -> Result<Next> {
    let Some(namespace) = context.caches.namespaces.get(&key) else {
        if STANDARD.contains(&&*key.name) {
            create(context, &key).await?;
        }
        return Ok(Next::Change);
    };
    if namespace.metadata.deletion_timestamp.is_some() {
        return end(context, &namespace).await;
    }
    furnish(context, &key).await?;
    Ok(Next::Change)
}

async fn create(context: &Context, key: &Key) -> Result<()> {
    let metadata = ObjectMeta { name: Some(key.name.to_string()), ..ObjectMeta::default() };
    let namespace = Namespace { metadata, ..Namespace::default() };
    match context.cluster_api::<Namespace>().create(&PostParams::default(), &namespace).await {
        Ok(namespace) => context.caches.namespaces.wrote(namespace),
        Err(error) if code(&error) == Some(409) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Puts in the service account and the certificate authority that pods expect.
async fn furnish(context: &Context, key: &Key) -> Result<()> {
    let in_here = |name: &str| ObjectMeta {
        name: Some(name.into()),
        namespace: Some(key.name.to_string()),
        ..ObjectMeta::default()
    };
    if context.caches.service_accounts.get(&Key::new(&key.name, ACCOUNT)).is_none() {
        let account = ServiceAccount { metadata: in_here(ACCOUNT), ..ServiceAccount::default() };
        match context.api::<ServiceAccount>(&key.name).create(&PostParams::default(), &account).await {
            Ok(account) => context.caches.service_accounts.wrote(account),
            Err(error) if code(&error) == Some(409) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let data: BTreeMap<String, String> = [("ca.crt".to_owned(), context.config.ca_pem.clone())].into();
    let api = context.api::<ConfigMap>(&key.name);
    let written = match context.caches.root_cas.get(&Key::new(&key.name, ROOT_CA)) {
        Some(old) if old.data.as_ref() == Some(&data) => return Ok(()),
        Some(_) => api.patch(ROOT_CA, &PatchParams::default(), &Patch::Merge(json!({"data": data}))).await,
        None => {
            let map = ConfigMap { metadata: in_here(ROOT_CA), data: Some(data), ..ConfigMap::default() };
            api.create(&PostParams::default(), &map).await
        }
    };
    match written {
        Ok(map) => context.caches.root_cas.wrote(map),
        Err(error) if matches!(code(&error), Some(404 | 409)) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Empties a namespace of every kind there is; when nothing is left, lets it go.
async fn end(context: &Context, namespace: &Namespace) -> Result<Next> {
    let name = namespace.name_any();
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        return Ok(Next::Change);
    }
    let content = empty(context, &name).await?;
    let mut last = tell(context, namespace, &content).await?;
    if !content.is_gone() {
        tracing::debug!(namespace = name, ?content, "not empty yet");
        return Ok(Next::After(LOOK_AGAIN));
    }
    let kept: Vec<String> = finalizers.into_iter().filter(|finalizer| finalizer != FINALIZER).collect();
    last.spec.get_or_insert_default().finalizers = Some(kept);
    let api = context.cluster_api::<Namespace>();
    unless_gone(api.replace_subresource("finalize", &name, &PostParams::default(), &last).await)?;
    Ok(Next::Change)
}

/// Deletes what is in a namespace, and says what is left. What cannot be deleted does not keep the rest.
async fn empty(context: &Context, name: &str) -> Result<Content> {
    let mut content = Content::default();
    let discovery = Discovery::new(context.client.clone()).run().await?;
    for (resource, capabilities) in discovery.groups().flat_map(|group| group.recommended_resources()) {
        if capabilities.scope != Scope::Namespaced || !capabilities.supports_operation(verbs::LIST) {
            continue;
        }
        let full = match resource.group.as_str() {
            "" => resource.plural.clone(),
            group => format!("{}.{group}", resource.plural),
        };
        let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), name, &resource);
        if capabilities.supports_operation(verbs::DELETE_COLLECTION)
            && let Err(error) = api.delete_collection(&DeleteParams::background(), &ListParams::default()).await
            && !matches!(code(&error), Some(404 | 405))
        {
            content.failed(&full, error);
        }
        let Some(list) = unless_gone(api.list_metadata(&ListParams::default()).await)? else { continue };
        for object in list.items.iter().filter(|object| object.metadata.deletion_timestamp.is_none()) {
            if let Err(error) = unless_gone(api.delete(&object.name_any(), &DeleteParams::background()).await) {
                content.failed(&full, error);
            }
        }
        content.found(&full, &list.items);
    }
    Ok(content)
}

/// Writes what keeps the namespace into its conditions, and gives it back as it is then. One that goes at once has none.
async fn tell(context: &Context, namespace: &Namespace, content: &Content) -> Result<Namespace> {
    let news = content.news(namespace);
    let told = namespace.status.as_ref().is_some_and(|status| status.conditions.is_some());
    if news.is_empty() || content.is_gone() && !told {
        return Ok(namespace.clone());
    }
    let patch = Patch::Strategic(json!({"metadata": {"uid": namespace.metadata.uid}, "status": {"conditions": news}}));
    let api = context.cluster_api::<Namespace>();
    let written = api.patch_status(&namespace.name_any(), &PatchParams::default(), &patch).await;
    let Some(written) = unless_gone(written)? else { return Ok(namespace.clone()) };
    context.caches.namespaces.wrote(written.clone());
    Ok(written)
}
