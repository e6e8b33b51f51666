//! Plugins in a child process: a crash or an endless loop ends the child, not us.
//!
//! The child gets a private copy of the library as its standard input and one end of a socket as its standard output. Over the
//! socket it is asked one question after the other, see [`frame`]. A child that does not answer in time is killed; the next call
//! starts another one. Nothing is lost by that, since a plugin is a pure function. A plugin that is a program is such a child
//! by itself.

pub mod child;
pub(crate) mod frame;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use switchyard_plugin::abi;
use tracing::{debug, warn};

use crate::file::{Content, Form, InspectError};
use crate::library::{LoadError, Reply};
use crate::plugin::{Answers, CallError};
use crate::registry::OpenError;
use frame::{CREATE, Channel};

/// How to host a plugin in a process.
#[derive(Clone, Debug)]
pub struct ProcessHost {
    /// A program that calls [`child::main`]. Default: this one.
    pub program: PathBuf,
    /// Its arguments. Default `plugin-host`.
    pub arguments: Vec<OsString>,
    /// How long a call may take. Default 5 s.
    pub deadline: Duration,
}

/// A plugin file to be run in processes: a private copy of what was inspected.
pub(crate) struct Image {
    path: PathBuf,
    form: Form,
    copy: OwnedFd,
}

/// A plugin in a child process.
pub(crate) struct Hosted {
    host: ProcessHost,
    image: Arc<Image>,
    options: Vec<u8>,
    state: Mutex<Child>,
}

/// The process that answers, and how often it had to be replaced.
#[derive(Default)]
struct Child {
    /// None after one was ended.
    running: Option<Running>,
    started: Option<Instant>,
    /// How many in a row ended soon after they began.
    streak: u32,
}

/// A process and the way to it.
pub(crate) struct Running {
    channel: Channel,
    child: process::Child,
}

/// Why there was no reply.
#[derive(Debug)]
pub(crate) enum Silence {
    Timeout,
    Died(String),
}

/// A process that lived so long did not fail because it began.
const STEADY: Duration = Duration::from_secs(60);
/// After one death the next process starts at once; after more of them it has to wait, twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

// === impl ProcessHost ===

impl Default for ProcessHost {
    fn default() -> Self {
        // Still the right program after its file was replaced.
        let program = PathBuf::from("/proc/self/exe");
        Self { program, arguments: vec!["plugin-host".into()], deadline: Duration::from_secs(5) }
    }
}

// === impl Image ===

impl Image {
    pub(crate) fn of(content: &Content, form: Form) -> Result<Self, InspectError> {
        Ok(Self { path: content.path.clone(), form, copy: content.sealed()? })
    }
}

// === impl Hosted ===

impl Hosted {
    /// Starts a process with these options.
    pub(crate) fn start(host: &ProcessHost, image: Arc<Image>, options: Vec<u8>) -> Result<Self, OpenError> {
        let hosted = Self { host: host.clone(), image, options, state: Mutex::default() };
        let running = hosted.run(Instant::now() + host.deadline)?;
        let state = Child { running: Some(running), started: Some(Instant::now()), streak: 0 };
        *hosted.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        Ok(hosted)
    }

    /// A child that has loaded the library and taken the options.
    fn run(&self, deadline: Instant) -> Result<Running, OpenError> {
        let mut running = Running::start(&self.host, &self.image, &[], deadline)?;
        let created = running.ask(CREATE, &self.options, deadline);
        let created = created.map_err(|silence| self.host.failed(&self.image.path, silence))?;
        if created.status != abi::OK {
            return Err(LoadError::into(created.refusal(&self.image.path)));
        }
        Ok(running)
    }
}

