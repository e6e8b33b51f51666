use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};

use super::*;
use crate::sources::Naming;

/// A name that nobody survives.
const FATAL: &str = "fatal.example.net.";
const KNOWN: &str = "ns.example.net.";
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn panic_if_fatal(name: &Name) {
    assert!(name.to_ascii() != FATAL, "on purpose");
}

fn query(id: u16, name: &str) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.id = id;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

fn serve(sockets: &Sockets) -> (CancellationToken, JoinHandle<()>) {
    let index = Naming::new("cluster.local", &["example.net".into()]).index(&[], Some(Ipv4Addr::LOCALHOST.into()));
    let sockets = Sockets { udp: sockets.udp.try_clone().unwrap(), tcp: sockets.tcp.try_clone().unwrap() };
    let shutdown = CancellationToken::new();
    let thread = spawn(vec![sockets], Shared::new(index), Config::default(), shutdown.clone()).unwrap();
    (shutdown, thread)
}

fn client(sockets: &Sockets) -> UdpSocket {
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    client.connect(sockets.udp.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

fn receive(client: &UdpSocket) -> Message {
    let mut buffer = [0; 512];
    let length = client.recv(&mut buffer).expect("an answer");
    Message::from_vec(&buffer[..length]).unwrap()
}

/// Asks over a connection of its own; nothing: it was closed.
fn ask_tcp(sockets: &Sockets, query: &[u8]) -> Option<Message> {
    let mut stream = TcpStream::connect(sockets.tcp.local_addr().unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&[&(query.len() as u16).to_be_bytes(), query].concat()).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).unwrap();
    Some(Message::from_vec(&answer).unwrap())
}

#[test]
fn a_message_that_makes_us_panic_costs_its_own_answer_only() {
    let sockets = Sockets::bind_free(Ipv4Addr::LOCALHOST.into()).unwrap();
    let (shutdown, thread) = serve(&sockets);
    let client = client(&sockets);
    // One batch, in all likelihood: those around it are answered.
    for (id, name) in [(1, KNOWN), (2, FATAL), (3, KNOWN)] {
        client.send(&query(id, name)).unwrap();
    }
    for (id, code) in [(1, ResponseCode::NoError), (2, ResponseCode::ServFail), (3, ResponseCode::NoError)] {
        let answer = receive(&client);
        assert_eq!((answer.id, answer.response_code), (id, code));
    }
    assert!(ask_tcp(&sockets, &query(4, FATAL)).is_none(), "the connection is closed");
    assert_eq!(ask_tcp(&sockets, &query(5, KNOWN)).expect("an answer").answers.len(), 1);
    shutdown.cancel();
    thread.join().unwrap();
}

/// As when an agent is killed and started again, while the supervisor keeps the sockets.
#[test]
fn what_is_asked_while_nobody_serves_is_answered_afterwards() {
    let sockets = Sockets::bind_free(Ipv4Addr::LOCALHOST.into()).unwrap();
    let (shutdown, thread) = serve(&sockets);
    let client = client(&sockets);
    client.send(&query(1, KNOWN)).unwrap();
    assert_eq!(receive(&client).id, 1);
    shutdown.cancel();
    thread.join().unwrap();
    for id in 2..50 {
        client.send(&query(id, KNOWN)).unwrap();
    }
    let waiting = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| ask_tcp(&sockets, &query(99, KNOWN)));
        let (shutdown, thread) = serve(&sockets);
        for id in 2..50 {
            assert_eq!(receive(&client).id, id);
        }
        let waiting = waiting.join().unwrap();
        shutdown.cancel();
        thread.join().unwrap();
        waiting
    });
    assert_eq!(waiting.expect("an answer").id, 99);
}
