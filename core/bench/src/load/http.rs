//! HTTP at a rate that does not wait for answers.
//!
//! Requests are due at moments that were chosen beforehand, and latency counts from there (Tene, "coordinated omission"; wrk2): a
//! server that stalls is charged for everybody who would have come meanwhile. One thread, non-blocking sockets and ppoll: a
//! runtime's timers tick in milliseconds, which is more than what is measured.

mod answer;

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::meter::{Meter, Span};
use super::{Arrivals, Measured, PATIENCE};
use crate::stats::Random;
use answer::{Answer, Progress};

/// What to ask, and when.
pub(super) struct Plan<'a> {
    pub(super) target: SocketAddr,
    pub(super) host: Option<&'a str>,
    pub(super) rate: Option<f64>,
    pub(super) connections: u16,
    pub(super) arrivals: Arrivals,
    pub(super) body: u32,
    pub(super) span: Span,
    pub(super) seed: u64,
}

struct Connection {
    stream: TcpStream,
    /// When the request under way was due.
    due: Option<Duration>,
    answer: Answer,
}

struct Run {
    connections: Vec<Connection>,
    request: Vec<u8>,
    target: SocketAddr,
    begun: Instant,
    warm: Duration,
    told: fn(&super::Reply),
    measured: Measured,
}

/// Sent so late by ourselves, a request says more about the generator than about the network.
const LATE: Duration = Duration::from_millis(1);
/// How long the last answers may take.
const DRAIN: Duration = Duration::from_secs(2);

pub(super) fn run(plan: &Plan<'_>) -> anyhow::Result<Measured> {
    let connections = (0..plan.connections).map(|_| Connection::open(plan.target)).collect::<Result<_, _>>();
    let connections = connections.with_context(|| format!("connect to {}", plan.target))?;
    let host = plan.host.map_or_else(|| plan.target.to_string(), str::to_owned);
    let request = format!("GET /bytes/{} HTTP/1.1\r\nHost: {host}\r\n\r\n", plan.body).into_bytes();
    let warm = plan.span.warmup;
    let (told, begun, measured) = (plan.span.told, Instant::now(), Measured::default());
    let mut run = Run { connections, request, target: plan.target, begun, warm, told, measured };
    run.go(&mut Schedule::new(plan))?;
    Ok(run.measured)
}

/// The moments at which requests are due.
struct Schedule {
    next: Duration,
    end: Duration,
    /// Seconds between two; none if each is due when the one before is answered.
    mean: Option<f64>,
    arrivals: Arrivals,
    random: Random,
}

// === impl Run ===

impl Run {
    fn go(&mut self, schedule: &mut Schedule) -> anyhow::Result<()> {
        let mut waiting = VecDeque::new();
        let (mut meter, mut metered) = (None, false);
        self.begun = Instant::now();
        loop {
            let now = self.begun.elapsed();
            if !metered && now >= self.warm {
                meter = Some(Meter::start(self.told)?);
                metered = true;
            }
            let free = self.connections.iter().filter(|connection| connection.due.is_none()).count();
            while let Some(due) = schedule.due(now, free > waiting.len()) {
                self.measured.late += u64::from(due >= self.warm && now - due >= LATE && free > waiting.len());
                waiting.push_back(due);
            }
            self.send(&mut waiting);
            let busy = !waiting.is_empty() || self.connections.iter().any(|connection| connection.due.is_some());
            if schedule.is_over(now) {
                // What is due is due: the meter stops with the last request, the answers may come a little later.
                if let Some(meter) = meter.take_if(|_| now >= schedule.end) {
                    meter.stop(&mut self.measured)?;
                    meter_stopped(&mut self.measured, schedule.end - self.warm);
                }
                if now >= schedule.end && (!busy || now >= schedule.end + DRAIN) {
                    break;
                }
            }
            let until =
                if schedule.is_over(now) && now >= schedule.end { now + LATE } else { schedule.next.min(schedule.end) };
            let until = if now < self.warm { until.min(self.warm) } else { until };
            self.wait(until.saturating_sub(now))?;
        }
        let open = self.connections.iter().filter_map(|connection| connection.due).chain(waiting);
        self.measured.errors += open.filter(|&due| due >= self.warm).count() as u64;
        Ok(())
    }

