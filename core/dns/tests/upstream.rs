//! Names of others: what is kept and for how long, and what happens while whoever is upstream is slow or silent.

mod client;
mod world;

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use client::{Client, Serving, flags, query};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A as Address, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use switchyard_dns::{Config, Limits};
use world::{World, texts};

const A: u16 = 1;
const OURS: &str = "svc1.testns.svc.cluster.local";
/// glibc gives up by then.
const GIVEN_UP: Duration = Duration::from_secs(5);

/// Says who is asked what, and answers as a test says; over UDP only.
struct Upstream {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Upstream {
    /// Answers each query with what `say` adds to it; `say` is told how many came before.
    fn start(say: impl Fn(usize, &mut Message) + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (address, asked) = (socket.local_addr().unwrap(), Arc::<Mutex<Vec<String>>>::default());
        let seen = Arc::clone(&asked);
        // Ends with the test's process.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let query = Message::from_vec(&buffer[..length]).unwrap();
                let mut answer = Message::response(query.id, query.op_code);
                answer.metadata.recursion_available = true;
                let before = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(query.queries[0].name().to_ascii());
                    seen.len() - 1
                };
                answer.add_query(query.queries[0].clone());
                say(before, &mut answer);
                socket.send_to(&answer.to_vec().unwrap(), from).unwrap();
            }
        });
        Self { address, asked }
    }

    fn times_asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

/// 192.0.2.N for the question, for so many seconds.
fn address(answer: &mut Message, last: u8, seconds: u32) {
    let name = answer.queries[0].name().clone();
    answer.add_answer(Record::from_rdata(name, seconds, RData::A(Address::new(192, 0, 2, last))));
}

/// No such name, for so many seconds.
fn absence(answer: &mut Message, seconds: u32) {
    let zone = Name::from_ascii("test.").unwrap();
    let soa = SOA::new(zone.clone(), zone.clone(), 1, 2, 3, 4, seconds);
    answer.add_authority(Record::from_rdata(zone, seconds, RData::SOA(soa)));
    answer.metadata.response_code = ResponseCode::NXDomain;
}

fn serving(upstreams: &[SocketAddr], limits: Limits) -> Serving {
    Serving::start(World::coredns(), Config { upstreams: upstreams.into(), limits })
}

fn ask(client: &Client, name: &str) -> Message {
    kind(client, name, RecordType::A)
}

fn kind(client: &Client, name: &str, kind: RecordType) -> Message {
    Message::from_vec(&client.ask(&query(7, name, kind.into())).expect("an answer")).unwrap()
}

#[test]
fn an_answer_is_kept_until_its_time_is_over() {
    let upstream = Upstream::start(|before, answer| address(answer, before as u8, 1));
    let serving = serving(&[upstream.address], Limits::default());
    let client = serving.client();
    let begun = Instant::now();
    assert_eq!(texts(&ask(&client, "www.test").answers), ["www.test. A 192.0.2.0"]);
    // Asked on and on: the second address comes when the first's second is over, and not before.
    let mut kept = 0;
    loop {
        let answer = ask(&client, "www.test");
        assert!(answer.answers[0].ttl <= 1, "what is left of it: {answer:?}");
        if texts(&answer.answers) != ["www.test. A 192.0.2.0"] {
            break;
        }
        kept += 1;
        assert!(begun.elapsed() < client::LONG, "kept for ever");
    }
    assert!(begun.elapsed() >= Duration::from_secs(1), "asked again after {:?}", begun.elapsed());
    assert!(kept > 0 && upstream.times_asked() < kept + 2, "{} times asked, {kept} kept", upstream.times_asked());
}

#[test]
fn an_absence_is_kept_as_long_as_its_zone_says() {
    let upstream = Upstream::start(|before, answer| match before {
        0 => absence(answer, 1),
        _ => address(answer, 9, 60),
    });
    let serving = serving(&[upstream.address], Limits::default());
    let client = serving.client();
    let begun = Instant::now();
    loop {
        let answer = ask(&client, "www.test");
        if answer.response_code == ResponseCode::NoError {
            break;
        }
        assert_eq!((answer.response_code, answer.authorities.len()), (ResponseCode::NXDomain, 1));
        assert_eq!(upstream.times_asked(), 1);
        assert!(begun.elapsed() < client::LONG, "kept for ever");
    }
    assert!(begun.elapsed() >= Duration::from_secs(1), "asked again after {:?}", begun.elapsed());
}

