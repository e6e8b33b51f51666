//! A pause process in namespaces of its own, without root, seen from outside: its socket, its logs, its processes.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use switchyard_pause::protocol::*;

/// A namespace with a pod in it; goes with everything in it when dropped.
struct World {
    dir: tempfile::TempDir,
    host: Child,
}

struct Agent {
    stream: BufReader<UnixStream>,
    next: u64,
    events: Vec<Message>,
}

// === impl World ===

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for path in ["run/pod/volumes/config", "logs"] {
            std::fs::create_dir_all(root.join(path)).unwrap();
        }
        std::fs::write(root.join("secret"), "for the host alone").unwrap();
        std::fs::write(root.join("run/pod/volumes/config/key"), "value").unwrap();
        let sandbox = Sandbox {
            dir: root.join("run/pod"),
            logs: root.join("logs"),
            run_dir: root.join("run"),
            mask: root.to_owned(),
            hostname: "web-0".into(),
            hosts: "10.40.1.5 web-0\n".into(),
            resolv_conf: "nameserver 10.96.0.10\n".into(),
            host_network: false,
        };
        let script = format!("{} sandbox && exec sleep infinity", env!("CARGO_BIN_EXE_yard-pause"));
        let mut host = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare(1) of util-linux");
        let line = serde_json::to_string(&sandbox).unwrap() + "\n";
        host.stdin.take().unwrap().write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        BufReader::new(host.stdout.take().unwrap()).read_line(&mut answer).unwrap();
        assert_eq!(serde_json::from_str::<Started>(&answer).unwrap(), Started { error: None });
        Self { dir, host }
    }

    fn agent(&self) -> Agent {
        let stream = UnixStream::connect(self.dir.path().join("run/pod").join(SOCKET)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Agent { stream: BufReader::new(stream), next: 0, events: Vec::new() }
    }

    fn log(&self, container: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.path().join("logs").join(container).join("0.log")).unwrap();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    fn source(&self, name: &str) -> PathBuf {
        self.dir.path().join("run/pod/volumes").join(name)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.host.kill();
        let _ = self.host.wait();
    }
}

// === impl Agent ===

impl Agent {
    fn call(&mut self, call: Call) -> Answer {
        self.call_with(call, &[])
    }

    fn call_with(&mut self, call: Call, fds: &[i32]) -> Answer {
        self.send(call, fds);
        self.answer(self.next)
    }

    fn send(&mut self, call: Call, fds: &[i32]) {
        self.next += 1;
        let line = serde_json::to_string(&Request { id: self.next, call }).unwrap() + "\n";
        let rights = [ControlMessage::ScmRights(fds)];
        let rights = if fds.is_empty() { &[][..] } else { &rights[..] };
        let raw = std::os::fd::AsRawFd::as_raw_fd(self.stream.get_ref());
        let parts = [std::io::IoSlice::new(line.as_bytes())];
        assert_eq!(sendmsg::<()>(raw, &parts, rights, MsgFlags::empty(), None).unwrap(), line.len());
    }

    fn answer(&mut self, wanted: u64) -> Answer {
        loop {
            match self.message() {
                Message::Reply { id, result } if id == wanted => return result,
                other => self.events.push(other),
            }
        }
    }

    fn message(&mut self) -> Message {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    fn event(&mut self) -> Message {
        if self.events.is_empty() { self.message() } else { self.events.remove(0) }
    }

    fn start(&mut self, name: &str, script: &str) -> Container {
        self.start_with(name, script, Vec::new()).unwrap()
    }

    fn start_with(&mut self, name: &str, script: &str, mounts: Vec<Mount>) -> Result<Container, String> {
        let start = Start {
            name: name.into(),
            argv: ["sh", "-c", script].map(String::from).to_vec(),
            env: vec![("GREETING".into(), "hello".into())],
            mounts,
            log: Path::new(name).join("0.log"),
            ..Start::default()
        };
        match self.call(Call::Start(start)) {
            Answer::Started(container) => Ok(container),
            Answer::Error(error) => Err(error),
            other => panic!("{other:?}"),
        }
    }

    fn exit(&mut self, name: &str) -> Exit {
        loop {
            if let Message::Exited(container) = self.event()
                && container.name == name
            {
                return container.exit.unwrap();
            }
        }
    }
}

/// Prints the command line of every process.
const PROCESSES: &str = "for p in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$p 2>/dev/null; echo; done";

impl Agent {
    /// Runs a script beside a container, without input or output.
    fn exec(&mut self, name: &str, script: &str) {
        let null = std::fs::File::options().read(true).write(true).open("/dev/null").unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&null);
        assert_eq!(self.call_with(Call::Exec(exec(name, script)), &[fd; 3]), Answer::Done);
    }

