//! The plugin under test.

use std::cell::OnceCell;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use switchyard_plugin::{Hosting, Options, abi};
use switchyard_plugin_host::bare::{Bare, Prepared, Reply};
use switchyard_plugin_host::{Form, Inspected, Plugin, ProcessHost, Registry};

use crate::report::Outcome;
use crate::world::{World, WorldError};

/// What a check looks at.
pub(crate) struct Subject {
    pub(crate) file: PathBuf,
    pub(crate) prepared: Prepared,
    pub(crate) options: Options,
    pub(crate) host: ProcessHost,
    /// Opened once, by the first check that wants typed answers.
    pub(crate) plugin: OnceCell<Result<Arc<dyn Plugin>, String>>,
    /// Made once, by the first check that sends packets.
    pub(crate) world: OnceCell<Result<World, WorldError>>,
    /// Whether this process is in network namespaces of its own; why not.
    pub(crate) lab: Result<(), String>,
}

/// How a check ends before its end. What fails is `Err(Outcome::Fail)`, so that `?` leaves with it.
pub(crate) type Checked = Result<String, Outcome>;

// === impl Subject ===

impl Subject {
    /// A process with an instance of the plugin.
    pub(crate) fn bare(&self) -> Result<Bare, Outcome> {
        self.bare_in(&[])
    }

    /// The same, in another environment.
    pub(crate) fn bare_in(&self, environment: &[(&str, &str)]) -> Result<Bare, Outcome> {
        let started = self.prepared.start(&self.host, environment);
        let mut bare = started.map_err(|error| fail(format!("it does not start: {error}")))?;
        answer("create", bare.create(&self.options()))?;
        Ok(bare)
    }

    /// The plugin behind typed and checked calls.
    pub(crate) fn plugin(&self) -> Result<&dyn Plugin, Outcome> {
        let open = || {
            let registry = Registry::new(Vec::new()).with_process_host(self.host.clone());
            let path = self.file.to_string_lossy();
            registry.open(&path, &self.options, Hosting::Process).map_err(|error| error.to_string())
        };
        self.plugin.get_or_init(open).as_ref().map(|plugin| &**plugin).map_err(fail)
    }

    pub(crate) fn inspected(&self) -> &Inspected {
        self.prepared.inspected()
    }

    pub(crate) fn options(&self) -> Vec<u8> {
        serde_json::to_vec(&self.options).expect("a JSON map serialises")
    }

    pub(crate) fn is_library(&self) -> bool {
        self.inspected().form == Form::Library
    }
}

pub(crate) fn fail(reason: impl Into<String>) -> Outcome {
    Outcome::Fail(reason.into())
}

pub(crate) fn skip(reason: impl Into<String>) -> Outcome {
    Outcome::Skip(reason.into())
}

/// The answer to an operation, or the failure that it was.
pub(crate) fn answer(operation: &str, reply: Reply) -> Result<Vec<u8>, Outcome> {
    match reply {
        Reply::Answer(bytes) => Ok(bytes),
        other => Err(fail(format!("{operation}: {}", said(&other)))),
    }
}

/// The answer, `None` for what a plugin need not have.
pub(crate) fn optional(operation: &str, reply: Reply) -> Result<Option<Vec<u8>>, Outcome> {
    match reply {
        Reply::Status(abi::NOT_IMPLEMENTED, _) if ![abi::operation::NODE, abi::operation::POD].contains(&operation) => {
            Ok(None)
        }
        other => answer(operation, other).map(Some),
    }
}

/// A reply in a few words.
pub(crate) fn said(reply: &Reply) -> String {
    let mut text = match reply {
        Reply::Answer(bytes) => format!("answered {}", String::from_utf8_lossy(&bytes[..bytes.len().min(200)])),
        Reply::Status(abi::PANICKED, message) => format!("it panicked: {message}"),
        Reply::Status(status, message) => format!("it failed with status {status}: {message}"),
        Reply::TooLong => "its answer is larger than a host takes".into(),
        Reply::SystemCall(name) => format!("it called {name}"),
        Reply::Late => "no answer in time".into(),
        Reply::Died(how) => format!("its process ended: {how}"),
    };
    if text.len() > 400 {
        text = text.chars().take(399).collect();
        let _ = write!(text, "…");
    }
    text
}
