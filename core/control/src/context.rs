//! What controllers share: the client, one cache a kind, the recorder of events, the active network.

use std::fmt::Debug;
use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::api::{DeleteParams, ObjectMeta, PostParams, Preconditions};
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use switchyard_api::{Group, Network, SecurityPolicy, Segment};
use tokio::sync::watch;

use crate::cache::{Cache, Index, Key};
use crate::config::Config;
use crate::error::{Result, unless_gone};
use crate::events::Recorder;
use crate::network::Opened;
use crate::segment::Segments;

/// What controllers share.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) config: Config,
    pub(crate) caches: Caches,
    pub(crate) events: Recorder,
    /// The network that carries pods now.
    pub(crate) network: watch::Sender<Option<Arc<Opened>>>,
    /// What is asked of segments.
    pub(crate) segments: Segments,
}

/// One cache a kind.
pub(crate) struct Caches {
    pub(crate) pods: Cache<Pod>,
    pub(crate) nodes: Cache<Node>,
    pub(crate) leases: Cache<Lease>,
    pub(crate) namespaces: Cache<Namespace>,
    pub(crate) services: Cache<Service>,
    pub(crate) endpoint_slices: Cache<EndpointSlice>,
    pub(crate) endpoints: Cache<Endpoints>,
    pub(crate) replica_sets: Cache<ReplicaSet>,
    pub(crate) deployments: Cache<Deployment>,
    pub(crate) daemon_sets: Cache<DaemonSet>,
    pub(crate) stateful_sets: Cache<StatefulSet>,
    pub(crate) revisions: Cache<ControllerRevision>,
    pub(crate) jobs: Cache<Job>,
    pub(crate) service_accounts: Cache<ServiceAccount>,
    /// Only those called `kube-root-ca.crt`.
    pub(crate) root_cas: Cache<ConfigMap>,
    pub(crate) networks: Cache<Network>,
    pub(crate) segments: Cache<Segment>,
    pub(crate) security_policies: Cache<SecurityPolicy>,
    pub(crate) groups: Cache<Group>,
}

/// Index of pods: the node they are bound to.
pub(crate) const BY_NODE: usize = 0;
/// Index of pods: the uid of their controller, or empty.
pub(crate) const POD_OWNER: usize = 1;
/// Index of pods: their namespace.
pub(crate) const POD_NAMESPACE: usize = 2;
/// Index of ReplicaSets: the uid of their controller, or empty.
pub(crate) const OWNER: usize = 0;
/// Index of EndpointSlices: namespace and name of their Service.
pub(crate) const SLICE_SERVICE: usize = 0;
/// Index of Services and ReplicaSets of a namespace.
pub(crate) const NAMESPACE: usize = 1;
/// Index of Services: their namespace.
pub(crate) const SERVICE_NAMESPACE: usize = 0;
/// Index of ControllerRevisions: the uid of their controller, or empty.
pub(crate) const REVISION_OWNER: usize = 0;
/// Index of Deployments, DaemonSets, StatefulSets and Jobs: their namespace.
pub(crate) const ONLY_NAMESPACE: usize = 0;

/// Name of the ConfigMap with the certificate authority.
pub(crate) const ROOT_CA: &str = "kube-root-ca.crt";
/// Label of an EndpointSlice: its Service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";

const POD_INDEXES: &[Index<Pod>] =
    &[|pod| pod.spec.as_ref()?.node_name.clone(), |pod| Some(owner_word(pod)), |pod| pod.metadata.namespace.clone()];

// === impl Caches ===

impl Caches {
    fn new() -> Self {
        Self {
            pods: Cache::new(POD_INDEXES),
            nodes: Cache::new(&[]),
            leases: Cache::new(&[]),
            namespaces: Cache::new(&[]),
            services: Cache::new(&[|service| service.metadata.namespace.clone()]),
            endpoint_slices: Cache::new(&[|slice| {
                let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
                Some(format!("{}/{service}", slice.metadata.namespace.as_deref()?))
            }]),
            endpoints: Cache::new(&[]),
            replica_sets: Cache::new(&[|set| Some(owner_word(set)), |set| set.metadata.namespace.clone()]),
            deployments: Cache::new(&[|deployment| deployment.metadata.namespace.clone()]),
            daemon_sets: Cache::new(&[|set| set.metadata.namespace.clone()]),
            stateful_sets: Cache::new(&[|set| set.metadata.namespace.clone()]),
            revisions: Cache::new(&[|revision| Some(owner_word(revision))]),
            jobs: Cache::new(&[|job| job.metadata.namespace.clone()]),
            service_accounts: Cache::new(&[|account| account.metadata.namespace.clone()]),
            root_cas: Cache::new(&[]),
            networks: Cache::new(&[]),
            segments: Cache::new(&[]),
            security_policies: Cache::new(&[]),
            groups: Cache::new(&[]),
        }
    }

