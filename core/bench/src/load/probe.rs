//! Asking again and again, to see when a path begins or ceases to lead somewhere. Each datagram leaves from a port of its own: what
//! connection tracking lets pass because it knows it is no proof that a new connection would. The moment that counts is the one at
//! which a datagram was sent, so turns are known to the pace of a millisecond, however long an answer takes.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::LIMIT;
use super::server::ECHO;
use crate::gauge::now;

/// Ports that datagrams leave from.
const PORTS: Range<u16> = 5_200..65_200;
/// Between two datagrams to a target.
const PACE: Duration = Duration::from_millis(1);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_millis(20);
/// So many in a row without an answer mean that none will come.
const SILENT: u32 = 20;

/// Targets that are asked until this is dropped.
pub(super) struct Prober {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    stop: AtomicBool,
    known: Mutex<Vec<Known>>,
    changed: Condvar,
}

/// What is known of a target.
#[derive(Clone, Copy, Default)]
struct Known {
    /// Datagrams without an answer since the last one that had one.
    silent: u32,
    /// When the first and the last of those were sent that were answered without a miss between them.
    answered: Option<(u64, u64)>,
}

/// A datagram that nothing is known of yet.
struct Open {
    at: u64,
    begun: Instant,
    socket: UdpSocket,
    fate: Fate,
}

/// What became of a datagram.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Waiting,
    Answered,
    Refused,
}

// === impl Prober ===

impl Prober {
    pub(super) fn start(targets: &[SocketAddr]) -> anyhow::Result<Self> {
        let known = Mutex::new(vec![Known::default(); targets.len()]);
        let shared = Arc::new(Shared { stop: AtomicBool::new(false), known, changed: Condvar::new() });
        let (theirs, targets) = (shared.clone(), targets.to_vec());
        let thread = std::thread::Builder::new().name("prober".into()).spawn(move || theirs.probe(&targets))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Waits until a target answers, or does not any more; gives when the first datagram of now was sent, or the last before: 0 if
    /// there was none.
    pub(super) fn until(&self, target: usize, answers: bool) -> anyhow::Result<u64> {
        let deadline = Instant::now() + LIMIT;
        let mut known = self.shared.known.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let one = known.get(target).context("there is no such target")?;
            match (answers, one.answered) {
                (true, Some((first, _))) if one.silent == 0 => return Ok(first),
                (false, answered) if one.silent >= SILENT => return Ok(answered.map_or(0, |(_, last)| last)),
                _ => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let what = if answers { "no answer" } else { "answers" };
                bail!("{what} for {} s", LIMIT.as_secs());
            }
            (known, _) = self.shared.changed.wait_timeout(known, left).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

// === impl Shared ===

impl Shared {
    fn probe(&self, targets: &[SocketAddr]) {
        let mut open: Vec<VecDeque<Open>> = targets.iter().map(|_| VecDeque::new()).collect();
        let mut next = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            for (number, (target, open)) in targets.iter().zip(&mut open).enumerate() {
                match Open::send(*target) {
                    Ok(one) => open.push_back(one),
                    Err(_) => self.learn(number, None),
                }
                self.collect(number, open);
            }
            next = (next + PACE).max(Instant::now());
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }

    /// Learns what became of datagrams, in the order in which they were sent.
    fn collect(&self, number: usize, open: &mut VecDeque<Open>) {
        open.iter_mut().for_each(Open::look);
        while let Some(one) = open.front() {
            match one.fate {
                Fate::Answered => self.learn(number, Some(one.at)),
                Fate::Waiting if one.begun.elapsed() < PATIENCE => break,
                Fate::Refused | Fate::Waiting => self.learn(number, None),
            }
            open.pop_front();
        }
    }

    fn learn(&self, number: usize, answered: Option<u64>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let one = &mut known[number];
        match answered {
            Some(at) => {
                let first = one.answered.filter(|_| one.silent == 0).map_or(at, |(first, _)| first);
                (one.silent, one.answered) = (0, Some((first, at)));
            }
            None => one.silent = one.silent.saturating_add(1),
        }
        drop(known);
        self.changed.notify_all();
    }
}

/// A socket with a port that none has had for long: at a millisecond's pace it takes a minute until a port comes again, and connection
/// tracking forgets a datagram and its answer after half of that. With ports that the kernel chooses at random some would be known
/// still, and let through whatever a policy says by now.
fn fresh() -> std::io::Result<UdpSocket> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let mut tries = PORTS;
    loop {
        let port = PORTS.start + (NEXT.fetch_add(1, Ordering::Relaxed) % PORTS.len()) as u16;
        match UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)) {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && tries.next().is_some() => {}
            bound => return bound,
        }
    }
}

// === impl Open ===

impl Open {
    fn send(target: SocketAddr) -> std::io::Result<Self> {
        let socket = fresh()?;
        socket.connect(target)?;
        socket.set_nonblocking(true)?;
        let (at, begun) = (now(), Instant::now());
        socket.send(&[ECHO])?;
        Ok(Self { at, begun, socket, fate: Fate::Waiting })
    }

    /// Takes the answer, if one has come.
    fn look(&mut self) {
        if self.fate != Fate::Waiting {
            return;
        }
        self.fate = match self.socket.recv(&mut [0; 4]) {
            Ok(_) => Fate::Answered,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Fate::Waiting,
            Err(_) => Fate::Refused,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_seen_in_both_directions() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let answers = Arc::new(AtomicBool::new(true));
        let (answering, target) = (answers.clone(), socket.local_addr().unwrap());
        std::thread::spawn(move || {
            while let Ok((_, from)) = socket.recv_from(&mut [0; 8]) {
                if answering.load(Ordering::Relaxed) {
                    let _ = socket.send_to(&[ECHO], from);
                }
            }
        });
        let begun = now();
        let prober = Prober::start(&[target, silent.local_addr().unwrap()]).unwrap();
        let first = prober.until(0, true).unwrap();
        assert_eq!(prober.until(1, false).unwrap(), 0, "nobody ever answered");
        answers.store(false, Ordering::Relaxed);
        let last = prober.until(0, false).unwrap();
        answers.store(true, Ordering::Relaxed);
        let again = prober.until(0, true).unwrap();
        assert!(begun <= first && first < last && last < again && again <= now(), "{begun} {first} {last} {again}");
        assert!(prober.until(2, true).is_err());
    }
}
