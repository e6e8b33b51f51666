//! Changes, deaths and departures, under load, without a lost request.
#![allow(missing_docs)]

mod rig;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::Request;
use http_body_util::BodyExt;
use rig::{Client, Ingress, Upstream, World, eventually, full, nobody};
use socket2::{SockFilter, SockRef};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

/// Lets through nothing that comes (BPF_RET, 0 bytes).
const NOTHING: SockFilter = SockFilter::new(0x06, 0, 0, 0);

/// Clients that ask as fast as they can, and note every answer that is not 200.
struct Load {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
    clients: JoinSet<Vec<String>>,
}

impl Load {
    /// Half keep their connections, half open one for each request.
    fn start(address: SocketAddr, clients: usize) -> Self {
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut set = JoinSet::new();
        for number in 0..clients {
            let (stop, answers) = (Arc::clone(&stop), Arc::clone(&answers));
            set.spawn(async move {
                let mut wrong = Vec::new();
                let mut client = Client::connect(address).await;
                while !stop.load(Ordering::Relaxed) {
                    if number % 2 == 0 {
                        client = Client::connect(address).await;
                    }
                    let request = Request::builder().uri("/").header("host", "a.net").body(full("")).expect("request");
                    match client.send(request).await {
                        Ok(reply) if reply.status == 200 => {
                            answers.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(reply) => wrong.push(reply.text()),
                        Err(error) => wrong.push(format!("{error:?}")),
                    }
                }
                wrong
            });
        }
        Self { stop, answers, clients: set }
    }

    fn answers(&self) -> usize {
        self.answers.load(Ordering::Relaxed)
    }

    /// Waits for that many more answers.
    async fn more(&self, count: usize) {
        let target = self.answers() + count;
        eventually("more answers", async || self.answers() >= target).await;
    }

    async fn stop(mut self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut wrong = Vec::new();
        while let Some(result) = self.clients.join_next().await {
            wrong.extend(result.expect("no panic"));
        }
        wrong
    }
}

fn world(endpoints: &[SocketAddr]) -> World {
    World::new().service("a", endpoints).rule("a.net", "/", "a")
}

#[tokio::test(flavor = "multi_thread")]
async fn reconfiguration_under_load_loses_nothing() {
    let (a, b) = (Upstream::echo("a").await, Upstream::echo("b").await);
    let ingress = Ingress::start(world(&[a.address])).await;
    let load = Load::start(ingress.http, 4);
    let mut changes = 0;
    while load.answers() < 5_000 {
        let endpoints: &[SocketAddr] = match changes % 3 {
            0 => &[a.address, b.address],
            1 => &[b.address],
            _ => &[a.address],
        };
        let mut next = world(endpoints);
        for extra in 0..changes % 50 {
            next = next.rule(&format!("x{extra}*.net.org"), "/", "a");
        }
        ingress.change(next).await;
        changes += 1;
    }
    assert_eq!(load.stop().await, Vec::<String>::new());
    assert!(changes > 20, "{changes} changes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_upstream_costs_no_idempotent_request() {
    let (a, b) = (Upstream::echo("a").await, Upstream::echo("b").await);
    let ingress = Ingress::start(world(&[a.address, b.address])).await;
    let load = Load::start(ingress.http, 4);
    load.more(500).await;
    let dead = a.address;
    a.kill().await;
    load.more(1_000).await;
    ingress.change(world(&[b.address])).await;
    load.more(500).await;
    assert_eq!(load.stop().await, Vec::<String>::new(), "{dead} was killed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_endpoint_is_passed_over_also_for_requests_with_a_body() {
    let b = Upstream::echo("b").await;
    let ingress = Ingress::start(world(&[nobody().await, b.address])).await;
    for _ in 0..10 {
        let request =
            Request::builder().method("POST").uri("/").header("host", "a.net").body(full("body")).expect("request");
        let reply = ingress.client().await.send(request).await.expect("answer");
        assert_eq!((reply.pod(), &reply.json()["body"]), ("b", &"body".into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_may_have_acted_is_not_sent_twice() {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let rude = Upstream::raw(move |mut stream| {
        let count = Arc::clone(&count);
        async move {
            let mut head = [0; 4096];
            if stream.read(&mut head).await.is_ok_and(|n| n > 0) {
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
    .await;
    let ingress = Ingress::start(world(&[rude.address])).await;
    for (method, sent) in [("POST", 1), ("GET", 3)] {
        seen.store(0, Ordering::SeqCst);
        let request =
            Request::builder().method(method).uri("/").header("host", "a.net").body(full("")).expect("request");
        let reply = ingress.client().await.send(request).await.expect("answer");
        assert_eq!((reply.status, seen.load(Ordering::SeqCst)), (502, sent), "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_finishes_what_is_open_and_closes_what_is_quiet() {
    let release = Arc::new(tokio::sync::Semaphore::new(0));
    let gate = Arc::clone(&release);
    let slow = Upstream::start(move |_| {
        let gate = Arc::clone(&gate);
        async move {
            let _permit = gate.acquire().await.expect("open");
            http::Response::builder().header("x-pod", "slow").body(full("late")).expect("response")
        }
    })
    .await;
    let mut ingress = Ingress::start(world(&[slow.address])).await;
    let mut quiet = TcpStream::connect(ingress.http).await.expect("connect");
    let address = ingress.http;
    let open = tokio::spawn(async move { Client::connect(address).await.get("a.net", "/").await });
    eventually("the request is open", async || slow.requests() == 1).await;

    ingress.terminate();
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(5), quiet.read_to_end(&mut rest)).await.expect("closed").expect("cleanly");
    eventually("nobody is accepted any more", async || TcpStream::connect(address).await.is_err()).await;
    release.add_permits(1);
    let reply = open.await.expect("no panic");
    assert_eq!((reply.pod(), reply.headers["connection"].as_bytes()), ("slow", &b"close"[..]));
    ingress.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_connection_is_told_to_go_and_finishes_what_is_open() {
    let release = Arc::new(tokio::sync::Semaphore::new(0));
    let gate = Arc::clone(&release);
    let slow = Upstream::start(move |_| {
        let gate = Arc::clone(&gate);
        async move {
            let _permit = gate.acquire().await.expect("open");
            http::Response::builder().header("x-pod", "slow").body(full("late")).expect("response")
        }
    })
    .await;
    let mut ingress = Ingress::start(world(&[slow.address])).await;
    let (mut busy, busy_end) = ingress.http2().await;
    let (_quiet, quiet_end) = ingress.http2().await;
    let get = || Request::builder().uri("http://a.net/").body(full("")).expect("request");
    let address = ingress.http;
    let open = tokio::spawn(async move { busy.send_request(get()).await.expect("an answer") });
    eventually("the request is open", async || slow.requests() == 1).await;

    ingress.terminate();
    let quiet = tokio::time::timeout(Duration::from_secs(5), quiet_end).await.expect("closed").expect("no panic");
    quiet.expect("with GOAWAY, not an error");
    eventually("nobody is accepting any more", async || TcpStream::connect(address).await.is_err()).await;
    release.add_permits(1);
    let answer = open.await.expect("no panic");
    assert_eq!((answer.status().as_u16(), &answer.headers()["x-pod"]), (200, &"slow".parse().expect("a value")));
    drop(answer);
    let busy = tokio::time::timeout(Duration::from_secs(5), busy_end).await.expect("closed").expect("no panic");
    busy.expect("with GOAWAY, not an error");
    ingress.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_silent_costs_no_idempotent_request() {
    let lost = Upstream::raw(|mut stream| async move {
        let mut head = [0; 4096];
        if stream.read(&mut head).await.is_ok_and(|n| n > 0) {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nx-pod: lost\r\ncontent-length: 0\r\n\r\n").await;
            // What comes from now on is not even acknowledged: as when the node is gone.
            SockRef::from(&stream).attach_filter(&[NOTHING]).expect("a filter");
        }
        std::future::pending().await
    })
    .await;
    let b = Upstream::echo("b").await;
    let ingress = Ingress::start_with(world(&[lost.address, b.address]), |config| {
        (config.threads, config.limits.peer_timeout) = (1, Duration::from_secs(1));
    })
    .await;
    let mut client = ingress.client().await;
    let mut pods = Vec::new();
    for _ in 0..2 {
        pods.push(client.get("a.net", "/").await.pod().to_owned());
    }
    pods.sort();
    assert_eq!(pods, ["b", "lost"]);
    for _ in 0..4 {
        assert_eq!(client.get("a.net", "/").await.pod(), "b");
    }
}

/// To the kernel, a full peer is as silent as a lost one.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_reads_late_is_not_lost() {
    const LENGTH: usize = 16 << 20;
    let (say, ready) = tokio::sync::watch::channel(false);
    let late = Upstream::start(move |request: Request<hyper::body::Incoming>| {
        let mut ready = ready.clone();
        async move {
            let _ = ready.wait_for(|ready| *ready).await;
            let body = BodyExt::collect(request.into_body()).await.expect("a body").to_bytes();
            http::Response::builder().header("x-pod", "late").body(full(body.len().to_string())).expect("response")
        }
    })
    .await;
    let ingress = Ingress::start_with(world(&[late.address]), |config| {
        (config.threads, config.limits.peer_timeout) = (1, Duration::from_millis(300));
    })
    .await;
    let mut client = ingress.client().await;
    let post = Request::post("/").header("host", "a.net").body(full(vec![b'x'; LENGTH])).expect("request");
    let mut reply = std::pin::pin!(client.send(post));
    // What the kernel would do it has done by now: its probes come 0.2, 0.6 and 1.4 s after the window closed.
    let early = tokio::time::timeout(Duration::from_secs(2), reply.as_mut()).await;
    assert!(early.is_err(), "{early:?}");
    say.send_replace(true);
    let reply = reply.await.expect("an answer");
    assert_eq!((reply.pod(), reply.text()), ("late", LENGTH.to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_to_an_endpoint_that_is_silent_ends_soon() {
    let lost = Upstream::raw(|mut stream| async move {
        let _ = stream.read(&mut [0; 100]).await;
        SockRef::from(&stream).attach_filter(&[NOTHING]).expect("a filter");
        std::future::pending().await
    })
    .await;
    let ingress = Ingress::start_with(world(&[lost.address]), |config| {
        (config.threads, config.limits.peer_timeout) = (1, Duration::from_millis(500));
    })
    .await;
    let mut client = ingress.client().await;
    let post = Request::post("/").header("host", "a.net").body(full(vec![b'x'; 16 << 20])).expect("request");
    let reply = tokio::time::timeout(Duration::from_secs(20), client.send(post)).await.expect("long before its time");
    assert_eq!(reply.expect("an answer").status, 502);
}

/// An ingress that notices lost ends at once, and a connection through it that left HTTP.
async fn tunnel(backend: &Upstream) -> (Ingress, TcpStream) {
    let ingress = Ingress::start_with(world(&[backend.address]), |config| {
        (config.threads, config.limits.peer_timeout) = (1, Duration::from_millis(300));
    })
    .await;
    let mut stream = TcpStream::connect(ingress.http).await.expect("connect");
    let ask = b"GET / HTTP/1.1\r\nhost: a.net\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
    stream.write_all(ask).await.expect("write");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("read"));
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    (ingress, stream)
}

/// What the other end of a tunnel does first.
async fn agree(stream: &mut TcpStream) {
    let _ = stream.read(&mut [0; 4096]).await;
    let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
    stream.write_all(answer).await.expect("write");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_ends_when_its_other_end_is_lost() {
    let lost = Upstream::raw(|mut stream| async move {
        agree(&mut stream).await;
        let _ = stream.read_u8().await;
        SockRef::from(&stream).attach_filter(&[NOTHING]).expect("a filter");
        std::future::pending().await
    })
    .await;
    let (_ingress, mut stream) = tunnel(&lost).await;
    stream.write_all(b"is anybody there?").await.expect("write");
    stream.write_all(b"really?").await.expect("write");
    let end = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut [0])).await.expect("the tunnel ends");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_tunnel_stays() {
    const LENGTH: usize = 16 << 20;
    let (say, ready) = tokio::sync::watch::channel(false);
    let late = Upstream::raw(move |mut stream| {
        let mut ready = ready.clone();
        async move {
            agree(&mut stream).await;
            let _ = ready.wait_for(|ready| *ready).await;
            stream.read_exact(&mut vec![0; LENGTH]).await.expect("everything");
            stream.write_all(b"done").await.expect("write");
        }
    })
    .await;
    let (_ingress, mut stream) = tunnel(&late).await;
    let (mut read, mut write) = stream.split();
    let bytes = vec![b'x'; LENGTH];
    let mut sending = std::pin::pin!(write.write_all(&bytes));
    let early = tokio::time::timeout(Duration::from_secs(2), sending.as_mut()).await;
    assert!(early.is_err(), "nobody has read it: {early:?}");
    say.send_replace(true);
    sending.await.expect("write");
    let mut word = [0; 4];
    read.read_exact(&mut word).await.expect("read");
    assert_eq!(&word, b"done");
}

#[tokio::test(flavor = "multi_thread")]
async fn grace_is_bounded() {
    let stuck = Upstream::start(|_| std::future::pending()).await;
    let mut ingress = Ingress::start_with(world(&[stuck.address]), |c| c.grace = Duration::from_millis(100)).await;
    let mut stream = TcpStream::connect(ingress.http).await.expect("connect");
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a.net\r\n\r\n").await.expect("write");
    eventually("the request is open", async || stuck.requests() == 1).await;
    ingress.terminate();
    ingress.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_under_load_loses_nothing() {
    // Two replicas; clients that are told to go connect to the other one, as a load balancer would make them.
    let a = Upstream::echo("a").await;
    let (mut first, second) = (
        Ingress::start_with(world(&[a.address]), |c| c.drain_delay = Duration::from_millis(200)).await,
        Ingress::start(world(&[a.address])).await,
    );
    let (from, to) = (first.http, second.http);
    let moved = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        let moved = Arc::clone(&moved);
        clients.spawn(async move {
            let target = |moved: bool| if moved { to } else { from };
            let mut client = Client::connect(from).await;
            let mut after = 0;
            while after < 100 {
                let gone = moved.load(Ordering::SeqCst);
                let reply = client.get("a.net", "/").await;
                assert_eq!(reply.pod(), "a");
                if reply.headers.get("connection").is_some_and(|v| v == "close") {
                    client = Client::connect(target(gone)).await;
                }
                after += usize::from(gone);
            }
        });
    }
    eventually("load", async || a.requests() > 200).await;
    first.terminate();
    eventually("the first says it leaves", async || first.admin("/readyz").await.status == 503).await;
    moved.store(true, Ordering::SeqCst);
    while let Some(result) = clients.join_next().await {
        result.expect("no lost request");
    }
    first.ended().await;
}
