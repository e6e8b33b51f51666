//! Starting a process of a container: fork, enter, execute; what goes wrong on the way comes back as a sentence.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{ForkResult, Gid, Pid, Uid};

use crate::program;
use crate::tree::{Context, Result};

/// A process to start.
pub(crate) struct Child<'a> {
    pub(crate) argv: &'a [String],
    pub(crate) env: &'a [(String, String)],
    pub(crate) cwd: &'a Path,
    pub(crate) stdio: [BorrowedFd<'a>; 3],
    /// `stdio[0]` is a terminal and becomes the controlling one.
    pub(crate) tty: bool,
    pub(crate) user: User,
}

/// Who a process runs as; nothing said means as the pod's first process does.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct User {
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

/// A process that executes its program.
pub(crate) struct Spawned {
    pub(crate) pid: Pid,
    /// Its mount namespace, by inode number.
    pub(crate) mounts: u64,
}

// === impl Child ===

impl Child<'_> {
    /// Starts it. `enter` runs in the new process and puts it into its mount namespace.
    pub(crate) fn spawn(&self, enter: impl FnOnce() -> Result<()>) -> Result<Spawned> {
        let (report, told) = nix::unistd::pipe2(OFlag::O_CLOEXEC).context(|| "make a pipe".into())?;
        // SAFETY: this process has one thread, so the child may do whatever the parent may.
        match unsafe { nix::unistd::fork() }.context(|| "fork".into())? {
            ForkResult::Child => {
                drop(report);
                let mut told = File::from(told);
                let (mounts, error) = match self.prepare(enter) {
                    Ok(mounts) => {
                        let _ = told.write_all(&mounts.to_ne_bytes());
                        match program::execute(self.argv, self.env) {
                            Ok(never) => match never {},
                            Err(error) => (None, error),
                        }
                    }
                    Err(error) => (Some([0; 8]), error),
                };
                let _ = told.write_all(mounts.as_ref().map_or(&[][..], |zero| &zero[..]));
                let _ = told.write_all(error.as_bytes());
                // SAFETY: ends this process at once, without running what the parent registered for its own end.
                unsafe { libc::_exit(127) }
            }
            ForkResult::Parent { child } => {
                drop(told);
                let mut report = File::from(report);
                let mut text = Vec::new();
                report.read_to_end(&mut text).context(|| "read the new process' report".into())?;
                outcome(&text).map(|mounts| Spawned { pid: child, mounts })
            }
        }
    }

    /// All but the execution; returns the mount namespace.
    fn prepare(&self, enter: impl FnOnce() -> Result<()>) -> Result<u64> {
        nix::unistd::setsid().context(|| "setsid".into())?;
        enter()?;
        let mounts = std::fs::metadata("/proc/self/ns/mnt").context(|| "look at the mount namespace".into())?.ino();
        if self.tty {
            // SAFETY: TIOCSCTTY takes an integer and touches no memory.
            let result = unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&self.stdio[0]), libc::TIOCSCTTY, 0) };
            nix::errno::Errno::result(result).context(|| "make the terminal the controlling one".into())?;
        }
        nix::unistd::dup2_stdin(self.stdio[0]).context(|| "dup2".into())?;
        nix::unistd::dup2_stdout(self.stdio[1]).context(|| "dup2".into())?;
        nix::unistd::dup2_stderr(self.stdio[2]).context(|| "dup2".into())?;
        nix::unistd::chdir(self.cwd).context(|| format!("working directory {}", self.cwd.display()))?;
        self.user.become_it()?;
        default_signals()?;
        Ok(mounts)
    }
}

// === impl User ===

impl User {
    fn become_it(self) -> Result<()> {
        if self.uid.is_none() && self.gid.is_none() {
            return Ok(());
        }
        // The groups of who made the cluster are not the container's. A user namespace made without root has none to give up, and
        // does not let anybody try.
        if std::fs::read("/proc/self/setgroups").is_ok_and(|word| word.starts_with(b"allow")) {
            let own = self.gid.map(Gid::from_raw);
            nix::unistd::setgroups(own.as_slice()).context(|| "give up the supplementary groups".into())?;
        }
        if let Some(gid) = self.gid {
            nix::unistd::setgid(Gid::from_raw(gid)).context(|| format!("run as group {gid}"))?;
        }
        if let Some(uid) = self.uid {
            nix::unistd::setuid(Uid::from_raw(uid)).context(|| format!("run as user {uid}"))?;
        }
        Ok(())
    }
}

/// A report is the number of the mount namespace, then nothing if the program was executed, else why not. What fails before
/// that number is known reports zero.
fn outcome(report: &[u8]) -> Result<u64> {
    match report.split_first_chunk::<8>() {
        Some((mounts, [])) => Ok(u64::from_ne_bytes(*mounts)),
        Some((_, error)) => Err(String::from_utf8_lossy(error).into_owned()),
        None => Err("the new process ended before it could execute its program".into()),
    }
}

fn default_signals() -> Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // Rust's start-up ignores SIGPIPE, and an ignored signal stays ignored across exec.
    // SAFETY: the default action runs no code of ours.
    unsafe { sigaction(Signal::SIGPIPE, &default) }.context(|| "reset SIGPIPE".into())?;
    SigSet::empty().thread_set_mask().context(|| "reset the signal mask".into())
}

/// Ends every process whose mount namespace is this one: a container's processes, also those that left its process group.
pub(crate) fn kill_namespace(mounts: u64) {
    let Ok(entries) = std::fs::read_dir("/proc") else { return };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if pid != 1 && std::fs::metadata(format!("/proc/{pid}/ns/mnt")).is_ok_and(|meta| meta.ino() == mounts) {
            let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// The environment a process was started with.
pub(crate) fn environment_of(pid: Pid) -> Vec<(String, String)> {
    let text = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let entries = text.split(|&b| b == 0).map(String::from_utf8_lossy);
    entries.filter_map(|entry| entry.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()))).collect()
}

/// Puts the calling process into the mount namespace of another.
pub(crate) fn enter_mounts_of(pid: Pid) -> Result<()> {
    let namespace = File::open(format!("/proc/{pid}/ns/mnt")).context(|| "open the container's mounts".into())?;
    nix::sched::setns(namespace.as_fd(), nix::sched::CloneFlags::CLONE_NEWNS)
        .context(|| "enter the container's mounts".into())
}
