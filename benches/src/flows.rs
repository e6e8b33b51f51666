//! Traffic that goes on while something else happens, and what it suffered: HTTP through the door, a connection between pods,
//! datagrams that must not arrive.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use switchyard_kernel::Netns;

/// HTTP requests at a rate, whether or not earlier ones were answered in time.
pub struct Requests {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Suffered>>,
}

/// One connection over which a byte goes there and back.
pub struct Dialogue {
    stop: Arc<AtomicBool>,
    speaker: JoinHandle<io::Result<Suffered>>,
}

/// Datagrams to a port that a policy closes to one sender and opens to another.
pub struct Crier {
    stop: Arc<AtomicBool>,
    criers: Vec<JoinHandle<u64>>,
    ear: JoinHandle<()>,
    heard: Arc<Heard>,
}

/// What arrived.
#[derive(Default)]
struct Heard {
    allowed: AtomicU64,
    forbidden: AtomicU64,
}

/// What became of a flow.
#[derive(Clone, Debug, Default)]
pub struct Suffered {
    /// Exchanges that succeeded.
    pub done: u64,
    /// Exchanges that failed, connections that broke included.
    pub failed: u64,
    /// The longest time that one took, from when it was due.
    pub longest: Duration,
}

/// Connections that share the rate of [`Requests`].
const CLIENTS: u32 = 8;
/// One that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two cries of one crier.
const BREATH: Duration = Duration::from_millis(1);
const PORT: u16 = 7077;

// === impl Requests ===

impl Requests {
    /// Asks for `host` at `door`, so many times a second over a few connections that stay open.
    pub fn start(door: SocketAddr, host: &'static str, per_second: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let between = Duration::from_secs(1) * CLIENTS / per_second;
        let client = |number: u32| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let mut suffered = Suffered::default();
                let mut due = Instant::now() + between * number / CLIENTS;
                let mut connection = None;
                while !stop.load(Relaxed) {
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    let outcome = exchange(&mut connection, door, host);
                    if outcome.is_err() {
                        connection = None;
                    }
                    suffered.take(outcome.is_ok(), due.elapsed());
                    due += between;
                }
                suffered
            })
        };
        Self { clients: (0..CLIENTS).map(client).collect(), stop }
    }

    /// Ends it.
    pub fn stop(self) -> Suffered {
        self.stop.store(true, Relaxed);
        let all = self.clients.into_iter().map(|client| client.join().expect("a client does not panic"));
        all.fold(Suffered::default(), |sum, one| Suffered {
            done: sum.done + one.done,
            failed: sum.failed + one.failed,
            longest: sum.longest.max(one.longest),
        })
    }
}

fn exchange(connection: &mut Option<TcpStream>, door: SocketAddr, host: &str) -> io::Result<()> {
    let stream = match connection {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect_timeout(&door, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_nodelay(true)?;
            connection.insert(stream)
        }
    };
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let read = stream.read(&mut piece)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answer.extend_from_slice(&piece[..read]);
        if let Some(length) = whole(&answer)
            && answer.len() >= length
        {
            let good = answer.starts_with(b"HTTP/1.1 200");
            return if good { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) };
        }
    }
}

/// Bytes of the answer that begins like this, once its head is there.
fn whole(answer: &[u8]) -> Option<usize> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&answer[..end]).ok()?.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    Some(end + length.unwrap_or(0))
}

// === impl Dialogue ===

impl Dialogue {
    /// From one namespace to an address in another.
    pub fn start(from: &Netns, to: (&Netns, IpAddr)) -> anyhow::Result<Self> {
        let listener = to.0.run(|| TcpListener::bind(SocketAddr::new(to.1, 0)))?.context("listen")?;
        let address = listener.local_addr()?;
        let mut client = from.run(|| TcpStream::connect_timeout(&address, PATIENCE))?.context("connect")?;
        let (mut server, _) = listener.accept()?;
        for end in [&client, &server] {
            end.set_nodelay(true)?;
            end.set_read_timeout(Some(PATIENCE))?;
        }
        std::thread::spawn(move || {
            let mut byte = [0];
            while matches!(server.read(&mut byte), Ok(1)) && server.write_all(&byte).is_ok() {}
        });
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let speaker = std::thread::spawn(move || {
            let mut suffered = Suffered::default();
            let mut byte = [1];
            while !stopped.load(Relaxed) {
                let begun = Instant::now();
                client.write_all(&byte)?;
                client.read_exact(&mut byte)?;
                suffered.take(true, begun.elapsed());
                std::thread::sleep(BREATH);
            }
            Ok(suffered)
        });
        Ok(Self { stop, speaker })
    }

    /// Ends it; an error if the connection did.
    pub fn stop(self) -> anyhow::Result<Suffered> {
        self.stop.store(true, Relaxed);
        self.speaker.join().expect("the speaker does not panic").context("the connection between pods")
    }
}

// === impl Crier ===

impl Crier {
    /// Both senders cry to the ear; only what the allowed one sends may be heard.
    pub fn start(
        ear: (&Netns, IpAddr),
        allowed: (&Netns, IpAddr),
        forbidden: (&Netns, IpAddr),
    ) -> anyhow::Result<Self> {
        let to = SocketAddr::new(ear.1, PORT);
        let socket = ear.0.run(|| UdpSocket::bind(to))?.context("listen for cries")?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let (stop, heard) = (Arc::new(AtomicBool::new(false)), Arc::new(Heard::default()));
        let (stopped, noted, friend) = (stop.clone(), heard.clone(), allowed.1);
        let ear = std::thread::spawn(move || {
            let mut byte = [0];
            while !stopped.load(Relaxed) {
                match socket.recv_from(&mut byte) {
                    Ok((_, from)) if from.ip() == friend => noted.allowed.fetch_add(1, Relaxed),
                    Ok(_) => noted.forbidden.fetch_add(1, Relaxed),
                    Err(_) => 0,
                };
            }
        });
        let mut criers = Vec::new();
        for (netns, ip) in [allowed, forbidden] {
            let socket = netns.run(|| UdpSocket::bind(SocketAddr::new(ip, 0)))?.context("a crier's socket")?;
            let stopped = stop.clone();
            criers.push(std::thread::spawn(move || {
                let mut sent = 0;
                while !stopped.load(Relaxed) {
                    sent += u64::from(socket.send_to(&[1], to).is_ok());
                    std::thread::sleep(BREATH);
                }
                sent
            }));
        }
        Ok(Self { stop, criers, ear, heard })
    }

    /// Ends it: cries of both together, allowed ones that were heard, forbidden ones that were.
    pub fn stop(self) -> (u64, u64, u64) {
        self.stop.store(true, Relaxed);
        let sent = self.criers.into_iter().map(|crier| crier.join().expect("a crier does not panic")).sum();
        self.ear.join().expect("the ear does not panic");
        (sent, self.heard.allowed.load(Relaxed), self.heard.forbidden.load(Relaxed))
    }
}

// === impl Suffered ===

impl Suffered {
    fn take(&mut self, good: bool, took: Duration) {
        if good {
            self.done += 1;
        } else {
            self.failed += 1;
        }
        self.longest = self.longest.max(took);
    }
}
