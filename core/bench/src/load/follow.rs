//! A flow that never pauses, to see how long a network does: a datagram every millisecond, and its answer.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Followed;
use super::server::ECHO;

/// A flow that goes on.
pub(super) struct Follower {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<std::io::Result<Followed>>,
}

/// Between two datagrams.
const PACE: Duration = Duration::from_millis(1);
/// How long the last answers may take.
const LINGER: Duration = Duration::from_millis(50);
/// Trips that are remembered: two minutes of them.
const MOST: usize = 120_000;

// === impl Follower ===

impl Follower {
    pub(super) fn start(target: SocketAddr) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(target)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        Ok(Self { stop, thread: std::thread::spawn(move || follow(&socket, &stopped)) })
    }

    pub(super) fn stop(self) -> anyhow::Result<Followed> {
        self.stop.store(true, Ordering::Relaxed);
        let followed = self.thread.join().map_err(|_| anyhow::anyhow!("the follower panicked"))?;
        Ok(followed?)
    }
}

fn follow(socket: &UdpSocket, stop: &AtomicBool) -> std::io::Result<Followed> {
    let mut followed = Followed::default();
    let begun = Instant::now();
    let mut last_answer = Duration::ZERO;
    let (mut next, mut last_sent) = (Duration::ZERO, Duration::ZERO);
    let mut end = None;
    loop {
        let now = begun.elapsed();
        if end.is_none() && stop.load(Ordering::Relaxed) {
            end = Some(now + LINGER);
        }
        match end {
            Some(end) if now >= end => break,
            None if now >= next => {
                let mut datagram = [0; 16];
                datagram[0] = ECHO;
                datagram[8..].copy_from_slice(&(now.as_micros() as u64).to_le_bytes());
                // A network that refuses is one that does not answer.
                let _ = socket.send(&datagram);
                followed.sent += 1;
                followed.longest_stall = followed.longest_stall.max((now - last_sent).as_secs_f64() * 1e3);
                last_sent = now;
                next += PACE;
                continue;
            }
            _ => {}
        }
        let until = end.unwrap_or(next);
        socket.set_read_timeout(Some((until - now.min(until)).max(Duration::from_micros(50))))?;
        let mut answer = [0; 32];
        let Ok(16) = socket.recv(&mut answer) else { continue };
        let arrived = begun.elapsed();
        let left = u64::from_le_bytes(answer[8..16].try_into().expect("eight bytes"));
        followed.answered += 1;
        followed.longest_gap = followed.longest_gap.max((arrived - last_answer).as_secs_f64() * 1e3);
        last_answer = arrived;
        if followed.trips.len() < MOST {
            let took = (arrived.as_micros() as u64).saturating_sub(left);
            followed.trips.push((left as u32, took as u32));
        }
    }
    // Silence at the end is a gap too, but for the time in which nothing was sent.
    let quiet = end.unwrap_or_default().saturating_sub(LINGER).saturating_sub(last_answer);
    followed.longest_gap = followed.longest_gap.max(quiet.as_secs_f64() * 1e3);
    Ok(followed)
}
