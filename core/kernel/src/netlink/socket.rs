//! A netlink socket that stays in the namespace it was opened in.
//!
//! rtnetlink and nfnetlink act on a request before `send` returns, so everything a batch has to say is in the socket's queue by
//! then. Reading never waits: an empty queue means that the kernel had nothing to say, which is an error of its own.

use std::cell::RefCell;
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use netlink_sys::{Socket, SocketAddr};

use super::message::{Attributes, HEADER, Message, u16_of, u32_of};
use crate::sys;

/// Which part of the kernel a socket talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Route,
    Netfilter,
}

/// A socket for requests.
pub(crate) struct Connection {
    socket: Socket,
    sequence: u32,
    send_limit: usize,
}

/// The kernel's answer to a message it did not carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Positive errno.
    pub(crate) errno: i32,
    /// The kernel's own words (extended acknowledgement).
    pub(crate) text: Option<String>,
    /// Which byte of the message it is about, if the kernel says so.
    pub(crate) offset: Option<usize>,
}

/// What became of one message of a batch.
pub(crate) type Answer = Result<Option<Vec<u8>>, Refusal>;

/// Port ids of our request sockets: the owner in bits 16 to 23, so that a monitor tells our own changes by their sender.
pub(crate) const PORT_MASK: u32 = 0xffff_0000;

/// Messages of one `send`: each is answered, and the answers must fit the socket's receive queue.
const BATCH: usize = 64;
/// Largest datagram: what the kernel puts into one of a dump is half of it.
const DATAGRAM_MAX: usize = 64 << 10;
/// A dump that another change interrupted is started again so many times.
const DUMP_ATTEMPTS: usize = 8;

// === impl Connection ===

/// The upper half of port ids of this owner.
pub(crate) fn port_base(owner: u8) -> u32 {
    0x5900_0000 | u32::from(owner) << 16
}

impl Connection {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open(family: Family, owner: u8) -> io::Result<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let protocol = match family {
            Family::Route => libc::NETLINK_ROUTE,
            Family::Netfilter => libc::NETLINK_NETFILTER,
        };
        let mut socket = Socket::new(protocol as isize)?;
        // Port ids are unique in a namespace; another process of this owner may hold some.
        let start = (std::process::id() as u16).rotate_left(8);
        let mut attempt = 0;
        loop {
            let port = port_base(owner) | u32::from(start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)));
            match socket.bind(&SocketAddr::new(port, 0)) {
                Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) && attempt < 1000 => attempt += 1,
                other => break other?,
            }
        }
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        if family == Family::Route {
            socket.set_netlink_get_strict_chk(true)?;
        }
        enlarge(&socket);
        let send_limit = rustix::net::sockopt::socket_send_buffer_size(&socket)?.saturating_sub(4096).max(16 << 10);
        Ok(Self { socket, sequence: 0, send_limit })
    }

    /// Bytes that one `send` may have.
    pub(crate) fn send_limit(&self) -> usize {
        self.send_limit
    }

    /// Sends messages, several in one call, and gives one answer for each. A message that asked for it (NLM_F_ECHO) is answered
    /// with what it made.
    pub(crate) fn batch(&mut self, messages: &mut [Message]) -> io::Result<Vec<Answer>> {
        let mut answers = Vec::with_capacity(messages.len());
        for chunk in messages.chunks_mut(BATCH) {
            let first = self.sequence.wrapping_add(1);
            let mut bytes = Vec::with_capacity(chunk.iter().map(Message::len).sum());
            for message in chunk.iter_mut() {
                self.sequence = self.sequence.wrapping_add(1);
                message.add_flags(sys::NLM_F_REQUEST | sys::NLM_F_ACK);
                bytes.extend_from_slice(message.seal(self.sequence));
            }
            self.send(&bytes)?;
            let mut missing = chunk.len();
            let mut got: Vec<Option<Answer>> = vec![None; chunk.len()];
            let mut echoes: Vec<Option<Vec<u8>>> = vec![None; chunk.len()];
            while missing > 0 {
                self.receive(|sequence, kind, flags, payload| {
                    let at = sequence.wrapping_sub(first) as usize;
                    if at >= got.len() {
                        return; // left over from an earlier, failed exchange
                    }
                    if kind == sys::NLMSG_ERROR {
                        missing -= usize::from(got[at].is_none());
                        got[at] = Some(acknowledgement(payload, flags).map(|()| None));
                    } else {
                        echoes[at] = Some(payload.to_vec());
                    }
                })?;
            }
            for (answer, echo) in got.into_iter().zip(echoes) {
                answers.push(answer.expect("counted above").map(|_| echo));
            }
        }
        Ok(answers)
    }

    /// Sends one message.
    pub(crate) fn one(&mut self, message: Message) -> io::Result<Answer> {
        Ok(self.batch(&mut [message])?.pop().expect("one answer for each message"))
    }

    /// Asks for one object that an answer carries (RTM_GET*, without NLM_F_DUMP).
    pub(crate) fn get(&mut self, message: Message) -> io::Result<Result<Vec<u8>, Refusal>> {
        Ok(self.one(message)?.map(Option::unwrap_or_default))
    }

    /// Asks for a list and hands over each entry's type and payload. `each` must tolerate the list being started again; then
    /// `restart` is called.
    pub(crate) fn dump(
        &mut self,
        message: &Message,
        mut restart: impl FnMut(),
        mut each: impl FnMut(u16, &[u8]),
    ) -> io::Result<Result<(), Refusal>> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut message = message.clone();
            message.add_flags(sys::NLM_F_REQUEST | sys::NLM_F_DUMP);
            self.sequence = self.sequence.wrapping_add(1);
            let wanted = self.sequence;
            let bytes = message.seal(wanted).to_vec();
            self.send(&bytes)?;
            let mut end = None;
            let mut interrupted = false;
            while end.is_none() {
                self.receive(|sequence, kind, flags, payload| {
                    if sequence != wanted {
                        return;
                    }
                    interrupted |= flags & sys::NLM_F_DUMP_INTR != 0;
                    match kind {
                        sys::NLMSG_DONE => end = Some(acknowledgement(payload, 0)),
                        sys::NLMSG_ERROR => end = Some(acknowledgement(payload, flags)),
                        kind => each(kind, payload),
                    }
                })?;
            }
            match end.expect("the loop ends with it") {
                Ok(()) if interrupted => restart(),
                other => return Ok(other),
            }
        }
        Err(io::Error::other("the kernel's tables changed faster than they could be listed"))
    }

    /// Sends bytes that are whole messages.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let kernel = SocketAddr::new(0, 0);
        self.socket.send_to(bytes, &kernel, 0).map(drop)
    }

    /// A sequence number not used yet, the first of `count`.
    pub(crate) fn sequences(&mut self, count: u32) -> u32 {
        let first = self.sequence.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(count);
        first
    }

    /// Reads one datagram and hands over each message in it: sequence number, type, flags, payload.
    pub(crate) fn receive(&mut self, mut each: impl FnMut(u32, u16, u16, &[u8])) -> io::Result<()> {
        // There is a socket for every pod, and one is read at a time.
        thread_local!(static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
        let mut buffer = BUFFER.take();
        buffer.resize(DATAGRAM_MAX, 0);
        let length = loop {
            let got = self.socket.recv(&mut &mut buffer[..], libc::MSG_DONTWAIT | libc::MSG_TRUNC);
            match got {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the kernel left a message unanswered"));
                }
                other => break other?,
            }
        };
        let Some(bytes) = buffer.get(..length) else {
            return Err(io::Error::other(format!("a netlink message of {length} bytes is larger than expected")));
        };
        for (sequence, kind, flags, _, payload) in split(bytes) {
            each(sequence, kind, flags, payload);
        }
        BUFFER.set(buffer);
        Ok(())
    }
}

