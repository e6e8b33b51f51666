//! The rig: a scenario reads as a sentence.

mod dialogue;
pub(crate) mod http;
mod leaks;
mod pods;
mod state;
mod traffic;

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

pub(crate) use dialogue::Dialogue;
pub(crate) use http::Answer;
pub(crate) use leaks::Traces;
pub(crate) use state::State;
pub(crate) use traffic::Traffic;

/// With which powers `yard` runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Powers {
    Root,
    Nobody,
}

/// A cluster of a test; stopped and deleted when dropped.
pub(crate) struct Cluster {
    powers: Powers,
    folder: tempfile::TempDir,
    yard: PathBuf,
}

/// Longest that anything may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);
/// The cluster of the tests, as written for people.
const SPHINX: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/sphinx");
/// What a cluster needs beside `yard`.
const COMPANIONS: [&str; 7] = [
    "yard-echo",
    "yard-pause",
    "yard-ingress",
    "libswitchyard_kubenet.so",
    "libswitchyard_none.so",
    "libswitchyard_nsx.so",
    "libswitchyard_overlay.so",
];
/// User and group of those without powers.
const NOBODY: &str = "65534";

/// Makes two tests of a scenario, one for each kind of powers.
macro_rules! scenarios {
    ($($(#[$doc:meta])* $name:ident)*) => { $(
        mod $name {
            use crate::rig::{Powers, each};
            #[test]
            fn as_root() { each(Powers::Root, super::$name); }
            #[test]
            fn without_root() { each(Powers::Nobody, super::$name); }
        }
    )* };
}
pub(crate) use scenarios;

/// Runs a scenario with these powers, if this process may give them.
pub(crate) fn each(powers: Powers, scenario: fn(Powers)) {
    if powers == Powers::Nobody || rustix::process::geteuid().is_root() {
        scenario(powers);
    }
}

/// Whether the kernel has a feature, of those that `yard doctor` tries; one that it has not is said, as what a test then leaves out.
pub(crate) fn has(feature: &str) -> bool {
    let output = Command::new(env!("CARGO_BIN_EXE_yard")).args(["doctor", "-o", "json"]).output().expect("yard runs");
    let findings: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let mut findings = findings.as_array().expect("findings").iter();
    let finding = findings.find(|finding| finding["what"] == feature).expect("a feature that is tried");
    let is_there = finding["health"] == "ok";
    if !is_there {
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        let why = finding["detail"].as_str().unwrap_or_default();
        let _ = writeln!(std::io::stderr(), "skipped: {test}: this kernel has no {feature}: {why}");
    }
    is_there
}

/// Waits until `condition` holds, and says what it was waiting for if it does not come true. It looks again and again: a cluster is
/// looked at from outside, through programs and processes that tell nobody when to look.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(begun.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// [`eventually`], and says how long it took.
#[track_caller]
pub(crate) fn measured<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    let value = eventually(what, condition);
    record(what, &format!("after {:.3?}", begun.elapsed()));
    value
}

/// [`measured`], and no longer than this.
#[track_caller]
pub(crate) fn within<T>(limit: Duration, what: &str, condition: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    let value = measured(what, condition);
    assert!(begun.elapsed() <= limit, "{what}: after {:?}, expected {limit:?} at most", begun.elapsed());
    value
}

/// Writes a measurement where it is seen, although tests' output is not: past the test runner's capture.
pub(crate) fn record(what: &str, measured: &str) {
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let _ = writeln!(std::io::stderr(), "measured: {test}: {what}: {measured}");
}

// === impl Cluster ===

impl Cluster {
    /// A cluster that has not been started.
    pub(crate) fn prepare(powers: Powers) -> Self {
        Self::prepare_with(powers, |_| {})
    }

