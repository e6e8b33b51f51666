//! What a cluster leaves behind on the host, which is to be nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// What can be seen of a running cluster: its processes' namespaces.
#[derive(Debug)]
pub(crate) struct Traces {
    namespaces: BTreeSet<String>,
    /// The host's links when the cluster ran.
    links: BTreeSet<String>,
}

const KINDS: [&str; 6] = ["pid", "net", "mnt", "user", "uts", "ipc"];

// === impl Traces ===

impl Traces {
    /// Everything below a supervisor, except what it shares with us.
    pub(crate) fn of(supervisor: u32) -> Self {
        let ours = namespaces("self");
        let members = family(supervisor);
        let all = members.iter().flat_map(|pid| namespaces(&pid.to_string()));
        Self { namespaces: all.filter(|namespace| !ours.contains(namespace)).collect(), links: links() }
    }

    /// Nothing of it is left, in the kernel or in the cluster's folder, but what a stopped cluster keeps.
    #[track_caller]
    pub(crate) fn are_gone(&self, directory: &Path) {
        assert!(self.namespaces.len() >= 4, "the traces were taken too late: {self:?}");
        super::eventually("no process in any of its namespaces", || {
            survivors(&self.namespaces).is_empty().then_some(())
        });
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&*directory.to_string_lossy()), "mounts are left:\n{mounts}");
        assert_eq!(links(), self.links, "links of the host");
        let kept = ["cluster.yaml", "manifests.yaml", "ports.json", "kubeconfig", "kubeconfigs", "pki", "store", "log"];
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap();
            assert!(kept.contains(&name.as_str()), "{name} is left");
        }
    }
}

/// A process and all its descendants.
pub(super) fn family(first: u32) -> BTreeSet<u32> {
    let mut members = BTreeSet::from([first]);
    let processes: Vec<(u32, u32)> = processes().filter_map(|pid| Some((pid, parent(pid)?))).collect();
    loop {
        let children = processes.iter().filter(|(pid, parent)| members.contains(parent) && !members.contains(pid));
        let children: Vec<u32> = children.map(|(pid, _)| *pid).collect();
        if children.is_empty() {
            return members;
        }
        members.extend(children);
    }
}

/// A process's command line.
pub(super) fn command(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// The pod that a container's environment names.
pub(super) fn pod(pid: u32) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let environment = String::from_utf8_lossy(&environment).into_owned();
    environment.split('\0').find_map(|pair| pair.strip_prefix("HOSTNAME=")).map(str::to_owned)
}

fn survivors(of: &BTreeSet<String>) -> Vec<u32> {
    processes().filter(|pid| namespaces(&pid.to_string()).iter().any(|namespace| of.contains(namespace))).collect()
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// A process's parent.
pub(super) fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

fn namespaces(pid: &str) -> BTreeSet<String> {
    let links = KINDS.iter().filter_map(|kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok());
    links.map(|link| link.to_string_lossy().into_owned()).collect()
}

fn links() -> BTreeSet<String> {
    let links = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    links.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
