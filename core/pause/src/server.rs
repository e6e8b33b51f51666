//! The loop of a pod's first process: requests, output of containers, ends of processes.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::child::{self, Child, Spawned, User};
use crate::clock;
use crate::connection::Connection;
use crate::log::{Lines, Log};
use crate::protocol::{Answer, Call, Container, Exec, Exit, Message, Request, Start};
use crate::sandbox::{accept, start_listening};
use crate::tree::{Context, Result, Tree};

/// Connections served at a time.
const MAX_CONNECTIONS: usize = 8;
/// Bytes read at once from a pipe or a socket.
const BUFFER: usize = 16 << 10;

pub(crate) struct Server {
    tree: Tree,
    /// Keeps the directory of logs reachable, which the pod's mounts hide.
    logs: OwnedFd,
    socket: OwnedFd,
    signals: SignalFd,
    runs: BTreeMap<String, Run>,
    commands: Vec<Command>,
    connections: Vec<Connection>,
    next_connection: u64,
    /// Ends with its last container.
    leaving: bool,
    over: bool,
}

/// The latest run of a container.
struct Run {
    container: Container,
    mounts: u64,
    user: User,
    cwd: PathBuf,
    output: Option<Output>,
}

struct Output {
    log: Log,
    streams: [Stream; 2],
}

struct Stream {
    pipe: Option<File>,
    lines: Lines,
}

/// A command started by `exec`.
struct Command {
    pid: Pid,
    connection: u64,
    request: u64,
}

/// What a polled descriptor belongs to.
enum Source {
    Signals,
    Socket,
    Connection(usize),
    Pipe(String, usize),
}

// === impl Server ===

