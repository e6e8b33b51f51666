//! One request: look up, pick, send, answer.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use arc_swap::{ArcSwap, Cache};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header, request::Parts};
use http_body::Body;
use hyper::body::Incoming;
use tokio::sync::Notify;

use crate::{
    answer::{Answer, AnswerBody, Open},
    config::Limits,
    error::ProxyError,
    gate::{self, ConnState, Refusal},
    headers::{self, Ids, Peer, REQUEST_ID},
    line::Load,
    metrics::{self, CoreMetrics},
    stream::Pace,
    table::{Backend, BackendId, Miss, SharedTable, Table, normal_host},
    tunnel,
    upstream::{ConnectError, Connection, Pool, RequestBody, ResponseBody, To, is_dead},
};

/// What all requests of one core share. Nothing in it is touched by another core on the way of a request, but for a backend's turn.
#[derive(Debug)]
pub struct Core {
    table: RefCell<CachedTable>,
    /// Connections to endpoints.
    pub pool: Rc<Pool>,
    /// Counters.
    pub metrics: Arc<CoreMetrics>,
    /// Bounds.
    pub limits: Limits,
    /// Connections that left HTTP and are still open.
    pub tunnels: Cell<usize>,
    /// Rings when a connection or tunnel begins or ends.
    pub changed: Notify,
    ids: Ids,
}

/// Counts a tunnel while it lives.
pub(crate) struct TunnelCount(Rc<Core>);

/// The current table behind a count that only this core touches.
struct CachedTable {
    source: Arc<SharedTable>,
    cache: Cache<TableSource, Arc<Table>>,
    local: Rc<Snapshot>,
}

/// One table; a count of this core's, so that requests do not contend for one that all cores share.
struct Snapshot(Arc<Table>);

#[derive(Clone)]
struct TableSource(Arc<SharedTable>);

/// A request in a form that can be sent more than once.
struct Spare {
    method: Method,
    uri: Uri,
    headers: http::HeaderMap,
}

// === impl Core ===

impl Core {
    /// Serves from `table`.
    pub fn new(table: Arc<SharedTable>, limits: Limits, metrics: Arc<CoreMetrics>) -> Self {
        let pool = Pool::new(&limits);
        let local = Rc::new(Snapshot(table.load()));
        let cached =
            CachedTable { cache: Cache::new(TableSource(Arc::clone(&table))), source: Arc::clone(&table), local };
        Self {
            table: RefCell::new(cached),
            pool: Rc::new(pool),
            metrics,
            limits,
            ids: Ids::new(),
            tunnels: Cell::new(0),
            changed: Notify::new(),
        }
    }

