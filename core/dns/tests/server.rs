//! The server as its clients see it, over loopback.

mod client;
mod harmless;
mod world;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use client::{Client, Serving, counts, flags, query};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use switchyard_dns::{Config, Limits};
use world::{World, texts};

const A: u16 = 1;
const AAAA: u16 = 28;
const ANY: u16 = 255;
/// How long a resolver waits before it asks again: c-ares and Go a few seconds, glibc five.
const RESOLVER: Duration = Duration::from_secs(1);
const AXFR: u16 = 252;

fn ask(client: &Client, name: &str, kind: u16) -> Message {
    Message::from_vec(&client.ask(&query(7, name, kind)).expect("an answer")).unwrap()
}

#[test]
fn an_answer_carries_the_askers_id_and_spelling_the_first_time_and_later() {
    let serving = Serving::start(World::sphinx(), Config::default());
    let client = serving.client();
    for id in [1, 2, 3] {
        let name = if id == 2 { "SpHiNx-V42.esxcloud.net" } else { "sphinx-v42.esxcloud.net" };
        let answer = Message::from_vec(&client.ask(&query(id, name, A)).unwrap()).unwrap();
        assert_eq!(answer.id, id);
        assert!(answer.authoritative && answer.recursion_desired && !answer.recursion_available && !answer.truncation);
        assert_eq!(answer.queries[0].name().to_ascii(), format!("{name}."));
        // The name of an answer is in lower case, whoever asked first.
        assert_eq!(texts(&answer.answers), ["sphinx-v42.esxcloud.net. A 192.168.100.244"]);
    }
}

#[test]
fn the_next_answer_knows_of_a_change() {
    let mut serving = Serving::start(World::sphinx(), Config::default());
    let client = serving.client();
    assert_eq!(ask(&client, "new.esxcloud.net", A).response_code, ResponseCode::NXDomain);
    serving.world.ingress("new", &["new.esxcloud.net"], "192.168.100.5");
    assert_eq!(texts(&ask(&client, "new.esxcloud.net", A).answers), ["new.esxcloud.net. A 192.168.100.5"]);
    serving.world.ingress("new", &[], "192.168.100.5");
    assert_eq!(ask(&client, "new.esxcloud.net", A).response_code, ResponseCode::NXDomain);
}

#[test]
fn sets_are_answered_in_turn() {
    let serving = Serving::start(World::coredns(), Config::default());
    let client = serving.client();
    let mut first = BTreeMap::<String, usize>::new();
    for _ in 0..40 {
        let answer = ask(&client, "hdls1.testns.svc.cluster.local", A);
        *first.entry(answer.answers[0].data.to_string()).or_default() += 1;
    }
    assert_eq!(first.values().copied().collect::<Vec<_>>(), [10; 4], "{first:?}");
}

/// Also where not all orders fit the memory of answers, and not all records an answer; over TCP as over UDP.
#[test]
fn every_endpoint_is_first_as_often_as_any_other() {
    for (endpoints, asked, name) in [(20usize, 600, "alias"), (100, 3600, "hdlsprtls")] {
        let mut world = World::coredns();
        let addresses: Vec<_> = (0..endpoints).map(|last| format!("172.9.0.{last}")).collect();
        let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
        world.slice("hdlsprtls", "hdlsprtls-a", &addresses, true);
        world.service(serde_json::json!({
            "metadata": {"name": "alias", "namespace": "testns"},
            "spec": {"type": "ExternalName", "externalName": "hdlsprtls.testns.svc.cluster.local"},
        }));
        let serving = Serving::start(world, Config::default());
        let client = serving.client();
        // As a resolver asks: for the one kind of address, and then for the other.
        let pair = [A, AAAA].map(|kind| query(kind, &format!("{name}.testns.svc.cluster.local"), kind));
        let pairs: Vec<_> = pair.iter().cycle().take(2 * asked).cloned().collect();
        // What goes over a connection is made anew each time, in evener turns.
        let tcp = client.ask_tcp(&pairs[..pairs.len() / 4]).unwrap();
        for (answers, transport) in [(client.ask_all(&pairs), "UDP"), (tcp, "TCP")] {
            let fair = answers.len() / 2 / endpoints;
            let mut first = BTreeMap::<String, usize>::new();
            for answer in answers.iter().filter(|answer| answer[..2] == A.to_be_bytes()) {
                let answer = Message::from_vec(answer).unwrap();
                let set = answer.answers.iter().find(|record| record.record_type() == RecordType::A);
                *first.entry(set.expect("an address").data.to_string()).or_default() += 1;
            }
            let (least, most) = (first.values().min().unwrap(), first.values().max().unwrap());
            assert_eq!(first.len(), endpoints, "{transport}: all are first at times");
            assert!(*least >= fair / 2 && *most <= 2 * fair, "{transport}: {least} to {most} times, {fair} is fair");
        }
    }
}

