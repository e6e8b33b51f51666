//! The namespaces a cluster lives in: how the supervisor comes to be their first process, and how a thread visits one.

use std::fs;
use std::io;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use rustix::thread::{CapabilitySet, capabilities};
use switchyard_kernel::Netns;

use crate::home::Directory;

/// A namespace that could not be had.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}{hint}")]
pub struct Error {
    what: String,
    source: io::Error,
    hint: &'static str,
}

const ASK_DOCTOR: &str = "; `yard doctor` says what is missing and how to allow it";

fn failed(what: impl Into<String>) -> impl FnOnce(nix::errno::Errno) -> Error {
    let what = what.into();
    |errno| Error { what, source: errno.into(), hint: ASK_DOCTOR }
}

fn failed_io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    |source| Error { what, source, hint: "" }
}

/// Whether this process may make namespaces as it is. If not, it needs a user namespace, in which it is root.
pub fn is_privileged() -> bool {
    let needed = CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN;
    capabilities(None).is_ok_and(|sets| sets.effective.contains(needed))
}

/// Leaves for fresh user (only if needed), mount, network, IPC and UTS namespaces; the next child is the first process of a fresh pid
/// namespace. The process must have one thread.
pub fn leave(hostname: &str) -> Result<(), Error> {
    if !is_privileged() {
        become_root().map_err(|error| Error { hint: ASK_DOCTOR, ..error })?;
    }
    let all = [CloneFlags::CLONE_NEWNS, CloneFlags::CLONE_NEWNET, CloneFlags::CLONE_NEWIPC]
        .into_iter()
        .chain([CloneFlags::CLONE_NEWUTS, CloneFlags::CLONE_NEWPID]);
    unshare(all.collect()).map_err(failed("make namespaces"))?;
    nix::unistd::sethostname(hostname).map_err(failed("set the host name"))
}

/// A new user namespace in which this user, and nobody else, exists and is called root.
fn become_root() -> Result<(), Error> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    unshare(CloneFlags::CLONE_NEWUSER).map_err(failed("make a user namespace without being root"))?;
    // A group may only be mapped by somebody who cannot drop groups any more (user_namespaces(7)).
    for (file, text) in
        [("setgroups", "deny".into()), ("uid_map", format!("0 {uid} 1")), ("gid_map", format!("0 {gid} 1"))]
    {
        fs::write(Path::new("/proc/self").join(file), text).map_err(failed_io(format!("write {file}")))?;
    }
    Ok(())
}

/// Makes the mount namespace ours: nothing mounted here is seen outside, `/proc` shows the private pid namespace, and `D/run` is a
/// tmpfs that ends with it.
pub fn settle(directory: &Directory) -> Result<(), Error> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(failed("make mounts private"))?;
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), safe, none).map_err(failed("mount /proc"))?;
    let run = directory.run();
    fs::create_dir_all(&run).map_err(failed_io(format!("make {}", run.display())))?;
    mount(Some("switchyard"), &run, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0700"))
        .map_err(failed(format!("mount a tmpfs on {}", run.display())))?;
    fs::create_dir_all(directory.netns()).map_err(failed_io("make the folder of network namespaces"))
}

/// Takes the tmpfs away again, with all that is mounted below it.
pub fn unsettle(directory: &Directory) {
    let run = directory.run();
    // Best effort: the mount namespace is about to end, and the next `yard up` removes an empty folder.
    let _ = umount2(&run, MntFlags::MNT_DETACH);
    let _ = fs::remove_dir(&run);
}

/// Runs `work` in the network namespace kept at `path`, on a thread that ends with it. Sockets and processes made there stay there.
pub fn inside<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    let enter = || format!("enter {}", path.display());
    Netns::open(path).and_then(|netns| netns.run(work)).map_err(|source| Error { what: enter(), source, hint: "" })
}