    /// The same, with changes to its folder of manifests.
    pub(crate) fn prepare_with(powers: Powers, change: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::Builder::new().prefix("yard-test-").tempdir_in("/tmp").expect("a temporary folder");
        let yard = programs(powers, folder.path());
        let sphinx = folder.path().join("sphinx");
        fs::create_dir(&sphinx).unwrap();
        for entry in fs::read_dir(SPHINX).expect("examples/sphinx") {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|ext| ext == "yaml") {
                let text = fs::read_to_string(&path).unwrap().replace("listen: 127.0.0.1:8080", "listen: 127.0.0.1:0");
                fs::write(sphinx.join(path.file_name().unwrap()), text).unwrap();
            }
        }
        change(&sphinx);
        fs::create_dir(folder.path().join("home")).unwrap();
        if is_root() && powers == Powers::Nobody {
            let status = Command::new("chown").args(["-R", &format!("{NOBODY}:{NOBODY}")]).arg(folder.path()).status();
            assert!(status.unwrap().success());
        }
        Self { powers, folder, yard }
    }

    /// A cluster that is ready.
    #[track_caller]
    pub(crate) fn boot(powers: Powers) -> Self {
        let cluster = Self::prepare(powers);
        cluster.up();
        cluster
    }

    /// A cluster on this network that is ready.
    #[track_caller]
    pub(crate) fn boot_on(powers: Powers, network: &str) -> Self {
        let cluster = Self::prepare_with(powers, |folder| {
            let file = folder.join("cluster.yaml");
            let text = fs::read_to_string(&file).unwrap().replace("plugin: kubenet", &format!("plugin: {network}"));
            fs::write(&file, text).unwrap();
        });
        cluster.up();
        cluster
    }

    /// `yard up` to its end.
    #[track_caller]
    pub(crate) fn up(&self) -> String {
        let limit = DEADLINE.as_secs().to_string();
        self.yard(&["up", "-f", self.file("sphinx").to_str().unwrap(), "--timeout", &limit])
    }

    /// A path in the test's folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The cluster's own folder.
    pub(crate) fn directory(&self) -> PathBuf {
        self.file("home/sphinx")
    }

    /// `yard` with arguments; must succeed. Gives its standard output.
    #[track_caller]
    pub(crate) fn yard(&self, arguments: &[&str]) -> String {
        let output = self.try_yard(arguments);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            panic!(
                "yard {arguments:?}: {}\n--- stdout\n{out}\n--- stderr\n{err}\n{}",
                output.status,
                self.last_words()
            );
        }
        out.into_owned()
    }

    /// `yard` with arguments, whatever comes of it.
    pub(crate) fn try_yard(&self, arguments: &[&str]) -> Output {
        self.command(&self.yard).args(arguments).output().expect("yard runs")
    }

    /// `yard` itself.
    pub(crate) fn program(&self) -> &Path {
        &self.yard
    }

    /// A program with the cluster's powers and environment.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = match self.powers {
            Powers::Nobody if is_root() => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]).arg(program);
                command
            }
            _ => Command::new(program),
        };
        command.env("SWITCHYARD_HOME", self.file("home")).env("HOME", self.folder.path());
        command.env_remove("SWITCHYARD_CLUSTER").env_remove("XDG_STATE_HOME").stdin(Stdio::null());
        command
    }

    /// `kubectl` with arguments, as the cluster's owner; must succeed. Gives its standard output.
    #[track_caller]
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        let output = self.kubectl_command().args(arguments).output().expect("kubectl runs");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "kubectl {arguments:?}: {}\n{out}\n{err}", output.status);
        out.into_owned()
    }

    /// `kubectl`, to be given arguments.
    pub(crate) fn kubectl_command(&self) -> Command {
        let mut command = self.command(Path::new("kubectl"));
        command.env("KUBECONFIG", self.directory().join("kubeconfig")).current_dir(self.folder.path());
        command
    }

    /// What `yard status -o json` says about the cluster.
    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        let clusters: Value = serde_json::from_str(&self.yard(&["status", "-o", "json"])).expect("JSON");
        clusters[0].clone()
    }

    /// What `yard get … -o json` says.
    #[track_caller]
    pub(crate) fn get(&self, what: &[&str]) -> Value {
        let output = self.yard(&[&["get", "-o", "json"], what].concat());
        serde_json::from_str(&output).expect("JSON")
    }

    /// The process id, on the host, of a part: `supervisor`, `router`, `control-plane`, `node-worker-1`.
    #[track_caller]
    pub(crate) fn pid(&self, part: &str) -> u32 {
        self.try_pid(part).unwrap_or_else(|| panic!("{part} does not run: {}", self.status()))
    }

    /// The same, unless the part has just died.
    #[track_caller]
    pub(crate) fn try_pid(&self, part: &str) -> Option<u32> {
        let status = self.status();
        let pid = match part {
            "supervisor" => status["supervisorPid"].as_u64(),
            _ => {
                let processes = status["processes"].as_array().expect("processes");
                let process = processes.iter().find(|process| process["name"] == part);
                process.unwrap_or_else(|| panic!("no process {part}"))["hostPid"].as_u64()
            }
        };
        pid.map(|pid| pid as u32)
    }

    /// Kills a part with signal 9.
    #[track_caller]
    pub(crate) fn kill(&self, part: &str) -> u32 {
        let pid = self.pid(part);
        kill(pid);
        pid
    }

    /// Where the cluster's host port is.
    #[track_caller]
    pub(crate) fn door(&self) -> SocketAddr {
        let status = self.status();
        status["ports"]["host"][0]["listen"].as_str().expect("a host port").parse().expect("an address")
    }

    /// All ports that the cluster has on the host.
    #[track_caller]
    pub(crate) fn ports(&self) -> Value {
        self.status()["ports"].clone()
    }

    /// Where the cluster's names are answered on the host.
    #[track_caller]
    pub(crate) fn names(&self) -> SocketAddr {
        self.status()["ports"]["dns"].as_str().expect("a port for names").parse().expect("an address")
    }

    /// One request through the ingress.
    #[track_caller]
    pub(crate) fn ask(&self, host: &str) -> Answer {
        http::get(self.door(), host, "/").unwrap_or_else(|error| panic!("{host}: {error}\n{}", self.last_words()))
    }

    /// The last lines of all logs, for failures.
    pub(crate) fn last_words(&self) -> String {
        let mut words = String::new();
        for entry in fs::read_dir(self.directory().join("log")).into_iter().flatten().flatten() {
            let Ok(text) = fs::read_to_string(entry.path()) else { continue };
            let lines: Vec<_> = text.lines().rev().take(15).collect();
            words += &format!("--- {}\n", entry.path().display());
            for line in lines.into_iter().rev() {
                words += line;
                words.push('\n');
            }
        }
        words
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.try_yard(&["down", "--grace", "0"]);
    }
}

