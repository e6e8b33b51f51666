//! A shell, or any command, in the network namespace of a node, the router or a pod.
//!
//! The asker keeps its terminal: for an interactive shell it makes a pseudo terminal and sends the far end three times, otherwise its
//! own standard streams.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::boot::SELF;
use crate::control::ShellPlace;
use crate::home::Directory;
use crate::namespaces;

/// A command to start for somebody.
#[derive(Debug)]
pub struct Order {
    /// Where.
    pub place: ShellPlace,
    /// Program and arguments; none is `$SHELL`.
    pub command: Vec<String>,
    /// Variables to add to the environment.
    pub env: Vec<(String, String)>,
    /// Its standard streams.
    pub streams: Vec<OwnedFd>,
}

// === impl Order ===

impl Order {
    /// Starts it; returns its process id.
    pub(crate) fn start(&self, directory: &Directory) -> io::Result<i32> {
        let [stdin, stdout, stderr] = &self.streams[..] else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "three standard streams are needed"));
        };
        let stream = |fd: &OwnedFd| fd.try_clone().map(Stdio::from);
        let mut command = Command::new(SELF);
        command.arg0("yard").arg("enter").arg("--").args(&self.command).envs(self.env.iter().cloned());
        command.stdin(stream(stdin)?).stdout(stream(stdout)?).stderr(stream(stderr)?);
        let path = self.place.netns(directory)?;
        let child = namespaces::inside(&path, move || command.spawn()).map_err(io::Error::other)??;
        Ok(child.id() as i32)
    }
}

// === impl ShellPlace ===

impl ShellPlace {
    fn netns(&self, directory: &Directory) -> io::Result<PathBuf> {
        let (path, name) = match self {
            Self::Place(place) => (directory.netns_of(place), place.to_string()),
            Self::Pod { node, uid } => (directory.pod_netns(node, uid)?, format!("pod {uid}")),
        };
        match path.exists() {
            true => Ok(path),
            false => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("there is no {name}; yard status and yard get pods -A show what there is"),
            )),
        }
    }
}

/// Inside the new process: a session of its own with the terminal, if it has one, as its controlling terminal; then the command.
/// Returns only if that fails.
pub fn enter(command: &[OsString]) -> io::Error {
    let shell = || std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
    let (program, arguments) = match command.split_first() {
        Some((program, arguments)) => (program.clone(), arguments),
        None => (shell(), &[][..]),
    };
    if rustix::termios::isatty(io::stdin()) {
        let taken = rustix::process::setsid().and_then(|_| rustix::process::ioctl_tiocsctty(io::stdin().as_fd()));
        if let Err(error) = taken {
            return io::Error::other(format!("take the terminal: {}", io::Error::from(error)));
        }
    }
    let error = Command::new(&program).args(arguments).exec();
    io::Error::new(error.kind(), format!("run {}: {error}", program.to_string_lossy()))
}
