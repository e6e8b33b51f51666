//! Where clusters are kept on disk, and the lock that says that one is running.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use switchyard_netstate::Place;

/// The folder with one folder per cluster: `$SWITCHYARD_HOME`, by default `${XDG_STATE_HOME:-~/.local/state}/switchyard`.
#[derive(Clone, Debug)]
pub struct Home(PathBuf);

/// The folder of one cluster.
#[derive(Clone, Debug)]
pub struct Directory(PathBuf);

/// Held by the supervisor as long as it lives, and by the processes that serve the host's listeners, as a supervisor that is killed
/// goes before they do. The kernel lets go of it after `kill -9`, with the last of them.
#[derive(Debug)]
pub struct Lock(File);

/// There is no place for clusters.
#[derive(Debug, thiserror::Error)]
#[error("neither SWITCHYARD_HOME nor XDG_STATE_HOME nor HOME is set; set SWITCHYARD_HOME to a folder of yours")]
pub struct Homeless;

// === impl Home ===

impl Home {
    /// As the environment says.
    pub fn from_env() -> Result<Self, Homeless> {
        let var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = var("SWITCHYARD_HOME")
            .or_else(|| var("XDG_STATE_HOME").map(|state| state.join("switchyard")))
            .or_else(|| var("HOME").map(|home| home.join(".local/state/switchyard")))
            .ok_or(Homeless)?;
        Ok(Self(std::path::absolute(&home).unwrap_or(home)))
    }

    /// The folder of a cluster, whether it exists or not.
    pub fn cluster(&self, name: &str) -> Directory {
        Directory(self.0.join(name))
    }

    /// All clusters that have been started once, by name.
    pub fn clusters(&self) -> io::Result<Vec<Directory>> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let folders = entries.filter_map(Result::ok).map(|entry| Directory(entry.path()));
        let mut clusters: Vec<_> = folders.filter(|folder| folder.cluster_file().is_file()).collect();
        clusters.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(clusters)
    }
}

// === impl Directory ===

impl Directory {
    /// The folder at this path.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Makes it, readable by its owner only.
    pub fn create(&self) -> io::Result<()> {
        for folder in [&self.0, &self.logs(), &self.pki(), &self.kubeconfigs(), &self.store()] {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        Ok(())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The cluster's name.
    pub fn name(&self) -> String {
        self.0.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The Cluster object as it was given.
    pub fn cluster_file(&self) -> PathBuf {
        self.0.join("cluster.yaml")
    }

    /// The manifests as they were given.
    pub fn manifests_file(&self) -> PathBuf {
        self.0.join("manifests.yaml")
    }

    /// Ports that were taken last time.
    pub fn ports_file(&self) -> PathBuf {
        self.0.join("ports.json")
    }

    /// Keys and certificates.
    pub fn pki(&self) -> PathBuf {
        self.0.join("pki")
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.0.join("kubeconfig")
    }

    /// Kubeconfigs of the cluster's parts.
    pub fn kubeconfigs(&self) -> PathBuf {
        self.0.join("kubeconfigs")
    }

    /// The kubeconfig of one part.
    pub fn kubeconfig_of(&self, part: &str) -> PathBuf {
        self.kubeconfigs().join(format!("{part}.yaml"))
    }

    /// The API server's store.
    pub fn store(&self) -> PathBuf {
        self.0.join("store")
    }

    /// All logs.
    pub fn logs(&self) -> PathBuf {
        self.0.join("log")
    }

    /// The log of one process.
    pub fn log_of(&self, process: &str) -> PathBuf {
        self.logs().join(format!("{process}.log"))
    }

    /// The supervisor's control socket.
    pub fn socket(&self) -> PathBuf {
        self.0.join("yard.sock")
    }

    /// State that ends with the supervisor: a tmpfs in its mount namespace, an empty folder elsewhere.
    pub fn run(&self) -> PathBuf {
        self.0.join("run")
    }

    /// Network namespaces of router and nodes.
    pub fn netns(&self) -> PathBuf {
        self.run().join("netns")
    }

    /// The network namespace of a node.
    pub fn netns_of_node(&self, node: &str) -> PathBuf {
        self.netns_of(&Place::node(node))
    }

    /// The network namespace of the router, a node, or a further place on a node.
    pub fn netns_of(&self, place: &Place) -> PathBuf {
        match place {
            Place::Extra { node, name } => self.node_run(node).join("extra").join(name),
            _ => self.netns().join(place.to_string().replace('/', "-")),
        }
    }

    /// The network namespace of a pod.
    pub fn pod_netns(&self, node: &str, uid: &str) -> io::Result<PathBuf> {
        let plain = |part: &str| part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') && !part.is_empty();
        match plain(node) && plain(uid) {
            true => Ok(self.node_run(node).join("pods").join(uid).join("netns")),
            false => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("no pod {uid:?} on node {node:?}"))),
        }
    }

    /// What the agent of a node keeps.
    pub fn node_run(&self, node: &str) -> PathBuf {
        self.run().join("nodes").join(node)
    }

    /// Takes the lock; `None` if a supervisor, or another `yard up`, holds it.
    pub fn lock(&self) -> io::Result<Option<Lock>> {
        let folder = File::open(&self.0)?;
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock(folder))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the lock of a supervisor that was killed: the kernel gives it back once all that it had is gone. `None` if that takes
    /// longer than `patience`.
    pub fn lock_within(&self, patience: Duration) -> io::Result<Option<Lock>> {
        let folder = File::open(&self.0)?;
        let (done, taken) = std::sync::mpsc::channel();
        // flock(2) knows no deadline; a thread that waits in vain ends with the process.
        std::thread::spawn(move || {
            let result = rustix::io::retry_on_intr(|| flock(&folder, FlockOperation::LockExclusive));
            let _ = done.send(result.map(|()| Lock(folder)));
        });
        match taken.recv_timeout(patience) {
            Ok(result) => Ok(Some(result?)),
            Err(_) => Ok(None),
        }
    }

    /// Whether somebody holds the lock.
    pub fn is_running(&self) -> bool {
        matches!(self.lock(), Ok(None))
    }

    /// Removes what a killed supervisor could not, and says whether one was. The lock shows that there is none.
    pub fn clean(&self, _: &Lock) -> io::Result<bool> {
        let was_there = |result: io::Result<()>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            other => other.map(|()| true),
        };
        let was_killed = was_there(fs::remove_file(self.socket()))?;
        was_there(fs::remove_dir_all(self.run()))?;
        Ok(was_killed)
    }
}

// === impl Lock ===

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Lock> for OwnedFd {
    fn from(lock: Lock) -> Self {
        lock.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_is_held_once_and_let_go_with_its_last_holder() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::at(folder.path().join("c"));
        directory.create().unwrap();
        let lock = directory.lock().unwrap().expect("free");
        assert!(directory.is_running());
        let copy = lock.as_fd().try_clone_to_owned().unwrap();
        drop(lock);
        assert!(directory.is_running(), "a handed-over copy still holds it");
        drop(copy);
        let lock = directory.lock().unwrap().expect("free again");
        fs::write(directory.socket(), "").unwrap();
        assert!(directory.clean(&lock).unwrap(), "its socket is what a killed supervisor leaves");
        assert!(!directory.socket().exists());
        assert!(!directory.clean(&lock).unwrap());
    }
}