/// Limits of what is under way: one client's, and all clients'. Whoever waits for upstream keeps nobody else from an answer.
#[test]
fn a_slow_upstream_delays_only_who_asks_for_it() {
    let (release, held) = mpsc::channel::<()>();
    let upstream = Upstream::start(move |before, answer| {
        // The first query holds all.
        if before == 0 {
            let _ = held.recv();
        }
        address(answer, 1, 60);
    });
    let limits = Limits { forwarded: 3, forwarded_in_all: 5, ..Limits::default() };
    let serving = serving(&[upstream.address], limits);
    let clients = ["127.0.0.1", "127.0.0.2"].map(|address| serving.client_at(address.parse().unwrap()));
    let mut waiting = Vec::new();
    for (client, may) in clients.iter().zip([3, 2]) {
        for number in 0..5u16 {
            let name = format!("{number}.{}.test", client.address().port());
            client.send(&query(number, &name, A));
            if number >= may {
                let refused = client.receive(client::LONG).expect("an answer at once");
                assert_eq!((refused[1], flags(&refused)), (number as u8, ResponseCode::ServFail.low()));
            }
        }
        waiting.push((client, may));
        assert_eq!(ask(client, OURS).answers.len(), 1, "our own names have no limit");
    }
    release.send(()).unwrap();
    for (client, may) in waiting {
        for _ in 0..may {
            let answer = Message::from_vec(&client.receive(client::LONG).expect("an answer")).unwrap();
            assert_eq!(
                (answer.response_code, answer.answers.len()),
                (ResponseCode::NoError, 1),
                "{}",
                answer.queries[0]
            );
        }
        // There is room again, and nobody remembers that there was none.
        for number in 0..5 {
            let name = format!("{number}.{}.test", client.address().port());
            assert_eq!(ask(client, &name).response_code, ResponseCode::NoError, "{name}");
        }
    }
}

#[test]
fn who_wants_no_recursion_spoils_nobody_elses_answer() {
    let upstream = Upstream::start(|_, answer| address(answer, 3, 60));
    let serving = serving(&[upstream.address], Limits::default());
    let client = serving.client();
    for name in ["www.test", "external.testns.svc.cluster.local"] {
        let mut alone = query(7, name, A);
        alone[2] &= !1;
        let answer = Message::from_vec(&client.ask(&alone).unwrap()).unwrap();
        assert!(answer.answers.iter().all(|record| record.record_type() == RecordType::CNAME), "{answer:?}");
        let answer = ask(&client, name);
        assert_eq!(answer.answers.last().map(Record::record_type), Some(RecordType::A), "{name}");
    }
}

#[test]
fn a_silent_upstream_is_no_loss_while_another_answers() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let other = Upstream::start(|_, answer| address(answer, 7, 60));
    let serving = serving(&[silent.local_addr().unwrap(), other.address], Limits::default());
    let client = serving.client();
    for name in ["one.test", "two.test"] {
        let begun = Instant::now();
        assert_eq!(ask(&client, name).answers.len(), 1, "{name}");
        assert!(begun.elapsed() < GIVEN_UP, "{name}: {:?}", begun.elapsed());
    }
}

#[test]
fn only_silent_upstreams_are_a_failure_before_resolvers_give_up() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let serving = serving(&[silent.local_addr().unwrap()], Limits::default());
    let begun = Instant::now();
    assert_eq!(ask(&serving.client(), "www.test").response_code, ResponseCode::ServFail);
    assert!(begun.elapsed() < GIVEN_UP, "{:?}", begun.elapsed());
}

#[test]
fn other_names_are_asked_of_whoever_is_upstream() {
    // Another of our servers plays the Internet.
    let upstream = Serving::start(World::sphinx(), Config::default());
    let mut world = World::coredns();
    world.service(serde_json::json!({
        "metadata": {"name": "alias", "namespace": "testns"},
        "spec": {"type": "ExternalName", "externalName": "www.interwebs.test"},
    }));
    let elsewhere = World::of_zone("interwebs.test", &[("www.interwebs.test", "198.51.100.7")]);
    let internet = Serving::start(elsewhere, Config::default());
    let config = Config { upstreams: vec![internet.address], ..Config::default() };
    let serving = Serving::start(world, config);
    let client = serving.client();
    let answer = ask(&client, "www.interwebs.test");
    assert!(answer.recursion_available && !answer.authoritative);
    assert_eq!(texts(&answer.answers), ["www.interwebs.test. A 198.51.100.7"]);
    let answer = ask(&client, "nobody.interwebs.test");
    assert_eq!((answer.response_code, answer.authorities.len()), (ResponseCode::NXDomain, 1));
    let answer = kind(&client, "www.interwebs.test", RecordType::AAAA);
    assert_eq!((answer.response_code, answer.answers.len()), (ResponseCode::NoError, 0));
    let answer = ask(&client, "alias.testns.svc.cluster.local");
    let expected = ["alias.testns.svc.cluster.local. CNAME www.interwebs.test.", "www.interwebs.test. A 198.51.100.7"];
    assert_eq!(texts(&answer.answers), expected);
    // Kept: it is known after the Internet has gone.
    drop(internet);
    assert_eq!(ask(&client, "www.interwebs.test").answers.len(), 1);
    assert_eq!(ask(&client, "other.interwebs.test").response_code, ResponseCode::ServFail);
    // Nobody upstream: refused, and the alias stands alone.
    drop(upstream);
    let alone = Serving::start(World::coredns(), Config::default());
    let answer = ask(&alone.client(), "external.testns.svc.cluster.local");
    assert_eq!(texts(&answer.answers), ["external.testns.svc.cluster.local. CNAME ext.interwebs.test."]);
}
