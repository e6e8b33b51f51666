//! Datagrams, in batches: three system calls for all that has arrived, and no others.
//!
//! A thread waits for a datagram before it takes one. To wait in the call that takes it would be a call less, but a thread that is being
//! killed there still takes what comes meanwhile, and nobody answers it.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg, sendto};
use tokio::runtime::Handle;

use super::answering::{Outcome, datagram};
use super::answers::Answers;
use super::encode::Transport;
use super::limits::{Budgets, Limits};
use super::reply::Replier;
use super::supervise::Stop;
use super::wire::QUERY_MAX;

/// Datagrams taken at once: twice as many as came last, as preparing for more than come is most of what one costs.
const BATCH: usize = 128;
const BATCH_MIN: usize = 4;
/// What a client gets of a batch at once while more come than are answered.
const SHARE: usize = 8;
/// Queries that wait for all others: about as many as the kernel's queue takes by default. What comes above is dropped.
const LATER_MAX: usize = 512;

/// Queries that one counts for that made us panic, as it costs and is told at length: by default, fifty a second of one client.
const PANIC: u32 = 1000;

/// A datagram that was received.
#[derive(Clone, Copy)]
struct Received {
    bytes: usize,
    from: Option<SockaddrStorage>,
}

/// Memory that is used again for each batch.
struct Batch {
    queries: Vec<Box<[u8]>>,
    /// Datagrams that are asked for next.
    room: usize,
    received: Vec<Received>,
    receiving: MultiHeaders<SockaddrStorage>,
    answers: Vec<Vec<u8>>,
    /// For each answer.
    to: Vec<Option<SockaddrStorage>>,
    sending: MultiHeaders<SockaddrStorage>,
}

/// Queries of clients that ask much, while more come than are answered: they wait here, so that the kernel's queue, which loses whatever
/// comes when it is full, is emptied as fast as can be.
#[derive(Default)]
struct Later {
    waiting: VecDeque<(Vec<u8>, SockaddrStorage)>,
    /// Batches on end that were as large as they can be.
    full: usize,
}

struct Server<'a> {
    socket: &'a Arc<UdpSocket>,
    replier: &'a Arc<Replier>,
    /// Where others are asked.
    runtime: &'a Handle,
    given: Answers,
    budgets: Budgets,
    later: Later,
}

/// Serves until it is to stop and the next datagram comes.
pub(super) fn serve(
    socket: &Arc<UdpSocket>,
    replier: &Arc<Replier>,
    limits: &Limits,
    runtime: &Handle,
    stop: &Stop,
) -> io::Result<()> {
    // Whoever had the socket before may have left it otherwise.
    socket.set_nonblocking(false)?;
    let mut server = Server {
        socket,
        replier,
        runtime,
        given: Answers::default(),
        budgets: Budgets::new(limits),
        later: Later::default(),
    };
    let mut batch = Batch::new();
    while !stop.is_set() {
        let wait = server.later.waiting.is_empty();
        match batch.receive(socket, wait) {
            // Somebody else may have taken it, or its checksum was wrong.
            Ok(()) | Err(Errno::EAGAIN) => {}
            // What an earlier answer met on its way, or a signal: the socket is as good as before.
            Err(error) if is_passing(error) => continue,
            Err(error) => return Err(error.into()),
        }
        server.answer(&mut batch);
        batch.send(socket);
        if batch.received.len() < BATCH && server.answer_later(&mut batch) {
            batch.send(socket);
        }
    }
    Ok(())
}

fn is_passing(error: Errno) -> bool {
    use Errno::{ECONNREFUSED, EHOSTUNREACH, EINTR, ENETDOWN, ENETUNREACH, ENOBUFS, ENOMEM, EPERM};
    [ECONNREFUSED, EHOSTUNREACH, EINTR, ENETDOWN, ENETUNREACH, ENOBUFS, ENOMEM, EPERM].contains(&error)
}

// === impl Server ===

