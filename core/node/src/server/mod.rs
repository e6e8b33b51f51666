//! The agent's own server, the kubelet's API as the control plane uses it: health, logs, exec, the list of pods.
//!
//! TLS with client certificates of the cluster's authority; who holds none is not served. What concerns pods is for the API server,
//! which has asked whether its user may, and for administrators: an agent of another node is neither.

mod attach;
mod exec;
mod forward;
mod logs;
mod spdy;
mod tls;
mod upgrade;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use std::os::fd::OwnedFd;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

pub(crate) use tls::Tls;
use tls::{Client, MASTERS};

/// Connections served at once.
const MOST_CONNECTIONS: usize = 512;
/// How long it waits for a connection to end when there are no descriptors for another.
const NO_DESCRIPTORS: Duration = Duration::from_millis(100);

/// What the server asks of the agent; each carries the way for its answer.
pub(crate) enum Ask {
    /// Where a container's log is.
    Log { container: ContainerRef, previous: bool, reply: oneshot::Sender<Result<LogFile, AskError>> },
    /// Run a command beside a container.
    Exec { container: ContainerRef, command: Command, reply: oneshot::Sender<Result<oneshot::Receiver<i32>, AskError>> },
    /// The network namespace of a pod; `None` if it is the node's own.
    Netns { namespace: String, pod: String, reply: oneshot::Sender<Result<Option<PathBuf>, AskError>> },
    /// The pods of this node, as a PodList in JSON.
    Pods { reply: oneshot::Sender<String> },
}

/// Names a container; an empty container name means the pod's only one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContainerRef {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) container: String,
}

/// A command to run.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) argv: Vec<String>,
    /// Its standard input, output and error; a terminal three times with `tty`.
    pub(crate) stdio: [OwnedFd; 3],
    pub(crate) tty: bool,
}

/// A log of one run of a container.
#[derive(Clone, Debug)]
pub(crate) struct LogFile {
    /// The file; older parts of it are beside it with `.1` and `.2` appended.
    pub(crate) path: PathBuf,
    /// Becomes true when the run is over and nothing more is written.
    pub(crate) ended: watch::Receiver<bool>,
}

/// Why the agent cannot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AskError {
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    BadRequest(String),
    #[error("{0}")]
    Forbidden(String),
    #[error("{0}")]
    Failed(String),
}

type Asks = mpsc::Sender<Ask>;

/// Serves until `shutdown`; questions go to `asks`.
pub(crate) async fn run(listener: TcpListener, tls: Tls, asks: Asks, shutdown: CancellationToken) {
    let app = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/pods", get(pods))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(logs::serve))
        .route("/exec/{namespace}/{pod}/{container}", get(exec::serve).post(exec::serve))
        .route("/attach/{namespace}/{pod}/{container}", get(attach::serve).post(attach::serve))
        .route("/portForward/{namespace}/{pod}", get(forward::serve).post(forward::serve))
        .with_state(asks);
    let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let ended = Arc::new(Notify::new());
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    // What is wrong now, descriptors that ran out for one, is wrong until something ends.
                    let _ = tokio::time::timeout(NO_DESCRIPTORS, ended.notified()).await;
                    continue;
                }
            },
            () = shutdown.cancelled() => return,
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else { continue };
        let (tls, app, shutdown, ended) = (tls.clone(), app.clone(), shutdown.clone(), Arc::clone(&ended));
        tokio::spawn(async move {
            let _slot = slot;
            tokio::select! {
                () = serve(stream, &tls, app) => {}
                () = shutdown.cancelled() => {}
            }
            ended.notify_one();
        });
    }
}

async fn serve(stream: TcpStream, tls: &Tls, app: Router) {
    let _ = stream.set_nodelay(true);
    let Ok(stream) = tls.accept(stream).await else { return };
    let app = match tls::client(&stream) {
        Some(client) if client.may_ask() => app,
        client => refusing(client),
    };
    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(app)).await;
}

/// What a client gets that has no business with pods.
fn refusing(client: Option<Client>) -> Router {
    let error = match client {
        Some(client) => format!("{} may not ask this agent: must be in group {MASTERS}", client.name),
        None => "the client certificate names nobody: must have a common name".to_owned(),
    };
    Router::new().route("/healthz", get(|| async { "ok" })).fallback(move || async move { AskError::Forbidden(error) })
}

async fn pods(State(asks): State<Asks>) -> Response {
    let (reply, answer) = oneshot::channel();
    match ask(&asks, Ask::Pods { reply }, answer).await {
        Ok(list) => ([("content-type", "application/json")], list).into_response(),
        Err(error) => error.into_response(),
    }
}

/// Puts a question and waits for its answer.
async fn ask<T>(asks: &Asks, question: Ask, answer: oneshot::Receiver<T>) -> Result<T, AskError> {
    let gone = || AskError::Failed("the agent is stopping".to_owned());
    asks.send(question).await.map_err(|_| gone())?;
    answer.await.map_err(|_| gone())
}

impl AskError {
    fn status(&self) -> StatusCode {
        match self {
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// As Kubernetes calls it.
    fn reason(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "NotFound",
            Self::BadRequest(_) => "BadRequest",
            Self::Forbidden(_) => "Forbidden",
            Self::Failed(_) => "InternalError",
        }
    }
}

impl IntoResponse for AskError {
    fn into_response(self) -> Response {
        (self.status(), format!("{self}\n")).into_response()
    }
}
