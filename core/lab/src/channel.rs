//! Messages between the processes of one cluster: JSON values with file descriptors beside them, one packet each.
//!
//! `SOCK_SEQPACKET` keeps the borders of messages, so there is no framing to get wrong and nothing to buffer.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::{self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, SendAncillaryBuffer};
use rustix::net::{RecvFlags, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, Uid};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Most descriptors in one message (SCM_MAX_FD is 253).
const MAX_FDS: usize = 128;
/// Largest message in bytes.
const MAX_BYTES: usize = 192 << 10;

/// One end of a connection.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// Where connections arrive.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its process; none if that is outside of our pid namespace.
    pub pid: Option<Pid>,
    /// Its user, as this user namespace calls it.
    pub uid: Uid,
}

// === impl Channel ===

impl Channel {
    /// Two ends of a new connection.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(a), Self(b)))
    }

    /// The connection that a parent process put on standard input.
    pub fn from_stdin() -> io::Result<Self> {
        Ok(Self(io::stdin().as_fd().try_clone_to_owned()?))
    }

    /// Connects to a listener. Paths may be longer than `sun_path`.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = socket()?;
        with_address(path, |address| Ok(net::connect(&socket, address)?))?;
        Ok(Self(socket))
    }

    /// Sends one message.
    pub fn send(&self, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > MAX_BYTES || fds.len() > MAX_FDS {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "message too large"));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        net::sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Waits for a message; an error of kind `UnexpectedEof` says that the other end is gone.
    pub fn receive<T: DeserializeOwned>(&self) -> io::Result<(T, Vec<OwnedFd>)> {
        let mut bytes = vec![0; MAX_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::io::retry_on_intr(|| {
            net::recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
        })?;
        let fds = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let fds = fds.flatten().collect();
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok((serde_json::from_slice(&bytes[..received.bytes])?, fds))
    }

    /// Who is at the other end: process and user, as seen from here.
    pub fn peer(&self) -> io::Result<Peer> {
        use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
        let credentials = getsockopt(&self.0, PeerCredentials)?;
        Ok(Peer { pid: Pid::from_raw(credentials.pid()), uid: Uid::from_raw(credentials.uid()) })
    }
}

impl From<OwnedFd> for Channel {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.0
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

// === impl Listener ===

impl Listener {
    /// Listens at a path that is not taken; only the owner may connect.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let socket = socket()?;
        with_address(path, |address| Ok(net::bind(&socket, address)?))?;
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        net::listen(&socket, 64)?;
        Ok(Self(socket))
    }

    /// Makes this process the one that peers see behind the socket.
    pub fn take_over(fd: OwnedFd) -> io::Result<Self> {
        net::listen(&fd, 64)?;
        Ok(Self(fd))
    }

    /// The socket itself.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Waits for a connection.
    pub fn accept(&self) -> io::Result<Channel> {
        let accepted = rustix::io::retry_on_intr(|| net::accept_with(&self.0, SocketFlags::CLOEXEC))?;
        Ok(Channel(accepted))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn socket() -> io::Result<OwnedFd> {
    Ok(net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// A socket address holds 108 bytes; a path through the descriptor of its folder always fits.
fn with_address<T>(path: &Path, then: impl FnOnce(&SocketAddrUnix) -> io::Result<T>) -> io::Result<T> {
    use std::os::fd::AsRawFd as _;
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a socket needs a folder and a name"));
    };
    let folder = std::fs::File::open(folder)?;
    let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    then(&SocketAddrUnix::new(short)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_carry_descriptors_over_paths_of_any_length() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a".repeat(100)).join("b".repeat(100));
        std::fs::create_dir_all(&deep).unwrap();
        let listener = Listener::bind(&deep.join("sock")).unwrap();
        let client = Channel::connect(&deep.join("sock")).unwrap();
        let server = listener.accept().unwrap();
        assert_eq!(server.peer().unwrap().pid, Some(rustix::process::getpid()));

        client.send(&"hello", &[client.as_fd(), listener.as_fd()]).unwrap();
        let (text, fds): (String, _) = server.receive().unwrap();
        assert_eq!((text.as_str(), fds.len()), ("hello", 2));
        drop((client, fds));
        assert_eq!(server.receive::<String>().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
