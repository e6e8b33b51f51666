//! Datagrams, in batches: two system calls for all that has arrived.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::answering::datagram;
use super::answers::Answers;
use super::encode::Transport;
use super::limits::{Budgets, Limits};
use super::reply::Replier;
use super::wire::QUERY_MAX;

/// Datagrams taken at once: twice as many as came last, as preparing for more than come is most of what one costs.
const BATCH: usize = 64;
const BATCH_MIN: usize = 4;

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

struct Server {
    socket: Arc<UdpSocket>,
    replier: Arc<Replier>,
    given: Answers,
    budgets: Budgets,
}

/// Serves for ever.
pub(super) async fn serve(socket: std::net::UdpSocket, replier: Arc<Replier>, limits: Limits) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let socket = Arc::new(UdpSocket::from_std(socket)?);
    let mut server =
        Server { socket: Arc::clone(&socket), replier, given: Answers::default(), budgets: Budgets::new(&limits) };
    let mut batch = Batch::new();
    loop {
        socket.readable().await?;
        let received = socket.try_io(Interest::READABLE, || {
            // Fewer than there was room for: nothing is left, and what comes now is told again. That saves a call that finds nothing.
            if batch.receive(&socket)? { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
        });
        match received {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // What an earlier answer met on its way, or a signal: the socket is as good as before.
            Err(error) if is_passing(&error) => continue,
            Err(error) => return Err(error),
        }
        server.answer(&mut batch);
        batch.send(&socket);
        if batch.received.len() == BATCH {
            tokio::task::yield_now().await;
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    use Errno::{ECONNREFUSED, EHOSTUNREACH, EINTR, ENETDOWN, ENETUNREACH, ENOBUFS, ENOMEM, EPERM};
    let passing = [ECONNREFUSED, EHOSTUNREACH, EINTR, ENETDOWN, ENETUNREACH, ENOBUFS, ENOMEM, EPERM];
    error.raw_os_error().is_some_and(|code| passing.contains(&Errno::from_raw(code)))
}

// === impl Server ===

impl Server {
    fn answer(&mut self, batch: &mut Batch) {
        let now = Instant::now();
        self.given.at(self.replier.index.read().changes());
        let mut used = 0;
        for (query, received) in batch.queries.iter().zip(&batch.received) {
            let Some(from) = received.from.as_ref().and_then(address) else { continue };
            // Port 0 cannot be answered.
            if from.port() == 0 || !self.budgets.spend(from.ip(), now) {
                continue;
            }
            if used == batch.answers.len() {
                batch.answers.push(Vec::new());
            }
            let out = &mut batch.answers[used];
            out.clear();
            self.reply(&query[..received.bytes], from, out);
            if !out.is_empty() {
                batch.to.push(received.from);
                used += 1;
            }
        }
    }

    /// Writes an answer, or nothing if there is none, or none yet.
    fn reply(&mut self, query: &[u8], from: SocketAddr, out: &mut Vec<u8>) {
        let Some(asked) = datagram(&self.replier, &mut self.given, query, from, out) else { return };
        let (replier, socket) = (Arc::clone(&self.replier), Arc::clone(&self.socket));
        tokio::spawn(async move {
            let reply = replier.ask(asked.question).await.encode(&asked.request, Transport::Udp);
            if let Err(error) = socket.send_to(&reply, from).await {
                tracing::debug!(%error, %from, "an answer did not leave");
            }
        });
    }
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|address| SocketAddr::V4((*address).into()));
    v4.or_else(|| storage.as_sockaddr_in6().map(|address| SocketAddr::V6((*address).into())))
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

    /// Takes what has arrived. True: as much as there was room for, and there may be more.
    fn receive(&mut self, socket: &UdpSocket) -> Result<bool, Errno> {
        self.received.clear();
        self.to.clear();
        let mut slices: Vec<_> = self.queries[..self.room].iter_mut().map(|query| [IoSliceMut::new(query)]).collect();
        let flags = MsgFlags::MSG_DONTWAIT;
        let received = recvmmsg(socket.as_raw_fd(), &mut self.receiving, slices.iter_mut(), flags, None)?;
        self.received.extend(received.map(|one| Received { bytes: one.bytes, from: one.address }));
        let full = self.received.len() == self.room;
        self.room = (2 * self.received.len()).clamp(BATCH_MIN, BATCH);
        Ok(full)
    }

    /// Sends all answers. UDP may lose them, so one that cannot be sent is lost.
    fn send(&mut self, socket: &UdpSocket) {
        let slices: Vec<_> = self.answers[..self.to.len()].iter().map(|answer| [IoSlice::new(answer)]).collect();
        let mut sent = 0;
        while sent < slices.len() {
            let (rest, to) = (&slices[sent..], &self.to[sent..]);
            let none: [ControlMessage<'_>; 0] = [];
            let flags = MsgFlags::MSG_DONTWAIT;
            match sendmmsg(socket.as_raw_fd(), &mut self.sending, rest, to, none, flags) {
                Ok(done) => sent += done.count().max(1),
                Err(Errno::EAGAIN) => return,
                // The first of the rest cannot be sent.
                Err(_) => sent += 1,
            }
        }
    }
}