    fn output_of(&mut self, name: &str, script: &str) -> String {
        let (output, output_end) = nix::unistd::pipe().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let raw = |fd: &dyn std::os::fd::AsRawFd| fd.as_raw_fd();
        let fds = [raw(&null), raw(&output_end), raw(&output_end)];
        assert_eq!(self.call_with(Call::Exec(exec(name, script)), &fds), Answer::Done);
        drop(output_end);
        let mut text = String::new();
        std::fs::File::from(output).read_to_string(&mut text).unwrap();
        text
    }
}

fn exec(name: &str, script: &str) -> Exec {
    Exec { name: name.into(), argv: ["sh", "-c", script].map(String::from).to_vec(), env: Vec::new(), tty: false }
}

fn mount(source: PathBuf, target: &str, read_only: bool) -> Mount {
    Mount { source, within: None, target: target.into(), read_only }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_container_sees_its_pod_and_nothing_of_the_host_s_cluster() {
    let world = World::new();
    let mut agent = world.agent();
    let secret = world.dir.path().join("secret");
    let script = format!(
        "hostname; cat /etc/hosts /etc/resolv.conf /etc/hostname; echo $GREETING; cat {} 2>/dev/null || echo hidden; \
         ls {} ; ls /dev/shm; echo $$ >&2",
        secret.display(),
        world.dir.path().join("run/pod").display(),
    );
    agent.start("app", &script);
    assert_eq!(agent.exit("app").code, 0);
    let log = world.log("app");
    let out: Vec<_> = log.iter().filter_map(|line| line.strip_prefix("stdout F ")).collect();
    assert_eq!(out, ["web-0", "10.40.1.5 web-0", "nameserver 10.96.0.10", "web-0", "hello", "hidden"]);
    assert_eq!(log.iter().filter(|line| line.starts_with("stderr F ")).count(), 1);
}

#[test]
fn exit_codes_and_signals_are_told_apart() {
    let world = World::new();
    let mut agent = world.agent();
    agent.start("seven", "exit 7");
    assert_eq!((agent.exit("seven").code, agent.exit_signal("seven")), (7, None));
    agent.start("long", "sleep 1000");
    let signal = Signal { name: "long".into(), signal: 9 };
    assert_eq!(agent.call(Call::Signal(signal)), Answer::Done);
    let exit = agent.exit("long");
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
}

impl Agent {
    fn exit_signal(&mut self, name: &str) -> Option<i32> {
        let Answer::List(list) = self.call(Call::List) else { panic!("a list") };
        list.iter().find(|one| one.name == name).unwrap().exit.unwrap().signal
    }
}

#[test]
fn volumes_appear_where_the_host_has_no_directory() {
    let world = World::new();
    let mut agent = world.agent();
    let config = || world.source("config");
    let mounts = vec![
        mount(config(), "/var/run/secrets/kubernetes.io/serviceaccount", true),
        mount(config(), "/new-at-the-root/deep", false),
        mount(config(), "/usr/share/not-there/config", false),
        mount(config().join("key"), "/dev/termination-log", false),
    ];
    let script = "cat /var/run/secrets/kubernetes.io/serviceaccount/key /new-at-the-root/deep/key \
                  /usr/share/not-there/config/key /dev/termination-log | tr -d '\\n'; echo; \
                  touch /run/secrets/kubernetes.io/serviceaccount/x 2>/dev/null || echo read-only; \
                  ls /usr/share | wc -l; ls -d /usr/share/doc /bin/sh";
    agent.start_with("app", script, mounts).unwrap();
    assert_eq!(agent.exit("app").code, 0, "{:?}", world.log("app"));
    let log = world.log("app");
    assert_eq!(log[..2], ["stdout F valuevaluevaluevalue", "stdout F read-only"]);
    assert!(!Path::new("/new-at-the-root").exists() && !Path::new("/usr/share/not-there").exists());
    // Another container of the pod does not see them.
    agent.start("other", "ls /new-at-the-root");
    assert_ne!(agent.exit("other").code, 0);
}

#[test]
fn a_part_of_a_volume_is_made_and_never_lies_outside() {
    let world = World::new();
    let mut agent = world.agent();
    let part = |path: &str| Mount { within: Some(path.into()), ..mount(world.source("config"), "/part", false) };
    agent.start_with("app", "touch /part/here", vec![part("made/anew")]).unwrap();
    assert_eq!(agent.exit("app").code, 0, "{:?}", world.log("app"));
    assert!(world.source("config").join("made/anew/here").exists());
    // As a container may have left it there.
    std::os::unix::fs::symlink("/etc", world.source("config").join("out")).unwrap();
    let error = agent.start_with("out", "true", vec![part("out")]).unwrap_err();
    assert!(error.contains("config/out: a link leads out of the volume"), "{error}");
}

#[test]
fn what_cannot_start_says_why() {
    let world = World::new();
    let mut agent = world.agent();
    let missing = mount(world.source("no-such"), "/x", false);
    let error = agent.start_with("app", "true", vec![missing]).unwrap_err();
    assert!(error.contains("no-such") && error.contains("No such file"), "{error}");
    let start = Start { name: "app".into(), argv: vec!["no-such-program".into()], log: "a".into(), ..Start::default() };
    let Answer::Error(error) = agent.call(Call::Start(start)) else { panic!("an error") };
    assert!(error.contains("no-such-program"), "{error}");
    let start = Start { name: "app".into(), argv: vec!["true".into()], log: "../a".into(), ..Start::default() };
    assert!(matches!(agent.call(Call::Start(start)), Answer::Error(_)));
}

#[test]
fn a_command_runs_beside_a_container() {
    let world = World::new();
    let mut agent = world.agent();
    agent.start_with("app", "sleep 1000", vec![mount(world.source("config"), "/conf", true)]).unwrap();
    let (input, input_end) = nix::unistd::pipe().unwrap();
    let (output, output_end) = nix::unistd::pipe().unwrap();
    let exec = Exec {
        name: "app".into(),
        argv: ["sh", "-c", "cat; cat /conf/key; echo $GREETING >&2; exit 3"].map(String::from).to_vec(),
        env: Vec::new(),
        tty: false,
    };
    let raw = |fd: &std::os::fd::OwnedFd| std::os::fd::AsRawFd::as_raw_fd(fd);
    let fds = [raw(&input), raw(&output_end), raw(&output_end)];
    assert_eq!(agent.call_with(Call::Exec(exec), &fds), Answer::Done);
    drop((input, output_end));
    nix::unistd::write(input_end.as_fd(), b"typed ").unwrap();
    drop(input_end);
    let mut text = String::new();
    std::fs::File::from(output).read_to_string(&mut text).unwrap();
    assert_eq!(text, "typed valuehello\n");
    let Message::ExecExited { exit, .. } = agent.event() else { panic!("the end of the command") };
    assert_eq!(exit.code, 3);
}

#[test]
fn a_command_is_the_container_s_own_in_user_and_directory() {
    let world = World::new();
    let mut agent = world.agent();
    let start = Start {
        name: "app".into(),
        argv: ["sleep", "1000"].map(String::from).to_vec(),
        env: vec![("GREETING".into(), "hello".into())],
        cwd: Some("/usr/share".into()),
        uid: Some(0),
        gid: Some(0),
        log: "app/0.log".into(),
        ..Start::default()
    };
    assert!(matches!(agent.call(Call::Start(start)), Answer::Started(_)));
    let text = agent.output_of("app", "pwd; echo $GREETING; id -u");
    assert_eq!(text, "/usr/share\nhello\n0\n");
}

#[test]
fn more_commands_at_once_than_descriptors_may_wait() {
    let world = World::new();
    let mut agent = world.agent();
    agent.start("app", "exec sleep 1000");
    let null = std::fs::File::options().read(true).write(true).open("/dev/null").unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&null);
    let first = agent.next + 1;
    for _ in 0..40 {
        agent.send(Call::Exec(exec("app", "true")), &[fd; 3]);
    }
    for id in first..=agent.next {
        assert_eq!(agent.answer(id), Answer::Done);
    }
}

