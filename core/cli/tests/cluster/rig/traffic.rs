//! Requests that never stop, and what became of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::http::{self, Client, Request};

/// Clients that ask one host name again and again.
pub(crate) struct Traffic {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
    log: Arc<Mutex<Vec<Outcome>>>,
}

/// How a client asks.
#[derive(Clone, Copy, Debug)]
struct Kind {
    /// With a body, that has to come back.
    posts: bool,
    /// On the connection of the request before, as long as the server lets it.
    keeps: bool,
}

/// One request.
#[derive(Clone, Debug)]
struct Outcome {
    ended: Instant,
    kind: Kind,
    error: Option<String>,
}

/// All requests of a scenario.
#[derive(Debug)]
pub(crate) struct Report {
    outcomes: Vec<Outcome>,
}

const CLIENTS: usize = 3;
/// Between an answer and the next request: a dozen clients without it leave other tests no processor.
const PACE: Duration = Duration::from_millis(5);
/// What is posted.
const BODY: &str = "Two roads diverged in a yellow wood, and sorry I could not travel both";

// === impl Traffic ===

impl Traffic {
    /// Each request is a GET on a new connection.
    pub(crate) fn start(door: SocketAddr, host: &'static str) -> Self {
        Self::of(door, host, &[Kind { posts: false, keeps: false }; CLIENTS])
    }

    /// Requests of each kind: without and with a body, on a new connection and on the one before.
    pub(crate) fn of_all_kinds(door: SocketAddr, host: &'static str) -> Self {
        let kinds = [(false, false), (false, true), (true, false), (true, true)];
        let kinds = kinds.map(|(posts, keeps)| [Kind { posts, keeps }; CLIENTS]);
        Self::of(door, host, kinds.as_flattened())
    }

    fn of(door: SocketAddr, host: &'static str, kinds: &[Kind]) -> Self {
        let (stop, log) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let client = |kind: &Kind| {
            let (stop, log): (Arc<AtomicBool>, Arc<Mutex<Vec<Outcome>>>) = (stop.clone(), log.clone());
            let kind = *kind;
            std::thread::spawn(move || {
                let mut client = Client::new(door);
                while !stop.load(Ordering::Relaxed) {
                    let error = kind.ask(door, host, &mut client);
                    log.lock().unwrap().push(Outcome { ended: Instant::now(), kind, error });
                    std::thread::sleep(PACE);
                }
            })
        };
        let clients = kinds.iter().map(client).collect();
        Self { stop, clients, log }
    }

    /// Waits until so many more requests have ended well.
    #[track_caller]
    pub(crate) fn more(&self, count: usize) {
        let good = || self.log.lock().unwrap().iter().filter(|outcome| outcome.error.is_none()).count();
        let before = good();
        super::eventually("requests that end well", || (good() >= before + count).then_some(()));
    }

    /// Ends it.
    pub(crate) fn stop(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().unwrap();
        }
        let mut outcomes = std::mem::take(&mut *self.log.lock().unwrap());
        outcomes.sort_by_key(|outcome| outcome.ended);
        Report { outcomes }
    }
}

// === impl Kind ===

impl Kind {
    /// Asks, and says what was wrong with the answer.
    fn ask(self, door: SocketAddr, host: &str, client: &mut Client) -> Option<String> {
        let request = match self.posts {
            true => Request { host, path: "/echo", body: Some(BODY) },
            false => Request { host, path: "/", body: None },
        };
        let answer = if self.keeps { client.ask(request) } else { http::once(door, request) };
        match answer {
            Ok(answer) if answer.status == 200 && (!self.posts || answer.body == BODY) => None,
            Ok(answer) => Some(format!("{} {}", answer.status, answer.body)),
            Err(error) => Some(error.to_string()),
        }
    }
}

// === impl Report ===

impl Report {
    /// Nobody noticed anything.
    #[track_caller]
    pub(crate) fn lost_nothing(&self) {
        self.lost_at_most(0);
    }

    /// So many at most noticed something.
    #[track_caller]
    pub(crate) fn lost_at_most(&self, most: usize) {
        let lost: Vec<_> = self.outcomes.iter().filter(|outcome| outcome.error.is_some()).collect();
        assert!(
            lost.len() <= most,
            "lost {} of {}, the first: {} to {:?}",
            lost.len(),
            self.outcomes.len(),
            lost[0].error.as_deref().unwrap_or_default(),
            lost[0].kind
        );
    }

    /// From the first failure to the last it took no longer than this. Says how long.
    #[track_caller]
    pub(crate) fn was_back_within(&self, limit: Duration, after: &str) {
        let failed = || self.outcomes.iter().filter(|outcome| outcome.error.is_some());
        let gap = match (failed().next(), failed().next_back()) {
            (Some(first), Some(last)) => last.ended - first.ended,
            _ => Duration::ZERO,
        };
        let (lost, all) = (failed().count(), self.outcomes.len());
        super::record(after, &format!("{lost} of {all} requests failed, within {gap:.3?}"));
        let Some(last) = failed().next_back() else { return };
        assert!(gap <= limit, "failures for {gap:?}, expected {limit:?} at most; the last: {:?}", last.error);
    }
}
