//! The agent's end of a pause process' socket.
//!
//! The connection's end is the process' end, so its death is an event like any other. Its pid comes from the socket's credentials,
//! which the kernel translates into the agent's pid namespace.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use switchyard_pause::protocol::{
    Answer, Call, Container, Exec, Exit, MAX_LINE, Message, Request, SOCKET, Signal, Start,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};

/// A connection; calls may be made from anywhere at the same time.
#[derive(Debug)]
pub(crate) struct Pause {
    pid: rustix::process::Pid,
    pidfd: OwnedFd,
    lines: mpsc::UnboundedSender<Line>,
    waiting: Arc<Mutex<Waiting>>,
    next: AtomicU64,
}

/// A command under way beside a container. It does not outlive this.
#[derive(Debug)]
pub(crate) struct Execution {
    pause: Arc<Pause>,
    id: u64,
    /// Taken when it is over.
    exit: Option<oneshot::Receiver<Exit>>,
}

/// What a pause process says unasked.
#[derive(Debug)]
pub(crate) enum PauseEvent {
    /// A container ended.
    Exited(Container),
    /// The process is gone, and everything of the pod with it.
    Gone,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum PauseError {
    #[error("the pod's first process is gone")]
    Gone,
    #[error("{0}")]
    Refused(String),
    #[error("pause socket: {0}")]
    Io(#[from] io::Error),
}

/// A request on its way. Written by a task of its own: a caller that gives up leaves no half of one behind.
#[derive(Debug)]
struct Line {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

#[derive(Debug, Default)]
struct Waiting {
    over: bool,
    answers: HashMap<u64, oneshot::Sender<Answer>>,
    exits: HashMap<u64, oneshot::Sender<Exit>>,
}

// === impl Pause ===

impl Pause {
    /// Connects to the pause process of the pod in `dir`. Events go to `events` from now on.
    pub(crate) async fn connect(dir: &Path, events: mpsc::UnboundedSender<PauseEvent>) -> io::Result<Arc<Self>> {
        // Through a descriptor of the directory, as a path may be longer than a socket address.
        let dir = std::fs::File::open(dir)?;
        let stream = UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd())).await?;
        let gone = || io::Error::from(io::ErrorKind::ConnectionReset);
        let pid = stream.peer_cred()?.pid().and_then(rustix::process::Pid::from_raw).ok_or_else(gone)?;
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
        let (read, write) = stream.into_split();
        let waiting = Arc::<Mutex<Waiting>>::default();
        tokio::spawn(read_all(read, Arc::clone(&waiting), events));
        let (lines, queue) = mpsc::unbounded_channel();
        tokio::spawn(write_all(write, queue));
        Ok(Arc::new(Self { pid, pidfd, lines, waiting, next: AtomicU64::new(1) }))
    }

    /// Its process, as the agent sees it.
    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    pub(crate) async fn start(&self, start: Start) -> Result<Container, PauseError> {
        match self.call(Call::Start(start)).await? {
            Answer::Started(container) => Ok(container),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn list(&self) -> Result<Vec<Container>, PauseError> {
        match self.call(Call::List).await? {
            Answer::List(list) => Ok(list),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn signal(&self, name: &str, signal: i32) -> Result<(), PauseError> {
        self.call(Call::Signal(Signal { name: name.to_owned(), signal })).await.map(drop)
    }

    /// Runs a command beside a container.
    pub(crate) async fn exec(self: &Arc<Self>, exec: Exec, stdio: [OwnedFd; 3]) -> Result<Execution, PauseError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (tell, exit) = oneshot::channel();
        self.waiting().exits.insert(id, tell);
        // There before the answer is, so that a caller that gives up meanwhile ends the command as well.
        let mut execution = Execution { pause: Arc::clone(self), id, exit: Some(exit) };
        let answer = self.call_as(id, Call::Exec(exec), stdio.into()).await;
        if answer.is_err() {
            execution.exit = None;
            self.waiting().exits.remove(&id);
        }
        answer.map(|_| execution)
    }

    /// Ends the pod at once. The event that it is gone follows.
    pub(crate) fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL);
    }

    async fn call(&self, call: Call) -> Result<Answer, PauseError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.call_as(id, call, Vec::new()).await
    }

    async fn call_as(&self, id: u64, call: Call, fds: Vec<OwnedFd>) -> Result<Answer, PauseError> {
        let (tell, answer) = oneshot::channel();
        {
            let mut waiting = self.waiting();
            if waiting.over {
                return Err(PauseError::Gone);
            }
            waiting.answers.insert(id, tell);
        }
        if let Err(error) = self.send(id, call, fds) {
            self.waiting().answers.remove(&id);
            return Err(error);
        }
        match answer.await {
            Ok(Answer::Error(error)) => Err(PauseError::Refused(error)),
            Ok(answer) => Ok(answer),
            Err(_) => Err(PauseError::Gone),
        }
    }

    fn send(&self, id: u64, call: Call, fds: Vec<OwnedFd>) -> Result<(), PauseError> {
        let mut bytes = serde_json::to_vec(&Request { id, call }).map_err(io::Error::from)?;
        bytes.push(b'\n');
        if bytes.len() > MAX_LINE {
            return Err(PauseError::Refused(format!(
                "command, environment and mounts take {} bytes: at most {MAX_LINE}",
                bytes.len()
            )));
        }
        self.lines.send(Line { bytes, fds }).map_err(|_| PauseError::Gone)
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Execution ===

impl Execution {
    /// Waits for its end; `None` if the pod's first process was gone before.
    pub(crate) async fn ended(&mut self) -> Option<Exit> {
        let exit = self.exit.as_mut()?.await.ok();
        self.exit = None;
        exit
    }
}

impl Drop for Execution {
    fn drop(&mut self) {
        if self.exit.is_some() {
            let id = self.pause.next.fetch_add(1, Ordering::Relaxed);
            // Nobody waits for the answer.
            let _ = self.pause.send(id, Call::Kill(self.id), Vec::new());
        }
    }
}

/// Writes requests until nobody makes any, or the process is gone, which whoever reads says.
async fn write_all(write: OwnedWriteHalf, mut queue: mpsc::UnboundedReceiver<Line>) {
    let stream: &UnixStream = write.as_ref();
    while let Some(Line { bytes, fds }) = queue.recv().await {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let mut sent = 0;
        while sent < bytes.len() {
            let some = stream.async_io(Interest::WRITABLE, || send_once(stream, &bytes[sent..], &fds, sent == 0)).await;
            let Ok(some) = some else { return };
            sent += some;
        }
    }
}

/// Descriptors travel with the first byte.
fn send_once(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>], first: bool) -> io::Result<usize> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if first && !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(rustix::net::sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
}

async fn read_all(read: OwnedReadHalf, waiting: Arc<Mutex<Waiting>>, events: mpsc::UnboundedSender<PauseEvent>) {
    let mut lines = BufReader::with_capacity(1024, read);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut lines).take(MAX_LINE as u64).read_until(b'\n', &mut line).await {
            Ok(n) if n > 0 => {}
            _ => break,
        }
        let Ok(message) = serde_json::from_slice(&line) else { break };
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match message {
            Message::Reply { id, result } => {
                if let Some(tell) = waiting.answers.remove(&id) {
                    let _ = tell.send(result);
                }
            }
            Message::ExecExited { id, exit } => {
                if let Some(tell) = waiting.exits.remove(&id) {
                    let _ = tell.send(exit);
                }
            }
            Message::Exited(container) => {
                let _ = events.send(PauseEvent::Exited(container));
            }
        }
    }
    // Dropping the senders tells everyone who waits.
    *waiting.lock().unwrap_or_else(PoisonError::into_inner) = Waiting { over: true, ..Waiting::default() };
    let _ = events.send(PauseEvent::Gone);
}

fn unexpected(answer: &Answer) -> PauseError {
    PauseError::Refused(format!("unexpected answer {answer:?}: is yard-pause of this version?"))
}
