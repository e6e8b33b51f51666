//! Plugins in a child process: a crash or an endless loop ends the child, not us.
//!
//! The child gets a private copy of the library as its standard input and one end of a socket as its standard output. Over the
//! socket it is asked one question after the other, see [`frame`]. A child that does not answer in time is killed; the next call
//! starts another one. Nothing is lost by that, since a plugin is a pure function.

pub mod child;
mod frame;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use switchyard_plugin::abi;
use tracing::{debug, warn};

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

/// A plugin in a child process.
pub(crate) struct Hosted {
    host: ProcessHost,
    path: PathBuf,
    copy: OwnedFd,
    options: Vec<u8>,
    /// The child that answers; none after one was ended.
    running: Mutex<Option<Running>>,
}

struct Running {
    channel: Channel,
    child: Child,
}

/// Why there was no reply.
#[derive(Debug)]
enum Silence {
    Timeout,
    Died(String),
}

// === impl ProcessHost ===

impl Default for ProcessHost {
    fn default() -> Self {
        // Still the right program after its file was replaced.
        let program = PathBuf::from("/proc/self/exe");
        Self { program, arguments: vec!["plugin-host".into()], deadline: Duration::from_secs(5) }
    }
}

impl ProcessHost {
    /// Starts the library `copy` in a process, with these options; errors speak about `path`.
    pub(crate) fn start(&self, path: &Path, copy: OwnedFd, options: Vec<u8>) -> Result<Hosted, OpenError> {
        let running = Mutex::new(None);
        let hosted = Hosted { host: self.clone(), path: path.to_owned(), copy, options, running };
        let started = hosted.run(Instant::now() + self.deadline)?;
        *hosted.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(started);
        Ok(hosted)
    }
}

// === impl Hosted ===

impl Answers for Hosted {
    fn call(&self, operation: &'static str, input: &[u8]) -> Result<Vec<u8>, CallError> {
        let mut slot = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let deadline = Instant::now() + self.host.deadline;
        let ready = slot.take().and_then(Running::if_alive);
        let mut running = match ready {
            Some(running) => running,
            None => self.run(deadline).map_err(|error| CallError::Died { operation, why: error.to_string() })?,
        };
        match running.ask(operation, input, deadline) {
            Ok(reply) => {
                *slot = Some(running);
                reply.answer(operation)
            }
            Err(silence) => {
                warn!(file = %self.path.display(), operation, ?silence, "plugin process ended");
                Err(match silence {
                    Silence::Timeout => CallError::Timeout { operation, seconds: self.host.deadline.as_secs() },
                    Silence::Died(why) => CallError::Died { operation, why },
                })
            }
        }
    }
}

impl Hosted {
    /// A child that has loaded the library and taken the options.
    fn run(&self, deadline: Instant) -> Result<Running, OpenError> {
        let failed = |why: String| OpenError::Process { path: self.path.clone(), why };
        let io = |error: std::io::Error| failed(error.to_string());
        let (ours, theirs) = UnixStream::pair().map_err(io)?;
        let program = &self.host.program;
        let child = Command::new(program)
            .args(&self.host.arguments)
            .stdin(self.copy.try_clone().map_err(io)?)
            .stdout(OwnedFd::from(theirs))
            .spawn()
            .map_err(|error| failed(format!("{}: {error}", program.display())))?;
        debug!(file = %self.path.display(), pid = child.id(), "plugin process started");
        let mut running = Running { channel: Channel::new(ours), child };
        let silent = |silence: Silence| {
            failed(match silence {
                Silence::Timeout => format!("not ready within {} s", self.host.deadline.as_secs()),
                Silence::Died(why) => why,
            })
        };
        let loaded = running.channel.reply(deadline).map_err(|error| running.silence(&error)).map_err(silent)?;
        if loaded.status != abi::OK {
            return Err(failed(String::from_utf8_lossy(&loaded.bytes).into_owned()));
        }
        let created = running.ask(CREATE, &self.options, deadline).map_err(silent)?;
        if created.status != abi::OK {
            return Err(LoadError::into(created.refusal(&self.path)));
        }
        Ok(running)
    }
}

// === impl Running ===

impl Running {
    fn if_alive(mut self) -> Option<Self> {
        matches!(self.child.try_wait(), Ok(None)).then_some(self)
    }

    fn ask(&mut self, operation: &str, input: &[u8], deadline: Instant) -> Result<Reply, Silence> {
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
