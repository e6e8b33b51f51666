//! Requests that never stop, and what became of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::http;

/// Clients that ask one host name again and again, each request on a new connection.
pub(crate) struct Traffic {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
    log: Arc<Mutex<Vec<Outcome>>>,
}

/// One request.
#[derive(Clone, Debug)]
struct Outcome {
    ended: Instant,
    error: Option<String>,
}

/// All requests of a scenario.
#[derive(Debug)]
pub(crate) struct Report {
    outcomes: Vec<Outcome>,
}

const CLIENTS: usize = 3;

// === impl Traffic ===

impl Traffic {
    pub(crate) fn start(door: SocketAddr, host: &'static str) -> Self {
        let (stop, log) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let client = |_| {
            let (stop, log): (Arc<AtomicBool>, Arc<Mutex<Vec<Outcome>>>) = (stop.clone(), log.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let error = match http::get(door, host, "/") {
                        Ok(answer) if answer.status == 200 => None,
                        Ok(answer) => Some(format!("{} {}", answer.status, answer.body)),
                        Err(error) => Some(error.to_string()),
                    };
                    log.lock().unwrap().push(Outcome { ended: Instant::now(), error });
                    std::thread::sleep(Duration::from_millis(2));
                }
            })
        };
        let clients = (0..CLIENTS).map(client).collect();
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

// === impl Report ===

impl Report {
    /// Nobody noticed anything.
    #[track_caller]
    pub(crate) fn lost_nothing(&self) {
        let lost: Vec<_> = self.outcomes.iter().filter_map(|outcome| outcome.error.as_ref()).collect();
        assert!(lost.is_empty(), "lost {} of {}, the first: {}", lost.len(), self.outcomes.len(), lost[0]);
    }

    /// So many at most noticed something.
    #[track_caller]
    pub(crate) fn lost_at_most(&self, most: usize) {
        let lost: Vec<_> = self.outcomes.iter().filter_map(|outcome| outcome.error.as_ref()).collect();
        assert!(lost.len() <= most, "lost {} of {}, the first: {}", lost.len(), self.outcomes.len(), lost[0]);
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
