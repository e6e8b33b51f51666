//! The server: its parts, its connections, and the way in without a connection.

use std::convert::Infallible;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{Request, Response};
use ipnet::IpNet;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use switchyard_store::Store;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::{Allocations, Quota};
use crate::auth::{Auth, User};
use crate::body::Body;
use crate::connection::Patience;
use crate::intake::Intake;
use crate::kinds::Kinds;
use crate::list::Continuations;
use crate::pki::{Identity, Pki};
use crate::proxy::Agents;
use crate::{connection, watch};

/// Connections at once at most.
const MOST_CONNECTIONS: usize = 4096;
/// How long open requests may take to end when the server stops, or their connection is closed.
pub const GRACE: Duration = Duration::from_secs(2);

/// How a server is set up.
pub struct Config {
    /// The store's file; none keeps everything in memory.
    pub store: Option<PathBuf>,
    /// The cluster's authority.
    pub pki: Arc<Pki>,
    /// Addresses of Services.
    pub service_cidr: IpNet,
    /// Addresses of pods, in which segments have to lie. Default: not known, and not asked.
    pub pod_cidr: Option<IpNet>,
    /// Ports of Services on nodes.
    pub node_ports: RangeInclusive<u16>,
    /// Port of node agents' servers.
    pub agent_port: u16,
    /// Seconds a pod stays on a node that is not ready or not reachable, unless it says otherwise. Default 300.
    pub default_toleration_seconds: i64,
    /// How long clients may take.
    pub patience: Patience,
    /// What is kept for watches and lists in parts.
    pub history: History,
}

/// What is kept for watches and lists in parts, and how watches are told of it.
#[derive(Clone, Copy, Debug)]
pub struct History {
    /// Events that watches may resume from. Default 8192.
    pub events: usize,
    /// Events that may wait in one watch before it is told that it lagged. Default 8192.
    pub watch_queue: usize,
    /// How often a bookmark tells a quiet watch how far it is. Default 30 s.
    pub bookmark_every: Duration,
    /// How long the rest of a list that was given out in part is kept. Default 5 minutes, as in Kubernetes.
    pub continuation: Duration,
}

