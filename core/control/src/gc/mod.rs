//! The garbage collector: what is owned goes with its owners.
//!
//! In the background (the owner first, then this), in the foreground (the owner waits for those that block it), or not at all
//! (orphans are released). Before anything is deleted, the API server itself says that the owner is gone.

mod graph;
mod sources;

use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::core::ApiResource;
use kube::discovery::Scope;
use kube::{Api, Resource};
use serde_json::json;

use crate::cache::Key;
use crate::context::Context;
use crate::error::{Result, unless_gone};
use crate::queue::{Next, Queue};
use graph::{FOREGROUND, Graph, ORPHAN, Object};
use sources::{Kinds, Lists};

struct Collector {
    context: Arc<Context>,
    graph: Mutex<Graph>,
    kinds: Kinds,
    lists: Lists,
    /// By uid.
    queue: Queue<String>,
}

/// How an owner is.
#[derive(PartialEq, Eq)]
enum Owner {
    There,
    /// Being deleted, and waits for those it owns.
    Waiting,
    Gone,
}

const NAME: &str = "garbage-collector";
const WORKERS: usize = 16;

pub(crate) fn controller(context: &Arc<Context>) -> BoxFuture<'static, ()> {
    let collector = Arc::new(Collector {
        context: context.clone(),
        graph: Mutex::default(),
        kinds: Kinds::default(),
        lists: Lists::default(),
        queue: Queue::new(),
    });
    let caches = &context.caches;
    let mut covered = vec![];
    macro_rules! follow {
        ($($cache:ident: $kind:ty),* $(,)?) => {$(
            sources::follow(&collector, &caches.$cache);
            covered.push(format!("{} {}", <$kind as Resource>::api_version(&()), <$kind as Resource>::kind(&())));
        )*};
    }
    use k8s_openapi::api::{apps::v1 as apps, batch::v1 as batch, core::v1 as core, discovery::v1 as discovery};
    follow!(
        pods: core::Pod,
        nodes: core::Node,
        namespaces: core::Namespace,
        services: core::Service,
        endpoints: core::Endpoints,
        endpoint_slices: discovery::EndpointSlice,
        replica_sets: apps::ReplicaSet,
        deployments: apps::Deployment,
        daemon_sets: apps::DaemonSet,
        stateful_sets: apps::StatefulSet,
        revisions: apps::ControllerRevision,
        jobs: batch::Job,
        service_accounts: core::ServiceAccount,
    );
    Box::pin(async move {
        let caches = &collector.context.caches;
        tokio::join!(
            caches.pods.synced(),
            caches.nodes.synced(),
            caches.namespaces.synced(),
            caches.services.synced(),
            caches.endpoints.synced(),
            caches.endpoint_slices.synced(),
            caches.replica_sets.synced(),
            caches.deployments.synced(),
            caches.daemon_sets.synced(),
            caches.stateful_sets.synced(),
            caches.revisions.synced(),
            caches.jobs.synced(),
            caches.service_accounts.synced(),
        );
        let steps = collector.queue.clone().run(NAME, WORKERS, |uid| collector.step(uid));
        tokio::join!(steps, sources::watch(collector.clone(), covered));
    })
}

// === impl Collector ===

impl Collector {
    /// Something changed in a cache. Calls may overtake each other: what is in the cache decides.
    fn followed<K: Resource>(
        &self,
        resource: &Arc<ApiResource>,
        [old, new]: [Option<&ObjectMeta>; 2],
        known: impl FnOnce(&Key) -> Option<Arc<K>>,
    ) {
        let Some(key) = new.or(old).map(Key::of) else { return };
        let mut graph = self.graph.lock().expect("no panic while locked");
        let now = known(&key);
        let now = now.as_ref().map(|object| object.meta());
        let mut wake = vec![];
        for gone in [old, new].into_iter().flatten().filter(|meta| now.is_none_or(|now| now.uid != meta.uid)) {
            wake.extend(graph.remove(gone.uid.as_deref().unwrap_or("")));
        }
        wake.extend(now.into_iter().flat_map(|now| graph.set(resource, now)));
        drop(graph);
        wake.into_iter().for_each(|uid| self.queue.add(uid));
    }

    fn learn(&self, note: impl FnOnce(&mut sources::Unknown)) {
        self.lists.learn(note).into_iter().for_each(|uid| self.queue.add(uid));
    }

    fn changed(&self, resource: &Arc<ApiResource>, meta: &ObjectMeta) {
        let wake = self.graph.lock().expect("no panic while locked").set(resource, meta);
        wake.into_iter().for_each(|uid| self.queue.add(uid));
    }

    fn removed(&self, uid: &str) {
        let wake = self.graph.lock().expect("no panic while locked").remove(uid);
        wake.into_iter().for_each(|uid| self.queue.add(uid));
    }

    fn get(&self, uid: &str) -> Option<Arc<Object>> {
        self.graph.lock().expect("no panic while locked").get(uid)
    }

    fn dependents(&self, uid: &str) -> Vec<(String, Arc<Object>)> {
        self.graph.lock().expect("no panic while locked").dependents(uid)
    }

    async fn step(&self, uid: String) -> Result<Next> {
        let Some(object) = self.get(&uid) else { return Ok(Next::Change) };
        if object.deleting {
            if (object.orphan || object.foreground) && self.lists.postpone(&uid) {
                return Ok(Next::Change);
            }
            if object.orphan {
                self.release_dependents(&uid, &object).await?;
            } else if object.foreground {
                self.finish_foreground(&uid, &object).await?;
            }
        } else if !object.owners.is_empty() {
            self.collect(&uid, &object).await?;
        }
        Ok(Next::Change)
    }

