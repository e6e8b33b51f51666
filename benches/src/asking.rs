//! Who asks at a rate, whether or not earlier questions were answered, and when what was lost came back.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use kube::Client;
use switchyard_kernel::Netns;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

/// One who asks, until told to stop.
pub struct Asking {
    stop: Arc<AtomicBool>,
    in_a_row: Arc<AtomicUsize>,
    asker: JoinHandle<io::Result<Vec<Asked>>>,
}

/// Everything that was asked, in the order in which it was.
pub struct Heard(Vec<Asked>);

/// One question.
#[derive(Clone, Copy)]
struct Asked {
    due: Instant,
    ended: Instant,
    well: bool,
}

/// Between two questions, and so what an outage is measured to.
const BETWEEN: Duration = Duration::from_millis(10);
/// What takes longer has failed. Long enough for a connection's second and third attempt (1 s and 3 s after the first): who waited
/// for those is seen to have waited.
const PATIENCE: Duration = Duration::from_secs(5);
/// A resolver asks again after that long; here it is a failure.
const PATIENCE_FOR_NAMES: Duration = Duration::from_secs(1);
/// So many answers in a row, and what was lost is back.
const BACK: usize = 20;

// === impl Asking ===

impl Asking {
    /// HTTP requests, each on a connection of its own, from this namespace or the calling thread's.
    pub fn http(from: Option<&Netns>, to: SocketAddr, host: &'static str) -> anyhow::Result<Self> {
        Self::start(from, PATIENCE, move || get(to, host))
    }

    /// Queries for the address of a name.
    pub fn name(from: Option<&Netns>, server: SocketAddr, name: &str) -> anyhow::Result<Self> {
        let query = query(name);
        Self::start(from, PATIENCE_FOR_NAMES, move || resolve(server, query.clone()))
    }

    /// Requests to the API server, over a connection that is made again when it breaks.
    pub fn api(client: Client) -> anyhow::Result<Self> {
        Self::start(None, PATIENCE, move || {
            let client = client.clone();
            async move { client.apiserver_version().await.map(drop).map_err(io::Error::other) }
        })
    }

    fn start<F>(
        from: Option<&Netns>,
        patience: Duration,
        mut ask: impl FnMut() -> F + Send + 'static,
    ) -> anyhow::Result<Self>
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let (stop, in_a_row) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let from = from.map(Netns::try_clone).transpose()?;
        let (stopped, row) = (stop.clone(), in_a_row.clone());
        let all = async move {
            let mut due = Instant::now();
            let mut asked = Vec::new();
            while !stopped.load(Relaxed) {
                tokio::time::sleep_until(due.into()).await;
                let (answer, row) = (ask(), row.clone());
                asked.push(tokio::spawn(async move {
                    let answer = tokio::time::timeout(patience, answer).await;
                    let well = answer.is_ok_and(|answer| answer.is_ok());
                    row.fetch_update(Relaxed, Relaxed, |row| Some(if well { row + 1 } else { 0 })).ok();
                    Asked { due, ended: Instant::now(), well }
                }));
                due += BETWEEN;
            }
            let mut outcomes = Vec::new();
            for one in asked {
                outcomes.push(one.await.map_err(io::Error::other)?);
            }
            Ok(outcomes)
        };
        let asker = std::thread::spawn(move || {
            let work = || tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(all);
            match from {
                Some(netns) => netns.run(work)?,
                None => work(),
            }
        });
        Ok(Self { stop, in_a_row, asker })
    }

    /// Counts answers anew.
    pub fn count_anew(&self) {
        self.in_a_row.store(0, Relaxed);
    }

    /// Whether one answer has followed the other for a while.
    pub fn is_well(&self) -> bool {
        self.in_a_row.load(Relaxed) >= BACK
    }

    /// Ends it, once everything that was asked has an answer or none.
    pub fn stop(self) -> anyhow::Result<Heard> {
        self.stop.store(true, Relaxed);
        Ok(Heard(self.asker.join().expect("who asks does not panic")?))
    }
}

/// One request and its whole answer, which has to be a 200.
async fn get(to: SocketAddr, host: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    if answer.starts_with(b"HTTP/1.1 200") { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// One query, whose answer has to hold something.
async fn resolve(server: SocketAddr, query: Vec<u8>) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(server).await?;
    socket.send(&query).await?;
    let mut answer = [0; 512];
    let read = socket.recv(&mut answer).await?;
    // RFC 1035, 4.1.1: the second half of the flags ends with the code, and the third number counts answers.
    let is_answer = read >= 12 && answer[3] & 0xf == 0 && answer[6..8] != [0, 0];
    if is_answer { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// A query for an address, with recursion desired (RFC 1035, 4.1).
fn query(name: &str) -> Vec<u8> {
    let mut query = vec![0x5a, 0x5a, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    query
}

// === impl Heard ===

impl Heard {
    /// From `since` to the first answer to what was asked after the last failure; zero if nothing failed.
    pub fn outage(&self, since: Instant) -> anyhow::Result<Duration> {
        let Some(last) = self.0.iter().rposition(|one| !one.well) else { return Ok(Duration::ZERO) };
        let first = self.0[last + 1..].iter().map(|one| one.ended).min().context("no answer after the last failure")?;
        Ok(first.saturating_duration_since(since))
    }

    /// How many failed.
    pub fn failed(&self) -> usize {
        self.0.iter().filter(|one| !one.well).count()
    }

    /// How many there were.
    pub fn asked(&self) -> usize {
        self.0.len()
    }

    /// The longest that an answer took, from when its question was due.
    pub fn longest(&self) -> Duration {
        let answered = self.0.iter().filter(|one| one.well);
        answered.map(|one| one.ended.saturating_duration_since(one.due)).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_ends_with_the_first_answer_after_the_last_failure() {
        let begun = Instant::now();
        let at = |milliseconds| begun + Duration::from_millis(milliseconds);
        let asked = |due, ended, well| Asked { due: at(due), ended: at(ended), well };
        let whole = Heard(vec![asked(0, 1, true), asked(10, 30, true)]);
        assert_eq!((whole.outage(at(5)).unwrap(), whole.failed()), (Duration::ZERO, 0));
        assert_eq!(whole.longest(), Duration::from_millis(20));
        let torn = Heard(vec![asked(0, 1, true), asked(10, 500, false), asked(20, 120, true), asked(30, 110, true)]);
        assert_eq!((torn.outage(at(5)).unwrap(), torn.failed()), (Duration::from_millis(105), 1));
        assert!(Heard(vec![asked(0, 1, false)]).outage(at(0)).is_err());
    }
}