    /// Gives requests that wait to connections that are free.
    fn send(&mut self, waiting: &mut VecDeque<Duration>) {
        for connection in self.connections.iter_mut().filter(|connection| connection.due.is_none()) {
            let Some(due) = waiting.pop_front() else { return };
            if connection.stream.write_all(&self.request).is_ok() {
                connection.due = Some(due);
                continue;
            }
            self.measured.errors += u64::from(due >= self.warm);
            connection.again(self.target);
        }
    }

    /// Takes answers until a time is over, or one has come.
    fn wait(&mut self, time: Duration) -> anyhow::Result<()> {
        let mut fds: Vec<_> =
            self.connections.iter().map(|connection| PollFd::new(&connection.stream, PollFlags::IN)).collect();
        let limit = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
        if rustix::io::retry_on_intr(|| poll(&mut fds, Some(&limit)))? == 0 {
            return Ok(());
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        for (connection, _) in self.connections.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            let progress = connection.read();
            let now = self.begun.elapsed();
            match (progress, connection.due) {
                (Progress::Partial, _) => {}
                (Progress::Whole { bytes, good }, Some(due)) => {
                    connection.due = None;
                    if due < self.warm {
                        continue;
                    }
                    if !good {
                        self.measured.errors += 1;
                        continue;
                    }
                    self.measured.operations += 1;
                    self.measured.bytes += bytes;
                    self.measured.latency.record(now - due);
                }
                (Progress::Whole { .. } | Progress::Broken, due) => {
                    self.measured.errors += u64::from(due.is_some_and(|due| due >= self.warm));
                    connection.again(self.target);
                }
            }
        }
        Ok(())
    }
}

/// The time that counts is the plan's: the meter's own may be a scheduling delay longer.
fn meter_stopped(measured: &mut Measured, planned: Duration) {
    measured.seconds = measured.seconds.max(planned.as_secs_f64());
}

// === impl Connection ===

impl Connection {
    fn open(target: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&target, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, due: None, answer: Answer::default() })
    }

    /// A new connection in place of a broken one; the old one stays, and fails again, if there is none to be had.
    fn again(&mut self, target: SocketAddr) {
        self.due = None;
        if let Ok(fresh) = Self::open(target) {
            *self = fresh;
        }
    }

    fn read(&mut self) -> Progress {
        let mut buffer = [0; 16 << 10];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Progress::Broken,
                Ok(read) => match self.answer.take(&buffer[..read]) {
                    Progress::Partial => {}
                    other => return other,
                },
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Progress::Partial,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Progress::Broken,
            }
        }
    }
}

// === impl Schedule ===

impl Schedule {
    fn new(plan: &Plan<'_>) -> Self {
        let end = plan.span.warmup + plan.span.sample;
        let (mean, random) = (plan.rate.map(|rate| 1.0 / rate), Random::new(plan.seed));
        let mut schedule = Self { next: Duration::ZERO, end, mean, arrivals: plan.arrivals, random };
        schedule.advance();
        schedule
    }

    /// The next moment that has come; `free` says that a connection waits.
    fn due(&mut self, now: Duration, free: bool) -> Option<Duration> {
        if self.mean.is_none() {
            return (free && !self.is_over(now)).then_some(now);
        }
        let due = self.next;
        if due > now || self.is_over(now) {
            return None;
        }
        self.advance();
        Some(due)
    }

    fn is_over(&self, now: Duration) -> bool {
        if self.mean.is_some() { self.next >= self.end } else { now >= self.end }
    }

    fn advance(&mut self) {
        let Some(mean) = self.mean else {
            self.next = self.end;
            return;
        };
        let gap = match self.arrivals {
            Arrivals::Constant => mean,
            Arrivals::Poisson => -mean * (1.0 - self.random.share()).ln(),
        };
        self.next += Duration::from_secs_f64(gap.max(1e-9));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_due_at_the_rate_that_was_asked_for() {
        for arrivals in [Arrivals::Constant, Arrivals::Poisson] {
            let span = Span { warmup: Duration::ZERO, sample: Duration::from_secs(10), told: |_| () };
            let target = ([127, 0, 0, 1], 1).into();
            let plan =
                Plan { target, host: None, rate: Some(1000.0), connections: 1, arrivals, body: 1, span, seed: 7 };
            let mut schedule = Schedule::new(&plan);
            let mut count = 0;
            while schedule.due(Duration::from_secs(60), true).is_some() {
                count += 1;
            }
            assert!((9_600..10_400).contains(&count), "{arrivals:?}: {count}");
        }
    }
}
