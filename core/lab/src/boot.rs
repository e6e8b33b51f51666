//! How a supervisor comes to life.
//!
//! `yard up` opens what only the host can open (loopback listeners, the control socket) and starts `yard launch`, detached. That one
//! leaves for fresh namespaces and starts `yard supervisor` as the first process of the private pid namespace, then ends. All
//! descriptors travel in one message on standard input.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use crate::channel::{Channel, Listener};
use crate::handover::Handover;
use crate::home::{Directory, Lock};
use crate::namespaces;

/// Name of the lock in the handover.
pub const LOCK: &str = "lock";
/// Name of the control socket in the handover.
pub const CONTROL: &str = "control";

/// The program itself, whatever has become of its file.
pub const SELF: &str = "/proc/self/exe";

/// Starts a supervisor. Its control socket takes connections as soon as this returns; if the start fails, they end.
pub fn start(directory: &Directory, lock: Lock, mut handover: Handover) -> io::Result<()> {
    handover.put(LOCK, lock);
    handover.put(CONTROL, Listener::bind(&directory.socket())?.into_fd());
    let (ours, theirs) = Channel::pair()?;
    handover.send_all(&ours)?;
    let log = File::options().create(true).append(true).open(directory.log_of("supervisor"))?;
    let mut launcher = command("launch", directory)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    drop(handover);
    // The launcher ends when the supervisor has started, or with an error for us.
    if launcher.wait()?.success() {
        return Ok(());
    }
    let (reason, _): (String, _) = ours.receive()?;
    Err(io::Error::other(reason))
}

/// The launcher: must be called with one thread.
pub fn launch(directory: &Directory) -> Result<(), String> {
    let parent = Channel::from_stdin().map_err(|error| error.to_string())?;
    let started = rustix::process::setsid()
        .map_err(io::Error::from)
        .map_err(|error| format!("start a session: {error}"))
        .and_then(|_| namespaces::leave(&directory.name()).map_err(|error| error.to_string()))
        // Standard streams are inherited: the handover still waits in standard input.
        .and_then(|()| {
            command("supervisor", directory).spawn().map_err(|error| format!("start the supervisor: {error}"))
        });
    started.map(drop).inspect_err(|reason| {
        // A socket that is closed with something unread takes along what was said last.
        let _ = Handover::receive(&parent);
        // If nobody listens any more, the log has it.
        let _ = parent.send(reason, &[]);
    })
}

fn command(verb: &str, directory: &Directory) -> Command {
    let mut command = Command::new(SELF);
    command.arg0("yard").arg(verb).arg("--directory").arg(directory.path()).current_dir("/");
    command
}
