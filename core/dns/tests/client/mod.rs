//! A server to ask, and a client that says what no resolver would.

#![allow(dead_code, reason = "each test program uses its part")]

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use switchyard_dns::{Config, Sockets, spawn};
use tokio_util::sync::CancellationToken;

use crate::world::World;

pub(crate) const LONG: Duration = Duration::from_secs(30);
pub(crate) const SHORT: Duration = Duration::from_millis(100);

/// A server on a thread, until dropped.
pub(crate) struct Serving {
    pub(crate) world: World,
    pub(crate) address: SocketAddr,
    shutdown: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Serving {
    pub(crate) fn start(world: World, config: Config) -> Self {
        let sockets = Sockets::bind_free("127.0.0.1".parse().unwrap()).unwrap();
        let address = sockets.udp.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let thread = spawn(vec![sockets], world.index.clone(), config, shutdown.clone()).unwrap();
        Self { world, address, shutdown, thread: Some(thread) }
    }

    pub(crate) fn client(&self) -> Client {
        self.client_at("127.0.0.1".parse().unwrap())
    }

    pub(crate) fn client_at(&self, address: IpAddr) -> Client {
        let socket = UdpSocket::bind((address, 0)).unwrap();
        socket.connect(self.address).unwrap();
        Client { socket, server: self.address }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.shutdown.cancel();
        let ended = self.thread.take().map(std::thread::JoinHandle::join);
        assert!(matches!(ended, Some(Ok(()))), "the server did not end well: {ended:?}");
    }
}

pub(crate) struct Client {
    socket: UdpSocket,
    server: SocketAddr,
}

impl Client {
    pub(crate) fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    pub(crate) fn send(&self, bytes: &[u8]) {
        self.socket.send(bytes).unwrap();
    }

    pub(crate) fn receive(&self, within: Duration) -> Option<Vec<u8>> {
        self.socket.set_read_timeout(Some(within)).unwrap();
        let mut buffer = [0; 65535];
        let length = self.socket.recv(&mut buffer).ok()?;
        Some(buffer[..length].to_vec())
    }

    pub(crate) fn ask(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        self.ask_within(bytes, LONG)
    }

    pub(crate) fn ask_within(&self, bytes: &[u8], within: Duration) -> Option<Vec<u8>> {
        self.send(bytes);
        self.receive(within)
    }

    /// Some at a time, as whoever asks one by one mostly waits.
    pub(crate) fn ask_all(&self, queries: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let some = |queries: &[Vec<u8>]| {
            queries.iter().for_each(|query| self.send(query));
            queries.iter().map(|_| self.receive(LONG).expect("an answer")).collect::<Vec<_>>()
        };
        queries.chunks(32).flat_map(some).collect()
    }

    /// How many answers there are, until none comes any more.
    pub(crate) fn drain(&self) -> usize {
        std::iter::from_fn(|| self.receive(SHORT)).count()
    }

    /// A connection from this client's address.
    pub(crate) fn open(&self) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(self.server), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(self.address().ip(), 0).into())?;
        socket.connect(&self.server.into())?;
        socket.set_read_timeout(Some(LONG))?;
        Ok(socket.into())
    }

    pub(crate) fn connect(&self) -> io::Result<TcpStream> {
        let mut stream = self.open()?;
        // Answered, so the server has it.
        exchange(&mut stream, &query(1, "cluster.local", 6))?;
        Ok(stream)
    }

    /// All queries at once over one connection, then all answers.
    pub(crate) fn ask_tcp(&self, queries: &[Vec<u8>]) -> io::Result<Vec<Vec<u8>>> {
        let mut stream = self.open()?;
        for query in queries {
            stream.write_all(&framed(query))?;
        }
        queries.iter().map(|_| answer(&mut stream)).collect()
    }
}

fn exchange(stream: &mut TcpStream, query: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(&framed(query))?;
    answer(stream)
}

fn framed(query: &[u8]) -> Vec<u8> {
    [&(query.len() as u16).to_be_bytes(), query].concat()
}

fn answer(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// A query of class IN that wants recursion.
pub(crate) fn query(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&[0, 1]);
    bytes
}

/// Adds an OPT record.
pub(crate) fn add_edns(query: &mut Vec<u8>, size: u16, version: u8) {
    query[11] += 1;
    query.extend_from_slice(&[0, 0, 41]);
    query.extend_from_slice(&size.to_be_bytes());
    query.extend_from_slice(&[0, version, 0, 0, 0, 0]);
}

/// The code of an answer.
pub(crate) fn flags(answer: &[u8]) -> u8 {
    answer[3] & 0x0f
}

/// How many records each section has.
pub(crate) fn counts(answer: &[u8]) -> [u16; 4] {
    [4, 6, 8, 10].map(|at| u16::from_be_bytes([answer[at], answer[at + 1]]))
}

/// The messages that the fuzz target begins with, good and bad, a file each.
pub(crate) fn corpus() -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/message");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// Xorshift: the same bytes every time.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// Flips, overwrites, cuts, doubles or joins.
    pub(crate) fn change(&mut self, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(6) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                1 if !bytes.is_empty() => bytes[at] = [0, 1, 0x3f, 0x40, 0x80, 0xc0, 0xff][self.below(7)],
                2 => bytes.truncate(at),
                3 => {
                    let tail = bytes[at.min(bytes.len())..].to_vec();
                    bytes.extend_from_slice(&tail);
                }
                4 => {
                    let other = &corpus[self.below(corpus.len())];
                    bytes.extend_from_slice(&other[self.below(other.len())..]);
                }
                _ => bytes.insert(at, self.next() as u8),
            }
        }
        bytes.truncate(4000);
    }
}
