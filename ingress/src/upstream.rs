//! Connections to endpoints: one pool a core, last used first, no lock.
//!
//! A connection is not a task of its own: whoever uses it polls it, so an answer costs one wake-up, and an idle connection costs
//! none. A connection that died while idle shows that when it is polled on the way out of the pool.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderName, Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::{
    config::Limits,
    gate::{self, Refusal},
    line::{Line, Load},
};

/// Bytes of a body that fit, after a head, into what the kernel of a peer takes before anybody reads.
const SMALL: u64 = 16 * 1024;

/// What is sent to an endpoint.
#[derive(Debug)]
pub struct RequestBody(Option<Upload>);

/// Why a request's body ended early.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The client's connection, or the gate on it.
    #[error("{0}")]
    Broken(#[source] hyper::Error),
    /// A limit.
    #[error("{0}")]
    Refused(#[source] Refusal),
}

/// Counts the pieces of a body that were passed on: an answer is not late while its request is still coming.
pub type Progress = Arc<AtomicU64>;

#[derive(Debug)]
struct Upload {
    body: Incoming,
    progress: Progress,
    /// Bytes that may still come, if there is a limit.
    left: Option<u64>,
}

/// One connection, ready for a request or busy with one.
#[derive(Debug)]
pub struct Connection {
    send: http1::SendRequest<RequestBody>,
    drive: Option<http1::Connection<TokioIo<Line>, RequestBody>>,
    to: To,
    /// Taken from the pool: it may have died without our knowing.
    pub reused: bool,
    /// Not to be used again: what it says cannot be relied on.
    pub doubtful: bool,
}

/// Where a connection leads, and what may be sent on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct To {
    /// Where.
    pub address: SocketAddr,
    /// What.
    pub load: Load,
}

/// Idle connections of one core.
#[derive(Debug)]
pub struct Pool {
    idle: RefCell<HashMap<To, Vec<Idle>, foldhash::fast::RandomState>>,
    max_idle: usize,
    idle_timeout: Duration,
    connect_timeout: Duration,
    peer_timeout: Duration,
    /// Connections opened, for metrics.
    pub connects: Cell<u64>,
}

#[derive(Debug)]
struct Idle {
    connection: Box<Connection>,
    since: Instant,
}

/// Why there is no connection.
#[derive(Debug)]
pub enum ConnectError {
    /// The kernel's word.
    Io(io::Error),
    /// It took too long.
    Timeout,
}

/// An answer's body on its way; gives its connection back to the pool when it ends.
#[derive(Debug)]
pub struct ResponseBody {
    body: Incoming,
    connection: Option<Box<Connection>>,
    pool: Rc<Pool>,
}

// === impl Pool ===

impl Pool {
    /// An empty pool.
    pub fn new(limits: &Limits) -> Self {
        Self {
            idle: RefCell::default(),
            max_idle: limits.max_idle,
            idle_timeout: limits.upstream_idle_timeout,
            connect_timeout: limits.connect_timeout,
            peer_timeout: limits.peer_timeout,
            connects: Cell::new(0),
        }
    }

    /// An idle connection that is alive as far as the kernel has told us.
    pub fn take(&self, to: To) -> Option<Box<Connection>> {
        let mut idle = self.idle.borrow_mut();
        let list = idle.get_mut(&to)?;
        while let Some(mut found) = list.pop() {
            if found.connection.is_usable() {
                found.connection.reused = true;
                return Some(found.connection);
            }
        }
        None
    }

    /// A new connection.
    ///
    /// # Errors
    /// When the endpoint refuses, or does not accept in time.
    pub async fn connect(&self, to: To) -> Result<Box<Connection>, ConnectError> {
        let stream = self.connect_stream(to).await?;
        let (send, drive) =
            builder().handshake(TokioIo::new(stream)).await.map_err(|e| ConnectError::Io(io::Error::other(e)))?;
        Ok(Box::new(Connection { send, drive: Some(drive), to, reused: false, doubtful: false }))
    }

    /// A new connection as a plain stream.
    ///
    /// # Errors
    /// When the endpoint refuses, or does not accept in time.
    pub async fn connect_stream(&self, to: To) -> Result<Line, ConnectError> {
        self.connects.set(self.connects.get() + 1);
        let stream = match tokio::time::timeout(self.connect_timeout, TcpStream::connect(to.address)).await {
            Err(_) => return Err(ConnectError::Timeout),
            Ok(stream) => stream.map_err(ConnectError::Io)?,
        };
        let _ = stream.set_nodelay(true);
        Ok(Line::new(stream, to.load, self.peer_timeout))
    }

    /// Closes what is idle to an endpoint that does not acknowledge any more: its other connections are as dead.
    pub fn forget(&self, address: SocketAddr) {
        self.idle.borrow_mut().retain(|to, _| to.address != address);
    }

    /// Closes what has been idle too long.
    pub fn sweep(&self, now: Instant) {
        let mut idle = self.idle.borrow_mut();
        for list in idle.values_mut() {
            // Oldest first: connections are taken from the end.
            let old = list.iter().take_while(|i| now.duration_since(i.since) >= self.idle_timeout).count();
            list.drain(..old);
        }
        idle.retain(|_, list| !list.is_empty());
    }

    /// Closes everything.
    pub fn clear(&self) {
        self.idle.borrow_mut().clear();
    }

    /// Idle connections.
    pub fn len(&self) -> usize {
        self.idle.borrow().values().map(Vec::len).sum()
    }

