//! The gate: every request head is judged byte by byte before the HTTP library sees it.
//!
//! An HTTP library parses; it does not guard. Checks in a request handler come too late: by then conflicting framing has been
//! resolved, silently, one way. So the gate sits on the connection as an `AsyncRead`. It follows the byte stream (head, body, head,
//! ...), lets whole, good heads and good body bytes through, and never lets through a byte beyond what it has judged.
//!
//! A bad head is replaced by a good one of our own, followed by end of input; the handler recognises it by its place in the sequence
//! and answers with the reason. So answers to earlier pipelined requests keep their order and no second writer touches the socket.

mod chunk;
mod head;
mod refusal;
mod state;

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::chunk::Chunks;
pub(crate) use self::chunk::is_forbidden as is_forbidden_trailer;
pub use self::{
    head::{Framing, Head, HeadLimits, check_http2},
    refusal::Refusal,
    state::{ConnState, Tick, Timeouts, Upgrade},
};

/// What the handler gets to see in place of a refused head.
const STAND_IN: &[u8] = b"GET /refused HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";

/// Bounds of what the gate lets through.
#[derive(Clone, Copy, Debug)]
pub struct GateLimits {
    /// Of a head.
    pub head: HeadLimits,
    /// Bytes of a body; 0 means any.
    pub body: u64,
}

/// A connection behind the gate.
#[derive(Debug)]
pub struct Gate<T> {
    io: T,
    stream: Stream,
    state: Arc<ConnState>,
    /// Bytes read: first `passed` judged ones, then such as wait for the rest of their head.
    held: Vec<u8>,
    start: usize,
    passed: usize,
    ended: bool,
}

/// Follows the requests of one direction of a connection; no I/O.
#[derive(Debug)]
pub struct Stream {
    at: At,
    limits: GateLimits,
    body: u64,
    /// Heads let through.
    pub heads: u32,
}

#[derive(Debug)]
enum At {
    Head,
    Length(u64),
    Chunks(Chunks),
    /// After a request to upgrade: what follows is HTTP or not, which the answer decides.
    Upgrade,
}

// === impl Stream ===

impl Stream {
    /// At the beginning of a connection.
    pub fn new(limits: GateLimits) -> Self {
        Self { at: At::Head, limits, body: 0, heads: 0 }
    }

    /// How many of `bytes` may be let through now. The caller shows the rest again, with more behind it.
    ///
    /// # Errors
    /// With what is wrong after the bytes of `Ok` (given first, so that good messages before a bad one are served).
    pub fn judge(&mut self, bytes: &[u8]) -> (usize, Result<(), Refusal>) {
        let mut passed = 0;
        while passed < bytes.len() {
            let rest = &bytes[passed..];
            match &mut self.at {
                At::Head => match Head::read(rest, self.limits.head) {
                    Ok(None) => break,
                    Err(refusal) => return (passed, Err(refusal)),
                    Ok(Some(head)) => {
                        if let (Framing::Length(length), 1..) = (head.framing, self.limits.body)
                            && length > self.limits.body
                        {
                            return (passed, Err(Refusal::BodyTooLong));
                        }
                        passed += head.length;
                        self.heads += 1;
                        self.body = 0;
                        self.at = match head.framing {
                            _ if head.upgrade => At::Upgrade,
                            Framing::Empty => At::Head,
                            Framing::Length(length) => At::Length(length),
                            Framing::Chunked => At::Chunks(Chunks::new()),
                        };
                    }
                },
                At::Length(left) => {
                    let take = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= take as u64;
                    passed += take;
                    if *left == 0 {
                        self.at = At::Head;
                    }
                }
                At::Chunks(chunks) => match chunks.follow(rest) {
                    Err(refusal) => return (passed, Err(refusal)),
                    Ok((taken, data, ended)) => {
                        self.body += data;
                        if self.limits.body != 0 && self.body > self.limits.body {
                            return (passed, Err(Refusal::BodyTooLong));
                        }
                        passed += taken;
                        if ended {
                            self.at = At::Head;
                        }
                    }
                },
                At::Upgrade => break,
            }
        }
        (passed, Ok(()))
    }

    fn in_head(&self) -> bool {
        matches!(self.at, At::Head)
    }
}

// === impl Gate ===

impl<T: AsyncRead + Unpin> Gate<T> {
    /// Guards `io`, of which `first` has been read already.
    pub fn new(io: T, first: Vec<u8>, limits: GateLimits, state: Arc<ConnState>) -> Self {
        let mut gate = Self { io, stream: Stream::new(limits), state, held: first, start: 0, passed: 0, ended: false };
        gate.judge_held();
        gate
    }