    /// The watches, to be run side by side.
    pub(crate) fn watches(&self, client: &Client) -> Vec<BoxFuture<'static, ()>> {
        fn of<K>(cache: &Cache<K>, client: &Client, config: watcher::Config) -> BoxFuture<'static, ()>
        where
            K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
        {
            Box::pin(cache.clone().run(Api::all(client.clone()), config))
        }
        let all = watcher::Config::default;
        vec![
            of(&self.pods, client, all()),
            of(&self.nodes, client, all()),
            of(
                &self.leases,
                client,
                all().fields(&format!("metadata.namespace={}", switchyard_api::names::LEASE_NAMESPACE)),
            ),
            of(&self.namespaces, client, all()),
            of(&self.services, client, all()),
            of(&self.endpoint_slices, client, all()),
            of(&self.endpoints, client, all()),
            of(&self.replica_sets, client, all()),
            of(&self.deployments, client, all()),
            of(&self.daemon_sets, client, all()),
            of(&self.stateful_sets, client, all()),
            of(&self.revisions, client, all()),
            of(&self.jobs, client, all()),
            of(&self.service_accounts, client, all()),
            of(&self.root_cas, client, all().fields(&format!("metadata.name={ROOT_CA}"))),
            of(&self.networks, client, all()),
            of(&self.segments, client, all()),
            of(&self.security_policies, client, all()),
            of(&self.groups, client, all()),
        ]
    }

    /// Forgets all handlers: they hold what holds the caches.
    pub(crate) fn close(&self) {
        self.pods.close();
        self.nodes.close();
        self.leases.close();
        self.namespaces.close();
        self.services.close();
        self.endpoint_slices.close();
        self.endpoints.close();
        self.replica_sets.close();
        self.deployments.close();
        self.daemon_sets.close();
        self.stateful_sets.close();
        self.revisions.close();
        self.jobs.close();
        self.service_accounts.close();
        self.root_cas.close();
        self.networks.close();
        self.segments.close();
        self.security_policies.close();
        self.groups.close();
    }
}

// === impl Context ===

impl Context {
    pub(crate) fn new(client: Client, config: Config, events: Recorder) -> Arc<Self> {
        Arc::new(Self {
            client,
            config,
            caches: Caches::new(),
            events,
            network: watch::Sender::new(None),
            segments: Segments::new(),
        })
    }

    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub(crate) fn cluster_api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = ClusterResourceScope>,
    {
        Api::all(self.client.clone())
    }

    /// Creates a pod and puts it into the cache.
    pub(crate) async fn create_pod(&self, pod: &Pod) -> Result<()> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let made = self.api::<Pod>(namespace).create(&PostParams::default(), pod).await;
        self.caches.pods.wrote(made.map_err(|error| unnamed(error, &pod.metadata))?);
        Ok(())
    }

    /// Deletes this very pod; one that is gone is success.
    pub(crate) async fn delete_pod(&self, pod: &Pod, grace_seconds: Option<u32>) -> Result<()> {
        let key = Key::of(&pod.metadata);
        let params = DeleteParams { grace_period_seconds: grace_seconds, ..this_one(&pod.metadata.uid) };
        if gone_or_replaced(self.api::<Pod>(&key.namespace).delete(&key.name, &params).await)? {
            self.caches.pods.deleted(pod);
        }
        Ok(())
    }
}

/// Why something was not made, without the name the API server thought up for it: each try would have a reason of its own.
fn unnamed(mut error: kube::Error, asked: &ObjectMeta) -> kube::Error {
    if let kube::Error::Api(status) = &mut error
        && let (None, Some(prefix)) = (&asked.name, &asked.generate_name)
        && let Some(details) = status.details.as_mut().filter(|details| !details.name.is_empty())
    {
        let name = std::mem::replace(&mut details.name, prefix.clone());
        status.message = status.message.replace(&name, prefix);
    }
    error
}

/// Parameters of a delete that means this object and not a later one of its name.
pub(crate) fn this_one(uid: &Option<String>) -> DeleteParams {
    let preconditions = Preconditions { uid: uid.clone(), resource_version: None };
    DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }
}

/// Whether a delete was accepted; false where there was nothing to delete any more.
pub(crate) fn gone_or_replaced<T>(result: std::result::Result<T, kube::Error>) -> Result<bool> {
    match result {
        Err(error) if crate::error::code(&error) == Some(409) => Ok(false),
        other => Ok(unless_gone(other)?.is_some()),
    }
}

fn owner_word<K: Resource<DynamicType = ()>>(object: &K) -> String {
    crate::meta::controller(object.meta()).map(|owner| owner.uid.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_refusal_reads_the_same_whatever_name_was_refused() {
        let refused = |name: &str| {
            let message = format!("pods \"{name}\" is forbidden: exceeded quota");
            let status = json!({"code": 403, "message": message, "details": {"name": name, "kind": "pods"}});
            kube::Error::Api(Box::new(serde_json::from_value(status).unwrap()))
        };
        let asked = ObjectMeta { generate_name: Some("web-".into()), ..ObjectMeta::default() };
        let said = |name: &str| unnamed(refused(name), &asked).to_string();
        assert_eq!(said("web-abcde"), said("web-fghij"));
        assert!(said("web-abcde").contains("pods \"web-\" is forbidden"));
        let asked = ObjectMeta { name: Some("web-0".into()), ..ObjectMeta::default() };
        assert!(unnamed(refused("web-0"), &asked).to_string().contains("\"web-0\""));
    }
}
