//! Upstreams, an ingress in front of them, clients: so that a test reads as a sentence.
#![allow(dead_code, missing_docs, unreachable_pub)]

pub mod kube_api;

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use switchyard_ingress::{Config, Origin, Sockets, run, table::Objects};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
    task::JoinHandle,
};

pub type Body = BoxBody<Bytes, hyper::Error>;

/// An HTTP server that says who it is; dropped, it is gone, connections and all.
pub struct Upstream {
    pub address: SocketAddr,
    pub connections: Arc<AtomicUsize>,
    pub requests: Arc<AtomicUsize>,
    task: JoinHandle<()>,
    children: Arc<std::sync::Mutex<tokio::task::JoinSet<()>>>,
}

impl Upstream {
    /// Answers with its name, and what it was asked as JSON.
    pub async fn echo(name: &'static str) -> Self {
        Self::start(move |request| async move {
            let (parts, body) = request.into_parts();
            let collected = body.collect().await.expect("request body");
            let trailers = collected.trailers().map(json_headers);
            let body = collected.to_bytes();
            let said = json!({
                "pod": name, "method": parts.method.as_str(), "target": parts.uri.to_string(),
                "headers": json_headers(&parts.headers), "body": String::from_utf8_lossy(&body), "trailers": trailers,
            });
            Response::builder().header("x-pod", name).body(full(said.to_string())).expect("response")
        })
        .await
    }

    pub async fn start<F, R>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        let requests = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&requests);
        let mut this = Self::raw(move |stream| {
            let (answer, counter) = (answer.clone(), Arc::clone(&counter));
            async move {
                let service = service_fn(move |request| {
                    counter.fetch_add(1, Ordering::SeqCst);
                    let answer = answer(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .half_close(true)
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades()
                    .await;
            }
        })
        .await;
        this.requests = requests;
        this
    }

    /// Speaks for itself.
    pub async fn raw<F, R>(serve: F) -> Self
    where
        F: Fn(TcpStream) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let connections = Arc::new(AtomicUsize::new(0));
        let children = Arc::new(std::sync::Mutex::new(tokio::task::JoinSet::new()));
        let (count, tasks) = (Arc::clone(&connections), Arc::clone(&children));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                tasks.lock().expect("lock").spawn(serve(stream));
            }
        });
        Self { address, connections, requests: Arc::default(), task, children }
    }

    /// As kill -9: the listener and every connection are gone.
    pub async fn kill(self) {
        self.task.abort();
        let _ = (&mut { self.task }).await;
        let mut set = std::mem::take(&mut *self.children.lock().expect("lock"));
        set.shutdown().await;
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// A port nobody listens on.
pub async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.expect("bind").local_addr().expect("address")
}

/// Cluster objects, written down briefly.
#[derive(Clone, Default)]
pub struct World(pub Objects);

impl World {
    pub fn new() -> Self {
        Self::default().class("yard", switchyard_ingress::table::CONTROLLER, false)
    }

    pub fn class(mut self, name: &str, controller: &str, default: bool) -> Self {
        let class = json!({
            "metadata": { "name": name, "annotations": { "ingressclass.kubernetes.io/is-default-class": default.to_string() } },
            "spec": { "controller": controller },
        });
        self.0.classes.insert((String::new(), name.into()), Arc::new(from(class)));
        self
    }

    /// A Service with port 80 (named http) and these ready endpoints.
    pub fn service(mut self, name: &str, endpoints: &[SocketAddr]) -> Self {
        let service = json!({ "metadata": { "name": name, "namespace": "default" }, "spec": { "ports": [{ "name": "http", "port": 80 }] } });
        self.0.services.insert(key(name), Arc::new(from(service)));
        // One slice an endpoint: ports differ between the upstreams of a test, as they never do between pods.
        self.0.slices.retain(|(_, slice), _| !slice.starts_with(&format!("{name}-")));
        for (i, endpoint) in endpoints.iter().enumerate() {
            let slice = json!({
                "metadata": { "name": format!("{name}-{i}"), "namespace": "default", "labels": { "kubernetes.io/service-name": name } },
                "addressType": "IPv4",
                "ports": [{ "name": "http", "port": endpoint.port() }],
                "endpoints": [{ "addresses": [endpoint.ip().to_string()], "conditions": { "ready": true } }],
            });
            self.0.slices.insert(key(&format!("{name}-{i}")), Arc::new(from(slice)));
        }
        self
    }

    /// A rule (Prefix unless the path starts with '=') in an Ingress of its own.
    pub fn rule(self, host: &str, path: &str, service: &str) -> Self {
        let name = format!("ingress-{}", self.0.ingresses.len());
        let (kind, path) = path.strip_prefix('=').map_or(("Prefix", path), |exact| ("Exact", exact));
        let spec = json!({
            "ingressClassName": "yard",
            "rules": [{ "host": host, "http": { "paths": [{
                "path": path, "pathType": kind, "backend": { "service": { "name": service, "port": { "number": 80 } } },
            }] } }],
        });
        self.ingress(&name, json!({}), spec)
    }

    pub fn ingress(mut self, name: &str, annotations: Value, spec: Value) -> Self {
        let metadata = json!({ "name": name, "namespace": "default", "annotations": annotations });
        self.0.ingresses.insert(key(name), Arc::new(from(json!({ "metadata": metadata, "spec": spec }))));
        self
    }
}

