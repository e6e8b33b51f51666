//! Everything that can go wrong with a request, and the one place where that becomes a response.

use std::{fmt::Write as _, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use crate::{gate::Refusal, table::Unavailable, upstream::UploadError};

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Who asked.
    Client,
    /// Who should have answered.
    Upstream,
    /// The configuration, or us.
    Internal,
}

/// Why a request was not answered by a backend.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The gate did not let it through.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// TRACE, which would echo what others added.
    #[error("TRACE is not offered here")]
    Trace,
    /// No rule has the host.
    #[error("no rule for host {host:?}; rules exist for: {hosts}")]
    NoHost {
        /// As asked.
        host: String,
        /// Some that exist.
        hosts: String,
    },
    /// The host has rules, the path matches none.
    #[error("host {host:?} has rules, but none for path {path:?}")]
    NoPath {
        /// As asked.
        host: String,
        /// As asked.
        path: String,
    },
    /// The backend has nowhere to send to.
    #[error("backend {backend} cannot answer: {why}")]
    Unavailable {
        /// Which.
        backend: String,
        /// Why.
        why: Unavailable,
    },
    /// No endpoint accepted a connection.
    #[error("backend {backend}: {address} refused the connection: {source}")]
    Connect {
        /// Which.
        backend: String,
        /// The last tried.
        address: SocketAddr,
        /// As the kernel says.
        source: std::io::Error,
    },
    /// No endpoint accepted a connection in time.
    #[error("backend {backend}: {address} did not accept a connection within {within:?}")]
    ConnectTimeout {
        /// Which.
        backend: String,
        /// The last tried.
        address: SocketAddr,
        /// The limit.
        within: Duration,
    },
    /// The connection broke before there was an answer.
    #[error("backend {backend}: {address} broke the connection before it answered: {source}")]
    Broken {
        /// Which.
        backend: String,
        /// Who.
        address: SocketAddr,
        /// What was seen.
        source: hyper::Error,
    },
    /// No answer in time.
    #[error("backend {backend}: {address} sent no answer within {within:?}")]
    AnswerTimeout {
        /// Which.
        backend: String,
        /// Who.
        address: SocketAddr,
        /// The limit.
        within: Duration,
    },
    /// The parts of a request did not fit together.
    #[error("the request could not be passed on: {0}")]
    Rewrite(#[from] http::Error),
}

// === impl ProxyError ===

impl ProxyError {
    /// What the client is told.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Refused(refusal) => refusal.status(),
            Self::Trace => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoHost { .. } | Self::NoPath { .. } => StatusCode::NOT_FOUND,
            Self::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Connect { .. } | Self::Broken { .. } => StatusCode::BAD_GATEWAY,
            Self::ConnectTimeout { .. } | Self::AnswerTimeout { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::Rewrite(_) => StatusCode::BAD_REQUEST,
        }
    }

    /// Whose fault it is.
    pub fn source(&self) -> Source {
        match self {
            Self::Refused(_) | Self::Trace | Self::NoHost { .. } | Self::NoPath { .. } | Self::Rewrite(_) => {
                Source::Client
            }
            Self::Unavailable { .. } => Source::Internal,
            _ => Source::Upstream,
        }
    }

    /// Whether asking again, elsewhere or later, is safe: the request was not sent.
    pub fn may_retry(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::ConnectTimeout { .. } | Self::Unavailable { .. })
    }

    /// The refusal that is behind it: a body that was cut short breaks the connection to the backend.
    pub fn refusal(&self) -> Option<Refusal> {
        let Self::Broken { source, .. } = self else { return None };
        let mut causes = std::iter::successors(std::error::Error::source(source), |cause| cause.source());
        causes.find_map(|cause| match cause.downcast_ref() {
            Some(UploadError::Refused(refusal)) => Some(*refusal),
            _ => None,
        })
    }

    /// A short, stable name for metrics and programs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::Trace => "trace",
            Self::NoHost { .. } => "no-host",
            Self::NoPath { .. } => "no-path",
            Self::Unavailable { .. } => "unavailable",
            Self::Connect { .. } => "connect",
            Self::ConnectTimeout { .. } => "connect-timeout",
            Self::Broken { .. } => "broken",
            Self::AnswerTimeout { .. } => "answer-timeout",
            Self::Rewrite(_) => "rewrite",
        }
    }

    /// The response that says all this: JSON if that is what the client accepts, text otherwise.
    pub fn respond(&self, accept: Option<&HeaderValue>, request_id: Option<&HeaderValue>) -> Response<Bytes> {
        let status = self.status();
        let json =
            accept.and_then(|a| a.to_str().ok()).is_some_and(|a| a.contains("json") && !a.contains("text/plain"));
        let id = request_id.and_then(|id| id.to_str().ok());
        let body = if json {
            let body = serde_json::json!({
                "status": status.as_u16(), "reason": self.reason(), "message": self.to_string(), "requestId": id,
            });
            format!("{body}\n")
        } else {
            let mut text = format!("{} {}\n{self}\n", status.as_u16(), status.canonical_reason().unwrap_or("Error"));
            if let Some(id) = id {
                let _ = writeln!(text, "request {id}");
            }
            text
        };
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = status;
        let kind = if json { "application/json" } else { "text/plain; charset=utf-8" };
        let headers: &mut HeaderMap = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert("x-yard-reason", HeaderValue::from_static(self.reason()));
        if let Some(id) = request_id {
            headers.insert("x-request-id", id.clone());
        }
        if matches!(self, Self::Refused(_)) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
