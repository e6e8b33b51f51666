//! Connections that leave HTTP (WebSocket and the like): asked for with `Upgrade`, joined byte by byte after a 101.

use std::sync::Arc;

use http::{HeaderMap, Request, Response, header};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;

use crate::{
    gate::ConnState,
    headers,
    line::Line,
    proxy::TunnelCount,
    upstream::{RequestBody, builder},
};

/// Our word to the gate about what follows a request to upgrade; without one, HTTP goes on.
#[derive(Debug)]
pub(crate) struct Decision(Option<Arc<ConnState>>);

// === impl Decision ===

impl Decision {
    /// To be made.
    pub(crate) fn new(state: Arc<ConnState>) -> Self {
        Self(Some(state))
    }

    /// The backend agreed.
    pub(crate) fn done(mut self) {
        if let Some(state) = self.0.take() {
            state.decide(true);
        }
    }
}

impl Drop for Decision {
    fn drop(&mut self) {
        if let Some(state) = self.0.take() {
            state.decide(false);
        }
    }
}

/// Whether a request asks to leave HTTP. Who offers h2c beside other things would have it chosen by the backend, and it is HTTP that
/// nobody here judges. Must agree with what the gate thinks.
pub(crate) fn is_upgrade(headers: &HeaderMap) -> bool {
    let asked = || headers.get_all(header::UPGRADE).iter().flat_map(|line| headers::tokens(line.as_bytes()));
    headers.get_all(header::CONNECTION).iter().any(|value| headers::contains_token(value, "upgrade"))
        && asked().next().is_some()
        && !asked().any(|protocol| protocol.eq_ignore_ascii_case(b"h2c"))
}

/// Sends a request over a connection of its own, which may be upgraded.
///
/// # Errors
/// When the connection breaks before an answer.
pub(crate) async fn ask(stream: Line, request: Request<RequestBody>) -> Result<Response<Incoming>, hyper::Error> {
    let (mut send, connection) = builder().handshake(TokioIo::new(stream)).await?;
    tokio::task::spawn_local(async move {
        let _ = connection.with_upgrades().await;
    });
    send.send_request(request).await
}

/// Carries bytes both ways until both sides are done.
pub(crate) fn join(client: OnUpgrade, backend: OnUpgrade, count: TunnelCount) {
    tokio::task::spawn_local(async move {
        let _open = count;
        let (client, backend) = match futures::future::try_join(client, backend).await {
            Ok(both) => both,
            Err(error) => return tracing::debug!(%error, "upgrade failed"),
        };
        let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
        if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut backend).await {
            tracing::debug!(%error, "tunnel broke");
        }
    });
}