    /// Whether none is idle.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn give_back(&self, mut connection: Box<Connection>) {
        if !connection.is_usable() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let list = idle.entry(connection.to).or_default();
        if list.len() < self.max_idle {
            list.push(Idle { connection, since: Instant::now() });
        }
    }
}

/// Whether a connection broke because its peer was not heard any more.
pub fn is_dead(error: &hyper::Error) -> bool {
    let mut causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    let io = causes.find_map(|cause| cause.downcast_ref::<io::Error>());
    io.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
}

/// How we speak to endpoints.
pub fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(64 * 1024).max_header_size(64 * 1024);
    builder
}

// === impl Connection ===

impl Connection {
    /// Sends a request and waits for the head of the answer, `None` if it has not come `within` a time of the last of the request.
    ///
    /// # Errors
    /// With the request, if it certainly was not sent.
    pub async fn send(
        &mut self,
        request: Request<RequestBody>,
        within: Duration,
    ) -> Result<Option<Response<Incoming>>, TrySendError<Request<RequestBody>>> {
        let progress = request.body().progress();
        let mut answer = pin!(self.send.try_send_request(request));
        let drive = &mut self.drive;
        let mut answer = pin!(poll_fn(|cx| {
            step(drive, cx);
            answer.as_mut().poll(cx)
        }));
        loop {
            let before = progress.as_ref().map(|p| p.load(Ordering::Relaxed));
            match tokio::time::timeout(within, answer.as_mut()).await {
                Ok(result) => return result.map(Some),
                Err(_) if before != progress.as_ref().map(|p| p.load(Ordering::Relaxed)) => {}
                Err(_) => return Ok(None),
            }
        }
    }

    /// Polls an idle connection: it must have nothing to say.
    fn is_usable(&mut self) -> bool {
        step(&mut self.drive, &mut Context::from_waker(Waker::noop()));
        !self.doubtful && self.drive.is_some() && self.send.is_ready()
    }
}

fn step(drive: &mut Option<http1::Connection<TokioIo<Line>, RequestBody>>, cx: &mut Context<'_>) {
    if let Some(connection) = drive
        && Pin::new(connection).poll(cx).is_ready()
    {
        *drive = None;
    }
}

// === impl RequestBody ===

impl RequestBody {
    /// Streams what the client sends, up to `limit` bytes (0 means any).
    pub fn new(body: Incoming, limit: u64) -> Self {
        if body.is_end_stream() {
            return Self(None);
        }
        let left = (limit != 0).then_some(limit);
        Self(Some(Upload { body, progress: Progress::default(), left }))
    }

    /// How much it is, at most.
    pub fn load(&self) -> Load {
        match self.size_hint().upper() {
            Some(0..=SMALL) => Load::Small,
            _ => Load::Any,
        }
    }

    /// Its progress, if it has any to make.
    pub fn progress(&self) -> Option<Progress> {
        self.0.as_ref().map(|upload| Arc::clone(&upload.progress))
    }

    /// None.
    pub fn empty() -> Self {
        Self(None)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        match &mut self.0 {
            Some(upload) => {
                let frame = Pin::new(&mut upload.body).poll_frame(cx);
                if frame.is_ready() {
                    upload.progress.fetch_add(1, Ordering::Relaxed);
                }
                if let (Some(left), Poll::Ready(Some(Ok(frame)))) = (&mut upload.left, &frame) {
                    let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                    let Some(rest) = left.checked_sub(length) else {
                        return Poll::Ready(Some(Err(UploadError::Refused(Refusal::BodyTooLong))));
                    };
                    *left = rest;
                }
                frame.map(|frame| frame.map(|result| result.map(without_forbidden).map_err(UploadError::Broken)))
            }
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|upload| upload.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or(SizeHint::with_exact(0), |upload| upload.body.size_hint())
    }
}

/// A frame without trailers that must not be any. On HTTP/1 the gate refuses them; HTTP/2 has none.
fn without_forbidden(frame: Frame<Bytes>) -> Frame<Bytes> {
    let mut trailers = match frame.into_trailers() {
        Ok(trailers) => trailers,
        Err(frame) => return frame,
    };
    let forbidden = |name: &&HeaderName| gate::is_forbidden_trailer(name.as_str().replace('_', "-").as_bytes());
    let names: Vec<HeaderName> = trailers.keys().filter(forbidden).cloned().collect();
    names.iter().for_each(|name| _ = trailers.remove(name));
    Frame::trailers(trailers)
}

// === impl ResponseBody ===

impl ResponseBody {
    /// The body of an answer that came over `connection`.
    pub fn new(body: Incoming, connection: Box<Connection>, pool: Rc<Pool>) -> Self {
        let mut this = Self { body, connection: Some(connection), pool };
        this.release_at_end();
        this
    }

    fn release_at_end(&mut self) {
        if self.body.is_end_stream()
            && let Some(connection) = self.connection.take()
        {
            self.pool.give_back(connection);
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        // Asking for a frame tells the connection that there is room for one; then it may deliver.
        let mut frame = Pin::new(&mut this.body).poll_frame(cx);
        if frame.is_pending()
            && let Some(connection) = &mut this.connection
        {
            step(&mut connection.drive, cx);
            frame = Pin::new(&mut this.body).poll_frame(cx);
        }
        match &frame {
            Poll::Ready(None) => {
                if let Some(connection) = this.connection.take() {
                    this.pool.give_back(connection);
                }
            }
            Poll::Ready(Some(Ok(_))) => this.release_at_end(),
            Poll::Ready(Some(Err(_))) => this.connection = None,
            Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
