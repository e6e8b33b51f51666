//! What the agent and a pause process say to each other: one JSON document a line, over `pause.sock`.
//!
//! The agent sends [`Request`]s and gets a [`Message::Reply`] for each; other messages come unasked. Every connection hears
//! every event, so an agent that reconnects first lists and then listens.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Longest line either side accepts, in bytes.
pub const MAX_LINE: usize = 1 << 20;
/// File name of the socket in the pod's directory.
pub const SOCKET: &str = "pause.sock";
/// File name of the bind-mounted network namespace in the pod's directory.
pub const NETNS: &str = "netns";
/// Bytes of one log file before it is rotated.
pub const LOG_LIMIT: u64 = 10 << 20;
/// Log files kept of one container run: the current one, `.1` and `.2`.
pub const LOG_FILES: u32 = 3;

/// What a pod's sandbox is made from; one line on the standard input of `yard-pause sandbox`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sandbox {
    /// The pod's directory: `pause.sock`, `netns` and `volumes/` are in here.
    pub dir: PathBuf,
    /// The directory of the pod's logs; it exists.
    pub logs: PathBuf,
    /// A mount that holds the directories of all pods and is taken out of this pod's view.
    pub run_dir: PathBuf,
    /// The directory that is covered in the pod's view: holds `dir` and everything that is no business of a container.
    pub mask: PathBuf,
    /// The pod's host name.
    pub hostname: String,
    /// Content of /etc/hosts.
    pub hosts: String,
    /// Content of /etc/resolv.conf.
    pub resolv_conf: String,
    /// Stay in the network namespace of the node.
    #[serde(default)]
    pub host_network: bool,
}

/// The one line `yard-pause sandbox` prints: nothing went wrong, or what did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Started {
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A call with the number that its reply will carry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Request {
    /// Chosen by the caller.
    pub id: u64,
    /// What is asked.
    pub call: Call,
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Call {
    /// Start a container. Refused while one of that name runs.
    Start(Start),
    /// Send a signal to a container's first process.
    Signal(Signal),
    /// What there is.
    List,
    /// Run a command beside a container, as its user, in its directory. Three file descriptors (stdin, stdout, stderr) come with
    /// the line. The command does not outlive the connection.
    Exec(Exec),
    /// End the command that the [`Call::Exec`] of this number started on this connection. Done also if it is over.
    Kill(u64),
    /// End everything and exit.
    Stop,
}

/// A container to start, everything resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Start {
    /// Its name.
    pub name: String,
    /// How many runs it had before this one.
    pub restart: u32,
    /// The command; looked up in `PATH` of `env` if it holds no slash.
    pub argv: Vec<String>,
    /// The environment, nothing is added.
    pub env: Vec<(String, String)>,
    /// Working directory. Default `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<PathBuf>,
    /// What is mounted for it.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// Its log, below the pod's log directory.
    pub log: PathBuf,
    /// User to run as, if not the pod's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group to run as, if not the pod's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

/// A file or directory made visible to a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mount {
    /// What; exists.
    pub source: PathBuf,
    /// Only this, relative to `source`; is made, as a directory, if it does not exist. Containers may have put links there: none is
    /// followed out of `source`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<PathBuf>,
    /// Where; is made if it does not exist, without touching the host's file system.
    pub target: PathBuf,
    /// Without the right to write.
    #[serde(default)]
    pub read_only: bool,
}

/// A signal for a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Signal {
    /// The container.
    pub name: String,
    /// The signal's number. SIGKILL goes to every process of the container.
    pub signal: i32,
}

/// A command beside a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exec {
    /// The container.
    pub name: String,
    /// The command.
    pub argv: Vec<String>,
    /// Its environment; the container's own if empty.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// The first file descriptor is a terminal: make it the controlling one.
    #[serde(default)]
    pub tty: bool,
}

/// What a pause process says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Message {
    /// The answer to a request.
    Reply {
        /// The request's number.
        id: u64,
        /// What came of it.
        result: Answer,
    },
    /// A container ended.
    Exited(Container),
    /// A command ended that was started by [`Call::Exec`] on this connection.
    ExecExited {
        /// The number of the request that started it.
        id: u64,
        /// How.
        exit: Exit,
    },
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// Done.
    Done,
    /// Started.
    Started(Container),
    /// All containers that were ever started, each with its latest run.
    List(Vec<Container>),
    /// Why not.
    Error(String),
}

/// One run of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// Its name.
    pub name: String,
    /// How many runs it had before this one.
    pub restart: u32,
    /// Its first process in the pod's pid namespace.
    pub pid: i32,
    /// When it started, microseconds since 1970.
    pub started_us: i64,
    /// How it ended; absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exit {
    /// Its exit code; 128 and the signal's number if a signal ended it.
    pub code: i32,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The kernel ended it for want of memory. Only known where the pod has a memory cgroup.
    #[serde(default)]
    pub oom: bool,
    /// When, microseconds since 1970.
    pub finished_us: i64,
}