impl Server<'_> {
    fn answer(&mut self, batch: &mut Batch) {
        let now = Instant::now();
        self.given.at(self.replier.index.read().changes());
        self.budgets.begin_batch();
        let pressed = self.later.is_pressed(batch.received.len());
        let Batch { queries, received, answers, to, .. } = batch;
        for (query, received) in queries.iter().zip(received) {
            let Some((storage, from)) = received.from.and_then(|from| Some((from, address(&from)?))) else { continue };
            // Port 0 cannot be answered.
            if from.port() == 0 {
                continue;
            }
            let query = &query[..received.bytes];
            match self.budgets.spend(from.ip(), now) {
                None => {}
                Some(before) if pressed && before >= SHARE => self.later.push(query, storage),
                Some(_) => self.reply(query, from, storage, answers, to),
            }
        }
    }

    /// Answers some that were put off. False: there were none.
    fn answer_later(&mut self, batch: &mut Batch) -> bool {
        let some = self.later.waiting.len().min(BATCH);
        batch.to.clear();
        for _ in 0..some {
            let Some((query, storage)) = self.later.waiting.pop_front() else { break };
            if let Some(from) = address(&storage) {
                self.reply(&query, from, storage, &mut batch.answers, &mut batch.to);
            }
        }
        some > 0
    }

    /// Adds an answer to others, or nothing if there is none, or none yet.
    fn reply(
        &mut self,
        query: &[u8],
        from: SocketAddr,
        storage: SockaddrStorage,
        answers: &mut Vec<Vec<u8>>,
        to: &mut Vec<Option<SockaddrStorage>>,
    ) {
        let used = to.len();
        if used == answers.len() {
            answers.push(Vec::new());
        }
        let out = &mut answers[used];
        out.clear();
        self.write(query, from, out);
        if !out.is_empty() {
            to.push(Some(storage));
        }
    }

    /// Writes an answer, or nothing if there is none, or none yet.
    fn write(&mut self, query: &[u8], from: SocketAddr, out: &mut Vec<u8>) {
        let asked = match datagram(self.replier, &mut self.given, query, from, out) {
            Outcome::Written => return,
            Outcome::Ask(asked) => asked,
            Outcome::Panicked => return self.budgets.charge(from.ip(), PANIC),
        };
        let (replier, socket) = (Arc::clone(self.replier), Arc::clone(self.socket));
        self.runtime.spawn(async move {
            let reply = replier.ask(asked.question).await.encode(&asked.request, Transport::Udp);
            if let Err(error) = send(&socket, &reply, &from.into()) {
                tracing::debug!(%error, %from, "an answer did not leave");
            }
        });
    }
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|address| SocketAddr::V4((*address).into()));
    v4.or_else(|| storage.as_sockaddr_in6().map(|address| SocketAddr::V6((*address).into())))
}

// === impl Later ===

impl Later {
    /// Whether more come than are answered: a second batch is as full as the first.
    fn is_pressed(&mut self, received: usize) -> bool {
        self.full = if received == BATCH { self.full + 1 } else { 0 };
        self.full > 1
    }

    fn push(&mut self, query: &[u8], from: SockaddrStorage) {
        if self.waiting.len() < LATER_MAX {
            self.waiting.push_back((query.to_vec(), from));
        }
    }
}

// === impl Batch ===

impl Batch {
    fn new() -> Self {
        Self {
            // One byte more than is taken, so that what is longer shows.
            queries: (0..BATCH).map(|_| vec![0; QUERY_MAX + 1].into_boxed_slice()).collect(),
            room: BATCH_MIN,
            received: Vec::with_capacity(BATCH),
            receiving: MultiHeaders::preallocate(BATCH, None),
            answers: Vec::with_capacity(BATCH),
            to: Vec::with_capacity(BATCH),
            sending: MultiHeaders::preallocate(BATCH, None),
        }
    }

    /// Waits for a datagram, unless somebody waits already, and takes what has arrived, as far as there is room.
    fn receive(&mut self, socket: &UdpSocket, wait: bool) -> Result<(), Errno> {
        self.received.clear();
        self.to.clear();
        let mut slices: Vec<_> = self.queries[..self.room].iter_mut().map(|query| [IoSliceMut::new(query)]).collect();
        if wait {
            poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
        }
        let now = MsgFlags::MSG_DONTWAIT;
        let received = recvmmsg(socket.as_raw_fd(), &mut self.receiving, slices.iter_mut(), now, None)?;
        self.received.extend(received.map(|one| Received { bytes: one.bytes, from: one.address }));
        self.room = (2 * self.received.len()).clamp(BATCH_MIN, BATCH);
        Ok(())
    }

    /// Sends all answers. UDP may lose them, so one that cannot be sent is lost.
    fn send(&mut self, socket: &UdpSocket) {
        if let ([Some(to)], [answer, ..]) = (&self.to[..], &self.answers[..]) {
            let _ = send(socket, answer, to);
            return;
        }
        let slices: Vec<_> = self.answers[..self.to.len()].iter().map(|answer| [IoSlice::new(answer)]).collect();
        let mut sent = 0;
        while sent < slices.len() {
            let (rest, to) = (&slices[sent..], &self.to[sent..]);
            let none: [ControlMessage<'_>; 0] = [];
            match sendmmsg(socket.as_raw_fd(), &mut self.sending, rest, to, none, MsgFlags::MSG_DONTWAIT) {
                Ok(done) => sent += done.count().max(1),
                Err(Errno::EAGAIN) => return,
                // The first of the rest cannot be sent.
                Err(_) => sent += 1,
            }
        }
    }
}

/// Sends one answer, now or never.
fn send(socket: &UdpSocket, answer: &[u8], to: &SockaddrStorage) -> Result<(), Errno> {
    sendto(socket.as_raw_fd(), answer, to, MsgFlags::MSG_DONTWAIT).map(drop)
}