#[test]
fn long_answers_are_cut_over_udp_and_whole_over_tcp() {
    let mut world = World::coredns();
    let addresses: Vec<_> = (0..=255).map(|last| format!("172.1.0.{last}")).collect();
    world.slice("hdls1", "many", &addresses.iter().map(String::as_str).collect::<Vec<_>>(), true);
    let serving = Serving::start(world, Config::default());
    let client = serving.client();
    let name = "hdls1.testns.svc.cluster.local";
    let sizes = [(None, 512), (Some(512), 512), (Some(100), 512), (Some(900), 900), (Some(65535), 1232)];
    // Wherever the last record ends, there is room to say that EDNS is spoken.
    let each = (600..616).map(|size| (Some(size), usize::from(size)));
    for (edns, most) in sizes.into_iter().chain(each) {
        let mut asked = query(9, name, A);
        if let Some(size) = edns {
            client::add_edns(&mut asked, size, 0);
        }
        for _ in 0..2 {
            let bytes = client.ask(&asked).unwrap();
            let answer = Message::from_vec(&bytes).unwrap();
            assert!(answer.truncation && bytes.len() <= most, "{edns:?}: {} bytes", bytes.len());
            assert_eq!(answer.edns.is_some(), edns.is_some());
        }
    }
    let whole = Message::from_vec(&client.ask_tcp(&[query(9, name, A)]).unwrap()[0]).unwrap();
    assert_eq!((whole.truncation, whole.answers.len()), (false, 260));
}

#[test]
fn tcp_answers_one_after_another_and_keeps_its_limits() {
    let limits = Limits { connections: 2, ..Limits::default() };
    let serving = Serving::start(World::sphinx(), Config { limits, ..Config::default() });
    let client = serving.client();
    let asked: Vec<_> = (0..20).map(|id| query(id, "sphinx-v1.esxcloud.net", A)).collect();
    let ids: Vec<_> =
        client.ask_tcp(&asked).unwrap().iter().map(|answer| Message::from_vec(answer).unwrap().id).collect();
    assert_eq!(ids, (0..20).collect::<Vec<_>>());
    let held: Vec<_> = (0..2).map(|_| client.connect().unwrap()).collect();
    assert!(client.ask_tcp(&asked[..1]).is_err(), "a third connection of one client is closed");
    drop(held);
    // A frame longer than any query ends the connection.
    assert!(client.ask_tcp(&[vec![0; 4000]]).is_err());
}

#[test]
fn what_is_no_query_gets_what_the_rfcs_say() {
    let serving = Serving::start(World::sphinx(), Config::default());
    let client = serving.client();
    let good = query(5, "sphinx-v1.esxcloud.net", A);
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        bytes
    };
    let class = |class: u8| with(&|bytes| *bytes.last_mut().unwrap() = class);
    let opcode = |opcode: u8| with(&|bytes| bytes[2] = opcode << 3);
    let code = |bytes: &[u8]| client.ask(bytes).map(|answer| (flags(&answer), counts(&answer)[0]));
    let refused: [(&str, Vec<u8>, ResponseCode); 17] = [
        ("an unknown name elsewhere", query(5, "example.org", A), ResponseCode::Refused),
        ("a transfer", query(5, "esxcloud.net", AXFR), ResponseCode::Refused),
        ("an incremental transfer", query(5, "esxcloud.net", 251), ResponseCode::Refused),
        ("class CHAOS", class(3), ResponseCode::Refused),
        ("class ANY", class(255), ResponseCode::Refused),
        ("an inverse query", opcode(1), ResponseCode::NotImp),
        ("STATUS", opcode(2), ResponseCode::NotImp),
        ("NOTIFY", opcode(4), ResponseCode::NotImp),
        ("UPDATE", opcode(5), ResponseCode::NotImp),
        ("no question", with(&|bytes| bytes[5] = 0), ResponseCode::FormErr),
        ("two questions", with(&|bytes| bytes[5] = 2), ResponseCode::FormErr),
        ("65535 questions", with(&|bytes| bytes[4..6].fill(255)), ResponseCode::FormErr),
        ("an answer in a query", with(&|bytes| bytes[7] = 1), ResponseCode::FormErr),
        ("truncated", good[..good.len() - 3].to_vec(), ResponseCode::FormErr),
        (
            "a name that leads to itself",
            with(&|bytes| bytes[12..14].copy_from_slice(&[0xc0, 12])),
            ResponseCode::FormErr,
        ),
        ("a label of 64 bytes", with(&|bytes| bytes[12] = 64), ResponseCode::FormErr),
        ("oversized", with(&|bytes| bytes.resize(2049, 0)), ResponseCode::FormErr),
    ];
    for (what, bytes, expected) in refused {
        let (got, _) = code(&bytes).unwrap_or_else(|| panic!("{what}: no answer"));
        assert_eq!(got, expected.low(), "{what}");
    }
    let mut version = good.clone();
    client::add_edns(&mut version, 1232, 1);
    let answer = Message::from_vec(&client.ask(&version).unwrap()).unwrap();
    // 16 is also a signature's code.
    assert_eq!(u16::from(answer.response_code), 16, "BADVERS");
    let any = ask(&client, "sphinx-v1.esxcloud.net", ANY);
    assert_eq!(any.answers[0].record_type(), RecordType::HINFO, "RFC 8482");
    // Dropped: no header, and answers.
    for bytes in [vec![], vec![1], vec![0; 11], with(&|bytes| bytes[2] |= 0x80)] {
        assert!(client.ask_within(&bytes, client::SHORT).is_none());
    }
    assert_eq!(ask(&client, "sphinx-v1.esxcloud.net", A).answers.len(), 1, "still there");
}