#[test]
fn a_command_ends_when_it_is_told_to_and_with_its_connection() {
    let world = World::new();
    let mut agent = world.agent();
    agent.start("app", "exec sleep 1000");
    agent.exec("app", "sleep 4243 & sleep 4243");
    let request = agent.next;
    assert_eq!(agent.call(Call::Kill(request)), Answer::Done);
    let Message::ExecExited { id, exit } = agent.event() else { panic!("the end of the command") };
    assert_eq!((id, exit.signal), (request, Some(9)));
    // Of a command that is over, or never was: done as well.
    assert_eq!(agent.call(Call::Kill(request)), Answer::Done);
    let mut other = world.agent();
    other.exec("app", "sleep 4244 & sleep 4244");
    assert!(agent.output_of("app", PROCESSES).contains("sleep 4244"));
    drop(other);
    eventually("commands went with their connection", || {
        let there = agent.output_of("app", PROCESSES);
        !there.contains("sleep 4243") && !there.contains("sleep 4244")
    });
}

#[test]
fn an_agent_that_comes_back_finds_everything() {
    let world = World::new();
    let mut first = world.agent();
    let running = first
        .start("long", "while :; do echo tick; read -t 0.01 x </dev/zero 2>/dev/null; done | head -n 200; sleep 1000");
    first.start("short", "exit 4");
    first.exit("short");
    drop(first);
    let mut second = world.agent();
    let Answer::List(list) = second.call(Call::List) else { panic!("a list") };
    assert_eq!(list.len(), 2);
    assert_eq!((list[0].pid, list[0].exit), (running.pid, None));
    assert_eq!(list[1].exit.unwrap().code, 4);
    eventually("output written while no agent was there", || world.log("long").len() == 200);
    assert!(second.start_with("long", "true", Vec::new()).unwrap_err().contains("runs already"));
}