    fn judge_held(&mut self) {
        let (passed, verdict) = self.stream.judge(&self.held[self.start + self.passed..]);
        self.passed += passed;
        if let Err(refusal) = verdict {
            self.refuse(refusal);
        }
    }

    /// A bad head ends the connection with an answer; a bad body ends it with an error.
    fn refuse(&mut self, refusal: Refusal) {
        self.held.truncate(self.start + self.passed);
        self.ended = true;
        if self.stream.in_head() {
            self.state.refuse(self.stream.heads + 1, refusal);
            self.held.extend_from_slice(STAND_IN);
            self.passed += STAND_IN.len();
        } else {
            self.state.refuse_body(self.stream.heads, refusal);
        }
    }

    fn give(&mut self, buf: &mut ReadBuf<'_>) {
        let give = self.passed.min(buf.remaining());
        buf.put_slice(&self.held[self.start..self.start + give]);
        self.start += give;
        self.passed -= give;
        if self.start == self.held.len() {
            // Nothing waits: most connections are here between requests, and hold no memory.
            self.held = Vec::new();
            self.start = 0;
        }
    }

    fn end(&self) -> Poll<io::Result<()>> {
        match self.state.body_refusal(self.stream.heads) {
            Some(refusal) => Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, refusal))),
            None => Poll::Ready(Ok(())),
        }
    }

    /// What a passed deadline means depends on what we are waiting for.
    fn expire(&mut self) {
        if self.stream.in_head() && self.held.len() == self.start {
            self.ended = true;
        } else {
            self.refuse(Refusal::TooSlow);
        }
    }

    fn waiting(&self) {
        let holds_head = self.held.len() > self.start;
        match (&self.stream.at, holds_head) {
            (At::Head, false) => {}
            (At::Head, true) => self.state.waits_for_head(),
            (At::Length(_) | At::Chunks(_), _) => self.state.waits_for_body(),
            (At::Upgrade, _) => {}
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gate<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.passed > 0 {
                this.give(buf);
                return Poll::Ready(Ok(()));
            }
            if this.ended {
                return this.end();
            }
            if let At::Upgrade = this.stream.at {
                match this.state.upgrade() {
                    // The handler wakes the connection once it knows.
                    Upgrade::Undecided => return Poll::Pending,
                    Upgrade::Refused => {
                        this.state.upgrade_settled();
                        this.stream.at = At::Head;
                        this.judge_held();
                        continue;
                    }
                    Upgrade::Done if this.held.len() > this.start => {
                        this.passed = this.held.len() - this.start;
                        continue;
                    }
                    Upgrade::Done => return Pin::new(&mut this.io).poll_read(cx, buf),
                }
            }
            if this.state.read_expired() {
                this.expire();
                continue;
            }
            if this.held.len() == this.start {
                let before = buf.filled().len();
                if Pin::new(&mut this.io).poll_read(cx, buf)?.is_pending() {
                    this.waiting();
                    return Poll::Pending;
                }
                let fresh = &buf.filled()[before..];
                if fresh.is_empty() {
                    this.ended = true;
                    continue;
                }
                this.state.read_something();
                let (passed, verdict) = this.stream.judge(fresh);
                if passed < fresh.len() {
                    this.held.extend_from_slice(&fresh[passed..]);
                    buf.set_filled(before + passed);
                }
                if let Err(refusal) = verdict {
                    this.refuse(refusal);
                }
                if passed > 0 {
                    return Poll::Ready(Ok(()));
                }
            } else {
                let mut more = [0_u8; 4096];
                let mut room = ReadBuf::new(&mut more);
                match Pin::new(&mut this.io).poll_read(cx, &mut room) {
                    Poll::Pending => {
                        this.waiting();
                        return Poll::Pending;
                    }
                    Poll::Ready(result) => result?,
                }
                if room.filled().is_empty() {
                    // The peer left in the middle of a head: nobody to answer.
                    this.held.truncate(this.start);
                    this.ended = true;
                    continue;
                }
                this.held.extend_from_slice(room.filled());
                // A head cannot end, nor become wrong in a new way, without a new line; so a dripping peer costs little.
                let limit = this.stream.limits.head.bytes;
                if memchr::memchr(b'\n', room.filled()).is_some()
                    || memchr::memchr(b'\r', room.filled()).is_some()
                    || this.held.len() - this.start > limit
                {
                    this.judge_held();
                }
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gate<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.state.after_write(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.state.after_write(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
        Poll::Ready(Ok(()))
    }
}
