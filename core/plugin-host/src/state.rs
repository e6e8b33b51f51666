//! How a plugin is, in words that people can read.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::file::{InspectError, Inspected};

/// How a plugin is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Its file is there and says that it is a plugin; none of its code has run.
    Declared,
    /// Its library is open; there is no instance.
    Loaded,
    /// An instance took its options and answers.
    Started,
    /// A call panicked; the instance is asked no more.
    Poisoned,
    /// It could not be inspected, loaded or started, for this reason.
    Failed(String),
}

/// A plugin file on the search path.
#[derive(Debug)]
pub struct Listed {
    /// Where it is.
    pub path: PathBuf,
    /// What it says about itself, or why it cannot be loaded.
    pub inspected: Result<Inspected, InspectError>,
    /// How it is, in this process.
    pub state: State,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Declared => f.write_str("declared"),
            Self::Loaded => f.write_str("loaded"),
            Self::Started => f.write_str("started"),
            Self::Poisoned => f.write_str("poisoned"),
            Self::Failed(reason) => write!(f, "failed: {reason}"),
        }
    }
}
