//! What `yard` and a supervisor say to each other over `D/yard.sock`.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use switchyard_netstate::Place;

use crate::channel::Channel;
use crate::home::Directory;
use crate::listeners::Ports;

/// A question or an order; one a connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Request {
    /// Every [`Event`] since the start, and those to come until the cluster runs.
    Events,
    /// A [`Status`].
    Status,
    /// End everything. The connection ends with the supervisor.
    Down {
        /// How long processes have for their farewell.
        grace: Duration,
    },
    /// Run a command in the network namespace of a place; answered by an [`Exit`].
    Shell {
        /// Where.
        place: ShellPlace,
        /// Program and arguments; none is `$SHELL`.
        command: Vec<String>,
        /// Variables to add to the environment.
        env: Vec<(String, String)>,
    },
}

/// Where a shell runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShellPlace {
    /// Router, node, or a further place on a node.
    Place(Place),
    /// A pod, by its node and uid.
    Pod {
        /// The node it is on.
        node: String,
        /// Its uid.
        uid: String,
    },
}

/// A step of a start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Milliseconds since the supervisor started.
    pub at_milliseconds: u64,
    /// What happened.
    pub step: Step,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Keys and kubeconfigs are on disk.
    Credentials,
    /// Namespaces, links, addresses and routes of router and nodes are there.
    Hardware,
    /// All processes have been started; no more events come.
    Started,
    /// The cluster cannot start; the supervisor ends.
    Failed(String),
}

/// How a cluster is, as its supervisor sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Its name.
    pub cluster: String,
    /// Without root, in a user namespace of its own.
    pub rootless: bool,
    /// Seconds since it was started.
    pub up_seconds: u64,
    /// Its ports on the host.
    pub ports: Ports,
    /// Its processes.
    pub processes: Vec<ProcessStatus>,
}

/// How one process is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessStatus {
    /// Its name: `router`, `control-plane`, `node-n1`.
    pub name: String,
    /// The namespace it runs in.
    pub place: Place,
    /// Its process id inside the cluster; absent while it waits to be started again.
    pub pid: Option<u32>,
    /// Its process id on the host, filled in by who asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_pid: Option<u32>,
    /// How often it was started again.
    pub restarts: u32,
    /// How it ended last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<String>,
}

/// How a command ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Exit {
    /// With this code; 128 and the signal's number if by a signal.
    Code(i32),
    /// It could not be started.
    Failed(String),
}

/// A connection to a supervisor, and a handle to its process.
#[derive(Debug)]
pub struct Control {
    channel: Channel,
    /// The supervisor's process id as seen from here.
    pub pid: Pid,
    process: OwnedFd,
}

// === impl Control ===

impl Control {
    /// Connects to the supervisor of a cluster.
    pub fn connect(directory: &Directory) -> io::Result<Self> {
        let channel = Channel::connect(&directory.socket())?;
        let nobody = || io::Error::new(io::ErrorKind::NotFound, "the supervisor is out of sight of this pid namespace");
        let pid = channel.peer()?.pid.ok_or_else(nobody)?;
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        Ok(Self { channel, pid, process })
    }

    /// The connection itself.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Asks for the status, with process ids as the host sees them.
    pub fn status(&self) -> io::Result<Status> {
        self.channel.send(&Request::Status, &[])?;
        let (mut status, _): (Status, _) = self.channel.receive()?;
        let inside = crate::supervisor::pids_inside(self.pid);
        for process in &mut status.processes {
            process.host_pid = process.pid.and_then(|pid| inside.get(&pid).copied());
        }
        Ok(status)
    }

    /// Asks for the end and waits for it; past `patience` the supervisor is killed, and everything with it.
    pub fn down(self, grace: Duration, patience: Duration) -> io::Result<()> {
        self.channel.send(&Request::Down { grace }, &[])?;
        if self.gone_within(patience)? {
            return Ok(());
        }
        self.kill()
    }

    /// Kills the supervisor, and everything with it.
    pub fn kill(self) -> io::Result<()> {
        rustix::process::pidfd_send_signal(&self.process, rustix::process::Signal::KILL)?;
        while !self.gone_within(Duration::from_secs(60))? {}
        Ok(())
    }

    fn gone_within(&self, patience: Duration) -> io::Result<bool> {
        let limit = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: patience.subsec_nanos().into() };
        let mut waiting = [PollFd::new(&self.process, PollFlags::IN)];
        Ok(rustix::io::retry_on_intr(|| poll(&mut waiting, Some(&limit)))? > 0)
    }
}
