//! Where a plugin's code runs.

use serde::{Deserialize, Serialize};

/// Where a plugin's code runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hosting {
    /// Loaded into the process that asks it.
    #[default]
    InProcess,
    /// In a child process.
    Process,
}
