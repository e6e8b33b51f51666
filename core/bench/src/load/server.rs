//! What answers the load: a thread a connection, a loop for datagrams.

use std::collections::HashMap;
use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use anyhow::Context as _;

use super::pinned::Pinned;
use super::ports;
use crate::gauge::overflowed;

/// First byte of a datagram that is counted.
pub(super) const COUNT: u8 = 0;
/// First byte of a datagram that asks how many there were, and how many found no room.
pub(super) const QUERY: u8 = 1;
/// First byte of a datagram that wants to come back.
pub(super) const ECHO: u8 = 2;

/// Bytes of one read of a stream.
const CHUNK: usize = 256 << 10;
/// Senders of datagrams that are told apart.
const SENDERS: usize = 4096;
/// Bytes of the largest answer.
const LARGEST_BODY: usize = 1 << 20;
/// Bytes of the longest line of a request, and lines.
const LONGEST_LINE: u64 = 8 << 10;
const MOST_LINES: usize = 100;

/// Serves until the process ends.
pub fn serve() -> anyhow::Result<()> {
    let server = Server::bind(Ipv4Addr::UNSPECIFIED)?;
    println!("{}", serde_json::to_string(&super::Reply::Ready)?);
    server.run();
    Ok(())
}

/// Listens on all ports.
pub(super) struct Server {
    tcp: Vec<(TcpListener, Service)>,
    udp: UdpSocket,
}

/// What is done with a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Service {
    Sink,
    Echo,
    Once,
    Http,
}

// === impl Server ===

impl Server {
    pub(super) fn bind(address: Ipv4Addr) -> anyhow::Result<Self> {
        let services = [
            (ports::SINK, Service::Sink),
            (ports::ECHO, Service::Echo),
            (ports::CRR, Service::Once),
            (ports::HTTP, Service::Http),
        ];
        let listen = |(port, service)| {
            let listener = TcpListener::bind((address, port));
            Ok((listener.with_context(|| format!("listen on TCP port {port}"))?, service))
        };
        let tcp = services.into_iter().map(listen).collect::<anyhow::Result<_>>()?;
        let udp = UdpSocket::bind((address, ports::UDP)).context("listen on the UDP port")?;
        Ok(Self { tcp, udp })
    }

    pub(super) fn run(self) {
        for (listener, service) in self.tcp {
            thread::spawn(move || {
                let _pinned = (service == Service::Once).then(Pinned::first);
                for stream in listener.incoming().filter_map(Result::ok) {
                    // One connection after the other, or threads would be most of what is measured.
                    if service == Service::Once {
                        let _ = service.serve(stream);
                        continue;
                    }
                    // A broken connection is the client's affair.
                    thread::spawn(move || service.serve(stream));
                }
            });
        }
        datagrams(&self.udp);
    }
}

// === impl Service ===

impl Service {
    fn serve(self, stream: TcpStream) -> io::Result<()> {
        match self {
            Self::Sink => sink(stream),
            Self::Echo => {
                let _pinned = Pinned::first();
                echo(stream)
            }
            Self::Once => once(stream),
            Self::Http => http(stream),
        }
    }
}

/// Takes everything, then says how much it was.
fn sink(mut stream: TcpStream) -> io::Result<()> {
    let mut space = vec![0; CHUNK];
    let mut total = 0u64;
    loop {
        match stream.read(&mut space)? {
            0 => return stream.write_all(&total.to_le_bytes()),
            read => total += read as u64,
        }
    }
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut space = vec![0; 64 << 10];
    loop {
        match stream.read(&mut space)? {
            0 => return Ok(()),
            read => stream.write_all(&space[..read])?,
        }
    }
}

/// Sends back one request of any size that comes in one piece, and closes.
fn once(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(super::PATIENCE))?;
    let mut space = [0; 64 << 10];
    let read = stream.read(&mut space)?;
    stream.write_all(&space[..read])
}

/// `GET /bytes/N`; every other path is answered with nothing, which makes a good probe.
fn http(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    let mut answer = Vec::new();
    loop {
        let Some(path) = request(&mut reader)? else { return Ok(()) };
        let bytes = path.strip_prefix("/bytes/").and_then(|bytes| bytes.parse::<usize>().ok()).unwrap_or(0);
        let bytes = bytes.min(LARGEST_BODY);
        answer.clear();
        write!(answer, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {bytes}\r\n\r\n")?;
        answer.resize(answer.len() + bytes, b'.');
        writer.write_all(&answer)?;
    }
}

/// The path of the next request; none when the client has gone.
fn request(reader: &mut BufReader<TcpStream>) -> io::Result<Option<String>> {
    let mut line = String::new();
    let mut path = None;
    for _ in 0..MOST_LINES {
        line.clear();
        if reader.by_ref().take(LONGEST_LINE).read_line(&mut line)? == 0 {
            return Ok(None);
        }
        match (line.trim_end(), &path) {
            ("", Some(_)) => return Ok(path),
            (text, None) => path = Some(text.split(' ').nth(1).unwrap_or_default().to_owned()),
            _ => {}
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "a request of more lines than anybody sends"))
}

fn datagrams(socket: &UdpSocket) {
    let mut counted: HashMap<SocketAddr, u64> = HashMap::new();
    let mut space = [0; 2048];
    loop {
        // An error is one of an earlier answer: its taker has gone.
        let Ok((length, from)) = socket.recv_from(&mut space) else { continue };
        match space[0] {
            COUNT if length > 0 => {
                if counted.len() >= SENDERS && !counted.contains_key(&from) {
                    counted.clear();
                }
                *counted.entry(from).or_default() += 1;
            }
            QUERY if length == 2 => {
                let count = counted.get(&from).copied().unwrap_or(0).to_le_bytes();
                let lost = overflowed(ports::UDP).to_le_bytes();
                let _ = socket.send_to(&[&space[..2], &count, &lost].concat(), from);
            }
            ECHO if length > 0 => drop(socket.send_to(&space[..length], from)),
            _ => {}
        }
    }
}
