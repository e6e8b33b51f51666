//! The data plane: one thread a core, each with its own listeners, runtime, connections and upstream pool.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::Poll,
    thread,
    time::{Duration, Instant},
};

use hyper::{body::Incoming, server::conn, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::LocalSet,
};

use crate::{
    begin::{Prefixed, begin},
    config::Config,
    gate::{ConnState, Gate, Timeouts},
    headers::{self, Peer},
    metrics::{self, Metrics},
    proxy::Core,
    stream::Streams,
    table::SharedTable,
    tls::Acceptor,
};

const TOO_MANY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 33\r\nretry-after: 1\r\n\r\n503 too many connections at once\n";

/// Sockets for one address: one a thread, between which the kernel spreads connections.
#[derive(Debug)]
pub struct Listeners {
    /// Where they listen.
    pub address: SocketAddr,
    sockets: Vec<StdListener>,
}

/// Where serving stands, for every core to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Normally.
    Serving,
    /// Still accepting, but each answer closes its connection.
    Leaving,
    /// Finishing what is open.
    Draining,
    /// Cutting off what is left.
    Stopped,
}

/// The running threads.
#[derive(Debug)]
pub struct DataPlane {
    stage: watch::Sender<Stage>,
    threads: Vec<thread::JoinHandle<()>>,
    done: Vec<tokio::sync::oneshot::Receiver<()>>,
}

/// One core's connections and clock.
struct Worker {
    core: Rc<Core>,
    config: Config,
    timeouts: Timeouts,
    connections: RefCell<HashMap<u64, Arc<ConnState>, foldhash::fast::RandomState>>,
    next: Cell<u64>,
    now: Cell<u64>,
    stage: Cell<Stage>,
    tls: Option<Acceptor>,
}

// === impl Listeners ===

impl Listeners {
    /// Opens `count` sockets on an address; with port 0, all on the one the kernel picks.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn bind(address: SocketAddr, count: usize) -> io::Result<Self> {
        let first = listen(address)?;
        let address = first.local_addr()?;
        let mut sockets = vec![first];
        for _ in 1..count {
            sockets.push(listen(address)?);
        }
        Ok(Self { address, sockets })
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.sockets.len()
    }
}

fn listen(address: SocketAddr) -> io::Result<StdListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

// === impl DataPlane ===

impl DataPlane {
    /// Starts a thread for each socket.
    ///
    /// # Errors
    /// When a thread or its runtime cannot be made.
    pub fn start(
        config: &Config,
        http: Listeners,
        https: Option<(Listeners, Acceptor)>,
        table: &Arc<SharedTable>,
        metrics: &Metrics,
    ) -> io::Result<Self> {
        let (stage, _) = watch::channel(Stage::Serving);
        let mut plane = Self { stage, threads: Vec::new(), done: Vec::new() };
        let (mut secure, tls) = match https {
            Some((listeners, acceptor)) => (listeners.sockets.into_iter(), Some(acceptor)),
            None => (Vec::new().into_iter(), None),
        };
        for (number, socket) in http.sockets.into_iter().enumerate() {
            let (report, done) = tokio::sync::oneshot::channel();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (table, stage, config) = (Arc::clone(table), plane.stage.subscribe(), config.clone());
            let (counters, tls, secure) = (Arc::clone(&metrics.cores[number]), tls.clone(), secure.next());
            let serve = move || {
                let core = Rc::new(Core::new(table, config.limits.clone(), counters));
                let worker = Rc::new(Worker::new(core, config, tls));
                LocalSet::new().block_on(&runtime, worker.run(socket, secure, stage));
                runtime.shutdown_background();
                let _ = report.send(());
            };
            plane.threads.push(thread::Builder::new().name(format!("core-{number}")).spawn(serve)?);
            plane.done.push(done);
        }
        Ok(plane)
    }

    /// Says where serving stands now.
    pub fn set_stage(&self, stage: Stage) {
        self.stage.send_replace(stage);
    }

