//! What a plugin says about itself before any of its code runs.

use serde::{Deserialize, Serialize};

/// A plugin's description. In a library it lies, as JSON, in an ELF section of its own, and is read before the library is opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// Its name, a DNS label; also the last part of the file name: `libswitchyard_NAME.so`.
    pub name: String,
    /// Its own version.
    pub version: String,
    /// A sentence for people.
    #[serde(default)]
    pub description: String,
    /// Kernel features it cannot do without: `vxlan`, `bridge`, `nft`, ...
    #[serde(default)]
    pub needs: Vec<String>,
    /// The options it takes.
    #[serde(default)]
    pub options: Vec<OptionSpec>,
    /// Kinds of our API group that it brings.
    #[serde(default)]
    pub kinds: Vec<String>,
}

/// One option of a plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OptionSpec {
    /// Its name, in camelCase.
    pub name: String,
    /// `string`, `integer`, `boolean`, `cidr`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// Its default, as text for people.
    #[serde(default)]
    pub default: String,
    /// What it does.
    #[serde(default)]
    pub description: String,
}