#[test]
fn a_flood_of_one_client_leaves_others_theirs() {
    let limits = Limits { queries_per_second: 50, ..Limits::default() };
    let serving = Serving::start(World::sphinx(), Config { limits, ..Config::default() });
    let flooding = serving.client_at("127.0.0.2".parse().unwrap());
    let asked = query(3, "sphinx-v1.esxcloud.net", A);
    for _ in 0..2000 {
        flooding.send(&asked);
    }
    let other = serving.client_at("127.0.0.3".parse().unwrap());
    // The kernel's queue is everybody's, so the first try may be lost in it; resolvers try again.
    let answered = (0..300).any(|_| other.ask_within(&asked, client::SHORT).is_some());
    assert!(answered, "the other client gets its answer");
    let answered = flooding.drain();
    assert!((1..1000).contains(&answered), "{answered} of 2000 answered");
}

/// With the limits as they are by default, and as resolvers ask: again when no answer came.
#[test]
fn others_are_answered_while_one_client_floods() {
    const ASKED: usize = 100;
    const TRIES: usize = 2;
    let serving = Serving::start(World::sphinx(), Config::default());
    let flooding = serving.client_at("127.0.0.2".parse().unwrap());
    let other = serving.client_at("127.0.0.3".parse().unwrap());
    let asked = query(3, "sphinx-v1.esxcloud.net", A);
    let over = AtomicBool::new(false);
    let (sent, answered) = std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let mut sent = 0;
            while !over.load(Ordering::Relaxed) {
                flooding.send(&asked);
                sent += 1;
            }
            sent
        });
        let once = |_| (0..TRIES).any(|_| other.ask_within(&asked, RESOLVER).is_some());
        let answered = (0..ASKED).filter(|number| once(*number)).count();
        over.store(true, Ordering::Relaxed);
        (flood.join().unwrap(), answered)
    });
    assert!(answered * 100 >= ASKED * 95, "{answered} of {ASKED} answered, while {sent} were sent");
}

#[test]
fn connections_of_one_client_leave_others_theirs() {
    let serving = Serving::start(World::sphinx(), Config::default());
    let flooding = serving.client_at("127.0.0.2".parse().unwrap());
    // Far more than a client may have; none of them says anything.
    let held: Vec<_> = (0..200).filter_map(|_| flooding.open().ok()).collect();
    let other = serving.client_at("127.0.0.3".parse().unwrap());
    for id in 0..10 {
        let answers = other.ask_tcp(&[query(id, "sphinx-v1.esxcloud.net", A)]).expect("room for others");
        assert_eq!(answers.len(), 1);
    }
    drop(held);
}

#[test]
fn dig_agrees() {
    let serving = Serving::start(World::sphinx(), Config::default());
    let dig = |arguments: &[&str]| dig(&serving, arguments);
    let Some(short) = dig(&["+short", "sphinx-v42.esxcloud.net"]) else { return eprintln!("no dig here") };
    assert_eq!(short, "192.168.100.244\n");
    assert_eq!(dig(&["+short", "+tcp", "sphinx-v1.esxcloud.net"]).unwrap(), "192.168.100.244\n");
    let absent = dig(&["sphinx-w1.esxcloud.net"]).unwrap();
    assert!(absent.contains("status: NXDOMAIN") && absent.contains("SOA") && !absent.contains("warning"), "{absent}");
    assert_eq!(dig(&["+short", "-x", "10.0.0.7"]).unwrap(), "sphinx-svc-3.default.svc.cluster.local.\n");
    assert_eq!(dig(&["+short", "SOA", "esxcloud.net"]).unwrap().split(' ').next(), Some("ns.esxcloud.net."));
    assert_eq!(dig(&["+short", "NS", "esxcloud.net"]).unwrap(), "ns.esxcloud.net.\n");
    assert_eq!(dig(&["+short", "three.esxcloud.net"]).unwrap(), "192.168.100.1\n");
    assert!(dig(&["AXFR", "esxcloud.net"]).unwrap().contains("Transfer failed"));
    assert!(dig(&["+cookie", "+dnssec", "sphinx-v2.esxcloud.net"]).unwrap().contains("status: NOERROR"));
    assert!(dig(&["+edns=5", "+noednsnegotiation", "sphinx-v2.esxcloud.net"]).unwrap().contains("BADVERS"));
}