    /// Waits until every thread has finished its connections, at most `grace`; then cuts off the rest.
    pub async fn finish(mut self, grace: Duration) -> bool {
        self.set_stage(Stage::Draining);
        let all = futures::future::join_all(self.done.drain(..));
        let mut all = std::pin::pin!(all);
        let clean = tokio::time::timeout(grace, all.as_mut()).await.is_ok();
        if !clean {
            self.set_stage(Stage::Stopped);
            all.await;
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        clean
    }
}

// === impl Worker ===

impl Worker {
    fn new(core: Rc<Core>, config: Config, tls: Option<Acceptor>) -> Self {
        Self {
            timeouts: config.limits.timeouts(),
            core,
            config,
            connections: RefCell::default(),
            next: Cell::new(0),
            now: Cell::new(1),
            stage: Cell::new(Stage::Serving),
            tls,
        }
    }

    async fn run(self: Rc<Self>, plain: StdListener, secure: Option<StdListener>, mut stage: watch::Receiver<Stage>) {
        let clock = tokio::task::spawn_local(Rc::clone(&self).clock());
        let mut accepting = vec![tokio::task::spawn_local(Rc::clone(&self).accept(plain, false))];
        accepting.extend(secure.map(|secure| tokio::task::spawn_local(Rc::clone(&self).accept(secure, true))));
        loop {
            let now = *stage.borrow_and_update();
            self.stage.set(now);
            match now {
                Stage::Serving => {}
                Stage::Leaving => {
                    // Answers from now on close their connections; quiet ones stay open, so nothing sent on them is lost.
                    self.connections.borrow().values().for_each(|state| state.leave());
                }
                Stage::Draining | Stage::Stopped => break,
            }
            if stage.changed().await.is_err() {
                break;
            }
        }
        self.stage.set(Stage::Draining);
        // Accepting stops by itself once the kernel's queue is empty: a connection in it is somebody's request.
        self.core.changed.notify_waiters();
        let left = async {
            for task in accepting {
                let _ = task.await;
            }
            self.connections.borrow().values().for_each(|state| state.drain());
            loop {
                let changed = self.core.changed.notified();
                if self.connections.borrow().is_empty() && self.core.tunnels.get() == 0 {
                    break;
                }
                changed.await;
            }
        };
        tokio::select! {
            () = left => {}
            _ = stage.wait_for(|s| *s == Stage::Stopped) => {}
        }
        clock.abort();
        self.core.pool.clear();
    }

    /// Looks at all connections once a step. Does not run while there are none.
    async fn clock(self: Rc<Self>) {
        let mut swept = Instant::now();
        loop {
            while self.connections.borrow().is_empty() && self.core.pool.is_empty() {
                self.core.changed.notified().await;
            }
            tokio::time::sleep(self.timeouts.step).await;
            let now = self.now.get() + 1;
            self.now.set(now);
            self.connections.borrow().values().for_each(|state| state.tick(now));
            if swept.elapsed() >= Duration::from_secs(1) {
                swept = Instant::now();
                self.core.pool.sweep(swept);
                self.core.refresh_table();
            }
        }
    }

