//! One client's connection, and how long it may be silent.
//!
//! Connections are counted, so one that nobody uses must end: before its first request soon, between requests later. What a request's
//! answer streams counts as use until its end.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::{Frame, SizeHint};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::auth;
use crate::body::Body;
use crate::handler;
use crate::server::{GRACE, Inner};

/// Bytes of a request's head at most.
const MOST_HEADER_BYTES: usize = 64 << 10;
/// Requests at once on one connection at most: an agent has a dozen watches.
const MOST_STREAMS: u32 = 250;
/// Bytes of a body that may be on their way before somebody has decided to read it.
const STREAM_WINDOW: u32 = 256 << 10;
/// The same for all bodies of a connection.
const CONNECTION_WINDOW: u32 = 1 << 20;

/// How long clients may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the TLS handshake, for the head of a request, and until the first one. Default 10 s.
    pub head: Duration,
    /// For the body of a request. Default 30 s.
    pub body: Duration,
    /// Between requests. Default 90 s, as in Kubernetes.
    pub idle: Duration,
}

/// The number of a connection's requests that are being answered.
type Busy = Arc<watch::Sender<usize>>;

/// Counts as one such request.
struct Answering(Busy);

/// An answer on its way.
struct Answer {
    body: Body,
    _answering: Answering,
}

impl Default for Patience {
    fn default() -> Self {
        Self { head: Duration::from_secs(10), body: Duration::from_secs(30), idle: Duration::from_secs(90) }
    }
}

/// Serves a connection until it ends.
pub async fn serve(server: Arc<Inner>, socket: tokio::net::TcpStream, acceptor: TlsAcceptor) {
    let patience = server.patience;
    let stream = match tokio::time::timeout(patience.head, acceptor.accept(socket)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => return tracing::debug!("TLS handshake took too long"),
    };
    let user = stream.get_ref().1.peer_certificates().and_then(|chain| auth::user_of_certificate(chain.first()?));
    let user = user.map(Arc::new);
    let (busy, activity) = watch::channel(0);
    let busy = Arc::new(busy);
    let stop = server.stop.clone();
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let (server, user, answering) = (server.clone(), user.clone(), Answering::new(&busy));
        async move {
            let response = handler::handle(&server, user, request).await;
            Ok::<_, Infallible>(response.map(|body| Answer { body, _answering: answering }))
        }
    });
    let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(patience.head).max_buf_size(MOST_HEADER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(MOST_HEADER_BYTES as u32)
        .max_concurrent_streams(MOST_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(256 << 10)
        .keep_alive_interval(Some(Duration::from_secs(30)));
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = silence(activity, patience) => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(GRACE, connection).await {
                Ok(ended) => ended,
                Err(_) => return tracing::debug!("a silent connection was closed"),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

/// Waits until a connection has been of no use for too long.
async fn silence(mut activity: watch::Receiver<usize>, patience: Patience) {
    let mut longest = patience.head;
    loop {
        let busy = *activity.borrow_and_update() > 0;
        let changed = activity.changed();
        let gone = if busy {
            changed.await.is_err()
        } else {
            let Ok(changed) = tokio::time::timeout(longest, changed).await else { return };
            changed.is_err()
        };
        if gone {
            // The connection itself has ended, and says so.
            return std::future::pending().await;
        }
        longest = patience.idle;
    }
}

// === impl Answering ===

impl Answering {
    fn new(busy: &Busy) -> Self {
        busy.send_modify(|count| *count += 1);
        Self(busy.clone())
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

// === impl Answer ===

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