    /// Deletes an object none of whose owners is there.
    async fn collect(&self, uid: &str, object: &Object) -> Result<()> {
        let (mut there, mut waiting, mut gone) = (0, vec![], vec![]);
        for owner in &object.owners {
            match self.owner(owner, object).await? {
                Owner::There => there += 1,
                Owner::Waiting => waiting.push(owner.uid.clone()),
                Owner::Gone => gone.push(owner.uid.clone()),
            }
        }
        if there > 0 {
            gone.extend(waiting);
            return if gone.is_empty() { Ok(()) } else { self.release(uid, object, &gone).await };
        }
        // In its turn it waits for those that block it, if its owner waits for it.
        let policy = if object.orphan {
            PropagationPolicy::Orphan
        } else if !waiting.is_empty() && self.dependents(uid).iter().any(|(_, dependent)| dependent.is_blocking(uid)) {
            PropagationPolicy::Foreground
        } else {
            PropagationPolicy::Background
        };
        // Watches of two kinds know nothing of each other: this one may have been released, and the word of it is still on its way.
        let api = self.api(object);
        let Some(now) = api.get_metadata_opt(&object.key.name).await? else { return Ok(()) };
        if now.metadata.uid.as_deref() != Some(uid) || now.metadata.owner_references.as_ref() != Some(&object.owners) {
            return Ok(());
        }
        tracing::debug!(kind = object.resource.kind, object = %object.key, ?policy, "collected: its owners are gone");
        let preconditions = Preconditions { uid: Some(uid.into()), resource_version: now.metadata.resource_version };
        let params = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        // A conflict is an error here: whatever changed, it has to be looked at again.
        unless_gone(api.delete(&object.key.name, &params).await)?;
        Ok(())
    }

    async fn owner(&self, owner: &OwnerReference, of: &Object) -> Result<Owner> {
        if let Some(object) = self.get(&owner.uid) {
            return Ok(if object.deleting && object.foreground { Owner::Waiting } else { Owner::There });
        }
        // A kind nobody knows may become known; until then its objects count as there.
        let Some((resource, scope)) = self.kinds.get(&owner.api_version, &owner.kind) else { return Ok(Owner::There) };
        let client = self.context.client.clone();
        let api: Api<DynamicObject> = match scope {
            Scope::Cluster => Api::all_with(client, resource.as_ref()),
            Scope::Namespaced if of.key.namespace.is_empty() => return Ok(Owner::There),
            Scope::Namespaced => Api::namespaced_with(client, &of.key.namespace, resource.as_ref()),
        };
        let found = api.get_metadata_opt(&owner.name).await?;
        Ok(match found.filter(|found| found.metadata.uid.as_deref() == Some(&owner.uid)) {
            Some(_) => Owner::There,
            None => Owner::Gone,
        })
    }

    /// Lets an object go that waited, once nothing blocks it.
    async fn finish_foreground(&self, uid: &str, object: &Object) -> Result<()> {
        let dependents = self.dependents(uid);
        for (dependent, _) in dependents.iter().filter(|(_, dependent)| !dependent.deleting) {
            self.queue.add(dependent.clone());
        }
        if dependents.iter().any(|(_, dependent)| dependent.is_blocking(uid)) {
            return Ok(());
        }
        self.remove_finalizer(uid, object, FOREGROUND).await
    }

    async fn release_dependents(&self, uid: &str, object: &Object) -> Result<()> {
        for (dependent_uid, dependent) in self.dependents(uid) {
            self.release(&dependent_uid, &dependent, &[uid.to_owned()]).await?;
        }
        self.remove_finalizer(uid, object, ORPHAN).await
    }

    /// Removes references to owners.
    async fn release(&self, uid: &str, object: &Object, owners: &[String]) -> Result<()> {
        let api = self.api(object);
        let Some(now) = api.get_metadata_opt(&object.key.name).await? else { return Ok(()) };
        if now.metadata.uid.as_deref() != Some(uid) {
            return Ok(());
        }
        let mut kept = now.metadata.owner_references.unwrap_or_default();
        kept.retain(|owner| !owners.contains(&owner.uid));
        let pinned = json!({"resourceVersion": now.metadata.resource_version, "ownerReferences": kept});
        unless_gone(
            api.patch_metadata(&object.key.name, &PatchParams::default(), &Patch::Merge(json!({"metadata": pinned})))
                .await,
        )?;
        Ok(())
    }

    async fn remove_finalizer(&self, uid: &str, object: &Object, finalizer: &str) -> Result<()> {
        let api = self.api(object);
        let Some(now) = api.get_metadata_opt(&object.key.name).await? else { return Ok(()) };
        let mut finalizers = now.metadata.finalizers.unwrap_or_default();
        if now.metadata.uid.as_deref() != Some(uid) || !finalizers.iter().any(|name| name == finalizer) {
            return Ok(());
        }
        finalizers.retain(|name| name != finalizer);
        let pinned = json!({"resourceVersion": now.metadata.resource_version, "finalizers": finalizers});
        unless_gone(
            api.patch_metadata(&object.key.name, &PatchParams::default(), &Patch::Merge(json!({"metadata": pinned})))
                .await,
        )?;
        Ok(())
    }

    fn api(&self, object: &Object) -> Api<DynamicObject> {
        let client = self.context.client.clone();
        if object.key.namespace.is_empty() {
            Api::all_with(client, object.resource.as_ref())
        } else {
            Api::namespaced_with(client, &object.key.namespace, object.resource.as_ref())
        }
    }
}

// === impl Object ===

impl Object {
    /// Whether its owner of this uid must wait for it.
    fn is_blocking(&self, owner: &str) -> bool {
        self.owners.iter().any(|reference| reference.uid == owner && reference.block_owner_deletion == Some(true))
    }
}