    /// Answers a request; never fails, because errors are answers too.
    pub async fn handle(
        self: Rc<Self>,
        request: Request<Incoming>,
        peer: Rc<Peer>,
        state: Arc<ConnState>,
        number: u32,
    ) -> Result<Response<Answer>, Infallible> {
        state.begin();
        let mut open = Open { state, core: Rc::clone(&self), since: Instant::now(), status: StatusCode::OK };
        let refusal = open.state.refusal(number);
        let (mut parts, body) = request.into_parts();
        let accept = parts.headers.get(header::ACCEPT).cloned();
        let version = parts.version;
        let result = match refusal {
            Some(refusal) => Err(refusal.into()),
            None => self.forward(&mut parts, body, &peer, &open.state).await,
        };
        let (mut head, body) = match result {
            Ok(response) => response.into_parts(),
            Err(error) => {
                // A body the gate cut short broke the connection to the backend; say the cause, not the effect.
                let error = match open.state.body_refusal(number).or(error.refusal()) {
                    Some(refusal) => refusal.into(),
                    None => error,
                };
                self.metrics.failed(error.reason());
                tracing::debug!(%error, peer = %peer.address, "request failed");
                let response = error.respond(accept.as_ref(), parts.headers.get(REQUEST_ID));
                let (head, bytes) = response.into_parts();
                (head, AnswerBody::Own(Some(bytes)))
            }
        };
        head.version = Version::HTTP_11;
        let mut pace = None;
        if version == Version::HTTP_2 {
            pace = Pace::current();
            // The head is there to be taken, and with it the first of the body.
            pace.iter().for_each(|pace| pace.given());
            head.version = Version::HTTP_2;
            head.headers.remove(header::CONNECTION);
        } else if open.state.is_leaving() && head.status != StatusCode::SWITCHING_PROTOCOLS {
            head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        open.status = head.status;
        Ok(Response::from_parts(head, Answer { body, pace, _open: open }))
    }

    async fn forward(
        self: &Rc<Self>,
        parts: &mut Parts,
        body: Incoming,
        peer: &Peer,
        state: &Arc<ConnState>,
    ) -> Result<Response<AnswerBody>, ProxyError> {
        if parts.version == Version::HTTP_2 {
            gate::check_http2(parts)?;
        }
        if let Some(answer) = answer_here(parts)? {
            return Ok(answer);
        }
        let upgrade = parts.version == Version::HTTP_11 && tunnel::is_upgrade(&parts.headers);
        // From here on the gate waits for our word about a request to upgrade.
        let decision = upgrade.then(|| tunnel::Decision::new(Arc::clone(state)));

        let authority = parts.uri.authority().map(|a| a.as_str());
        let authority = authority.map(|a| a.rsplit('@').next().unwrap_or(a));
        if let Some(authority) = authority
            && let Ok(host) = HeaderValue::from_str(authority)
        {
            parts.headers.insert(header::HOST, host);
        }
        let host = parts.headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
        let table = &self.table().0;
        let backend = find(table, &normal_host(host), parts.uri.path())?;
        let target = origin_form(&parts.uri)?;
        if !parts.headers.contains_key(header::HOST) {
            // HTTP/1.0 may do without; what is passed on is HTTP/1.1, which may not.
            parts.headers.insert(header::HOST, peer.asked());
        }
        headers::to_upstream(&mut parts.headers, peer, parts.version, upgrade, &self.ids);

        let backend = &table.backends[backend as usize];
        match decision {
            Some(decision) => self.upgrade(parts, body, target, backend, decision).await,
            None => self.relay(parts, body, target, backend).await,
        }
    }

    /// Sends a request to one endpoint after the other until one answers, or trying again is no longer safe.
    async fn relay(
        self: &Rc<Self>,
        parts: &mut Parts,
        body: Incoming,
        target: Uri,
        backend: &Backend,
    ) -> Result<Response<AnswerBody>, ProxyError> {
        let body = RequestBody::new(body, self.limits.max_body);
        let load = body.load();
        let again = parts.method.is_idempotent() && body.is_end_stream();
        let mut spare =
            again.then(|| Spare { method: parts.method.clone(), uri: target.clone(), headers: parts.headers.clone() });
        let id = parts.headers.get(REQUEST_ID).cloned();
        let mut request = Request::new(body);
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = target;
        *request.headers_mut() = std::mem::take(&mut parts.headers);
        if !request.body().is_end_stream() && !request.headers().contains_key(header::CONTENT_LENGTH) {
            // Said aloud: of a method that has no body as a rule, the library would send none that has no length.
            request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        // What an error's answer shows.
        if let Some(id) = id {
            parts.headers.insert(REQUEST_ID, id);
        }
        let mut pick = backend.pick();
        let mut tries = 0;
        let mut endpoint = match backend.next(&mut pick) {
            Some(endpoint) => endpoint,
            None => return Err(unavailable(backend)),
        };
        loop {
            tries += 1;
            let address = endpoint.address;
            let next = |pick: &mut _| if tries < self.limits.tries { backend.next(pick) } else { None };
            let mut connection = match self.connection(To { address, load }).await {
                Ok(connection) => connection,
                Err(error) => {
                    endpoint.failed();
                    let Some(other) = next(&mut pick) else { return Err(connect_error(error, backend, address, self)) };
                    metrics::add(&self.metrics.retries, 1);
                    endpoint = other;
                    continue;
                }
            };
            let within = self.limits.answer_timeout;
            let mut error = match connection.send(request, within).await {
                Ok(Some(response)) => {
                    endpoint.worked();
                    return Ok(self.answer(response, connection));
                }
                Err(error) => error,
                Ok(None) => {
                    return Err(ProxyError::AnswerTimeout { backend: backend.key.to_string(), address, within });
                }
            };
            // Not sent at all, or sent and harmless to send once more.
            let unsent = error.take_message();
            let broken = error.into_error();
            let resend = match unsent {
                Some(request) => Some(request),
                None => spare.as_mut().map(Spare::request),
            };
            // A kept connection that broke says nothing about its endpoint, and costs it no try of others; but one whose peer was
            // silent says that the endpoint is gone, with everything that is kept for it.
            let dead = is_dead(&broken);
            if dead {
                endpoint.failed();
                self.pool.forget(address);
            }
            let other = if connection.reused && !dead {
                tries -= 1;
                Some(endpoint)
            } else {
                next(&mut pick).or((tries < self.limits.tries).then_some(endpoint))
            };
            match (resend, other) {
                (Some(resend), Some(other)) => {
                    metrics::add(&self.metrics.retries, 1);
                    request = resend;
                    endpoint = other;
                }
                _ => return Err(ProxyError::Broken { backend: backend.key.to_string(), address, source: broken }),
            }
        }
    }

    async fn connection(&self, to: To) -> Result<Box<Connection>, ConnectError> {
        if let Some(kept) = self.pool.take(to) {
            metrics::add(&self.metrics.reused, 1);
            return Ok(kept);
        }
        metrics::add(&self.metrics.connects, 1);
        self.pool.connect(to).await
    }

    fn answer(&self, response: Response<Incoming>, mut connection: Box<Connection>) -> Response<AnswerBody> {
        let (mut head, body) = response.into_parts();
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            // Nobody asked for that: the rest of the connection is not HTTP.
            head.status = StatusCode::BAD_GATEWAY;
            head.headers.clear();
            let text = b"502 Bad Gateway\nthe backend switched protocols without being asked\n";
            return Response::from_parts(head, AnswerBody::Own(Some(Bytes::from_static(text))));
        }
        if head.headers.contains_key(header::TRANSFER_ENCODING) && head.headers.remove(header::CONTENT_LENGTH).is_some()
        {
            // Two lengths: the chunks count, and whoever sends both is not asked again on this connection.
            connection.doubtful = true;
        }
        headers::to_client(&mut head.headers);
        Response::from_parts(head, AnswerBody::Relayed(ResponseBody::new(body, connection, Rc::clone(&self.pool))))
    }

    /// A request that may leave HTTP: a connection of its own, joined with the client's if the backend agrees.
    async fn upgrade(
        self: &Rc<Self>,
        parts: &mut Parts,
        body: Incoming,
        target: Uri,
        backend: &Backend,
        decision: tunnel::Decision,
    ) -> Result<Response<AnswerBody>, ProxyError> {
        let mut pick = backend.pick();
        let (stream, address) = loop {
            let Some(endpoint) = backend.next(&mut pick) else { return Err(unavailable(backend)) };
            metrics::add(&self.metrics.connects, 1);
            // Nobody knows how much goes through a tunnel.
            match self.pool.connect_stream(To { address: endpoint.address, load: Load::Any }).await {
                Ok(stream) => break (stream, endpoint.address),
                Err(error) => {
                    endpoint.failed();
                    if pick.is_last() {
                        return Err(connect_error(error, backend, endpoint.address, self));
                    }
                }
            }
        };
        let mut request = Request::new(RequestBody::new(body, self.limits.max_body));
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = target;
        *request.headers_mut() = parts.headers.clone();
        let client = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
        let within = self.limits.answer_timeout;
        let answer = tokio::time::timeout(within, tunnel::ask(stream, request)).await;
        let broken = |source| ProxyError::Broken { backend: backend.key.to_string(), address, source };
        let mut response = answer
            .map_err(|_| ProxyError::AnswerTimeout { backend: backend.key.to_string(), address, within })?
            .map_err(broken)?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(client) = client
        {
            metrics::add(&self.metrics.upgrades, 1);
            let backend = hyper::upgrade::on(&mut response);
            tunnel::join(client, backend, TunnelCount::new(self));
            decision.done();
            let (head, _) = response.into_parts();
            return Ok(Response::from_parts(head, AnswerBody::Own(None)));
        }
        let (mut head, body) = response.into_parts();
        headers::to_client(&mut head.headers);
        Ok(Response::from_parts(head, AnswerBody::Apart(body)))
    }

    /// The table of this moment. It stays alive, and the same, as long as the request needs it.
    fn table(&self) -> Rc<Snapshot> {
        let mut cached = self.table.borrow_mut();
        let cached = &mut *cached;
        let current = cached.cache.load();
        if !Arc::ptr_eq(current, &cached.local.0) {
            cached.local = Rc::new(Snapshot(Arc::clone(current)));
        }
        Rc::clone(&cached.local)
    }

    /// Lets go of a table that is no longer current, also when there are no requests.
    pub fn refresh_table(&self) {
        let _ = self.table();
    }
}

/// What is not for any backend.
fn answer_here(parts: &mut Parts) -> Result<Option<Response<AnswerBody>>, ProxyError> {
    if parts.method == Method::TRACE {
        return Err(ProxyError::Trace);
    }
    if parts.method == Method::CONNECT {
        return Err(Refusal::Connect.into());
    }
    if parts.method == Method::OPTIONS {
        let hops = parts.headers.get(header::MAX_FORWARDS).and_then(|v| v.to_str().ok()?.parse::<u32>().ok());
        if hops == Some(0) || parts.uri.path() == "*" {
            let mut response = Response::new(AnswerBody::Own(None));
            *response.status_mut() = StatusCode::NO_CONTENT;
            return Ok(Some(response));
        }
        if let Some(hops) = hops {
            parts.headers.insert(header::MAX_FORWARDS, HeaderValue::from(hops - 1));
        }
    }
    Ok(None)
}

fn find(table: &Table, host: &str, path: &str) -> Result<BackendId, ProxyError> {
    match table.find(host, path) {
        Ok(route) => Ok(route.backend),
        Err(Miss::Host) => Err(ProxyError::NoHost { host: clip(host), hosts: table.some_hosts(8) }),
        Err(Miss::Path) => Err(ProxyError::NoPath { host: clip(host), path: clip(path) }),
    }
}

/// Path and query only: what a server that is no proxy expects.
fn origin_form(uri: &Uri) -> Result<Uri, ProxyError> {
    if uri.scheme().is_none() && uri.authority().is_none() {
        return Ok(uri.clone());
    }
    let path = uri.path_and_query().cloned().unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).map_err(|e| ProxyError::Rewrite(e.into()))
}

