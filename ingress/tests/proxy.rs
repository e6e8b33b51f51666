//! What happens to a message on its way through.
#![allow(missing_docs)]

mod rig;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use rig::{Body, Ingress, Upstream, World, eventually, full};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

async fn ingress_for(upstream: &Upstream) -> Ingress {
    Ingress::start_with(World::new().service("a", &[upstream.address]).rule("a.net", "/", "a"), |c| c.threads = 1).await
}

fn channel() -> (mpsc::UnboundedSender<Frame<Bytes>>, Body) {
    let (send, receive) = mpsc::unbounded_channel();
    let stream = futures::stream::unfold(receive, |mut r| async move {
        r.recv().await.map(|f| (Ok::<_, std::convert::Infallible>(f), r))
    });
    let body = StreamBody::new(stream).map_err(|never| match never {});
    (send, BodyExt::boxed(body))
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_upstreams_are_kept() {
    let a = Upstream::echo("a").await;
    let ingress = ingress_for(&a).await;
    for _ in 0..50 {
        assert_eq!(ingress.get("a.net", "/").await.pod(), "a");
    }
    assert_eq!((a.requests(), a.connections()), (50, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarding_headers_say_who_asked() {
    let a = Upstream::echo("a").await;
    let ingress = ingress_for(&a).await;
    let request = Request::builder()
        .uri("/x")
        .header("host", "a.net")
        .header("x-forwarded-for", "9.9.9.9")
        .header("connection", "x-secret")
        .header("x-secret", "1")
        .header("te", "trailers");
    let reply = ingress.client().await.send(request.body(full("")).expect("request")).await.expect("answer");
    let headers = &reply.json()["headers"];
    let port = ingress.http.port().to_string();
    for (name, value) in [
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "a.net"),
        ("x-forwarded-port", &port),
        ("via", "1.1 yard-ingress"),
        ("te", "trailers"),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
    assert!(headers.get("x-secret").is_none() && headers.get("connection").is_none(), "{headers}");
    assert_eq!(headers["x-request-id"].as_str().map(str::len), Some(32));
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_both_ways_with_trailers() {
    // Answers each piece as it comes, so a proxy that gathers a body would stand still.
    let upper = Upstream::start(|request: Request<hyper::body::Incoming>| async move {
        let frames = request
            .into_body()
            .into_data_stream()
            .map(|piece| piece.map(|bytes| Frame::data(Bytes::from(bytes.to_ascii_uppercase()))));
        let trailers = futures::stream::once(async {
            let mut trailers = http::HeaderMap::new();
            trailers.insert("x-sum", "done".parse().expect("value"));
            Ok(Frame::trailers(trailers))
        });
        let (body, mut pieces) = channel();
        let _ = &mut pieces;
        let all = std::sync::Mutex::new(Box::pin(frames.chain(trailers)));
        tokio::spawn(async move {
            let mut all = all.into_inner().expect("lock");
            while let Some(Ok(frame)) = all.next().await {
                let _ = body.send(frame);
            }
        });
        Response::builder().header("trailer", "x-sum").body(pieces).expect("response")
    })
    .await;
    let ingress = ingress_for(&upper).await;
    let mut client = ingress.client().await;
    let (send, body) = channel();
    let request =
        Request::builder().method("POST").uri("/").header("host", "a.net").header("te", "trailers").body(body);
    send.send(Frame::data("one".into())).expect("open");
    let mut answer = client.open(request.expect("request")).await.into_body();
    let mut next = async || answer.frame().await.expect("a frame").expect("no error");
    assert_eq!(next().await.into_data().expect("data"), "ONE");
    send.send(Frame::data("two".into())).expect("open");
    assert_eq!(next().await.into_data().expect("data"), "TWO");
    drop(send);
    assert_eq!(next().await.into_trailers().expect("trailers")["x-sum"], "done");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_method_may_have_a_body_of_unknown_length() {
    let a = Upstream::echo("a").await;
    let ingress = ingress_for(&a).await;
    let (mut http2, _end) = ingress.http2().await;
    for method in ["GET", "DELETE", "POST"] {
        let (send, body) = channel();
        send.send(Frame::data("some".into())).expect("open");
        drop(send);
        let request = Request::builder().method(method).uri("http://a.net/").body(body).expect("request");
        let answer = http2.send_request(request).await.expect("an answer").into_body();
        let said: serde_json::Value =
            serde_json::from_slice(&answer.collect().await.expect("body").to_bytes()).expect("JSON");
        assert_eq!(said["body"], "some", "HTTP/2 {method}");
        let chunked = "transfer-encoding: chunked\r\nconnection: close\r\n\r\n4\r\nsome\r\n0\r\n\r\n";
        let answer = ingress.raw(format!("{method} / HTTP/1.1\r\nhost: a.net\r\n{chunked}").as_bytes()).await;
        assert!(answer.contains("\"body\":\"some\""), "{method}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_trailers_are_those_that_the_gate_lets_through() {
    let a = Upstream::echo("a").await;
    let ingress = ingress_for(&a).await;
    let (mut http2, _end) = ingress.http2().await;
    let (send, body) = channel();
    let mut trailers = http::HeaderMap::new();
    for name in ["x-sum", "cookie", "x-forwarded-for", "x_forwarded_for", "range"] {
        trailers.insert(name, "1".parse().expect("value"));
    }
    send.send(Frame::trailers(trailers)).expect("open");
    drop(send);
    let request = Request::post("http://a.net/").header("te", "trailers");
    let request = request.header("trailer", "x-sum, cookie, x-forwarded-for, x_forwarded_for, range").body(body);
    let answer = http2.send_request(request.expect("request")).await.expect("an answer").into_body();
    let said: serde_json::Value =
        serde_json::from_slice(&answer.collect().await.expect("body").to_bytes()).expect("JSON");
    assert_eq!(said["trailers"], serde_json::json!({ "x-sum": "1" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_client_without_a_host_gets_through() {
    let a = Upstream::echo("a").await;
    let ingress = Ingress::start(World::new().service("a", &[a.address]).rule("", "/", "a")).await;
    let answer = ingress.raw(b"GET / HTTP/1.0\r\n\r\n").await;
    assert!(answer.contains(&format!("\"host\":\"{}\"", ingress.http)), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_arrive_whole() {
    let a = Upstream::start(|request: Request<hyper::body::Incoming>| async move {
        Response::new(full(request.into_body().collect().await.expect("body").to_bytes()))
    })
    .await;
    let ingress = ingress_for(&a).await;
    let sent: Vec<u8> = (0..5_000_000_u32).map(|i| (i * 31 % 251) as u8).collect();
    for chunked in [false, true] {
        let body = if chunked {
            let (pieces, body) = channel();
            sent.chunks(70_001)
                .for_each(|piece| pieces.send(Frame::data(Bytes::copy_from_slice(piece))).expect("open"));
            body
        } else {
            full(sent.clone())
        };
        let request = Request::builder().method("PUT").uri("/").header("host", "a.net").body(body).expect("request");
        let reply = ingress.client().await.send(request).await.expect("answer");
        assert!(reply.body == sent, "{} bytes came back", reply.body.len());
    }
    assert_eq!(a.connections(), 1, "kept after bodies too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_for_100_is_told_to_go_on() {
    let a = Upstream::echo("a").await;
    let ingress = ingress_for(&a).await;
    let mut stream = TcpStream::connect(ingress.http).await.expect("connect");
    stream
        .write_all(
            b"POST / HTTP/1.1\r\nhost: a.net\r\nexpect: 100-continue\r\ncontent-length: 3\r\nconnection: close\r\n\r\n",
        )
        .await
        .expect("write");
    let mut first = [0; 25];
    stream.read_exact(&mut first).await.expect("read");
    assert_eq!(&first, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"abc").await.expect("write");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.expect("read");
    assert!(rest.starts_with("HTTP/1.1 200") && rest.contains("\"body\":\"abc\""), "{rest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_is_a_tunnel_and_survives_a_change() {
    let a = Upstream::raw(|mut stream| async move {
        let mut head = vec![0; 4096];
        let n = stream.read(&mut head).await.expect("read");
        let head = String::from_utf8_lossy(&head[..n]).to_lowercase();
        assert!(head.contains("upgrade: websocket\r\n") && head.contains("connection: upgrade\r\n"), "{head}");
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello";
        stream.write_all(answer).await.expect("write");
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let world = World::new().service("a", &[a.address]).rule("a.net", "/", "a");
    let ingress = ingress_for(&a).await;
    let mut stream = TcpStream::connect(ingress.http).await.expect("connect");
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: a.net\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n")
        .await
        .expect("write");
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello") {
        let mut piece = [0; 512];
        let n = stream.read(&mut piece).await.expect("read");
        assert!(n > 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&piece[..n]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
    ingress.change(world.service("b", &[])).await;
    for _ in 0..3 {
        // Bytes that no HTTP parser would let through.
        let odd = b"\x00\xff\n GET\r\n\r\n";
        stream.write_all(odd).await.expect("write");
        let mut echo = [0; 11];
        stream.read_exact(&mut echo).await.expect("read");
        assert_eq!(&echo, odd);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_refused_upgrade_http_goes_on() {
    let a = Upstream::echo("a").await;
    let ingress = ingress_for(&a).await;
    // The second request is parsed and routed as HTTP, never tunnelled (CVE-2026-2833).
    let answer = ingress
        .raw(b"GET /1 HTTP/1.1\r\nhost: a.net\r\nconnection: upgrade\r\nupgrade: foo\r\n\r\nGET /2 HTTP/1.1\r\nhost: b.net\r\nconnection: close\r\n\r\n")
        .await;
    assert!(
        answer.contains("\"target\":\"/1\"") && answer.contains("404 Not Found\nno rule for host \"b.net"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn protocols_are_offered_together_and_h2c_never() {
    let a = Upstream::echo("a").await;
    let ingress = ingress_for(&a).await;
    for (lines, offered) in [
        ("upgrade: foo, bar\r\nupgrade: baz\r\n", Some("foo, bar, baz")),
        ("upgrade: h2c\r\n", None),
        ("upgrade: h2c, foo\r\n", None),
        ("upgrade: foo\r\nupgrade: H2C\r\n", None),
        ("upgrade: ,\r\n", None),
    ] {
        let ask = format!("GET / HTTP/1.1\r\nhost: a.net\r\nconnection: upgrade, close\r\n{lines}\r\n");
        let answer = ingress.raw(ask.as_bytes()).await;
        let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
        let said: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(said["headers"]["upgrade"].as_str(), offered, "{lines}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_without_tls_is_spoken_too() {
    let a = Upstream::echo("a").await;
    let ingress = ingress_for(&a).await;
    let (mut send, _end) = ingress.http2().await;
    for body in ["", "with a body"] {
        let request = Request::builder().method("POST").uri("http://a.net/two?x").body(full(body)).expect("request");
        let answer = send.send_request(request).await.expect("an answer");
        assert_eq!(answer.status(), 200);
        let said: serde_json::Value =
            serde_json::from_slice(&answer.into_body().collect().await.expect("body").to_bytes()).expect("JSON");
        assert_eq!(
            (&said["target"], &said["headers"]["host"], &said["body"]),
            (&"/two?x".into(), &"a.net".into(), &body.into())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_passes_the_same_checks() {
    let a = Upstream::echo("a").await;
    let world = World::new().service("a", &[a.address]).rule("a.net", "/", "a");
    let ingress = Ingress::start_with(world, |c| c.limits.max_body = 5).await;
    let (mut send, _end) = ingress.http2().await;
    let cases = [
        ("http://a.net/ok", "", "", 200),
        ("http://a.net/a/../b", "", "", 400),
        ("http://a.net/%2e%2e/b", "", "", 400),
        ("http://a.net/", "b.net", "", 400),
        ("http://a.net/", "a.net", "12345", 200),
        ("http://a.net/", "", "123456", 413),
        // What one request did wrong is not said of the next.
        ("http://b.net/", "", "", 404),
    ];
    for (uri, host, body, status) in cases {
        let mut request = Request::builder().method("POST").uri(uri);
        if !host.is_empty() {
            request = request.header("host", host);
        }
        let answer = send.send_request(request.body(full(body)).expect("request")).await.expect("an answer");
        assert_eq!(answer.status(), status, "{uri} {host} {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_client_that_takes_nothing_holds_no_backend() {
    let (sent, left) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counts, lefts) = (Arc::clone(&sent), Arc::clone(&left));
    let endless = Upstream::raw(move |mut stream| {
        let (counts, lefts) = (Arc::clone(&counts), Arc::clone(&lefts));
        async move {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            counts.fetch_add(1, Ordering::SeqCst);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n").await;
            while stream.write_all(&[b'x'; 10_000]).await.is_ok() {}
            lefts.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let (say, body) = channel();
    let body = Arc::new(Mutex::new(Some(body)));
    let quiet = Upstream::start(move |_| {
        let body = body.lock().expect("lock").take();
        async move { Response::new(body.unwrap_or_else(|| full(""))) }
    })
    .await;
    let services = World::new().service("endless", &[endless.address]).service("quiet", &[quiet.address]);
    let world = services.rule("endless.net", "/", "endless").rule("quiet.net", "/", "quiet");
    let ingress = Ingress::start_with(world, |c| c.limits.body_timeout = Duration::from_millis(600)).await;
    let (mut send, _end) = ingress.http2().await;
    let request = Request::builder().uri("http://quiet.net/").body(full("")).expect("request");
    let mut waits = send.send_request(request).await.expect("an answer").into_body();
    // One client opens no window at all, the other takes a little and then no more.
    for window in [0, 20_000] {
        let (mut send, _end) = ingress.http2_with(|builder| _ = builder.initial_stream_window_size(window)).await;
        let get = |host| Request::builder().uri(format!("http://{host}/")).body(full("")).expect("request");
        let mut answers = Vec::new();
        for _ in 0..10 {
            answers.push(send.send_request(get("endless.net")).await.expect("an answer"));
        }
        eventually("the backend is rid of all requests", async || {
            let (sent, left) = (sent.load(Ordering::SeqCst), left.load(Ordering::SeqCst));
            sent > 0 && sent % 10 == 0 && left == sent
        })
        .await;
        // Only those streams are reset, not the connection.
        let head = Request::builder().method("HEAD").uri("http://quiet.net/").body(full("")).expect("request");
        assert_eq!(send.send_request(head).await.expect("an answer").status(), 200, "window {window}");
        for answer in answers {
            assert!(answer.into_body().collect().await.is_err(), "window {window}");
        }
    }
    assert_eq!(sent.load(Ordering::SeqCst), 20);
    // Who waited all the time for its backend, and not the other way round, still does.
    say.send(Frame::data(Bytes::from_static(b"at last"))).expect("open");
    assert_eq!(waits.frame().await.expect("a frame").expect("no reset").into_data().expect("data"), "at last");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_may_finish_when_the_ingress_leaves() {
    let a = Upstream::raw(|mut stream| async move {
        let mut head = [0; 4096];
        let _ = stream.read(&mut head).await;
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
        stream.write_all(answer).await.expect("write");
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let mut ingress = ingress_for(&a).await;
    let mut stream = TcpStream::connect(ingress.http).await.expect("connect");
    let ask = b"GET / HTTP/1.1\r\nhost: a.net\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
    stream.write_all(ask).await.expect("write");
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.expect("read");
    assert_eq!(&head, b"HTTP/1.1 101");
    ingress.terminate();
    let address = ingress.http;
    rig::eventually("nobody is accepted", async || TcpStream::connect(address).await.is_err()).await;
    stream.write_all(b"still here?").await.expect("write");
    let mut all = Vec::new();
    while !all.ends_with(b"still here?") {
        let mut piece = [0; 256];
        let n = stream.read(&mut piece).await.expect("read");
        assert!(n > 0, "cut off: {}", String::from_utf8_lossy(&all));
        all.extend_from_slice(&piece[..n]);
    }
    drop(stream);
    ingress.ended().await;
}

/// What a careless or hostile backend says must not reach the next client as something else.
#[tokio::test(flavor = "multi_thread")]
async fn odd_answers_do_not_spread() {
    let big = format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "a".repeat(100_000));
    let cases: Vec<(&str, String, u16, &str, bool)> = vec![
        ("good", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".into(), 200, "ok", true),
        (
            "both lengths",
            "HTTP/1.1 200 OK\r\ncontent-length: 50\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".into(),
            200,
            "ok",
            false,
        ),
        ("two lengths", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok".into(), 502, "", false),
        (
            "more than promised",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n".into(),
            200,
            "ok",
            false,
        ),
        (
            "unasked switch",
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n".into(),
            502,
            "",
            false,
        ),
        ("body of a 204", "HTTP/1.1 204 No Content\r\n\r\nevil".into(), 204, "", false),
        (
            "early hints",
            "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".into(),
            200,
            "ok",
            true,
        ),
        ("huge head", big, 502, "", false),
        ("no HTTP", "SSH-2.0-OpenSSH\r\n".into(), 502, "", false),
    ];
    for (name, answer, status, body, kept) in cases {
        let odd = Upstream::raw(move |mut stream| {
            let answer = answer.clone();
            async move {
                let mut head = [0; 4096];
                while stream.read(&mut head).await.is_ok_and(|n| n > 0) {
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            }
        })
        .await;
        let ingress = Ingress::start_with(World::new().service("a", &[odd.address]).rule("a.net", "/", "a"), |c| {
            c.threads = 1;
            c.limits.tries = 1;
        })
        .await;
        for _ in 0..2 {
            let reply = ingress.get("a.net", "/").await;
            assert_eq!(reply.status, status, "{name}: {}", reply.text());
            if status < 300 {
                assert_eq!(reply.text(), body, "{name}");
                assert!(!(name == "both lengths" && reply.headers.contains_key("content-length")), "{name}");
            }
        }
        assert_eq!(odd.connections() == 1, kept, "{name}: {} connections", odd.connections());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_answer_is_never_passed_off_as_whole() {
    let short = Upstream::raw(|mut stream| async move {
        let mut head = [0; 4096];
        let _ = stream.read(&mut head).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc").await;
    })
    .await;
    let ingress = ingress_for(&short).await;
    let request = Request::builder().uri("/").header("host", "a.net").body(full("")).expect("request");
    assert!(ingress.client().await.send(request).await.is_err(), "the client must see that the body is short");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_head_is_answered_408_and_a_quiet_connection_closed() {
    let a = Upstream::echo("a").await;
    let world = World::new().service("a", &[a.address]).rule("a.net", "/", "a");
    let ingress = Ingress::start_with(world, |c| {
        c.limits.header_timeout = Duration::from_millis(100);
        c.limits.idle_timeout = Duration::from_millis(100);
    })
    .await;
    let answer = ingress.raw(b"GET / HTTP/1.1\r\nhost: a.n").await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    let answer = ingress.raw(b"GET / HTTP/1.1\r\nhost: a.net\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(ingress.raw(b"").await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_answered_413() {
    let a = Upstream::echo("a").await;
    let world = World::new().service("a", &[a.address]).rule("a.net", "/", "a");
    let ingress = Ingress::start_with(world, |c| c.limits.max_body = 10).await;
    let answer = ingress.raw(b"POST / HTTP/1.1\r\nhost: a.net\r\ncontent-length: 11\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let answer = ingress
        .raw(b"POST / HTTP/1.1\r\nhost: a.net\r\ntransfer-encoding: chunked\r\n\r\nb\r\n01234567890\r\n0\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    // Nor is it said of the one before, though that has not been answered yet.
    let answer = ingress
        .raw(b"GET / HTTP/1.1\r\nhost: b.net\r\n\r\nPOST / HTTP/1.1\r\nhost: a.net\r\ntransfer-encoding: chunked\r\n\r\nb\r\n01234567890\r\n0\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("HTTP/1.1 413 "), "{answer}");
}