/// Ends a process with signal 9.
///
/// Until it has ended it may still take what others send.
pub(crate) fn kill(pid: u32) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a process id");
    let process = pidfd_open(pid, PidfdFlags::empty()).expect("a process");
    pidfd_send_signal(&process, Signal::KILL).expect("kill");
    let deadline = Timespec { tv_sec: 30, tv_nsec: 0 };
    let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&deadline)).expect("poll");
    assert_eq!(ended, 1, "{pid:?} ends");
}

/// Sends a signal.
pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a process id");
    rustix::process::kill_process(pid, signal).expect("kill");
}

/// Sends signal 2, as a terminal does.
pub(crate) fn interrupt(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("interrupt");
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The built `yard` with its companions beside it, where whoever is to run it may.
fn programs(powers: Powers, folder: &Path) -> PathBuf {
    let yard = PathBuf::from(env!("CARGO_BIN_EXE_yard"));
    let built = yard.parent().expect("a folder");
    for companion in COMPANIONS {
        assert!(built.join(companion).exists(), "{companion} is not built; run: cargo build --workspace");
    }
    if !(is_root() && powers == Powers::Nobody) || reachable(built) {
        return yard;
    }
    let bin = folder.join("bin");
    fs::create_dir(&bin).unwrap();
    for name in COMPANIONS.into_iter().chain(["yard"]) {
        fs::copy(built.join(name), bin.join(name)).expect("copy a program");
    }
    bin.join("yard")
}

/// Whether everybody may pass through all folders of a path.
fn reachable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.ancestors().all(|folder| fs::metadata(folder).is_ok_and(|meta| meta.permissions().mode() & 0o005 == 0o005))
}
