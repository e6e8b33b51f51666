//! The first process of a cluster: starts its parts, starts them again when they die, and takes everything along when it ends.
//!
//! It is process 1 of a private pid namespace, so the kernel ends every process of the cluster with it, and every orphan (a pause whose
//! agent was killed) becomes its child. One task owns all state and reaps all children; everybody else sends it messages.

mod journal;
mod part;
mod serve;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd;
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};
use switchyard_api::names;
use switchyard_dns::Sockets;
use switchyard_netstate::Place;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use crate::boot;
use crate::channel::{Channel, Listener};
use crate::cluster::Topology;
use crate::control::{Exit, Status, Step};
use crate::handover::Handover;
use crate::home::Directory;
use crate::listeners::Ports;
use crate::namespaces;
use journal::Journal;
use part::Running;

pub use part::Part;

/// What a supervisor has to do.
pub struct Config {
    /// The cluster's folder.
    pub directory: Directory,
    /// What to build.
    pub topology: Topology,
    /// What to run in it.
    pub parts: Vec<Part>,
    /// Writes keys, kubeconfigs and whatever else the parts read; runs beside the making of hardware.
    pub credentials: Box<dyn FnOnce() -> anyhow::Result<()> + Send>,
}

/// Messages to the one task that owns everything.
enum Message {
    Status(oneshot::Sender<Status>),
    Down(Duration),
    Start(usize),
    Shell(Box<crate::shell::Order>, oneshot::Sender<Exit>),
}

struct Supervisor {
    directory: Directory,
    topology: Topology,
    handover: Handover,
    parts: Vec<Running>,
    shells: HashMap<i32, oneshot::Sender<Exit>>,
    mailbox: UnboundedSender<Message>,
    started: Instant,
    rootless: bool,
    /// Holds the namespaces of router and nodes.
    hardware: Option<crate::hardware::Hardware>,
}

/// Grace when the end comes by a signal and nobody said how long.
const DEFAULT_GRACE: Duration = Duration::from_secs(3);

/// Runs a supervisor to its end.
pub fn run(config: Config) -> anyhow::Result<()> {
    let parent = Channel::from_stdin()?;
    let mut handover = Handover::receive(&parent)?;
    let control = Listener::take_over(handover.take(boot::CONTROL)?)?;
    detach_stdin()?;
    drop(parent);
    let rootless = !fs::read_to_string("/proc/self/uid_map")?.split_whitespace().eq(["0", "0", "4294967295"]);
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let (mailbox, messages) = unbounded_channel();
        let journal = Arc::new(Journal::new(started));
        serve::start(control, mailbox.clone(), journal.clone())?;
        let Config { directory, topology, parts, credentials } = config;
        let parts = parts.into_iter().map(Running::new).collect();
        let mut supervisor = Supervisor {
            directory,
            topology,
            handover,
            parts,
            shells: HashMap::new(),
            mailbox,
            started,
            rootless,
            hardware: None,
        };
        let built = supervisor.build(credentials, &journal);
        if let Err(error) = built {
            journal.write(Step::Failed(format!("{error:#}")));
            namespaces::unsettle(&supervisor.directory);
            let _ = fs::remove_file(supervisor.directory.socket());
            return Err(error);
        }
        supervisor.live(messages, &journal).await
    })
}

fn detach_stdin() -> io::Result<()> {
    let null: OwnedFd = fs::File::open("/dev/null")?.into();
    Ok(rustix::stdio::dup2_stdin(null)?)
}

/// Process ids of a cluster by what they are inside it, given its supervisor's.
pub fn pids_inside(supervisor: Pid) -> BTreeMap<u32, u32> {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let Some(ours) = namespace(&supervisor.as_raw_nonzero().to_string()) else { return BTreeMap::new() };
    let entries = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let inside = entries.filter_map(|entry| {
        let pid = entry.file_name().into_string().ok().filter(|name| name.bytes().all(|b| b.is_ascii_digit()))?;
        (namespace(&pid)? == ours).then_some(())?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        Some((numbers.split_whitespace().last()?.parse().ok()?, pid.parse().ok()?))
    });
    inside.collect()
}

// === impl Supervisor ===