/// The messages of a datagram: sequence number, type, flags, sender's port, payload.
pub(crate) fn split(mut bytes: &[u8]) -> impl Iterator<Item = (u32, u16, u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32_of(bytes)? as usize;
        let message = bytes.get(..length).filter(|m| m.len() >= HEADER)?;
        bytes = bytes.get(super::align(length)..).unwrap_or_default();
        let (kind, flags) = (u16_of(&message[4..])?, u16_of(&message[6..])?);
        Some((u32_of(&message[8..])?, kind, flags, u32_of(&message[12..])?, &message[HEADER..]))
    })
}

fn enlarge(socket: &Socket) {
    use rustix::net::sockopt;
    const WANTED: usize = 4 << 20;
    // Beyond the system's limit only with CAP_NET_ADMIN in the first user namespace; the limit itself will do.
    if sockopt::set_socket_recv_buffer_size_force(socket, WANTED).is_err() {
        let _ = sockopt::set_socket_recv_buffer_size(socket, WANTED);
    }
    if sockopt::set_socket_send_buffer_size_force(socket, WANTED).is_err() {
        let _ = sockopt::set_socket_send_buffer_size(socket, WANTED);
    }
}

/// What an NLMSG_ERROR, or the end of a dump, says.
pub(crate) fn acknowledgement(payload: &[u8], flags: u16) -> Result<(), Refusal> {
    let errno = u32_of(payload).map_or(libc::EPROTO, |code| (code as i32).wrapping_neg());
    if errno == 0 {
        return Ok(());
    }
    let (mut said, mut offset) = (None, None);
    if flags & sys::NLM_F_ACK_TLVS != 0 {
        // error code, then the header of the refused message and, unless capped, the rest of it
        let carried = if flags & sys::NLM_F_CAPPED != 0 {
            HEADER
        } else {
            payload.get(4..).and_then(u32_of).map_or(HEADER, |length| super::align(length as usize))
        };
        let more = Attributes::after(payload, 4 + carried);
        said = more.text(sys::NLMSGERR_ATTR_MSG);
        offset = more.u32(sys::NLMSGERR_ATTR_OFFS).map(|offset| offset as usize);
    }
    Err(Refusal { errno, text: said, offset })
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", io::Error::from_raw_os_error(self.errno))?;
        match &self.text {
            Some(text) => write!(f, ": {text}"),
            None => Ok(()),
        }
    }
}
