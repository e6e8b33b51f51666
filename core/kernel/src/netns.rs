//! A network namespace, held by a file descriptor.
//!
//! Whoever works inside one does so on a thread of its own that ends with the work: a thread that was in another namespace is
//! never given back to a runtime. For a few system calls a thread costs more than they do, so the caller may go itself, when it is
//! sure to come back.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// A handle on a network namespace; the namespace lives at least as long.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    identity: Identity,
}

/// What tells two namespaces apart: device and inode of the namespace's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    device: u64,
    inode: u64,
}

// === impl Netns ===

impl Netns {
    /// A new, empty namespace (its loopback is down). It goes when the last handle, process and bind mount does.
    pub fn create() -> io::Result<Self> {
        on_a_thread(|| {
            // SAFETY: only CLONE_NEWNET; no descriptor table is unshared.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET)? };
            Self::current()
        })
    }

    /// The calling thread's namespace.
    pub fn current() -> io::Result<Self> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// The namespace of a process.
    pub fn of_pid(pid: u32) -> io::Result<Self> {
        Self::open(format!("/proc/{pid}/ns/net"))
    }

    /// Opens a namespace by a path it is bound to, or one below `/proc/PID/ns`.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::from_fd(File::open(path)?.into())
    }

    /// Takes over a descriptor; fails if it is not a network namespace.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        const NSFS_MAGIC: rustix::fs::FsWord = 0x6e73_6673;
        const NS_GET_NSTYPE: u64 = 0xb703;
        if rustix::fs::fstatfs(&fd)?.f_type != NSFS_MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the file is no namespace"));
        }
        // SAFETY: NS_GET_NSTYPE takes no argument and touches no memory of ours.
        let kind = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE as libc::Ioctl) };
        if kind != libc::CLONE_NEWNET {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the file is no network namespace"));
        }
        let status = rustix::fs::fstat(&fd)?;
        Ok(Self { fd, identity: Identity { device: status.st_dev, inode: status.st_ino } })
    }

    /// Gives the namespace a name in the file system, which keeps it alive. The file is made (mode 0600) if it is not there.
    pub fn bind(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let path = path.as_ref();
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        Ok(mount_bind(format!("/proc/self/fd/{}", self.fd.as_raw_fd()), path)?)
    }

    /// Takes a name away again; success if it is gone already.
    pub fn unbind(path: impl AsRef<Path>) -> io::Result<()> {
        let path = path.as_ref();
        match unmount(path, UnmountFlags::DETACH) {
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Moves the calling thread in, for good. Only for a thread, or a child process, that ends there.
    pub fn enter(&self) -> io::Result<()> {
        Ok(move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))?)
    }

    /// Runs `work` inside, on a thread that ends with it. Sockets and processes made there stay there.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_a_thread(|| {
            self.enter()?;
            Ok(work())
        })
    }

    /// Does a few system calls inside, on the calling thread, which is back where it was when this returns. Who may not come back
    /// (`setns(2)` asks for CAP_SYS_ADMIN there too) sends a thread. Nothing that stays may be started there.
    pub fn visit<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        let home = Home(File::open("/proc/thread-self/ns/net")?);
        if home.enter().is_err() {
            std::mem::forget(home);
            return self.run(work);
        }
        self.enter()?;
        Ok(work())
    }

    /// What tells it from other namespaces.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Another handle on the same namespace.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()?, identity: self.identity })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Identity {
    /// The inode, as `readlink /proc/PID/ns/net` shows it.
    pub fn inode(self) -> u64 {
        self.inode
    }
}

/// Where a thread belongs; it is there again when this is dropped.
struct Home(File);

impl Home {
    fn enter(&self) -> rustix::io::Result<()> {
        move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Err(error) = self.enter() {
            // Whatever this thread did next, it would do in the wrong place.
            eprintln!("a thread cannot leave a network namespace: {error}");
            std::process::abort();
        }
    }
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