#[test]
fn a_container_s_end_takes_its_stray_processes_along() {
    let world = World::new();
    let mut agent = world.agent();
    agent.start("app", "setsid sleep 4242 & sleep 0.1; exit 0");
    agent.exit("app");
    agent.start("look", "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; echo; done");
    agent.exit("look");
    assert!(!world.log("look").iter().any(|line| line.ends_with("sleep 4242 ")), "{:?}", world.log("look"));
}

#[test]
fn a_pod_that_is_asked_to_end_starts_nothing_more_and_follows_its_last_container() {
    let world = World::new();
    let mut agent = world.agent();
    agent.start("polite", "exec sleep 1000");
    agent.start("deaf", "trap '' TERM; kill -TERM 1; exec sleep 1000");
    assert_eq!(agent.exit("polite").signal, Some(15));
    let error = agent.start_with("polite", "exec sleep 1000", Vec::new()).unwrap_err();
    assert!(error.contains("ending"), "{error}");
    assert_eq!(agent.call(Call::Signal(Signal { name: "deaf".into(), signal: 9 })), Answer::Done);
    let mut rest = String::new();
    agent.stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("exited") && rest.contains("deaf"), "{rest}");
}

#[test]
fn when_the_first_process_dies_so_does_the_pod() {
    let world = World::new();
    let mut agent = world.agent();
    agent.start("app", "sleep 1000");
    assert_eq!(agent.call(Call::Stop), Answer::Done);
    let mut rest = String::new();
    assert_eq!(agent.stream.read_line(&mut rest).unwrap(), 0, "{rest}");
}