/// Every kind of record there is, as another implementation reads it.
#[test]
fn dig_reads_every_kind_of_record() {
    let serving = Serving::start(World::coredns(), Config::default());
    let records = [
        ("svc1.testns.svc", "A", "10.0.0.1"),
        ("svc6.testns.svc", "AAAA", "1234:abcd::1"),
        ("hdls1.testns.svc", "A", "172.0.0.2 172.0.0.3 172.0.0.4 172.0.0.5"),
        ("172-0-0-2.hdls1.testns.svc", "A", "172.0.0.2"),
        ("10-40-1-7.podns.pod", "A", "10.40.1.7"),
        ("_http._tcp.svc1.testns.svc", "SRV", "0 100 80 svc1.testns.svc.cluster.local."),
        ("external.testns.svc", "CNAME", "ext.interwebs.test."),
        ("external-to-service.testns.svc", "A", "10.0.0.1 svc1.testns.svc.cluster.local."),
        ("dns-version", "TXT", "\"1.1.0\""),
        ("1.0.0.10.in-addr.arpa.", "PTR", "svc1.testns.svc.cluster.local."),
        ("2.0.0.172.in-addr.arpa.", "PTR", "172-0-0-2.hdls1.testns.svc.cluster.local."),
    ];
    for (name, kind, expected) in records {
        let full = if name.ends_with('.') { name.to_owned() } else { format!("{name}.cluster.local.") };
        let Some(short) = dig(&serving, &["+short", kind, &full]) else { return eprintln!("no dig here") };
        let mut lines: Vec<_> = short.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines.join(" "), expected, "{name} {kind}");
    }
    let address = dig(&serving, &["+short", "-x", "1234:abcd::1"]).unwrap();
    assert_eq!(address, "svc6.testns.svc.cluster.local.\n");
}

/// What `dig` says; `make test` installs it, and without it the other tests have to do.
fn dig(serving: &Serving, arguments: &[&str]) -> Option<String> {
    let (server, port) = (format!("@{}", serving.address.ip()), serving.address.port().to_string());
    let output = Command::new("dig").args([&server, "-p", &port]).args(arguments).output();
    output.ok().map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The fuzz target's messages through the fuzz target's entry, and some hundred changes of each.
#[test]
fn messages_get_sound_answers_or_none() {
    const CHANGES: usize = 200;
    let (corpus, world) = (client::corpus(), World::coredns());
    let mut random = client::Random::new(0xda7a);
    for message in &corpus {
        harmless::harmless(&world.index, message);
        for _ in 0..CHANGES {
            let mut bytes = message.clone();
            random.change(&mut bytes, &corpus);
            harmless::harmless(&world.index, &bytes);
        }
    }
}

/// Forged bytes: a corpus of queries good and bad, changed at random from a fixed seed. Whatever comes back is a message, answers what
/// was asked, and is no longer than its kind may be; and the server is there afterwards.
#[test]
fn forged_bytes_do_no_harm() {
    const ROUNDS: u64 = 20_000;
    let serving = Serving::start(World::coredns(), Config::default());
    let client = serving.client();
    let corpus = client::corpus();
    let mut random = client::Random::new(0x5eed);
    let mut answered = 0;
    for round in 0..ROUNDS {
        let mut bytes = corpus[random.below(corpus.len())].clone();
        random.change(&mut bytes, &corpus);
        client.send(&bytes);
        if round % 64 != 63 {
            continue;
        }
        // A good one behind them shows that all before it have been read.
        let last = query(0xfffe, "svc1.testns.svc.cluster.local", A);
        client.send(&last);
        loop {
            let answer = client.receive(client::LONG).expect("the server answers still");
            assert!(answer.len() <= 1232 && answer.len() >= 12 && answer[2] & 0x80 != 0, "{answer:02x?}");
            if answer.len() > 12 {
                Message::from_vec(&answer).unwrap_or_else(|error| panic!("{error}: {answer:02x?}"));
            }
            answered += 1;
            if answer[..2] == [0xff, 0xfe] && flags(&answer) == 0 && counts(&answer)[1] == 1 {
                break;
            }
        }
    }
    assert!(answered > ROUNDS / 8, "{answered} answers");
    let here: IpAddr = client.address().ip();
    assert!(here.is_loopback());
}
