//! Watches on the kinds a table is made of.

use std::{collections::BTreeMap, fmt::Debug, path::Path, sync::Arc, time::Duration};

use futures::{
    StreamExt,
    stream::{BoxStream, SelectAll},
};
use k8s_openapi::{
    ClusterResourceScope, NamespaceResourceScope,
    api::{
        core::v1::{Secret, Service},
        discovery::v1::EndpointSlice,
        networking::v1::{Ingress, IngressClass},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
    runtime::watcher::{self, Event},
};
use serde::de::DeserializeOwned;

use super::Stale;
use crate::table::{Name, Objects};

/// Why the cluster's API cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The given file is not usable.
    #[error("kubeconfig: {0}")]
    Kubeconfig(#[from] KubeconfigError),
    /// Neither a service account nor a kubeconfig.
    #[error("no credentials: not in a pod, and no kubeconfig: {0}")]
    Infer(#[from] kube::config::InferConfigError),
    /// The pod's service account is not usable.
    #[error("service account: {0}")]
    InCluster(#[from] kube::config::InClusterError),
    /// Credentials that make no client.
    #[error("client: {0}")]
    Client(#[from] kube::Error),
}

/// Everything that happens to the objects.
pub(super) struct Changes {
    pub(super) stream: SelectAll<BoxStream<'static, Change>>,
    /// How many kinds there are to wait for.
    pub(super) kinds: usize,
}

/// One thing that happened.
pub(super) enum Change {
    Ingress(Step<Ingress>),
    Class(Step<IngressClass>),
    Service(Step<Service>),
    Slice(Step<EndpointSlice>),
    Secret(Step<Secret>),
    /// A name resolved.
    External(String, Vec<std::net::IpAddr>),
}

/// A change of one kind.
pub(super) enum Step<K> {
    Apply(Arc<K>),
    Delete(Name),
    /// The kind as it is; true the first time.
    Replace(BTreeMap<Name, Arc<K>>, bool),
}

/// A client from the given file, `$KUBECONFIG`, the pod's service account, or the user's kubeconfig, in this order.
///
/// # Errors
/// When there are no credentials, or unusable ones.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, ConnectError> {
    let in_pod = kubeconfig.is_none()
        && std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
        && std::env::var_os("KUBECONFIG").is_none();
    let mut config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)?;
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?
        }
        None if in_pod => kube::Config::incluster()?,
        None => kube::Config::infer().await?,
    };
    config.connect_timeout = Some(Duration::from_secs(5));
    // A kubeconfig may lead to a proxy that speaks HTTP/1.1 only.
    Ok(if in_pod { switchyard_watch::client(config)? } else { Client::try_from(config)? })
}

/// Starts all watches at once.
pub(super) fn changes(client: &Client, namespace: Option<&str>, secrets: bool) -> Changes {
    let mut stream = SelectAll::new();
    let config = watcher::Config::default;
    stream.push(follow(api::<Ingress>(client, namespace), config(), false).map(Change::Ingress).boxed());
    stream.push(follow(cluster_api::<IngressClass>(client), config(), false).map(Change::Class).boxed());
    stream.push(follow(api::<Service>(client, namespace), config(), false).map(Change::Service).boxed());
    stream.push(follow(api::<EndpointSlice>(client, namespace), config(), false).map(Change::Slice).boxed());
    let mut kinds = 4;
    if secrets {
        let config = config().fields("type=kubernetes.io/tls");
        stream.push(follow(api::<Secret>(client, namespace), config, true).map(Change::Secret).boxed());
        kinds += 1;
    }
    Changes { stream, kinds }
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

fn cluster_api<K>(client: &Client) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = ClusterResourceScope>,
{
    Api::all(client.clone())
}

/// The steps of one kind. A restarted watch gathers the whole kind before it replaces it, so nothing is missing in between.
/// An optional kind counts as complete, and empty, when we may not read it.
fn follow<K>(api: Api<K>, config: watcher::Config, optional: bool) -> BoxStream<'static, Step<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let events = switchyard_watch::watch(api, config);
    let gathered: BTreeMap<Name, Arc<K>> = BTreeMap::new();
    events
        .scan((gathered, true), move |(gathered, first), event| {
            let step = match event {
                Ok(Event::Apply(object)) => Some(Step::Apply(Arc::new(slim(object)))),
                Ok(Event::Delete(object)) => Some(Step::Delete(name(object.meta()))),
                Ok(Event::Init) => {
                    gathered.clear();
                    None
                }
                Ok(Event::InitApply(object)) => {
                    gathered.insert(name(object.meta()), Arc::new(slim(object)));
                    None
                }
                Ok(Event::InitDone) => Some(Step::Replace(std::mem::take(gathered), std::mem::replace(first, false))),
                Err(error) => {
                    tracing::warn!(%error, kind = %K::kind(&()), "watch failed, trying again");
                    let denied = matches!(&error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 403 || status.code == 404);
                    let give_up = denied && optional && std::mem::replace(first, false);
                    give_up.then(|| Step::Replace(BTreeMap::new(), true))
                }
            };
            std::future::ready(Some(step))
        })
        .filter_map(std::future::ready)
        .boxed()
}

/// Without what only the API server needs.
fn slim<K: Resource>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}

fn name(meta: &ObjectMeta) -> Name {
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

// === impl Change ===

impl Change {
    /// Takes the change in; says what it makes stale, and whether a kind is complete for the first time.
    pub(super) fn apply(self, objects: &mut Objects) -> (Stale, bool) {
        match self {
            Self::Ingress(step) => {
                // Our own status writes come back as changes, as others' do; they mean nothing to a table.
                let same = matches!(&step, Step::Apply(new) if objects.ingresses.get(&name(&new.metadata)).is_some_and(|old| {
                    old.spec == new.spec && old.metadata.annotations == new.metadata.annotations
                }));
                let first = step.apply(&mut objects.ingresses);
                (if same { Stale::Status } else { Stale::Rules }, first)
            }
            Self::Class(step) => (Stale::Rules, step.apply(&mut objects.classes)),
            Self::Secret(step) => (Stale::Rules, step.apply(&mut objects.secrets)),
            Self::Service(step) => (Stale::Endpoints, step.apply(&mut objects.services)),
            Self::Slice(step) => (Stale::Endpoints, step.apply(&mut objects.slices)),
            Self::External(name, addresses) => {
                objects.external.insert(name, addresses);
                (Stale::Endpoints, false)
            }
        }
    }
}

// === impl Step ===

impl<K: Resource> Step<K> {
    fn apply(self, kind: &mut BTreeMap<Name, Arc<K>>) -> bool {
        match self {
            Self::Apply(object) => {
                kind.insert(name(object.meta()), object);
                false
            }
            Self::Delete(name) => {
                kind.remove(&name);
                false
            }
            Self::Replace(all, first) => {
                *kind = all;
                first
            }
        }
    }
}
