//! A pod's sandbox: its directory, its pause process, its namespaces.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use switchyard_api::names::CLUSTER_DOMAIN;
use switchyard_pause::protocol::{NETNS, Sandbox, Started};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::config::Config;

/// Bytes that a pause process may say about its start.
const MAX_REPORT: u64 = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    #[error("start {program}: {source}")]
    Start { program: String, source: io::Error },
    #[error("{0}")]
    Refused(String),
    #[error("{path}: {source}")]
    Directory { path: String, source: io::Error },
}

/// Where things of one pod are.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// Socket, network namespace, volumes.
    pub(crate) dir: PathBuf,
    /// Logs.
    pub(crate) logs: PathBuf,
}

// === impl Places ===

impl Places {
    pub(crate) fn of(config: &Config, pod: &Pod) -> Self {
        let uid = pod.uid().unwrap_or_default();
        let logs = format!("{}_{}_{uid}", pod.namespace().unwrap_or_default(), pod.name_any());
        Self { dir: config.pods_dir().join(uid), logs: config.log_dir.join(logs) }
    }

    pub(crate) fn netns(&self) -> PathBuf {
        self.dir.join(NETNS)
    }

    /// Makes the directories.
    pub(crate) fn make(&self) -> Result<(), SandboxError> {
        for path in [&self.dir, &self.logs] {
            let wrap = |source| SandboxError::Directory { path: path.display().to_string(), source };
            std::fs::create_dir_all(path).map_err(wrap)?;
        }
        Ok(())
    }

    /// Takes the namespace's mount away, and with it the namespace if no process holds it.
    pub(crate) fn unmount(&self) {
        let _ = rustix::mount::unmount(self.netns(), rustix::mount::UnmountFlags::DETACH);
    }

    /// Takes everything away but the logs.
    pub(crate) fn remove(&self) -> io::Result<()> {
        self.unmount();
        remove(&self.dir)
    }

    /// Takes the logs away.
    pub(crate) fn remove_logs(&self) -> io::Result<()> {
        remove(&self.logs)
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Starts the pause process of a pod and returns once it accepts connections.
pub(crate) async fn start(program: &Path, sandbox: &Sandbox) -> Result<(), SandboxError> {
    let wrap = |source| SandboxError::Start { program: program.display().to_string(), source };
    let mut child = Command::new(program)
        .arg("sandbox")
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(wrap)?;
    let mut line = serde_json::to_vec(sandbox).map_err(|error| wrap(error.into()))?;
    line.push(b'\n');
    let mut input = child.stdin.take().expect("its standard input is a pipe");
    // A process that ended early says why on its output.
    let _ = input.write_all(&line).await;
    drop(input);
    let mut report = String::new();
    let output = child.stdout.take().expect("its standard output is a pipe");
    output.take(MAX_REPORT).read_to_string(&mut report).await.map_err(wrap)?;
    child.wait().await.map_err(wrap)?;
    match serde_json::from_str(&report) {
        Ok(Started { error: None }) => Ok(()),
        Ok(Started { error: Some(error) }) => Err(SandboxError::Refused(error)),
        Err(_) => Err(SandboxError::Refused(format!("{} ended without a word", program.display()))),
    }
}

/// What the sandbox of this pod is made from.
pub(crate) fn describe(config: &Config, pod: &Pod, places: &Places, ip: IpAddr) -> Sandbox {
    let spec = pod.spec.as_ref();
    let host_network = host_network(pod);
    let hostname = if host_network { config.name.clone() } else { hostname(pod) };
    Sandbox {
        dir: places.dir.clone(),
        logs: places.logs.clone(),
        run_dir: config.run_dir.clone(),
        mask: config.hidden.clone().unwrap_or_else(|| config.run_dir.clone()),
        hosts: hosts(pod, &hostname, ip),
        resolv_conf: resolv_conf(config, pod),
        hostname,
        host_network: spec.is_some_and(|spec| spec.host_network == Some(true)),
    }
}

/// Whether the pod lives in its node's network namespace.
pub(crate) fn host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true))
}

/// The pod's host name: what it asks for, or its name as far as the kernel takes it.
fn hostname(pod: &Pod) -> String {
    let asked = pod.spec.as_ref().and_then(|spec| spec.hostname.clone()).filter(|name| !name.is_empty());
    let mut name = asked.unwrap_or_else(|| pod.name_any());
    name.truncate(63);
    name.trim_end_matches(['-', '.']).to_owned()
}

fn hosts(pod: &Pod, hostname: &str, ip: IpAddr) -> String {
    let mut hosts = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    let spec = pod.spec.as_ref();
    let subdomain = spec.and_then(|spec| spec.subdomain.as_deref()).filter(|name| !name.is_empty());
    match subdomain {
        Some(subdomain) => {
            let namespace = pod.namespace().unwrap_or_default();
            hosts += &format!("{ip}\t{hostname}.{subdomain}.{namespace}.svc.{CLUSTER_DOMAIN}\t{hostname}\n");
        }
        None => hosts += &format!("{ip}\t{hostname}\n"),
    }
    for alias in spec.iter().flat_map(|spec| spec.host_aliases.iter().flatten()) {
        let names = alias.hostnames.iter().flatten().cloned().collect::<Vec<_>>();
        hosts += &format!("{}\t{}\n", alias.ip, names.join("\t"));
    }
    hosts
}

fn resolv_conf(config: &Config, pod: &Pod) -> String {
    let spec = pod.spec.as_ref();
    let policy = spec.and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let of_node = || std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let mut nameservers = Vec::new();
    let mut searches = Vec::new();
    let mut options = Vec::new();
    let cluster_first = policy == "ClusterFirstWithHostNet" || policy == "ClusterFirst" && !host_network(pod);
    match (policy, config.cluster_dns) {
        ("None", _) => {}
        (_, Some(dns)) if cluster_first => {
            nameservers.push(dns.to_string());
            let namespace = pod.namespace().unwrap_or_default();
            searches.extend([format!("{namespace}.svc.{CLUSTER_DOMAIN}"), format!("svc.{CLUSTER_DOMAIN}")]);
            searches.push(CLUSTER_DOMAIN.to_owned());
            options.push("ndots:5".to_owned());
        }
        _ => return of_node(),
    }
    if let Some(own) = spec.and_then(|spec| spec.dns_config.as_ref()) {
        nameservers.extend(own.nameservers.iter().flatten().cloned());
        searches.extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            options.push(option.value.as_ref().map_or(name.clone(), |value| format!("{name}:{value}")));
        }
    }
    let mut text: String = nameservers.iter().map(|server| format!("nameserver {server}\n")).collect();
    if !searches.is_empty() {
        text += &format!("search {}\n", searches.join(" "));
    }
    if !options.is_empty() {
        text += &format!("options {}\n", options.join(" "));
    }
    text
}
