//! Becoming a pod's first process: namespaces, mounts, socket; then the loop.

use std::fs::File;
use std::io::{BufRead, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::unistd::ForkResult;

use crate::protocol::{MAX_LINE, NETNS, SOCKET, Sandbox, Started};
use crate::server::Server;
use crate::tree::{Context, Result, Tree, open_dir};

/// Reads a [`Sandbox`] from standard input and makes it. The process that was started prints a [`Started`] and ends once its child,
/// the pod's first process, accepts connections; the child goes on until the pod is over.
pub fn run() -> ExitCode {
    let started = Started { error: make().err() };
    let line = serde_json::to_string(&started).expect("a text can be written as JSON");
    println!("{line}");
    if started.error.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn make() -> Result<()> {
    let sandbox = read()?;
    let logs = open_dir(&sandbox.logs).context(|| format!("open {}", sandbox.logs.display()))?;
    let socket = bind_socket(&sandbox.dir)?;
    let mut flags = CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWPID;
    if !sandbox.host_network {
        flags |= CloneFlags::CLONE_NEWNET;
    }
    unshare(flags).context(|| "make the pod's namespaces".into())?;
    // Before the mount namespace is left, as others look for it there.
    let netns = sandbox.dir.join(NETNS);
    if !sandbox.host_network {
        without_ipv6()?;
        keep_netns(&netns)?;
    }
    spawn(sandbox, logs, socket).inspect_err(|_| {
        let _ = umount2(&netns, nix::mount::MntFlags::MNT_DETACH);
    })
}

fn read() -> Result<Sandbox> {
    let mut line = String::new();
    let mut input = std::io::stdin().lock().take(MAX_LINE as u64);
    input.read_line(&mut line).context(|| "read the sandbox from standard input".into())?;
    let sandbox: Sandbox = serde_json::from_str(&line).map_err(|error| format!("sandbox: {error}"))?;
    if !sandbox.dir.starts_with(&sandbox.mask) {
        let (dir, mask) = (sandbox.dir.display(), sandbox.mask.display());
        return Err(format!("sandbox: dir {dir}: must lie below mask {mask}"));
    }
    Ok(sandbox)
}

/// Binds the socket through a file descriptor of its directory, as a path may be longer than a socket address.
fn bind_socket(dir: &Path) -> Result<OwnedFd> {
    let what = || format!("bind {}", dir.join(SOCKET).display());
    let dir_fd = open_dir(dir).context(what)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", dir_fd.as_raw_fd()));
    let _ = std::fs::remove_file(&path);
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None).context(what)?;
    bind(socket.as_raw_fd(), &UnixAddr::new(&path).context(what)?).context(what)?;
    Ok(socket)
}

/// Interfaces that the pod gets have IPv4 only, as nodes' have; its loopback has `::1`.
fn without_ipv6() -> Result<()> {
    const SWITCH: &str = "/proc/sys/net/ipv6/conf/default/disable_ipv6";
    match std::fs::write(SWITCH, "1") {
        // A kernel without IPv6.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        written => written.context(|| format!("write {SWITCH}")),
    }
}

fn keep_netns(at: &Path) -> Result<()> {
    let what = || format!("keep the network namespace at {}", at.display());
    File::create(at).context(what)?;
    mount(Some("/proc/self/ns/net"), at, None::<&str>, MsFlags::MS_BIND, None::<&str>).context(what)
}

fn spawn(sandbox: Sandbox, logs: OwnedFd, socket: OwnedFd) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context(|| "make the pod's mount namespace".into())?;
    let (report, told) = nix::unistd::pipe2(OFlag::O_CLOEXEC).context(|| "make a pipe".into())?;
    // SAFETY: this process has one thread, so the child may do whatever the parent may.
    match unsafe { nix::unistd::fork() }.context(|| "fork".into())? {
        ForkResult::Child => {
            drop(report);
            let mut told = File::from(told);
            match first_process(&sandbox, logs, socket) {
                Ok(server) => {
                    drop((told, sandbox));
                    server.run();
                }
                Err(error) => {
                    let _ = told.write_all(error.as_bytes());
                }
            }
            // SAFETY: ends the pod: the kernel kills what is left in its pid namespace.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { .. } => {
            drop((told, socket));
            let mut error = String::new();
            File::from(report).read_to_string(&mut error).context(|| "read the first process' report".into())?;
            if error.is_empty() { Ok(()) } else { Err(error) }
        }
    }
}

fn first_process(sandbox: &Sandbox, logs: OwnedFd, socket: OwnedFd) -> Result<Server> {
    nix::unistd::setsid().context(|| "setsid".into())?;
    nix::unistd::chdir("/").context(|| "chdir".into())?;
    let tree = Tree::build(sandbox)?;
    nix::unistd::sethostname(&sandbox.hostname).context(|| format!("set the host name {}", sandbox.hostname))?;
    let server = Server::new(tree, logs, socket)?;
    // Its own output is nobody's business any more, and must not keep the agent's pipes open.
    let null = File::options().read(true).write(true).open("/dev/null").context(|| "open /dev/null".into())?;
    nix::unistd::dup2_stdin(null.as_fd()).context(|| "dup2".into())?;
    nix::unistd::dup2_stdout(null.as_fd()).context(|| "dup2".into())?;
    nix::unistd::dup2_stderr(null.as_fd()).context(|| "dup2".into())?;
    Ok(server)
}

/// Starts to listen: called by the first process, as the kernel tells those who connect who listened.
pub(crate) fn start_listening(socket: &OwnedFd) -> Result<()> {
    listen(socket, Backlog::new(8).expect("8 is a valid backlog")).context(|| "listen".into())
}

/// Takes a connection that waits.
pub(crate) fn accept(socket: &OwnedFd) -> Option<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = nix::sys::socket::accept4(socket.as_raw_fd(), flags).ok()?;
    // SAFETY: the kernel has just made this descriptor for us.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}