fn unavailable(backend: &Backend) -> ProxyError {
    let why = backend.unavailable.clone().unwrap_or(crate::table::Unavailable::NoReadyEndpoints);
    ProxyError::Unavailable { backend: backend.key.to_string(), why }
}

fn connect_error(error: ConnectError, backend: &Backend, address: std::net::SocketAddr, core: &Core) -> ProxyError {
    let backend = backend.key.to_string();
    match error {
        ConnectError::Io(source) => ProxyError::Connect { backend, address, source },
        ConnectError::Timeout => ProxyError::ConnectTimeout { backend, address, within: core.limits.connect_timeout },
    }
}

/// What came from a client is shown back only in part.
fn clip(text: &str) -> String {
    text.chars().take(200).collect()
}

// === impl Spare ===

impl Spare {
    fn request(&mut self) -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::empty());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

// === impl TunnelCount ===

impl TunnelCount {
    fn new(core: &Rc<Core>) -> Self {
        core.tunnels.set(core.tunnels.get() + 1);
        Self(Rc::clone(core))
    }
}

impl Drop for TunnelCount {
    fn drop(&mut self) {
        self.0.tunnels.set(self.0.tunnels.get() - 1);
        self.0.changed.notify_waiters();
    }
}

// === impl CachedTable ===

impl std::ops::Deref for TableSource {
    type Target = ArcSwap<Table>;

    fn deref(&self) -> &Self::Target {
        self.0.source()
    }
}

impl std::fmt::Debug for CachedTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CachedTable")
            .field("generation", &self.local.0.generation)
            .field("source", &self.source)
            .finish()
    }
}