impl Server {
    pub(crate) fn new(tree: Tree, logs: OwnedFd, socket: OwnedFd) -> Result<Self> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.add(Signal::SIGTERM);
        mask.add(Signal::SIGINT);
        mask.thread_block().context(|| "block signals".into())?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&mask, flags).context(|| "open a signal descriptor".into())?;
        start_listening(&socket)?;
        Ok(Self {
            tree,
            logs,
            socket,
            signals,
            runs: BTreeMap::new(),
            commands: Vec::new(),
            connections: Vec::new(),
            next_connection: 0,
            leaving: false,
            over: false,
        })
    }

    /// Serves until the pod is over.
    pub(crate) fn run(mut self) {
        let mut buffer = vec![0; BUFFER];
        while !self.over {
            for source in self.wait() {
                match source {
                    Source::Signals => self.signals(&mut buffer),
                    Source::Socket => self.accept(),
                    Source::Connection(index) => self.serve(index, &mut buffer),
                    Source::Pipe(name, stream) => {
                        if let Some(output) = self.runs.get_mut(&name).and_then(|run| run.output.as_mut()) {
                            output.read(stream, &mut buffer);
                        }
                    }
                }
            }
            self.connections.retain(|connection| !connection.is_closed());
            self.end_forsaken();
            self.over |= self.leaving && self.runs.values().all(|run| run.container.exit.is_some());
        }
    }

    /// Waits until there is something to do, and says what.
    fn wait(&self) -> Vec<Source> {
        let mut sources = vec![Source::Signals, Source::Socket];
        let mut fds = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
        ];
        for (index, connection) in self.connections.iter().enumerate() {
            let mut events = PollFlags::POLLIN;
            events.set(PollFlags::POLLOUT, connection.has_output());
            sources.push(Source::Connection(index));
            fds.push(PollFd::new(connection.as_fd(), events));
        }
        for (name, run) in &self.runs {
            for (index, stream) in run.output.iter().flat_map(|output| output.streams.iter().enumerate()) {
                if let Some(pipe) = &stream.pipe {
                    sources.push(Source::Pipe(name.clone(), index));
                    fds.push(PollFd::new(pipe.as_fd(), PollFlags::POLLIN));
                }
            }
        }
        if poll(&mut fds, PollTimeout::NONE).is_err() {
            return Vec::new();
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(true)).collect();
        sources.into_iter().zip(ready).filter_map(|(source, ready)| ready.then_some(source)).collect()
    }

    fn accept(&mut self) {
        while let Some(fd) = accept(&self.socket) {
            if self.connections.len() < MAX_CONNECTIONS {
                self.connections.push(Connection::new(self.next_connection, fd));
                self.next_connection += 1;
            }
        }
    }

    fn serve(&mut self, index: usize, buffer: &mut [u8]) {
        let connection = &mut self.connections[index];
        connection.flush();
        for line in connection.read(buffer) {
            // A line that is no request cannot be answered, as its number is unknown.
            let Ok(request) = serde_json::from_slice::<Request>(&line) else {
                let error = format!("request of {} bytes: not a request of this version", line.len());
                self.connections[index].send(&Message::Reply { id: 0, result: Answer::Error(error) });
                continue;
            };
            let id = request.id;
            let result = self.answer(index, request).unwrap_or_else(Answer::Error);
            self.connections[index].send(&Message::Reply { id, result });
        }
    }

    fn answer(&mut self, index: usize, request: Request) -> Result<Answer> {
        match request.call {
            Call::Start(start) => self.start(start).map(Answer::Started),
            Call::List => Ok(Answer::List(self.runs.values().map(|run| run.container.clone()).collect())),
            Call::Signal(signal) => {
                let run = self.running(&signal.name)?;
                let number = Signal::try_from(signal.signal)
                    .map_err(|_| format!("signal {}: must be the number of a signal", signal.signal))?;
                let pid = Pid::from_raw(run.container.pid);
                kill(pid, number).context(|| format!("signal {} to {}", signal.signal, signal.name))?;
                Ok(Answer::Done)
            }
            Call::Exec(exec) => self.exec(index, request.id, &exec),
            Call::Kill(request) => {
                let connection = self.connections[index].id;
                let is_it = |command: &&Command| (command.connection, command.request) == (connection, request);
                self.commands.iter().filter(is_it).for_each(Command::kill);
                Ok(Answer::Done)
            }
            Call::Stop => {
                self.over = true;
                Ok(Answer::Done)
            }
        }
    }

    fn running(&self, name: &str) -> Result<&Run> {
        let run = self.runs.get(name).filter(|run| run.container.exit.is_none());
        run.ok_or_else(|| format!("container {name}: does not run"))
    }

    fn start(&mut self, start: Start) -> Result<Container> {
        // An agent that hears of an end before it is asked to leave itself would start the container again, and nobody ends it then.
        if self.leaving {
            return Err(format!("container {}: the pod is ending", start.name));
        }
        if self.running(&start.name).is_ok() {
            return Err(format!("container {}: runs already", start.name));
        }
        let plain = start.log.components().all(|part| matches!(part, Component::Normal(_)));
        if !plain {
            return Err(format!("log {}: must be a relative path without '..'", start.log.display()));
        }
        let path = PathBuf::from(format!("/proc/self/fd/{}", self.logs.as_raw_fd())).join(&start.log);
        let log = Log::open(&path).context(|| format!("open log {}", start.log.display()))?;
        let pipe = || nix::unistd::pipe2(OFlag::O_CLOEXEC).context(|| "make a pipe".into());
        let ((out, out_end), (err, err_end)) = (pipe()?, pipe()?);
        for end in [&out, &err] {
            nix::fcntl::fcntl(end, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
                .context(|| "make a pipe non-blocking".into())?;
        }
        let null = File::open("/dev/null").context(|| "open /dev/null".into())?;
        let user = User { uid: start.uid, gid: start.gid };
        let cwd = start.cwd.unwrap_or_else(|| "/".into());
        let child = Child {
            argv: &start.argv,
            env: &start.env,
            cwd: &cwd,
            stdio: [null.as_fd(), out_end.as_fd(), err_end.as_fd()],
            tty: false,
            user,
        };
        let tree = &mut self.tree;
        let Spawned { pid, mounts } = child.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).context(|| "make the container's mount namespace".into())?;
            tree.enter_container(&start.name, &start.mounts)
        })?;
        let container = Container {
            name: start.name.clone(),
            restart: start.restart,
            pid: pid.as_raw(),
            started_us: clock::now_us(),
            exit: None,
        };
        let stream = |pipe: OwnedFd, name| Stream { pipe: Some(pipe.into()), lines: Lines::new(name) };
        let output = Some(Output { log, streams: [stream(out, "stdout"), stream(err, "stderr")] });
        self.runs.insert(start.name, Run { container: container.clone(), mounts, user, cwd, output });
        Ok(container)
    }

    fn exec(&mut self, index: usize, request: u64, exec: &Exec) -> Result<Answer> {
        let fds = &mut self.connections[index].fds;
        if fds.len() < 3 {
            return Err(format!("exec: {} file descriptors came with the request: must be 3", fds.len()));
        }
        let fds: VecDeque<OwnedFd> = fds.drain(..3).collect();
        let run = self.running(&exec.name)?;
        let pid = Pid::from_raw(run.container.pid);
        let own;
        let env = if exec.env.is_empty() {
            own = child::environment_of(pid);
            &own
        } else {
            &exec.env
        };
        let child = Child {
            argv: &exec.argv,
            env,
            cwd: &run.cwd,
            stdio: [fds[0].as_fd(), fds[1].as_fd(), fds[2].as_fd()],
            tty: exec.tty,
            user: run.user,
        };
        let spawned = child.spawn(|| child::enter_mounts_of(pid))?;
        let connection = self.connections[index].id;
        self.commands.push(Command { pid: spawned.pid, connection, request });
        Ok(Answer::Done)
    }

    /// Ends commands whose connection is gone: nobody hears of their end any more.
    fn end_forsaken(&self) {
        let is_forsaken =
            |command: &&Command| !self.connections.iter().any(|connection| connection.id == command.connection);
        self.commands.iter().filter(is_forsaken).for_each(Command::kill);
    }

    fn signals(&mut self, buffer: &mut [u8]) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            if info.ssi_signo != Signal::SIGCHLD as u32 {
                self.leave();
            }
        }
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => self.reaped(pid, code, None, buffer),
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    self.reaped(pid, 128 + signal as i32, Some(signal as i32), buffer);
                }
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => break,
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// Was asked to end: so are its containers, and it follows the last of them.
    fn leave(&mut self) {
        self.leaving = true;
        for run in self.runs.values().filter(|run| run.container.exit.is_none()) {
            let _ = kill(Pid::from_raw(run.container.pid), Signal::SIGTERM);
        }
    }

    fn reaped(&mut self, pid: Pid, code: i32, signal: Option<i32>, buffer: &mut [u8]) {
        let exit = Exit { code, signal, oom: false, finished_us: clock::now_us() };
        if let Some(index) = self.commands.iter().position(|command| command.pid == pid) {
            let Command { connection, request, .. } = self.commands.swap_remove(index);
            let connection = self.connections.iter_mut().find(|one| one.id == connection);
            if let Some(connection) = connection {
                connection.send(&Message::ExecExited { id: request, exit });
            }
            return;
        }
        let is_it = |run: &&mut Run| run.container.pid == pid.as_raw() && run.container.exit.is_none();
        let Some(run) = self.runs.values_mut().find(is_it) else { return };
        child::kill_namespace(run.mounts);
        if let Some(mut output) = run.output.take() {
            output.finish(buffer);
        }
        run.container.exit = Some(exit);
        let message = Message::Exited(run.container.clone());
        for connection in &mut self.connections {
            connection.send(&message);
        }
    }
}