impl Supervisor {
    /// Makes the world the parts will live in.
    fn build(
        &mut self,
        credentials: Box<dyn FnOnce() -> anyhow::Result<()> + Send>,
        journal: &Arc<Journal>,
    ) -> anyhow::Result<()> {
        namespaces::settle(&self.directory)?;
        raise_limits();
        let beside = journal.clone();
        let keys = std::thread::spawn(move || credentials().inspect(|()| beside.write(Step::Credentials)));
        self.hardware = Some(crate::hardware::build(&self.directory, &self.topology)?);
        self.listen_inside()?;
        journal.write(Step::Hardware);
        keys.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// The API server's address inside the cluster takes connections from now on, whether it runs or not; the name servers' queries.
    fn listen_inside(&mut self) -> anyhow::Result<()> {
        let node = &self.topology.control_plane().name;
        let (path, address) = (self.directory.netns_of_node(node), self.topology.api());
        let listener = namespaces::inside(&path, move || crate::listeners::listen(address))??;
        self.handover.put(API_INSIDE, listener);
        let outside = SocketAddr::new(self.topology.gateway, names::DNS_PORT);
        let mut doors = vec![(ROUTER_DNS.to_owned(), self.directory.netns_of(&Place::Router), outside)];
        for node in self.topology.nodes.iter().filter(|_| self.topology.dns.is_some()) {
            let inside = SocketAddr::new(self.topology.dns.unwrap_or(node.address), names::DNS_PORT);
            doors.push((node_dns(&node.name), self.directory.netns_of_node(&node.name), inside));
        }
        // The nodes have the address once their agents put it there.
        for (name, path, address) in doors {
            let sockets = namespaces::inside(&path, move || Sockets::bind(address))??;
            crate::listeners::put_dns(&name, sockets, &mut self.handover);
        }
        Ok(())
    }

    async fn live(&mut self, mut messages: UnboundedReceiver<Message>, journal: &Journal) -> anyhow::Result<()> {
        let mut ended = signal(SignalKind::child())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        for index in 0..self.parts.len() {
            self.start(index);
        }
        journal.write(Step::Started);
        let grace = loop {
            tokio::select! {
                _ = ended.recv() => self.reap(),
                _ = terminate.recv() => break DEFAULT_GRACE,
                _ = interrupt.recv() => break DEFAULT_GRACE,
                message = messages.recv() => match message {
                    Some(Message::Status(answer)) => { let _ = answer.send(self.status()); }
                    Some(Message::Start(index)) => self.start(index),
                    Some(Message::Shell(order, answer)) => self.shell(&order, answer),
                    Some(Message::Down(grace)) => break grace,
                    None => break DEFAULT_GRACE,
                },
            }
        };
        tracing::info!(?grace, "going down");
        self.end(grace, &mut ended).await;
        Ok(())
    }

    fn start(&mut self, index: usize) {
        let part = &mut self.parts[index];
        if let Err(error) = part.start(&self.directory, &self.handover) {
            tracing::error!(part = part.name(), %error, "cannot start");
            part.note_failure(error.to_string());
            self.start_later(index);
        }
    }

    /// Once a part has died: at once the first time, then with growing pauses.
    fn start_later(&mut self, index: usize) {
        let pause = self.parts[index].pause();
        let mailbox = self.mailbox.clone();
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let _ = mailbox.send(Message::Start(index));
        });
    }

    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            if let Some(index) = self.parts.iter().position(|part| part.pid() == Some(pid)) {
                let part = &mut self.parts[index];
                part.note_exit(describe(status));
                tracing::warn!(part = part.name(), exit = describe(status), "a part ended; starting it again");
                match part.pause() {
                    Duration::ZERO => self.start(index),
                    _ => self.start_later(index),
                }
            } else if let Some(waiting) = self.shells.remove(&pid) {
                let _ = waiting.send(Exit::Code(code(status)));
            }
        }
    }

    fn shell(&mut self, order: &crate::shell::Order, answer: oneshot::Sender<Exit>) {
        match order.start(&self.directory) {
            Ok(pid) => {
                self.shells.insert(pid, answer);
            }
            Err(error) => {
                let _ = answer.send(Exit::Failed(error.to_string()));
            }
        }
    }

    fn status(&self) -> Status {
        Status {
            cluster: self.topology.cluster.clone(),
            rootless: self.rootless,
            up_seconds: self.started.elapsed().as_secs(),
            ports: Ports::remembered(&self.directory),
            processes: self.parts.iter().map(Running::status).collect(),
        }
    }

    /// Asks everybody to leave, waits, then insists. When this returns there is no other process in the cluster.
    async fn end(&mut self, grace: Duration, ended: &mut tokio::signal::unix::Signal) {
        let everybody = unistd::Pid::from_raw(-1);
        // Agents first: they would start again what ends.
        let first = self.parts.iter().filter(|part| part.leaves_first()).filter_map(Running::pid);
        let first: Vec<_> = first.map(unistd::Pid::from_raw).collect();
        for agent in &first {
            let _ = kill(*agent, Signal::SIGTERM);
        }
        let leaving = async {
            while some_child_lives() && first.iter().any(|agent| kill(*agent, None).is_ok()) {
                ended.recv().await;
            }
            let _ = kill(everybody, Signal::SIGTERM);
            while some_child_lives() {
                ended.recv().await;
            }
        };
        if tokio::time::timeout(grace, leaving).await.is_err() {
            tracing::warn!(?grace, left = ?commands(), "not everybody left when asked");
            let _ = kill(everybody, Signal::SIGKILL);
            while some_child_lives() {
                ended.recv().await;
            }
        }
        namespaces::unsettle(&self.directory);
        let _ = fs::remove_file(self.directory.socket());
    }
}

/// Name of the router's sockets for DNS.
pub const ROUTER_DNS: &str = "router/dns";

/// Name of a node's sockets for DNS.
pub fn node_dns(node: &str) -> String {
    format!("dns/{node}")
}

/// Name of the listener on the API server's address inside the cluster.
pub const API_INSIDE: &str = "cluster/api";

/// The command lines of everybody else in the cluster.
fn commands() -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let others = entries.filter(|entry| {
        let name = entry.file_name();
        name.to_str().is_some_and(|name| name != "1" && name.bytes().all(|b| b.is_ascii_digit()))
    });
    let lines = others.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ").trim_end().to_owned()).collect()
}

/// Reaps whatever has ended, and says whether anybody is left.
fn some_child_lives() -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

fn code(status: WaitStatus) -> i32 {
    status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal)).unwrap_or(255)
}

fn describe(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (_, Some(signal)) => {
            Signal::try_from(signal).map_or_else(|_| format!("signal {signal}"), |signal| signal.to_string())
        }
        _ => "unknown".into(),
    }
}

/// As many open files as the host allows: each connection through the router needs four.
fn raise_limits() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let hard = getrlimit(Resource::Nofile).maximum;
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard }) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}
