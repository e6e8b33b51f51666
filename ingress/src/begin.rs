//! The first bytes of a connection: HTTP/2 with prior knowledge, or HTTP/1.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::gate::ConnState;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads enough to tell HTTP/2 from HTTP/1; `None` if the peer left or took too long.
pub(crate) async fn begin<T: AsyncRead + Unpin>(io: &mut T, state: &ConnState) -> Option<(Vec<u8>, bool)> {
    let mut bytes = [0_u8; 2048];
    let mut length = 0;
    loop {
        let read = {
            let mut room = ReadBuf::new(&mut bytes[length..]);
            std::future::poll_fn(|cx| {
                state.register(cx.waker());
                if state.read_expired() || state.must_end() && length == 0 {
                    // A connection that never spoke has nothing to lose.
                    return match Pin::new(&mut *io).poll_read(cx, &mut room) {
                        Poll::Pending => Poll::Ready(None),
                        Poll::Ready(_) => Poll::Ready(Some(room.filled().len())),
                    };
                }
                Pin::new(&mut *io).poll_read(cx, &mut room).map(|result| result.ok().map(|()| room.filled().len()))
            })
            .await?
        };
        if read == 0 {
            return None;
        }
        length += read;
        let compare = length.min(PREFACE.len());
        if bytes[..compare] != PREFACE[..compare] {
            return Some((bytes[..length].to_vec(), false));
        }
        if length >= PREFACE.len() {
            return Some((bytes[..length].to_vec(), true));
        }
    }
}

/// A stream of which the beginning has been read already.
pub(crate) struct Prefixed<T> {
    pub(crate) first: Vec<u8>,
    pub(crate) io: T,
}

impl<T: AsyncRead + Unpin> AsyncRead for Prefixed<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let give = self.first.len().min(buf.remaining());
        buf.put_slice(&self.first[..give]);
        self.first.drain(..give);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Prefixed<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
