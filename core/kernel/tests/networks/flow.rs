//! Connections that never rest: one message to and fro, again and again.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use switchyard_netstate::Place;

use super::cluster::Cluster;

/// Longer than anything takes that works, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two rounds: others want to run as well.
const PACE: Duration = Duration::from_millis(1);

/// A TCP connection with an echo at its end.
pub(crate) struct Flow {
    name: String,
    shared: Arc<Shared>,
    client: JoinHandle<Result<(), String>>,
}

#[derive(Default)]
struct Shared {
    rounds: AtomicU64,
    stop: AtomicBool,
    /// Longest round in microseconds, for people.
    longest: AtomicU64,
}

// === impl Flow ===

impl Flow {
    /// Connects two places; every round carries so many bytes each way.
    pub(crate) fn start(cluster: &Cluster, from: &Place, to: &Place, ip: IpAddr, bytes: usize) -> Self {
        let name = format!("{from} -> {to}, {bytes} bytes");
        let listener = cluster.inside(to, || TcpListener::bind("0.0.0.0:0")).unwrap();
        let address = SocketAddr::new(ip, listener.local_addr().unwrap().port());
        std::thread::spawn(move || echo(&listener.accept().expect("a client").0, bytes));
        let connected = cluster.inside(from, || TcpStream::connect_timeout(&address, PATIENCE));
        let mut stream = connected.unwrap_or_else(|error| panic!("{name}: {error}"));
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let client = std::thread::spawn(move || {
            let (sent, mut received) = (vec![7; bytes], vec![0; bytes]);
            while !theirs.stop.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let round = stream.write_all(&sent).and_then(|()| stream.read_exact(&mut received));
                round.map_err(|error| error.to_string())?;
                theirs.longest.fetch_max(begun.elapsed().as_micros() as u64, Ordering::Relaxed);
                theirs.rounds.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(PACE);
            }
            Ok(())
        });
        Self { name, shared, client }
    }

    /// Waits until so many more rounds are over.
    #[track_caller]
    pub(crate) fn more(&self, rounds: u64, when: &str) {
        let (begun, before) = (Instant::now(), self.shared.rounds.load(Ordering::Relaxed));
        while self.shared.rounds.load(Ordering::Relaxed) < before + rounds {
            assert!(!self.client.is_finished(), "{}: broken when {when}", self.name);
            assert!(begun.elapsed() < PATIENCE, "{}: no packet goes when {when}", self.name);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends it; what it was like.
    #[track_caller]
    pub(crate) fn stop(self) -> String {
        self.shared.stop.store(true, Ordering::Relaxed);
        let outcome = self.client.join().expect("a client does not panic");
        outcome.unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let (rounds, longest) = (&self.shared.rounds, &self.shared.longest);
        format!(
            "{}: {} rounds, longest {} us",
            self.name,
            rounds.load(Ordering::Relaxed),
            longest.load(Ordering::Relaxed)
        )
    }
}

fn echo(mut stream: &TcpStream, bytes: usize) {
    drop(stream.set_nodelay(true));
    let mut message = vec![0; bytes];
    while stream.read_exact(&mut message).and_then(|()| stream.write_all(&message)).is_ok() {}
}
