//! The way to a cluster's API server.

mod kinds;

use anyhow::Context as _;
use futures::{AsyncBufReadExt as _, TryStreamExt as _};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::WatchEvent;
use serde_json::Value;
use switchyard_lab::home::Directory;

use crate::which::{NoCluster, Which};
pub(crate) use kinds::Kind;

/// Ask for rows as people read them.
pub(crate) const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
/// Ask for objects.
pub(crate) const JSON: &str = "application/json";

/// A client of one cluster's API server.
#[derive(Clone)]
pub(crate) struct Api {
    client: kube::Client,
}

/// The API server's refusal.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    message: String,
}

/// What to ask.
pub(crate) struct Ask<'a> {
    pub(crate) method: Method,
    pub(crate) path: &'a str,
    pub(crate) accept: &'a str,
    /// Content type and bytes.
    pub(crate) body: Option<(&'a str, Vec<u8>)>,
}

/// Runs asynchronous work to its end.
pub(crate) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

// === impl Api ===

impl Api {
    /// The API of the cluster that is meant, which must be running.
    pub(crate) async fn of(which: &Which) -> anyhow::Result<Self> {
        let directory = which.directory()?;
        match directory.is_running() {
            true => Self::at(&directory).await,
            false => Err(NoCluster::Stopped(directory.name()).into()),
        }
    }

    /// The API of the cluster in a folder.
    pub(crate) async fn at(directory: &Directory) -> anyhow::Result<Self> {
        let path = directory.kubeconfig();
        let kubeconfig = Kubeconfig::read_from(&path).with_context(|| format!("read {}", path.display()))?;
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        // Watches may be silent for as long as they like.
        config.read_timeout = None;
        Ok(Self { client: kube::Client::try_from(config)? })
    }

    /// The client underneath.
    pub(crate) fn client(&self) -> &kube::Client {
        &self.client
    }

    /// Asks once; refusals are errors.
    pub(crate) async fn call(&self, ask: Ask<'_>) -> anyhow::Result<(StatusCode, Value)> {
        let mut request = Request::builder().method(ask.method).uri(ask.path).header(http::header::ACCEPT, ask.accept);
        let mut bytes = Vec::new();
        if let Some((kind, body)) = ask.body {
            request = request.header(http::header::CONTENT_TYPE, kind);
            bytes = body;
        }
        let response = self.client.send(request.body(bytes.into())?).await.context("ask the API server")?;
        let status = response.status();
        let body = response.into_body().collect().await.context("read the API server's answer")?.to_bytes();
        let value: Value = serde_json::from_slice(&body).with_context(|| {
            format!("status {status}, and no JSON: {}", String::from_utf8_lossy(&body[..body.len().min(200)]))
        })?;
        if status.is_success() {
            return Ok((status, value));
        }
        let message = value["message"].as_str().map_or_else(|| status.to_string(), str::to_owned);
        Err(Refused { status, message }.into())
    }

    /// Reads something.
    pub(crate) async fn get(&self, path: &str, accept: &str) -> anyhow::Result<Value> {
        Ok(self.call(Ask { method: Method::GET, path, accept, body: None }).await?.1)
    }

    /// Reads something that may not be there.
    pub(crate) async fn find(&self, path: &str) -> anyhow::Result<Option<Value>> {
        match self.get(path, JSON).await {
            Ok(value) => Ok(Some(value)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Follows changes; `path` holds the parameters of the watch.
    pub(crate) async fn watch(
        &self,
        path: &str,
        accept: &str,
    ) -> anyhow::Result<impl futures::Stream<Item = anyhow::Result<WatchEvent<Value>>> + use<>> {
        let request = Request::get(path).header(http::header::ACCEPT, accept).body(Vec::new())?;
        let lines = self.client.request_stream(request).await.context("watch")?.lines();
        Ok(lines
            .map_err(anyhow::Error::from)
            .and_then(|line| async move { serde_json::from_str(&line).context("read an event of a watch") }))
    }
}

/// The container of a pod that a command means when it names none: the one that an annotation names, else the first, as kubectl has it.
pub(crate) async fn default_container(api: &Api, namespace: &str, pod: &str) -> anyhow::Result<String> {
    let object = api.get(&format!("/api/v1/namespaces/{namespace}/pods/{pod}"), JSON).await?;
    let containers = object["spec"]["containers"].as_array().map_or(&[][..], Vec::as_slice);
    let first = || containers.first().and_then(|container| container["name"].as_str());
    let named = object["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
    let name = named.or_else(first).with_context(|| format!("pod {pod} has no containers"))?;
    if named.is_none() && containers.len() > 1 {
        let all: Vec<_> = containers.iter().filter_map(|container| container["name"].as_str()).collect();
        eprintln!("container {name}, out of: {} (choose with -c)", all.join(", "));
    }
    Ok(name.to_owned())
}

/// Whether the API server said that there is no such thing.
pub(crate) fn is_missing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refused>().is_some_and(|refused| refused.status == StatusCode::NOT_FOUND)
}