fn key(name: &str) -> (String, String) {
    ("default".into(), name.into())
}

pub fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a valid object")
}

/// A running ingress on ports of its own.
pub struct Ingress {
    pub http: SocketAddr,
    pub admin: SocketAddr,
    objects: Option<watch::Sender<Objects>>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Ingress {
    pub async fn start(world: World) -> Self {
        Self::start_with(world, |_| {}).await
    }

    pub async fn start_with(world: World, change: impl FnOnce(&mut Config)) -> Self {
        let (objects, given) = watch::channel(world.0);
        let mut this = Self::start_from(Origin::Given(given), change).await;
        this.objects = Some(objects);
        this
    }

    pub async fn start_from(origin: Origin, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            http: ([127, 0, 0, 1], 0).into(),
            admin: ([127, 0, 0, 1], 0).into(),
            threads: 2,
            drain_delay: Duration::ZERO,
            ..Config::default()
        };
        change(&mut config);
        let sockets = Sockets::bind(&config).expect("sockets");
        let (http, admin) = (sockets.http.address, sockets.admin.local_addr().expect("address"));
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move {
            let _ = stopped.await;
        };
        let task = tokio::spawn(async move { run(config, sockets, origin, shutdown).await.expect("run") });
        let this = Self { http, admin, objects: None, stop: Some(stop), task };
        eventually("the ingress is ready", async || this.admin("/readyz").await.status == 200).await;
        this
    }

    /// Publishes other objects and waits until they are served from.
    pub async fn change(&self, world: World) {
        let generation = self.generation().await;
        self.publish(world);
        eventually("the table is new", async || self.generation().await > generation).await;
    }

    pub fn publish(&self, world: World) {
        self.objects.as_ref().expect("started with objects").send_replace(world.0);
    }

    pub async fn generation(&self) -> u64 {
        self.admin("/table").await.json()["generation"].as_u64().expect("a number")
    }

    pub async fn admin(&self, path: &str) -> Reply {
        Client::connect(self.admin).await.get("admin", path).await
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.http).await
    }

    /// An HTTP/2 connection, and its end.
    pub async fn http2(&self) -> (http2::SendRequest<Body>, JoinHandle<Result<(), hyper::Error>>) {
        self.http2_with(|_| {}).await
    }

    pub async fn http2_with(
        &self,
        change: impl FnOnce(&mut http2::Builder<TokioExecutor>),
    ) -> (http2::SendRequest<Body>, JoinHandle<Result<(), hyper::Error>>) {
        let stream = TcpStream::connect(self.http).await.expect("connect");
        let mut builder = http2::Builder::new(TokioExecutor::new());
        change(&mut builder);
        let (send, connection) = builder.handshake(TokioIo::new(stream)).await.expect("handshake");
        (send, tokio::spawn(connection))
    }

    /// One request on a connection of its own.
    pub async fn get(&self, host: &str, path: &str) -> Reply {
        self.client().await.get(host, path).await
    }

    /// Sends bytes as they are, and reads until the ingress closes.
    pub async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.http).await.expect("connect");
        stream.write_all(bytes).await.expect("write");
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
        let _ = read.expect("the connection is closed");
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// As SIGTERM; returns a handle on the end.
    pub fn terminate(&mut self) {
        let _ = self.stop.take().expect("once").send(());
    }

    pub async fn ended(self) {
        tokio::time::timeout(Duration::from_secs(20), self.task).await.expect("ends in time").expect("no panic");
    }
}

/// One client connection.
pub struct Client {
    send: http1::SendRequest<Body>,
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("connect");
        let (send, connection) = http1::handshake(TokioIo::new(stream)).await.expect("handshake");
        tokio::spawn(async move {
            let _ = connection.with_upgrades().await;
        });
        Self { send }
    }

    pub async fn get(&mut self, host: &str, path: &str) -> Reply {
        let request = Request::builder().uri(path).header("host", host).body(full("")).expect("request");
        self.send(request).await.expect("an answer")
    }

    pub async fn send(&mut self, request: Request<Body>) -> Result<Reply, hyper::Error> {
        self.send.ready().await?;
        let (head, body) = self.send.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Reply { status: head.status.as_u16(), headers: head.headers, body })
    }

    pub async fn open(&mut self, request: Request<Body>) -> Response<Incoming> {
        self.send.ready().await.expect("ready");
        self.send.send_request(request).await.expect("an answer")
    }
}

impl Reply {
    /// Which upstream answered.
    pub fn pod(&self) -> &str {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text());
        self.headers["x-pod"].to_str().expect("text")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).map_err(|never| match never {}).boxed()
}

fn json_headers(headers: &HeaderMap) -> Value {
    let mut all = serde_json::Map::new();
    for (name, value) in headers {
        let value = value.to_str().unwrap_or("?");
        let entry = all.entry(name.as_str()).or_insert_with(|| Value::String(String::new()));
        let so_far = entry.as_str().unwrap_or_default();
        *entry = Value::String(if so_far.is_empty() { value.into() } else { format!("{so_far}|{value}") });
    }
    Value::Object(all)
}

/// Waits for a condition, with a deadline.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds().await {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
