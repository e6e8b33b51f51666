//! One connection of an agent: lines in, with file descriptors; lines out, never waiting for the reader.

use std::collections::VecDeque;
use std::io::{IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use crate::protocol::{MAX_LINE, Message};

/// File descriptors that may wait for the line they belong to.
const MAX_FDS: usize = 24;
/// Bytes that may wait for a reader before it is given up.
const MAX_BACKLOG: usize = 2 * MAX_LINE;

pub(crate) struct Connection {
    /// Tells it from every other connection there ever was.
    pub(crate) id: u64,
    /// File descriptors that came and were not taken yet.
    pub(crate) fds: VecDeque<OwnedFd>,
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    closed: bool,
}

// === impl Connection ===

impl Connection {
    pub(crate) fn new(id: u64, fd: OwnedFd) -> Self {
        let stream = UnixStream::from(fd);
        Self { id, fds: VecDeque::new(), stream, input: Vec::new(), output: Vec::new(), closed: false }
    }

    /// Whether it is over.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether it waits for its reader.
    pub(crate) fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Reads until some lines are complete, and returns them. What is left comes with the next read: each line takes its file
    /// descriptors before those of the next one come.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        while !self.closed && lines.is_empty() {
            match self.receive(buffer) {
                Ok(0) | Err(Errno::ECONNRESET) => self.closed = true,
                Ok(n) => self.input.extend_from_slice(&buffer[..n]),
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => continue,
                Err(_) => self.closed = true,
            }
            while let Some(end) = self.input.iter().position(|&b| b == b'\n') {
                let mut line: Vec<u8> = self.input.drain(..=end).collect();
                line.pop();
                lines.push(line);
            }
            if self.input.len() > MAX_LINE || self.fds.len() > MAX_FDS {
                self.closed = true;
            }
        }
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        lines
    }

    fn receive(&mut self, buffer: &mut [u8]) -> nix::Result<usize> {
        let mut space = nix::cmsg_space!([std::os::fd::RawFd; 8]);
        let mut parts = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
        let message = recvmsg::<()>(self.stream.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
        for part in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = part {
                // SAFETY: the kernel has just put these descriptors into our table, and nobody else knows them.
                self.fds.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        Ok(message.bytes)
    }

    /// Sends a message now, or as soon as the reader takes it.
    pub(crate) fn send(&mut self, message: &Message) {
        serde_json::to_writer(&mut self.output, message).expect("a message can be written as JSON");
        self.output.push(b'\n');
        self.flush();
    }

    /// Sends what waits, as far as it goes.
    pub(crate) fn flush(&mut self) {
        let mut sent = 0;
        while sent < self.output.len() {
            match self.stream.write(&self.output[sent..]) {
                Ok(n) => sent += n,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.closed = true;
                    return;
                }
            }
        }
        self.output.drain(..sent);
        if self.output.is_empty() {
            self.output = Vec::new();
        }
        self.closed |= self.output.len() > MAX_BACKLOG;
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