    async fn accept(self: Rc<Self>, socket: StdListener, secure: bool) {
        let listener = match TcpListener::from_std(socket) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "listener unusable"),
        };
        loop {
            let stopping = self.core.changed.notified();
            let accepted = if self.stage.get() == Stage::Draining {
                // What the kernel has queued, and nothing more.
                match std::future::poll_fn(|cx| Poll::Ready(listener.poll_accept(cx))).await {
                    Poll::Ready(accepted) => accepted,
                    Poll::Pending => return,
                }
            } else {
                tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = stopping => continue,
                }
            };
            match accepted {
                Ok((stream, address)) => self.admit(stream, address, secure),
                Err(error) if matches!(error.raw_os_error(), Some(23 | 24)) => {
                    // Out of descriptors: wait for a connection to end rather than spin.
                    tracing::warn!(%error, "accept failed");
                    let _ = tokio::time::timeout(Duration::from_millis(100), self.core.changed.notified()).await;
                }
                Err(error) => tracing::debug!(%error, "accept failed"),
            }
        }
    }

    fn admit(self: &Rc<Self>, stream: TcpStream, address: SocketAddr, secure: bool) {
        let counters = &self.core.metrics;
        metrics::add(&counters.accepted, 1);
        if self.connections.borrow().len() >= self.config.limits.max_connections {
            metrics::add(&counters.overflowed, 1);
            let _ = stream.try_write(TOO_MANY);
            return;
        }
        let _ = stream.set_nodelay(true);
        let number = self.next.get();
        self.next.set(number + 1);
        let state = Arc::new(ConnState::new(self.timeouts, self.now.get()));
        if self.stage.get() != Stage::Serving {
            state.leave();
        }
        let first = self.connections.borrow().is_empty();
        self.connections.borrow_mut().insert(number, Arc::clone(&state));
        metrics::add(&counters.open, 1);
        if first {
            self.core.changed.notify_waiters();
        }
        let worker = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let local = stream.local_addr().unwrap_or(address);
            let trusted = headers::is_trusted(&worker.config.trusted_proxies, address.ip());
            let peer = Rc::new(Peer::new(address, local, secure, trusted));
            match (secure, &worker.tls) {
                (true, Some(acceptor)) => match acceptor.accept(stream, worker.timeouts.head).await {
                    Ok(stream) => worker.serve(stream, peer, &state).await,
                    Err(error) => tracing::debug!(%error, %address, "TLS handshake failed"),
                },
                _ => worker.serve(stream, peer, &state).await,
            }
            worker.connections.borrow_mut().remove(&number);
            metrics::subtract(&worker.core.metrics.open, 1);
            if worker.connections.borrow().is_empty() || worker.stage.get() != Stage::Serving {
                worker.core.changed.notify_waiters();
            }
        });
    }

    async fn serve<T>(&self, mut io: T, peer: Rc<Peer>, state: &Arc<ConnState>)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Some((first, http2)) = begin(&mut io, state).await else { return };
        // Requests are counted, so that the one in whose place a refusal stands is known.
        let (core, shared, requests) = (Rc::clone(&self.core), Arc::clone(state), Cell::new(0_u32));
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            requests.set(requests.get().saturating_add(1));
            Rc::clone(&core).handle(request, Rc::clone(&peer), Arc::clone(&shared), requests.get())
        });
        let result = if http2 {
            let limits = &self.config.limits;
            let io = TokioIo::new(Prefixed { first, io });
            // A client that is gone without a word answers no ping.
            let ping = limits.body_timeout / 3;
            let connection = conn::http2::Builder::new(Streams { patience: limits.body_timeout })
                .timer(TokioTimer::new())
                .keep_alive_interval(Some(ping))
                .keep_alive_timeout(ping)
                .max_concurrent_streams(100)
                .max_header_list_size(u32::try_from(limits.max_head).unwrap_or(u32::MAX))
                .max_local_error_reset_streams(Some(1024))
                .initial_connection_window_size(1024 * 1024)
                .initial_stream_window_size(256 * 1024)
                .serve_connection(io, service);
            drive(connection, state, |c| c.graceful_shutdown(), true).await
        } else {
            let gate = Gate::new(io, first, self.config.limits.gate(), Arc::clone(state));
            let connection = conn::http1::Builder::new()
                .half_close(true)
                .header_read_timeout(None)
                .max_buf_size(64 * 1024)
                .serve_connection(TokioIo::new(gate), service)
                .with_upgrades();
            drive(connection, state, |c| c.graceful_shutdown(), false).await
        };
        if let Err(error) = result {
            tracing::debug!(%error, "connection ended");
        }
    }
}

/// Polls a connection, with an ear for the clock and for shutdown.
async fn drive<C>(
    connection: C,
    state: &ConnState,
    graceful: impl Fn(Pin<&mut C>),
    ends_when_late: bool,
) -> hyper::Result<()>
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut connection = std::pin::pin!(connection);
    let mut asked = false;
    let mut late = false;
    std::future::poll_fn(|cx| {
        state.register(cx.waker());
        let expired = ends_when_late && state.read_expired();
        if !asked && (state.must_end() || expired) {
            asked = true;
            graceful(connection.as_mut());
        }
        if expired {
            // It was told to go, and does not take what is left for it.
            if late {
                return Poll::Ready(Ok(()));
            }
            late = true;
            state.linger();
        }
        connection.as_mut().poll(cx)
    })
    .await
}
