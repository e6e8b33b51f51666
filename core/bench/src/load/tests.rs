//! Generators and server against each other, and against programs that everybody knows. Each test has a loopback address of its own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use super::agent::{Hands, obey, sample};
use super::meter::Span;
use super::{Arrivals, Load, Measured, Order, Reply, ports, server};

/// How far two programs may be apart that measure the same: other threads run meanwhile, on few processors.
const FACTOR: f64 = 5.0;

/// A program that ends with the test.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server on an address that nobody else uses.
fn serve() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let address = Ipv4Addr::new(127, high, low, NEXT.fetch_add(1, Ordering::Relaxed));
    let server = server::Server::bind(address).expect("all of 127.0.0.0/8 is ours");
    std::thread::spawn(|| server.run());
    address
}

fn run(load: &Load, at: Ipv4Addr, port: u16, milliseconds: u64) -> Measured {
    let sample_time = Duration::from_millis(milliseconds);
    let span = Span { warmup: Duration::from_millis(5), sample: sample_time, told: |_| () };
    sample(load, SocketAddr::new(IpAddr::V4(at), port), None, span, 1).unwrap()
}

/// What a program prints; none if it is not installed.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let Ok(output) = output else {
        eprintln!("skipped: {program} is not installed");
        return None;
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program}: {text} {}", String::from_utf8_lossy(&output.stderr));
    Some(text)
}

/// Nothing but a machine that is busy with other things makes a single try fail.
#[track_caller]
fn alike(what: &str, mut ours: impl FnMut() -> f64, mut theirs: impl FnMut() -> f64) {
    let mut tries = Vec::new();
    for _ in 0..4 {
        let (ours, theirs) = (ours(), theirs());
        tries.push((ours, theirs));
        if (1.0 / FACTOR..FACTOR).contains(&(ours / theirs)) {
            return;
        }
    }
    panic!("{what}: ours and theirs are not alike: {tries:?}");
}

#[test]
fn every_load_is_answered_by_the_server_and_counted() {
    let at = serve();
    let http = Load::Http { rate: Some(500.0), connections: 4, arrivals: Arrivals::Constant, body: 100 };
    let loads = [
        (Load::Stream { connections: 2 }, ports::SINK),
        (Load::Rr { bytes: 3 }, ports::ECHO),
        (Load::Crr { bytes: 3 }, ports::CRR),
        (Load::Udp { rate: Some(1000.0), bytes: 100 }, ports::UDP),
        (http, ports::HTTP),
        (Load::Http { rate: None, connections: 2, arrivals: Arrivals::Constant, body: 10 }, ports::HTTP),
    ];
    for (load, port) in loads {
        // On a machine that is busy with other tests, nothing at all may happen in a few milliseconds.
        let mut tries = (0..20).map(|_| run(&load, at, port, 40));
        let measured = tries.find(|measured| measured.bytes > 0).expect("something happens once");
        assert!(measured.errors == 0, "{load:?}: {measured:?}");
        assert!(measured.seconds >= 0.039, "{load:?}: {measured:?}");
        match load {
            Load::Stream { .. } => assert!(measured.bytes > 1 << 20),
            Load::Http { rate: Some(_), .. } => assert_eq!((measured.operations, measured.latency.len()), (20, 20)),
            Load::Udp { .. } => assert_eq!(measured.operations, 40),
            _ => assert_eq!(measured.latency.len(), measured.operations),
        }
    }
}

#[test]
fn a_flow_is_followed_until_somebody_says_stop() {
    let target = SocketAddr::new(IpAddr::V4(serve()), ports::UDP);
    let mut hands = Hands::default();
    assert!(matches!(obey(Order::Follow { target }, &mut hands).unwrap(), Reply::Following));
    // The flow is what is waited for: it ends by order only.
    run(&Load::Rr { bytes: 1 }, serve(), ports::ECHO, 50);
    let Reply::Followed(followed) = obey(Order::Stop, &mut hands).unwrap() else { panic!("another reply") };
    assert!(followed.sent > 0 && followed.answered > 0 && followed.longest_gap > 0.0, "{followed:?}");
    assert_eq!(followed.trips.len() as u64, followed.answered);
    assert!(obey(Order::Stop, &mut hands).is_err());
}

