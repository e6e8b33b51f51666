//! Pods and their processes, as the API and the host's process table show them.

use serde_json::Value;

use super::{Cluster, leaks};

impl Cluster {
    /// The name of one pod with these labels.
    #[track_caller]
    pub(crate) fn pod_of(&self, selector: &str) -> String {
        let pods = self.get(&["pods", "-l", selector]);
        pods["items"][0]["metadata"]["name"].as_str().expect("a pod").to_owned()
    }

    /// Runs a program of the host in the network of a place.
    pub(crate) fn shell(&self, place: &str, command: &[&str]) -> Result<String, String> {
        let output = self.try_yard(&[&["shell", place, "--"], command].concat());
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// How often a pod's containers were started again, together.
    #[track_caller]
    pub(crate) fn restarts(&self, pod: &str) -> u64 {
        let pod = self.get(&["pod", pod]);
        let containers = pod["status"]["containerStatuses"].as_array().expect("containers");
        containers.iter().filter_map(|container| container["restartCount"].as_u64()).sum()
    }

    /// Whether a pod says that it is ready.
    #[track_caller]
    pub(crate) fn is_ready(&self, pod: &str) -> bool {
        let pod = self.get(&["pod", pod]);
        let conditions = pod["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
        conditions.iter().any(|condition: &Value| condition["type"] == "Ready" && condition["status"] == "True")
    }

    /// The process id, on the host, of a program of this cluster.
    #[track_caller]
    pub(crate) fn process(&self, program: &str) -> u32 {
        let found = self.processes().into_iter().find(|(_, command)| command.contains(program));
        found.unwrap_or_else(|| panic!("no process {program}")).0
    }

    /// The container of a pod whose command line contains some text.
    #[track_caller]
    pub(crate) fn container(&self, pod: &str, text: &str) -> u32 {
        let inside = |pid| leaks::pod(pid).as_deref() == Some(pod);
        let found = self.processes().into_iter().find(|(pid, command)| command.contains(text) && inside(*pid));
        found.unwrap_or_else(|| panic!("no container {text} of {pod}")).0
    }

    /// The pause process of a pod.
    #[track_caller]
    pub(crate) fn pause(&self, pod: &str) -> u32 {
        leaks::parent(self.container(pod, "yard-echo")).expect("a container has a parent")
    }

    /// All processes of this cluster: their ids and command lines.
    fn processes(&self) -> Vec<(u32, String)> {
        leaks::family(self.pid("supervisor")).into_iter().map(|pid| (pid, leaks::command(pid))).collect()
    }
}
