//! The listener for probes, metrics and people: never for clients of the cluster.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::watch};

use crate::{metrics::Metrics, table::SharedTable};

/// What can be asked.
#[derive(Clone, Debug)]
pub struct Admin {
    /// For /table, /explain and /metrics.
    pub table: Arc<SharedTable>,
    /// For /metrics.
    pub metrics: Arc<Metrics>,
    /// For /readyz.
    pub ready: watch::Receiver<bool>,
}

// === impl Admin ===

impl Admin {
    /// Answers until dropped.
    pub async fn serve(self, listener: TcpListener) {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "admin accept failed");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            let admin = self.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let response = admin.answer(&request);
                    async move { Ok::<_, Infallible>(response) }
                });
                let _ = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .max_buf_size(16 * 1024)
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let json = |value: &serde_json::Value| {
            respond(
                StatusCode::OK,
                "application/json",
                serde_json::to_string_pretty(value).expect("a JSON value") + "\n",
            )
        };
        match request.uri().path() {
            "/healthz" | "/livez" => text(StatusCode::OK, "ok\n"),
            "/readyz" if *self.ready.borrow() => text(StatusCode::OK, "ok\n"),
            "/readyz" => text(StatusCode::SERVICE_UNAVAILABLE, "not ready: no table yet, or leaving\n"),
            "/metrics" => {
                let table = self.table.load();
                let body = self.metrics.render(table.routes.hosts.len(), table.backends.len(), table.generation);
                respond(StatusCode::OK, "text/plain; version=0.0.4", body)
            }
            "/table" => json(&self.table.load().to_json()),
            "/explain" => {
                let query = request.uri().query().unwrap_or_default();
                let asked = |key: &str| {
                    let pair = query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
                    pair.map(decode).unwrap_or_default()
                };
                let path = asked("path");
                let path = if path.is_empty() { "/".to_owned() } else { path };
                let explanation = self.table.load().explain(&asked("host"), &path);
                json(&serde_json::to_value(explanation).expect("an explanation is JSON"))
            }
            _ => text(StatusCode::NOT_FOUND, "there are /healthz, /readyz, /metrics, /table, /explain?host=&path=\n"),
        }
    }
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", body.to_owned())
}

fn respond(status: StatusCode, kind: &str, body: String) -> Response<Full<Bytes>> {
    let builder = Response::builder().status(status).header(header::CONTENT_TYPE, kind);
    builder.body(Full::from(body)).expect("fixed headers are valid")
}

/// Undoes percent encoding; what is no valid code stays as it is.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (first, code) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
