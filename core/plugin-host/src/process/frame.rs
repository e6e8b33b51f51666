//! The messages between a host and a plugin's process, numbers in little endian:
//!
//! - request: `u32` length of the operation, `u32` length of the input, operation, input;
//! - reply: `i32` status as in the C table, `u32` length, answer or message.
//!
//! The child speaks first, with a reply that says whether the library loaded. Then comes `create` with the options as its input,
//! then the operations of the C table.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::library::{LARGEST_ANSWER, Reply};

/// The operation that makes an instance.
pub(crate) const CREATE: &str = "create";
/// For our own child, not the plugin in it: make no system calls from now on, see [`confine`](crate::confine).
pub(crate) const CONFINE: &str = "host.confine";
/// For our own child as well: operation, line feed, input; asked again and again from several threads.
pub(crate) const CONCURRENT: &str = "host.concurrent";
/// Longest operation in bytes.
const LONGEST_OPERATION: usize = 64;

/// The host's end.
pub(super) struct Channel(UnixStream);

/// A question, as the child reads it.
pub(super) struct Request {
    pub(super) operation: Vec<u8>,
    pub(super) input: Vec<u8>,
}

/// A stream with a deadline for everything that is read and written.
struct Timed<'a> {
    stream: &'a UnixStream,
    deadline: Instant,
}

// === impl Channel ===

impl Channel {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self(stream)
    }

    pub(super) fn request(&mut self, operation: &str, input: &[u8], deadline: Instant) -> io::Result<()> {
        let mut timed = Timed { stream: &self.0, deadline };
        timed.write_all(&head(length(operation.as_bytes())?.to_le_bytes(), input)?)?;
        timed.write_all(operation.as_bytes())?;
        timed.write_all(input)
    }

    pub(super) fn reply(&mut self, deadline: Instant) -> io::Result<Reply> {
        let mut timed = Timed { stream: &self.0, deadline };
        let [status, length] = words(&mut timed)?;
        Ok(Reply { status: i32::from_le_bytes(status), bytes: read(&mut timed, length, LARGEST_ANSWER)? })
    }
}

// === impl Request, Reply ===

impl Request {
    /// The next question; none after the host has closed its end.
    pub(super) fn read(stream: &mut impl Read) -> Option<Self> {
        let [operation, input] = words(stream).ok()?;
        let operation = read(stream, operation, LONGEST_OPERATION).ok()?;
        Some(Self { operation, input: read(stream, input, LARGEST_ANSWER).ok()? })
    }
}

impl Reply {
    pub(super) fn write(&self, stream: &mut impl Write) -> io::Result<()> {
        stream.write_all(&head(self.status.to_le_bytes(), &self.bytes)?)?;
        stream.write_all(&self.bytes)
    }
}

// === impl Timed ===

impl Timed<'_> {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn head(first: [u8; 4], body: &[u8]) -> io::Result<[u8; 8]> {
    let mut head = [0; 8];
    head[..4].copy_from_slice(&first);
    head[4..].copy_from_slice(&length(body)?.to_le_bytes());
    Ok(head)
}

fn length(bytes: &[u8]) -> io::Result<u32> {
    u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn words(stream: &mut impl Read) -> io::Result<[[u8; 4]; 2]> {
    let mut words = [[0; 4]; 2];
    for word in &mut words {
        stream.read_exact(word)?;
    }
    Ok(words)
}

fn read(stream: &mut impl Read, length: [u8; 4], most: usize) -> io::Result<Vec<u8>> {
    let length = u32::from_le_bytes(length) as usize;
    if length > most {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_round_trip() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (mut channel, deadline) = (Channel::new(ours), Instant::now() + Duration::from_secs(60));
        channel.request("pod", b"{}", deadline).unwrap();
        let request = Request::read(&mut theirs).unwrap();
        assert_eq!((request.operation, request.input), (b"pod".to_vec(), b"{}".to_vec()));
        Reply { status: 3, bytes: b"no".to_vec() }.write(&mut theirs).unwrap();
        let reply = channel.reply(deadline).unwrap();
        assert_eq!((reply.status, reply.bytes), (3, b"no".to_vec()));
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_it_is_believed() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]).unwrap();
        let error = Channel::new(ours).reply(Instant::now() + Duration::from_secs(60)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn the_deadline_is_for_the_whole_message() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&[0, 0]).unwrap();
        let error = Channel::new(ours).reply(Instant::now() + Duration::from_millis(20)).unwrap_err();
        assert!(matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock), "{error}");
    }
}
