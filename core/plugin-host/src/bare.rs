//! A plugin asked in the words of the boundary, bytes in and bytes out: for tools that look at plugins, such as a conformance kit.
//! Always in a process of its own, so that whatever it does is an observation.

use std::path::Path;
use std::time::Instant;

use switchyard_plugin::abi;

use crate::file::{Content, InspectError, Inspected};
use crate::process::frame::{CONCURRENT, CONFINE, CREATE};
use crate::process::{Image, ProcessHost, Running, Silence};
use crate::registry::OpenError;
use crate::{confine, library};

/// A plugin file as it was when it was read.
pub struct Prepared {
    image: Image,
    inspected: Inspected,
}

/// A plugin's process, before or after an instance was made.
pub struct Bare {
    host: ProcessHost,
    running: Running,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Status `OK`, and the answer.
    Answer(Vec<u8>),
    /// Another status of the boundary, and the message.
    Status(i32, String),
    /// More bytes than a host takes.
    TooLong,
    /// It made a system call that it was not to make: its name.
    SystemCall(String),
    /// Nothing within the deadline.
    Late,
    /// Its process ended: how.
    Died(String),
}

// === impl Prepared ===

impl Prepared {
    /// Reads and inspects a file. Runs none of its code.
    pub fn read(path: &Path) -> Result<Self, InspectError> {
        let content = Content::read(path)?;
        let inspected = content.inspect()?;
        Ok(Self { image: Image::of(&content, inspected.form)?, inspected })
    }

    /// What it says about itself.
    pub fn inspected(&self) -> &Inspected {
        &self.inspected
    }

    /// Starts a process, with these additions to its environment. No instance is made yet.
    pub fn start(&self, host: &ProcessHost, environment: &[(&str, &str)]) -> Result<Bare, OpenError> {
        let running = Running::start(host, &self.image, environment, Instant::now() + host.deadline)?;
        Ok(Bare { host: host.clone(), running })
    }
}

// === impl Bare ===

impl Bare {
    /// Makes an instance with these options, and destroys the one there was.
    pub fn create(&mut self, options: &[u8]) -> Reply {
        self.ask(CREATE, options)
    }

    /// Asks.
    pub fn ask(&mut self, operation: &str, input: &[u8]) -> Reply {
        let reply = match self.running.ask(operation, input, Instant::now() + self.host.deadline) {
            Ok(reply) => reply,
            Err(Silence::Timeout) => return Reply::Late,
            Err(Silence::Died(why)) => return Reply::Died(why),
        };
        let text = || String::from_utf8_lossy(&reply.bytes[..reply.bytes.len().min(4096)]).into_owned();
        match reply.status {
            abi::OK => Reply::Answer(reply.bytes),
            library::TOO_LONG => Reply::TooLong,
            confine::SYSTEM_CALL => Reply::SystemCall(confine::name(&text())),
            status => Reply::Status(status, text()),
        }
    }

    /// From now on a system call that no pure function makes is [`Reply::SystemCall`]. Only for libraries: a program has to tell
    /// what it needs, and answers `NOT_IMPLEMENTED`.
    pub fn confine(&mut self) -> Reply {
        self.ask(CONFINE, &[])
    }

    /// Asks the same again and again, from several threads at once; the answer if it was always the same. Only for libraries.
    pub fn concurrent(&mut self, operation: &str, input: &[u8]) -> Reply {
        let mut both = operation.as_bytes().to_vec();
        both.push(b'\n');
        both.extend_from_slice(input);
        self.ask(CONCURRENT, &both)
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }
}