/// A Kubernetes-compatible API server; cheap to clone.
#[derive(Clone)]
pub struct Server(pub(crate) Arc<Inner>);

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store could not be opened.
    #[error("open the store")]
    Store(#[from] switchyard_store::Error),
    /// A certificate is no good.
    #[error("set up TLS: {0}")]
    Tls(String),
    /// The store's file failed under a running server.
    #[error("the store's file cannot be written any more")]
    Stopped,
    /// A listener failed.
    #[error("listen")]
    Listen(#[from] std::io::Error),
}

/// What requests work with.
pub struct Inner {
    pub store: Store,
    pub kinds: Kinds,
    pub auth: Auth,
    pub allocations: Allocations,
    pub quota: Quota,
    pub continuations: Continuations,
    pub watches: watch::Open,
    pub bookmark_every: Duration,
    pub intake: Intake,
    pub patience: Patience,
    pub agents: Agents,
    pub service_cidr: IpNet,
    pub pod_cidr: Option<IpNet>,
    pub node_ports: RangeInclusive<u16>,
    pub default_toleration_seconds: i64,
    pub stop: CancellationToken,
    tls: Arc<rustls::ServerConfig>,
}

/// The way into a server without a socket: a `tower` service for `kube`.
#[derive(Clone)]
struct InProcess {
    server: Server,
    user: Arc<User>,
}

impl Default for History {
    fn default() -> Self {
        Self {
            events: 8192,
            watch_queue: 8192,
            bookmark_every: Duration::from_secs(30),
            continuation: Duration::from_secs(300),
        }
    }
}

// === impl Config ===

impl Config {
    /// Everything in memory, ranges as Kubernetes has them.
    pub fn new(pki: Arc<Pki>) -> Self {
        Self {
            store: None,
            pki,
            service_cidr: "10.96.0.0/16".parse().expect("a constant prefix"),
            pod_cidr: None,
            node_ports: switchyard_api::names::NODE_PORTS,
            agent_port: switchyard_api::names::AGENT_PORT,
            default_toleration_seconds: 300,
            patience: Patience::default(),
            history: History::default(),
        }
    }

    /// The address of the Service `kubernetes`: the first of the range.
    pub fn first_service_address(cidr: &IpNet) -> Option<IpAddr> {
        cidr.hosts().next()
    }
}

// === impl Server ===

impl Server {
    /// Opens the store and prepares everything; serves nothing yet. Must be called inside a tokio runtime.
    pub fn open(config: Config) -> Result<Self, Error> {
        let store = Store::open(switchyard_store::Options {
            path: config.store,
            index: |key, value| {
                if !key.starts_with("core/pods/") {
                    return None;
                }
                value.pointer("/spec/nodeName").and_then(|node| node.as_str()).map(Into::into)
            },
            history_events: config.history.events,
            watch_queue: config.history.watch_queue,
            ..Default::default()
        })?;
        let tls = Arc::new(tls(&config.pki)?);
        let inner = Arc::new(Inner {
            kinds: Kinds::built_in(),
            auth: Auth::new(&config.pki).map_err(Error::Tls)?,
            allocations: Allocations::default(),
            quota: Quota::default(),
            continuations: Continuations::new(config.history.continuation),
            bookmark_every: config.history.bookmark_every,
            intake: Intake::new(config.patience.body),
            patience: config.patience,
            watches: watch::Open::default(),
            agents: Agents::new(&config.pki, config.agent_port).map_err(Error::Tls)?,
            service_cidr: config.service_cidr,
            pod_cidr: config.pod_cidr,
            node_ports: config.node_ports,
            default_toleration_seconds: config.default_toleration_seconds,
            stop: CancellationToken::new(),
            tls,
            store,
        });
        crate::registry::restore_custom_kinds(&inner);
        crate::registry::create_system_namespaces(&inner)?;
        crate::registry::end_definitions(&inner);
        crate::registry::expire_events(&inner);
        crate::admission::Quota::keep(&inner);
        Ok(Self(inner))
    }

    /// A client in this process, as the controllers.
    pub fn client(&self) -> kube::Client {
        self.client_as(&Identity::controllers())
    }

    /// A client in this process, as somebody.
    pub fn client_as(&self, identity: &Identity) -> kube::Client {
        let user = Arc::new(User::new(&identity.name, &identity.groups));
        kube::Client::new(InProcess { server: self.clone(), user }, "default")
    }

    /// Answers on the listeners until `shutdown`, then lets open requests end for a moment and closes the store. Also ends if the
    /// store's file fails: it has to be opened anew.
    pub async fn serve(
        &self,
        listeners: Vec<std::net::TcpListener>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let acceptor = TlsAcceptor::from(self.0.tls.clone());
        let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let tasks = TaskTracker::new();
        for listener in listeners {
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let server = self.clone();
            let (acceptor, slots, connections) = (acceptor.clone(), slots.clone(), tasks.clone());
            tasks.spawn(async move {
                loop {
                    let Ok(slot) = slots.clone().acquire_owned().await else { return };
                    let accepted = tokio::select! {
                        accepted = listener.accept() => accepted,
                        () = server.0.stop.cancelled() => return,
                    };
                    match accepted {
                        Ok((socket, _)) => {
                            socket.set_nodelay(true).ok();
                            let connection = connection::serve(server.0.clone(), socket, acceptor.clone());
                            connections.spawn(async move {
                                connection.await;
                                drop(slot);
                            });
                        }
                        Err(error) => {
                            // Out of file descriptors, most likely, and nobody tells when there are some again: a pause, as the
                            // listener is readable all the time and the loop would spin.
                            tracing::warn!(%error, "accept failed");
                            tokio::time::sleep(Duration::from_millis(50)).await;
                        }
                    }
                }
            });
        }
        let result = tokio::select! {
            () = shutdown => Ok(()),
            () = self.0.store.ended() => Err(Error::Stopped),
        };
        self.0.stop.cancel();
        tasks.close();
        tokio::time::timeout(GRACE, tasks.wait()).await.ok();
        self.0.store.close().await;
        result
    }
}

// === impl InProcess ===

impl tower::Service<Request<kube::client::Body>> for InProcess {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { Ok(crate::handler::handle(&this.server.0, Some(this.user), request).await) })
    }
}

fn tls(pki: &Pki) -> Result<rustls::ServerConfig, Error> {
    let failed = |error: String| Error::Tls(error);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    let ca =
        CertificateDer::from_pem_slice(pki.ca_certificate().as_bytes()).map_err(|error| failed(error.to_string()))?;
    roots.add(ca).map_err(|error| failed(error.to_string()))?;
    let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| failed(error.to_string()))?;
    let (certificate, key) = pki.serving();
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| failed(error.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| failed(error.to_string()))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(error.to_string()))?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .map_err(|error| failed(error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