#[test]
fn latency_counts_from_the_moment_a_request_was_due() {
    // One connection, and an answer that is slower than requests come: whoever waits for the connection is charged for it.
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = listener.local_addr().unwrap();
    const SLOW: Duration = Duration::from_millis(20);
    std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let (mut stream, _) = listener.accept().unwrap();
        let mut space = [0; 1024];
        while stream.read(&mut space).is_ok_and(|read| read > 0) {
            std::thread::sleep(SLOW);
            if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n.").is_err() {
                return;
            }
        }
    });
    let load = Load::Http { rate: Some(200.0), connections: 1, arrivals: Arrivals::Constant, body: 1 };
    let span = Span { warmup: Duration::ZERO, sample: Duration::from_millis(200), told: |_| () };
    let measured = sample(&load, at, None, span, 1).unwrap();
    // 39 requests, each 20 ms, due every 5 ms: the last one waits for some 600 ms.
    assert_eq!((measured.operations, measured.errors), (39, 0));
    assert!(measured.latency.microseconds_at(0.5) > 200e3, "{measured:?}");
    assert!(measured.latency.microseconds_at(0.01) < 200e3, "{measured:?}");
}

#[test]
fn a_stream_is_what_iperf3_measures() {
    let at = serve();
    let host = at.to_string();
    if output("iperf3", &["--version"]).is_none() {
        return;
    }
    let server = Command::new("iperf3").args(["-s", "-B", &host, "-p", "5201"]).stdout(Stdio::null()).spawn();
    let _server = Ended(server.unwrap());
    let connects = || std::net::TcpStream::connect((at, 5201)).is_ok();
    let begun = std::time::Instant::now();
    while !connects() {
        assert!(begun.elapsed() < Duration::from_secs(30), "iperf3 does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    let theirs = || {
        // Our look whether it listens was a client too; it takes the next one when that is over.
        let arguments = ["-c", &host, "-p", "5201", "-n", "256M", "-J"];
        let begun = std::time::Instant::now();
        loop {
            let output = Command::new("iperf3").args(arguments).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            if output.status.success() {
                let text: serde_json::Value = serde_json::from_str(&text).expect("JSON");
                return text["end"]["sum_received"]["bits_per_second"].as_f64().expect("a rate");
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "{text}");
        }
    };
    let ours = || {
        let measured = run(&Load::Stream { connections: 1 }, at, ports::SINK, 200);
        measured.bytes as f64 * 8.0 / measured.seconds
    };
    alike("a stream", ours, theirs);
}

#[test]
fn answers_are_as_fast_as_wrk_says() {
    let at = serve();
    let url = format!("http://{at}:{}/bytes/128", ports::HTTP);
    let theirs = || output("wrk", &["-t1", "-c1", "-d1s", &url]).map(|text| number_after(&text, "Requests/sec:"));
    if theirs().is_none() {
        return;
    }
    // wrk asks again when it has been answered, so this is one request at a time.
    let load = Load::Http { rate: None, connections: 1, arrivals: Arrivals::Constant, body: 128 };
    let ours = || {
        let measured = run(&load, at, ports::HTTP, 400);
        measured.operations as f64 / measured.seconds
    };
    alike("HTTP, one at a time", ours, || theirs().expect("wrk was there"));
}

#[test]
fn a_rate_that_h2load_reaches_is_reached() {
    let at = serve();
    let url = format!("http://{at}:{}/bytes/128", ports::HTTP);
    let Some(text) = output("h2load", &["--h1", "-n2000", "-c4", &url]) else { return };
    let most = number_after(&text, "finished in ").recip() * 2000.0;
    let text = text.lines().find(|line| line.starts_with("requests:")).expect("a count").to_owned();
    assert!(text.contains("2000 succeeded"), "{text}");
    let rate = (most / 4.0).min(5000.0);
    let load = Load::Http { rate: Some(rate), connections: 4, arrivals: Arrivals::Constant, body: 128 };
    let measured = run(&load, at, ports::HTTP, 400);
    assert_eq!(measured.errors, 0);
    assert!((measured.operations as f64 / (rate * 0.4) - 1.0).abs() < 0.1, "{rate}: {measured:?}");
}

/// A number behind a word, in seconds if it says `ms`.
fn number_after(text: &str, word: &str) -> f64 {
    let rest = text.split(word).nth(1).unwrap_or_else(|| panic!("no {word:?} in {text}")).trim_start();
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let number: f64 = rest[..end].parse().expect("a number");
    if rest[end..].starts_with("ms") { number / 1e3 } else { number }
}