// === impl Command ===

impl Command {
    /// Ends it and what it started, which is in its process group unless it left it.
    fn kill(&self) {
        let _ = kill(Pid::from_raw(-self.pid.as_raw()), Signal::SIGKILL);
    }
}

// === impl Output ===

impl Output {
    /// Reads what there is on one stream, at most a few buffers so that the others get their turn.
    fn read(&mut self, index: usize, buffer: &mut [u8]) {
        for _ in 0..4 {
            if !self.read_once(index, buffer) {
                break;
            }
        }
    }

    /// Reads once; whether there may be more.
    fn read_once(&mut self, index: usize, buffer: &mut [u8]) -> bool {
        let Self { log, streams } = self;
        let stream = &mut streams[index];
        let Some(pipe) = &mut stream.pipe else { return false };
        match pipe.read(buffer) {
            Ok(0) => {
                stream.lines.finish(log);
                stream.pipe = None;
                false
            }
            Ok(n) => {
                stream.lines.push(&buffer[..n], log);
                true
            }
            Err(_) => false,
        }
    }

    /// Writes what is still in the pipes of a container that has ended.
    fn finish(&mut self, buffer: &mut [u8]) {
        for index in 0..self.streams.len() {
            while self.read_once(index, buffer) {}
            self.streams[index].lines.finish(&mut self.log);
        }
    }
}
