//! A connection to an endpoint, as far as the kernel tells whether anybody is still at its other end.
//!
//! While nothing is under way the kernel asks by itself (keepalive). While something is, it has one clock, TCP_USER_TIMEOUT, which
//! looks at what the peer takes: right as long as everything fits into the peer's buffer, whether anybody reads it or not. Once more
//! is sent, a peer that is full and acknowledges every probe takes nothing either; then we look for ourselves when it was last heard.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use nix::{getsockopt_impl, libc, sockopt_impl, sys::socket::getsockopt};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};

sockopt_impl!(TcpInfo, GetOnly, libc::IPPROTO_TCP, libc::TCP_INFO, libc::tcp_info);

/// Who is full acknowledges two probes a second at most: silence for less than a few of them says nothing.
const LEAST: Duration = Duration::from_secs(2);

/// How much is sent at once on a connection, which decides what it means that its peer takes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Load {
    /// What fits into any peer's buffer: who does not take it is gone.
    Small,
    /// More than that: who does not take it may be slow to read.
    Any,
}

/// A connection that fails with `TimedOut` once its peer has not been heard for too long.
#[derive(Debug)]
pub struct Line {
    stream: TcpStream,
    watch: Option<Watch>,
}

/// Looks whether a peer is heard, while somebody waits for it.
#[derive(Debug)]
struct Watch {
    within: Duration,
    /// Since when it owes us a word.
    since: Instant,
    look: Pin<Box<Sleep>>,
}

// === impl Line ===

impl Line {
    /// Over a new connection, whose peer is gone when it is not heard `within` a time.
    pub(crate) fn new(stream: TcpStream, load: Load, within: Duration) -> Self {
        let socket = SockRef::from(&stream);
        let second = Duration::from_secs(1);
        let (quiet, between) = ((within / 2).max(second), (within / 4).max(second));
        let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(quiet).with_interval(between).with_retries(2));
        let watch = match load {
            Load::Small => {
                let _ = socket.set_tcp_user_timeout(Some(within));
                None
            }
            Load::Any => Some(Watch::new(within.max(LEAST))),
        };
        Self { stream, watch }
    }

    /// What it means that nothing comes or goes: that the peer is slow, or gone.
    fn or_lost<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let Some(watch) = self.watch.as_mut().filter(|_| result.is_pending()) else { return result };
        match watch.poll(&self.stream, cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

// === impl Watch ===

impl Watch {
    fn new(within: Duration) -> Self {
        Self { within, since: Instant::now(), look: Box::pin(sleep(within / 4)) }
    }

    /// Ready when the peer is gone.
    fn poll(&mut self, stream: &TcpStream, cx: &mut Context<'_>) -> Poll<()> {
        while self.look.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            // Nobody waited in between: then silence means nothing.
            let is_late = now - self.look.deadline() >= self.within;
            if is_late || !owes_a_word(stream, now - self.since) {
                self.since = now;
            } else if now - self.since >= self.within {
                return Poll::Ready(());
            }
            self.look.as_mut().reset(now + self.within / 4);
        }
        Poll::Pending
    }
}

/// Whether a peer has been sent something since it was last heard, which was that long ago at least. Who is full is sent the same
/// again, or a probe, less and less often, and acknowledges it each time.
fn owes_a_word(stream: &TcpStream, so_long: Duration) -> bool {
    getsockopt(stream, TcpInfo).is_ok_and(|info| {
        let heard = info.tcpi_last_ack_recv;
        let was_sent_more = info.tcpi_unacked > 0 && info.tcpi_last_data_sent < heard;
        (was_sent_more || info.tcpi_probes > 0) && Duration::from_millis(heard.into()) >= so_long
    })
}

impl AsyncRead for Line {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.or_lost(cx, result)
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.or_lost(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.or_lost(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernel_watches_over_a_connection() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let within = Duration::from_secs(8);
        for (load, user_timeout) in [(Load::Small, Some(within)), (Load::Any, None)] {
            let stream = TcpStream::connect(listener.local_addr().expect("address")).await.expect("connect");
            let line = Line::new(stream, load, within);
            let socket = SockRef::from(&line.stream);
            assert!(socket.keepalive().expect("an option"));
            assert_eq!(socket.tcp_keepalive_time().expect("an option"), within / 2);
            assert_eq!(socket.tcp_keepalive_interval().expect("an option"), within / 4);
            assert_eq!(socket.tcp_keepalive_retries().expect("an option"), 2);
            assert_eq!(socket.tcp_user_timeout().expect("an option").filter(|t| !t.is_zero()), user_timeout);
        }
    }
}
