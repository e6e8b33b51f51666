//! The corpus: what is refused, what is let through, and that the HTTP library behind the gate sees exactly the requests sent.
//!
//! Case names follow the classes of known attacks: H host, R request line, F fields, C content length, T transfer encoding,
//! K chunks, P sequences.
#![allow(missing_docs)]

mod rig;

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use http_body_util::BodyExt;
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use rig::{Ingress, Upstream, World, full};
use switchyard_ingress::gate::{ConnState, Gate, GateLimits, HeadLimits, Stream, Timeouts};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

const LIMITS: GateLimits = GateLimits { head: HeadLimits { bytes: 32 * 1024, headers: 100 }, body: 0 };

/// Name, bytes ('@' stands for CR LF), status; 0 means let through.
const CORPUS: &[(&str, &[u8], u16)] = &[
    ("plain", b"GET / HTTP/1.1@Host: a@@", 0),
    ("H01 none", b"GET / HTTP/1.1@@", 400),
    ("H02 two", b"GET / HTTP/1.1@Host: a@Host: b@@", 400),
    ("H03 twice", b"GET / HTTP/1.1@Host: a@Host: a@@", 400),
    ("H04 list", b"GET / HTTP/1.1@Host: a,b@@", 400),
    ("H05 empty", b"GET / HTTP/1.1@Host: @@", 400),
    ("H06 user", b"GET / HTTP/1.1@Host: u\x40a@@", 400),
    ("H07 slash", b"GET / HTTP/1.1@Host: a/b@@", 400),
    ("H08 space", b"GET / HTTP/1.1@Host: a b@@", 400),
    ("H09 nul", b"GET / HTTP/1.1@Host: a\0@@", 400),
    ("H10 two hosts", b"GET http://b/ HTTP/1.1@Host: a@@", 400),
    ("H11 port", b"GET / HTTP/1.1@Host: a:99999@@", 400),
    ("H11 port 0", b"GET / HTTP/1.1@Host: a:0@@", 400),
    ("H11 port ok", b"GET / HTTP/1.1@Host: a:65535@@", 0),
    ("H12 1.0", b"GET / HTTP/1.0@@", 0),
    ("H13 absolute", b"GET http://h:80/ HTTP/1.1@Host: h@@", 0),
    ("H14 other port", b"GET http://h:8080/ HTTP/1.1@Host: h@@", 400),
    ("H15 user", b"GET http://u:p\x40h/ HTTP/1.1@Host: h@@", 0),
    ("H16 capitals", b"GET / HTTP/1.1@Host: EXAMPLE.net@@", 0),
    ("H17 dot", b"GET / HTTP/1.1@Host: a.@@", 0),
    ("H18 v6", b"GET / HTTP/1.1@Host: [::1]:80@@", 0),
    ("R01 0.9", b"GET /@@", 400),
    ("R02 two spaces", b"GET  / HTTP/1.1@Host: a@@", 400),
    ("R03 tab", b"GET\t/ HTTP/1.1@Host: a@@", 400),
    ("R04 lf", b"GET /\n HTTP/1.1@Host: a@@", 400),
    ("R05 1.2", b"GET / HTTP/1.2@Host: a@@", 505),
    ("R06 9.9", b"GET / HTTP/9.9@Host: a@@", 505),
    ("R07 lower", b"GET / http/1.1@Host: a@@", 400),
    ("R08 star", b"GET * HTTP/1.1@Host: a@@", 400),
    ("R09 fragment", b"GET /#x HTTP/1.1@Host: a@@", 400),
    ("R10 relative", b"GET admin HTTP/1.1@Host: a@@", 400),
    ("R11 authority", b"GET a:80 HTTP/1.1@Host: a@@", 400),
    ("R12 method", b"G\x40T / HTTP/1.1@Host: a@@", 400),
    ("R13 utf-8", b"GET /\xc3\xa9 HTTP/1.1@Host: a@@", 400),
    ("R14 nul", b"GET /\0 HTTP/1.1@Host: a@@", 400),
    ("R15 empty line first", b"@GET / HTTP/1.1@Host: a@@", 0),
    ("R16 lf only", b"GET / HTTP/1.1\nHost: a\n\n", 400),
    ("R17 connect", b"CONNECT a:80 HTTP/1.1@Host: a:80@@", 501),
    ("R18 backslash", b"GET /\\..\\ HTTP/1.1@Host: a@@", 400),
    ("R19 dots", b"GET /a/../admin HTTP/1.1@Host: a@@", 400),
    ("R19 dots at end", b"GET /a/.. HTTP/1.1@Host: a@@", 400),
    ("R19 encoded", b"GET /%2e%2e%2fadmin HTTP/1.1@Host: a@@", 400),
    ("R19 half encoded", b"GET /.%2E/admin HTTP/1.1@Host: a@@", 400),
    ("R19 absolute", b"GET http://a/.. HTTP/1.1@Host: a@@", 400),
    ("R19 in query", b"GET /a?b=/../ HTTP/1.1@Host: a@@", 0),
    ("R19 names with dots", b"GET /.well-known/a..b/...x HTTP/1.1@Host: a@@", 0),
    ("R22 options", b"OPTIONS * HTTP/1.1@Host: a@@", 0),
    ("R23 options path", b"OPTIONS */x HTTP/1.1@Host: a@@", 400),
    ("R26 tls", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", 400),
    ("F01 folded", b"GET / HTTP/1.1@Host: a@X: b@ c@@", 400),
    ("F02 folded first", b"GET / HTTP/1.1@ Host: a@@", 400),
    ("F03 space before colon", b"GET / HTTP/1.1@Host : a@@", 400),
    ("F04 no colon", b"GET / HTTP/1.1@Host: a@X@@", 400),
    ("F05 no name", b"GET / HTTP/1.1@Host: a@: b@@", 400),
    ("F06 brackets", b"GET / HTTP/1.1@Host: a@X[]: b@@", 400),
    ("F07 cr", b"GET / HTTP/1.1@Host: a@X: b\rc@@", 400),
    ("F08 nul", b"GET / HTTP/1.1@Host: a@X: b\0c@@", 400),
    ("F09 bel", b"GET / HTTP/1.1@Host: a@X: b\x07@@", 400),
    ("F10 obs-text", b"GET / HTTP/1.1@Host: a@X: \xff@@", 0),
    ("F11 name", b"GET / HTTP/1.1@Host: a@X\xef: b@@", 400),
    ("F12 del", b"GET / HTTP/1.1@Host: a@X: \x7f@@", 400),
    ("F13 one lf", b"GET / HTTP/1.1@Host: a\nX: b@@", 400),
    ("F14 cr z", b"GET / HTTP/1.1@Host: a@\rZ: b@@", 400),
    ("F16 underscore", b"POST / HTTP/1.1@Host: a@Content_Length: 5@@", 400),
    ("F16 underscore te", b"POST / HTTP/1.1@Host: a@Transfer_Encoding: chunked@@", 400),
    ("F16 harmless underscore", b"GET / HTTP/1.1@Host: a@My_Header: 5@@", 0),
    ("C01 cl te", b"POST / HTTP/1.1@Host: a@Content-Length: 3@Transfer-Encoding: chunked@@0@@", 400),
    ("C02 te cl", b"POST / HTTP/1.1@Host: a@Transfer-Encoding: chunked@Content-Length: 3@@0@@", 400),
    ("C03 differ", b"POST / HTTP/1.1@Host: a@Content-Length: 1@Content-Length: 2@@ab", 400),
    ("C04 twice", b"POST / HTTP/1.1@Host: a@Content-Length: 2@Content-Length: 2@@ab", 400),
    ("C05 list", b"POST / HTTP/1.1@Host: a@Content-Length: 2, 2@@ab", 400),
    ("C06 plus", b"POST / HTTP/1.1@Host: a@Content-Length: +2@@ab", 400),
    ("C07 minus", b"POST / HTTP/1.1@Host: a@Content-Length: -2@@ab", 400),
    ("C08 hex", b"POST / HTTP/1.1@Host: a@Content-Length: 0x2@@ab", 400),
    ("C09 empty", b"POST / HTTP/1.1@Host: a@Content-Length: @@", 400),
    ("C10 long", b"POST / HTTP/1.1@Host: a@Content-Length: 99999999999999999999@@", 400),
    ("C11 underscore", b"POST / HTTP/1.1@Host: a@Content-Length: 1_0@@", 400),
    ("C12 letter", b"POST / HTTP/1.1@Host: a@Content-Length: 2Z@@ab", 400),
    ("C14 zeros", b"POST / HTTP/1.1@Host: a@Content-Length: 002@@ab", 400),
    ("C15 get", b"GET / HTTP/1.1@Host: a@Content-Length: 2@@ab", 0),
    ("C16 te then bad cl", b"POST / HTTP/1.1@Host: a@Transfer-Encoding: chunked@Content-Length: abc@@0@@", 400),
    ("T01 1.0", b"POST / HTTP/1.0@Host: a@Transfer-Encoding: chunked@@0@@", 400),
    ("T02 x", b"POST / HTTP/1.1@Host: a@Transfer-Encoding: xchunked@@0@@", 400),
    ("T03 identity", b"POST / HTTP/1.1@Host: a@Transfer-Encoding: identity@@", 400),
    ("T04 gzip last", b"POST / HTTP/1.1@Host: a@Transfer-Encoding: chunked, gzip@@0@@", 400),
    ("T05 gzip", b"POST / HTTP/1.1@Host: a@Transfer-Encoding: gzip, chunked@@0@@", 400),
    ("T06 comma", b"POST / HTTP/1.1@Host: a@Transfer-Encoding: ,chunked@@0@@", 400),
    ("T07 comma", b"POST / HTTP/1.1@Host: a@Transfer-Encoding: chunked,@@0@@", 400),
    ("T08 two lines", b"POST / HTTP/1.1@Host: a@Transfer-Encoding: chunked@Transfer-Encoding: chunked@@0@@", 400),
    ("T09 twice", b"POST / HTTP/1.1@Host: a@Transfer-Encoding: chunked, chunked@@0@@", 400),
    ("T10 empty", b"POST / HTTP/1.1@Host: a@Transfer-Encoding: @@", 400),
    ("T11 vt", b"POST / HTTP/1.1@Host: a@Transfer-Encoding: \x0bchunked@@0@@", 400),
    ("T12 parameter", b"POST / HTTP/1.1@Host: a@Transfer-Encoding: chunked;a=b@@0@@", 400),
    ("T13 space", b"POST / HTTP/1.1@Host: a@Transfer-Encoding : chunked@@0@@", 400),
    ("T14 a0", b"POST / HTTP/1.1@Host: a@Transfer-Encoding: \xa0chunked@@0@@", 400),
    ("T15 tab and capitals", b"POST / HTTP/1.1@Host: a@Transfer-Encoding: ChUnKeD\t@@0@@", 0),
    ("T16 identity line", b"POST / HTTP/1.1@Host: a@Transfer-Encoding: identity@Transfer-Encoding: chunked@@0@@", 400),
    ("K00 good", b"POST / HTTP/1.1@Host: a@Transfer-Encoding: chunked@@3@abc@A;x=\"y\\\"\";z@0123456789@0@X-T: v@@", 0),
    ("K18 odd trailer", b"POST / HTTP/1.1@Host: a@Transfer-Encoding: chunked@@0@X:POST / HTTP/1.1@@", 0),
    ("P04 expect", b"POST / HTTP/1.1@Host: a@Expect: 200-ok@Content-Length: 2@@ab", 417),
    ("P08 upgrade with body", b"GET / HTTP/1.1@Host: a@Connection: upgrade@Upgrade: x@Content-Length: 2@@ab", 400),
];

/// Bodies of a chunked request that must end its connection, and never be followed by another request.
const BAD_CHUNKS: &[(&str, &[u8])] = &[
    ("K01 0x", b"0x1@a@0@@"),
    ("K02 plus", b"+1@a@0@@"),
    ("K03 minus", b"-1@a@0@@"),
    ("K04 underscore", b"0_1@a@0@@"),
    ("K05 empty", b"@a@0@@"),
    ("K06 space first", b" 1@a@0@@"),
    ("K07 space last", b"1 @a@0@@"),
    ("K08 overflow", b"ffffffffffffffff1@a@0@@"),
    ("K09 lf after size", b"1\na@0@@"),
    ("K10 lf after data", b"1@a\n0@@"),
    ("K11 lf in extension", b"1;a\n@a@0@@"),
    ("K12 cr in extension", b"1;a\rb@a@0@@"),
    ("K13 nul in extension", b"1;a\0@a@0@@"),
    ("K14 bare semicolon", b"1;@a@0@@"),
    ("K15 bracket", b"1;[@a@0@@"),
    ("K16 one too many", b"1@ab@0@@"),
    ("K19 length as trailer", b"0@Content-Length: 3@@"),
    ("K19 host as trailer", b"0@Host: b@@"),
    ("K20 lf in trailer", b"0@X: a\n@@"),
    ("K21 lf last", b"0@\n"),
    ("K22 cr only", b"1\ra@0@@"),
    ("K23 auth as trailer", b"0@Authorization: x@@"),
];

/// '@' stands for a line end.
fn bytes(text: &[u8]) -> Vec<u8> {
    text.iter().flat_map(|b| if *b == b'@' { b"\r\n".to_vec() } else { vec![*b] }).collect()
}

/// As `bytes`, but an '@' between two letters that no line ends or begins with is meant.
fn case(text: &[u8]) -> Vec<u8> {
    let meant = [(b'u', b'a'), (b'p', b'h'), (b'G', b'T')];
    let mut out = Vec::new();
    for (i, byte) in text.iter().enumerate() {
        let around = (text.get(i.wrapping_sub(1)), text.get(i + 1));
        match (byte, around) {
            (b'@', (Some(before), Some(after))) if meant.contains(&(*before, *after)) => out.push(b'@'),
            (b'@', _) => out.extend_from_slice(b"\r\n"),
            _ => out.push(*byte),
        }
    }
    out
}

fn judge(sent: &[u8]) -> (usize, u16, u32) {
    let mut stream = Stream::new(LIMITS);
    let (passed, verdict) = stream.judge(sent);
    (passed, verdict.err().map_or(0, |refusal| refusal.status().as_u16()), stream.heads)
}

#[test]
fn every_case_of_the_corpus_is_judged_as_written() {
    for (name, text, status) in CORPUS {
        let sent = case(text);
        let (passed, got, heads) = judge(&sent);
        assert_eq!(got, *status, "{name}: {}", String::from_utf8_lossy(&sent));
        if *status == 0 {
            assert_eq!((passed, heads), (sent.len(), 1), "{name} is one whole request");
        } else {
            assert_eq!(passed, 0, "{name}: nothing of it is let through");
        }
    }
    for (name, body) in BAD_CHUNKS {
        let mut sent = bytes(b"POST / HTTP/1.1@Host: a@Transfer-Encoding: chunked@@");
        sent.extend(bytes(body));
        sent.extend(bytes(b"GET /smuggled HTTP/1.1@Host: a@@"));
        let (_, got, heads) = judge(&sent);
        assert_eq!((got, heads), (400, 1), "{name}");
    }
}

#[test]
fn limits_have_statuses_of_their_own() {
    let long = |target: usize, headers: usize, value: usize| {
        let mut sent = format!("GET /{} HTTP/1.1\r\nHost: a\r\n", "a".repeat(target));
        (0..headers).for_each(|i| sent += &format!("x-{i}: {}\r\n", "b".repeat(value)));
        judge((sent + "\r\n").as_bytes()).1
    };
    assert_eq!(long(70_000, 0, 0), 414);
    assert_eq!(long(1, 50, 1_000), 431);
    assert_eq!(long(1, 100, 1), 431);
    assert_eq!(long(1, 99, 1), 0);
    let mut stream = Stream::new(GateLimits { body: 2, ..LIMITS });
    let (_, verdict) = stream.judge(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n");
    assert_eq!(verdict.expect_err("too long").status(), 413);
}

/// However the bytes are cut, the verdict is the same.
#[test]
fn verdicts_do_not_depend_on_how_bytes_arrive() {
    let all = CORPUS.iter().map(|(name, text, _)| (*name, case(text)));
    let chunked = BAD_CHUNKS.iter().map(|(name, body)| {
        let mut sent = bytes(b"POST / HTTP/1.1@Host: a@Transfer-Encoding: chunked@@");
        sent.extend(bytes(body));
        (*name, sent)
    });
    for (name, sent) in all.chain(chunked) {
        let (_, whole, heads) = judge(&sent);
        for step in [1, 2, 3, 7] {
            let mut stream = Stream::new(LIMITS);
            let (mut held, mut verdict) = (Vec::new(), 0);
            for piece in sent.chunks(step) {
                held.extend_from_slice(piece);
                let (passed, result) = stream.judge(&held);
                held.drain(..passed);
                if let Err(refusal) = result {
                    verdict = refusal.status().as_u16();
                    break;
                }
            }
            assert_eq!((verdict, stream.heads), (whole, heads), "{name} in pieces of {step}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_is_answered_with_the_reason_after_the_good_ones() {
    let a = Upstream::echo("a").await;
    let ingress = Ingress::start(World::new().service("a", &[a.address]).rule("a.net", "/", "a")).await;
    let answer = ingress
        .raw(b"GET /1 HTTP/1.1\r\nhost: a.net\r\n\r\nGET /2 HTTP/1.1\r\nhost: a.net\r\n\r\nGET /3 HTTP/1.1\r\nhost: a.net\nx: y\r\n\r\n")
        .await;
    let place = |text: &str| answer.find(text).unwrap_or_else(|| panic!("{text:?} in {answer}"));
    assert!(place("\"target\":\"/1\"") < place("\"target\":\"/2\""));
    assert!(place("\"target\":\"/2\"") < place("HTTP/1.1 400 Bad Request"));
    place("every line must end in CR LF and hold neither elsewhere");
    assert_eq!(a.requests(), 2, "the bad one reaches nobody");

    for (name, body) in BAD_CHUNKS {
        let before = a.requests();
        let mut sent = bytes(b"POST / HTTP/1.1@Host: a.net@Transfer-Encoding: chunked@@");
        sent.extend(bytes(body));
        sent.extend(bytes(b"GET /smuggled HTTP/1.1@Host: a.net@@"));
        let answer = ingress.raw(&sent).await;
        assert!(!answer.contains("200 OK"), "{name}: {answer}");
        assert!(a.requests() <= before + 1 && !answer.contains("smuggled"), "{name}: {answer}");
    }
}

/// Bytes given piece by piece.
struct Pieces {
    left: Vec<u8>,
    seed: u64,
}

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let this = &mut *self;
        let take = (random(&mut this.seed, 40) as usize + 1).min(this.left.len()).min(buf.remaining());
        buf.put_slice(&this.left.drain(..take).collect::<Vec<_>>());
        Poll::Ready(Ok(()))
    }
}

fn random(seed: &mut u64, n: u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed % n
}

/// Differential: random sequences of good requests, some spoilt by a random byte, go through the gate into hyper. What hyper sees must be
/// a prefix of what was sent, whole and unaltered; without a spoilt one, all of it.
#[tokio::test]
async fn hyper_behind_the_gate_sees_exactly_the_requests_sent() {
    let mut seed = 0x1234_5678_9abc_def1_u64;
    let timeouts = Timeouts {
        idle: Duration::from_secs(60),
        head: Duration::from_secs(60),
        body: Duration::from_secs(60),
        step: Duration::from_secs(1),
    };
    for round in 0..2000 {
        let (mut sent, mut expected) = (Vec::new(), Vec::new());
        for i in 0..=random(&mut seed, 5) {
            let body: String = (0..random(&mut seed, 30))
                .map(|_| ['a', '\r', '\n', '0', ' ', ':'][random(&mut seed, 6) as usize])
                .collect();
            let head = format!("POST /{round}/{i} HTTP/1.1\r\nHost: a\r\nX-I: {i}\r\n");
            if random(&mut seed, 2) == 0 {
                sent.extend_from_slice(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
            } else {
                sent.extend_from_slice(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes());
                let mut rest = body.as_str();
                while !rest.is_empty() {
                    let (piece, more) = rest.split_at(1 + random(&mut seed, rest.len() as u64) as usize);
                    sent.extend_from_slice(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes());
                    rest = more;
                }
                sent.extend_from_slice(b"0\r\n\r\n");
            }
            expected.push((format!("/{round}/{i}"), body));
        }
        let spoilt = random(&mut seed, 2) == 0;
        if spoilt {
            let at = random(&mut seed, sent.len() as u64) as usize;
            match random(&mut seed, 3) {
                0 => sent[at] = random(&mut seed, 256) as u8,
                1 => drop(sent.remove(at)),
                _ => sent.insert(at, b"\r\n\0 :,x0"[random(&mut seed, 8) as usize]),
            }
        }
        // The judge: an independent reading of the bytes by what the gate let through.
        let mut stream = Stream::new(LIMITS);
        let (_, verdict) = stream.judge(&sent);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (note, state) = (Arc::clone(&seen), Arc::new(ConnState::new(timeouts, 1)));
        let (client, server) = tokio::io::duplex(1 << 20);
        let (mut answers, drain) = tokio::io::split(client);
        let io = tokio::io::join(Pieces { left: sent.clone(), seed: seed | 1 }, server);
        let gate = Gate::new(io, Vec::new(), LIMITS, state);
        let service = service_fn(move |request: Request<Incoming>| {
            let note = Arc::clone(&note);
            async move {
                let target = request.uri().to_string();
                let body = request.into_body().collect().await.map(|b| b.to_bytes());
                note.lock().expect("lock").push((target, body.ok()));
                Ok::<_, hyper::Error>(Response::new(full("")))
            }
        });
        let connection =
            hyper::server::conn::http1::Builder::new().half_close(true).serve_connection(TokioIo::new(gate), service);
        let reading = tokio::spawn(async move {
            let mut all = Vec::new();
            let _ = answers.read_to_end(&mut all).await;
        });
        let _ = connection.await;
        drop((reading, drain));
        let seen: Vec<_> = seen.lock().expect("lock").drain(..).filter(|(target, _)| target != "/refused").collect();
        assert!(seen.len() <= stream.heads as usize, "hyper saw {} of {} requests: {seen:?}", seen.len(), stream.heads);
        if !spoilt {
            assert!(verdict.is_ok(), "{}", String::from_utf8_lossy(&sent));
            let seen: Vec<_> = seen
                .into_iter()
                .map(|(t, b)| (t, String::from_utf8(b.expect("whole").to_vec()).expect("text")))
                .collect();
            assert_eq!(seen, expected, "{}", String::from_utf8_lossy(&sent));
        }
    }
}