impl Answers for Hosted {
    fn call(&self, operation: &'static str, input: &[u8]) -> Result<Vec<u8>, CallError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let ready = state.running.take().and_then(Running::if_alive);
        let mut running = match ready {
            Some(running) => running,
            None => {
                std::thread::sleep(state.pause());
                state.started = Some(Instant::now());
                self.run(Instant::now() + self.host.deadline)
                    .map_err(|error| CallError::Died { operation, why: error.to_string() })?
            }
        };
        match running.ask(operation, input, Instant::now() + self.host.deadline) {
            Ok(reply) => {
                state.running = Some(running);
                reply.answer(operation)
            }
            Err(silence) => {
                warn!(file = %self.image.path.display(), operation, ?silence, "plugin process ended");
                Err(match silence {
                    Silence::Timeout => CallError::Timeout { operation, seconds: self.host.deadline.as_secs() },
                    Silence::Died(why) => CallError::Died { operation, why },
                })
            }
        }
    }
}

// === impl Child ===

impl Child {
    /// How long the next process has to wait, so that one that dies at each call does not keep the machine busy.
    fn pause(&mut self) -> Duration {
        let steady = self.started.is_some_and(|started| started.elapsed() > STEADY);
        self.streak = if steady { 0 } else { self.streak.saturating_add(1) };
        match self.streak {
            0 | 1 => Duration::ZERO,
            more => LONGEST_PAUSE.min(FIRST_PAUSE * 2u32.pow((more - 2).min(10))),
        }
    }
}

impl ProcessHost {
    fn failed(&self, path: &Path, silence: Silence) -> OpenError {
        let why = match silence {
            Silence::Timeout => format!("not ready within {} s", self.deadline.as_secs()),
            Silence::Died(why) => why,
        };
        OpenError::Process { path: path.to_owned(), why }
    }
}

// === impl Running ===

impl Running {
    /// A process that is ready to make an instance: of our own child with the library, or of the plugin itself.
    pub(crate) fn start(
        host: &ProcessHost,
        image: &Image,
        environment: &[(&str, &str)],
        deadline: Instant,
    ) -> Result<Self, OpenError> {
        let failed = |why: String| OpenError::Process { path: image.path.clone(), why };
        let io = |error: std::io::Error| failed(error.to_string());
        let (ours, theirs) = UnixStream::pair().map_err(io)?;
        let (program, arguments) = match image.form {
            Form::Library => (&*host.program, &host.arguments[..]),
            // Its standard input, by which the interpreter can open it as well.
            Form::Program => (Path::new("/proc/self/fd/0"), &[][..]),
        };
        let child = Command::new(program)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(image.copy.try_clone().map_err(io)?)
            .stdout(OwnedFd::from(theirs))
            .spawn()
            .map_err(|error| match image.form {
                Form::Library => failed(format!("{}: {error}", program.display())),
                Form::Program => failed(format!("start it: {error} (is what its first line names installed?)")),
            })?;
        debug!(file = %image.path.display(), pid = child.id(), "plugin process started");
        let mut running = Self { channel: Channel::new(ours), child };
        let loaded = running.channel.reply(deadline).map_err(|error| running.silence(&error));
        let loaded = loaded.map_err(|silence| host.failed(&image.path, silence))?;
        if loaded.status != abi::OK {
            return Err(failed(String::from_utf8_lossy(&loaded.bytes).into_owned()));
        }
        Ok(running)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn if_alive(mut self) -> Option<Self> {
        matches!(self.child.try_wait(), Ok(None)).then_some(self)
    }

    pub(crate) fn ask(&mut self, operation: &str, input: &[u8], deadline: Instant) -> Result<Reply, Silence> {
        let asked = self.channel.request(operation, input, deadline);
        asked.and_then(|()| self.channel.reply(deadline)).map_err(|error| self.silence(&error))
    }

    /// What an error on the channel means: the child is too slow, or it is no more.
    fn silence(&mut self, error: &std::io::Error) -> Silence {
        use std::io::ErrorKind::{TimedOut, WouldBlock};
        if matches!(error.kind(), TimedOut | WouldBlock) {
            return Silence::Timeout;
        }
        // Its end of the socket is closed, so it is ending, or has closed it for no good reason.
        let _ = self.child.kill();
        Silence::Died(self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
