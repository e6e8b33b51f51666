//! Generators and server against each other, and against programs that everybody knows. Each test has a loopback address of its own.

use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use super::agent::{Hands, obey, sample};
use super::meter::Span;
use super::pinned::Pinned;
use super::turns::{self, Turn};
use super::{Arrivals, Load, Measured, Order, Reply, ports, server};
use crate::stats::median;

/// How far two programs may be apart that measure the same: other tests run meanwhile, on few processors, and we are not optimized.
const FACTOR: f64 = 2.5;
/// The same where a rate is asked for, and only kept or not.
const KEPT: f64 = 1.25;
const ROUNDS: usize = 5;

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

/// What a program prints; none if it is not installed, which only a person's machine may lack.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let Ok(output) = output else {
        assert!(std::env::var_os("CI").is_none(), "{program} is not installed; install it with: make tools");
        eprintln!("skipped: {program} is not installed");
        return None;
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program}: {text} {}", String::from_utf8_lossy(&output.stderr));
    Some(text)
}

/// Measures in turns, so that what slows the machine for a while slows both, and compares the middles.
#[track_caller]
fn alike(what: &str, factor: f64, mut ours: impl FnMut() -> f64, mut theirs: impl FnMut() -> f64) {
    let rounds: Vec<(f64, f64)> = (0..ROUNDS).map(|_| (ours(), theirs())).collect();
    // Round by round: two that take turns on one processor are ten times as fast as two that wake each other up.
    let ratio = median(&rounds.iter().map(|(ours, theirs)| ours / theirs).collect::<Vec<_>>());
    println!("{what}: ours is {ratio:.3} times theirs");
    assert!((1.0 / factor..factor).contains(&ratio), "{what}: {ratio} times theirs, not within {factor}x: {rounds:?}");
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
fn what_fails_while_it_warms_up_spoils_nothing_and_later_it_counts() {
    // Over with the first turn, each of the two.
    let span = Span { warmup: Duration::from_millis(1), sample: Duration::ZERO, told: |_| () };
    let mut number = 0;
    let turn = || {
        number += 1;
        std::thread::sleep(span.warmup);
        Turn::Failed(anyhow::anyhow!("turn {number} timed out"))
    };
    let measured = turns::take(span, turn).unwrap();
    assert_eq!((measured.operations, measured.errors, measured.why.as_deref()), (0, 1, Some("turn 2 timed out")));
    let over = turns::take(span, || Turn::Over(anyhow::anyhow!("closed")));
    assert_eq!(over.unwrap_err().to_string(), "closed");
}

#[test]
fn where_nobody_listens_every_load_says_so_and_ends() {
    let nobody: SocketAddr = ([127, 9, 9, 9], 9).into();
    let span = Span { warmup: Duration::ZERO, sample: Duration::from_millis(10), told: |_| () };
    let http = Load::Http { rate: Some(100.0), connections: 2, arrivals: Arrivals::Constant, body: 1 };
    for load in [Load::Stream { connections: 3 }, Load::Rr { bytes: 1 }, http] {
        let error = sample(&load, nobody, None, span, 1).unwrap_err();
        assert!(format!("{error:#}").contains("connect to 127.9.9.9:9: Connection refused"), "{error:#}");
    }
    let measured = sample(&Load::Crr { bytes: 1 }, nobody, None, span, 1).unwrap();
    assert!(measured.operations == 0 && measured.errors > 0 && measured.why.unwrap().contains("refused"));
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
    let Some(iperf3) = Iperf3::serve(at) else { return };
    let theirs = || iperf3.measure(&["-n", "256M"])["sum_received"]["bits_per_second"].as_f64().expect("a rate");
    let ours = || {
        let measured = run(&Load::Stream { connections: 1 }, at, ports::SINK, 200);
        measured.bytes as f64 * 8.0 / measured.seconds
    };
    alike("a stream", FACTOR, ours, theirs);
}

#[test]
fn datagrams_arrive_at_the_rate_and_with_the_loss_that_iperf3_sees() {
    let at = serve();
    let Some(iperf3) = Iperf3::serve(at) else { return };
    let (rate, bytes) = (2000.0, 1000);
    let bits = (rate * f64::from(bytes) * 8.0).to_string();
    let lost = std::cell::RefCell::new((Vec::new(), Vec::new()));
    let theirs = || {
        let sum = &iperf3.measure(&["-u", "-b", &bits, "-l", "1000", "-t", "1"])["sum"];
        let number = |field: &str| sum[field].as_f64().unwrap_or_else(|| panic!("{field}: {sum}"));
        lost.borrow_mut().1.push(number("lost_percent") / 100.0);
        (number("packets") - number("lost_packets")) / number("seconds")
    };
    let ours = || {
        let measured = run(&Load::Udp { rate: Some(rate), bytes }, at, ports::UDP, 400);
        lost.borrow_mut().0.push(measured.errors as f64 / (measured.operations + measured.errors) as f64);
        measured.operations as f64 / measured.seconds
    };
    alike("datagrams", KEPT, ours, theirs);
    let (ours, theirs) = lost.into_inner();
    assert!(median(&ours) < 0.01 && median(&theirs) < 0.01, "loopback loses nothing: {ours:?}, {theirs:?}");
}

/// Another program's server, and its client's word.
struct Iperf3 {
    host: String,
    _server: Ended,
}

impl Iperf3 {
    fn serve(at: Ipv4Addr) -> Option<Self> {
        output("iperf3", &["--version"])?;
        let host = at.to_string();
        let mut command = Command::new("iperf3");
        let server = command.args(["-s", "-B", &host, "-p", "5201", "--forceflush"]).stdout(Stdio::piped()).spawn();
        let mut server = Ended(server.unwrap());
        let mut said = BufReader::new(server.0.stdout.take().unwrap()).lines();
        said.find(|line| line.as_ref().is_ok_and(|line| line.contains("listening"))).expect("it listens").unwrap();
        // It goes on talking, and would wait for a reader.
        std::thread::spawn(move || said.for_each(drop));
        Some(Self { host, _server: server })
    }

    fn measure(&self, arguments: &[&str]) -> serde_json::Value {
        let text = output("iperf3", &[&["-c", &self.host, "-p", "5201", "-J"], arguments].concat());
        let text: serde_json::Value = serde_json::from_str(&text.expect("it was there")).expect("JSON");
        text["end"].clone()
    }
}

#[test]
fn answers_are_as_fast_as_wrk_says() {
    // Where the scheduler puts who waits for whom would be most of the difference.
    let _pinned = Pinned::first();
    let at = serve();
    let url = format!("http://{at}:{}/bytes/128", ports::HTTP);
    let wrk = || output("wrk", &["-t1", "-c1", "-d1s", "--latency", &url]);
    if wrk().is_none() {
        return;
    }
    // wrk asks again when it has been answered, so this is one request at a time.
    let load = Load::Http { rate: None, connections: 1, arrivals: Arrivals::Constant, body: 128 };
    let typical = std::cell::RefCell::new((Vec::new(), Vec::new()));
    let ours = || {
        let measured = run(&load, at, ports::HTTP, 400);
        typical.borrow_mut().0.push(measured.latency.microseconds_at(0.5) / 1e6);
        measured.operations as f64 / measured.seconds
    };
    let theirs = || {
        let text = wrk().expect("wrk was there");
        let (_, distribution) = text.split_once("Latency Distribution").expect("a distribution");
        typical.borrow_mut().1.push(number_after(distribution, "50%"));
        number_after(&text, "Requests/sec:")
    };
    alike("HTTP, one at a time", FACTOR, ours, theirs);
    let (ours, theirs) = typical.into_inner();
    let (mut ours, mut theirs) = (ours.into_iter(), theirs.into_iter());
    alike("its p50", FACTOR, || ours.next().expect("one a round"), || theirs.next().expect("one a round"));
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

/// A number behind a word, in seconds if it says `ms` or `us`.
fn number_after(text: &str, word: &str) -> f64 {
    let rest = text.split(word).nth(1).unwrap_or_else(|| panic!("no {word:?} in {text}")).trim_start();
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let number: f64 = rest[..end].parse().expect("a number");
    match &rest[end..] {
        unit if unit.starts_with("ms") => number / 1e3,
        unit if unit.starts_with("us") => number / 1e6,
        _ => number,
    }
}
