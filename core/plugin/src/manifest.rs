//! What a plugin says about itself before any of its code runs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Options;

/// A plugin's description. In a library it lies, as JSON, in an ELF section of its own, and is read before the library is opened.
/// Fields that a host does not know are those of a newer minor version, and are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
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
#[serde(rename_all = "camelCase")]
pub struct OptionSpec {
    /// Its name, in camelCase.
    pub name: String,
    /// `string`, `integer`, `boolean`, `cidr`, `list of CIDRs`, `address`, `list` or `object`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its default, as text for people.
    #[serde(default)]
    pub default: String,
    /// What it does.
    #[serde(default)]
    pub description: String,
    /// Kernel features that single values of it cannot do without, by value; the default counts if no value is given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub needs: BTreeMap<String, Vec<String>>,
}

// === impl Manifest ===

impl Manifest {
    /// Reads a manifest's JSON.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let manifest: Self = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let name = &manifest.name;
        let fits = (1..=63).contains(&name.len()) && name.bytes().all(good);
        if !fits || name.starts_with('-') || name.ends_with('-') {
            return Err(format!(
                "name {name:?}: must be 1 to 63 of a-z, 0-9 and '-', not beginning or ending with '-'"
            ));
        }
        if manifest.version.is_empty() || manifest.version.len() > 63 {
            return Err(format!("version {:?}: must have 1 to 63 bytes", manifest.version));
        }
        Ok(manifest)
    }

    /// Kernel features that it cannot do without, given these options.
    pub fn needs_with(&self, options: &Options) -> Vec<&str> {
        let of_options = self.options.iter().flat_map(|option| option.needs_with(options));
        self.needs.iter().chain(of_options).map(String::as_str).collect()
    }

    /// Like [`parse`](Self::parse), for authors' tests: a field that is not of this version is an error as well.
    pub fn check(json: &str) -> Result<Self, String> {
        let manifest = Self::parse(json.as_bytes())?;
        let given: Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
        let known = serde_json::to_value(&manifest).map_err(|error| error.to_string())?;
        match unknown("", &given, &known) {
            Some(field) => Err(format!("field {field} is unknown")),
            None => Ok(manifest),
        }
    }
}

// === impl OptionSpec ===

impl OptionSpec {
    fn needs_with(&self, options: &Options) -> &[String] {
        let value = options.get(&self.name).and_then(Value::as_str).unwrap_or(&self.default);
        self.needs.get(value).map_or(&[], Vec::as_slice)
    }
}

/// The first field of `given` that `known` does not have.
fn unknown(at: &str, given: &Value, known: &Value) -> Option<String> {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => given.iter().find_map(|(name, value)| match known.get(name) {
            Some(known) => unknown(&format!("{at}{name}."), value, known),
            None => Some(format!("{at}{name}")),
        }),
        (Value::Array(given), Value::Array(known)) => given.iter().zip(known).find_map(|(g, k)| unknown(at, g, k)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_ignores_what_it_does_not_know_and_an_author_is_told() {
        let json = r#"{"name":"a","version":"1","options":[{"name":"x","type":"string","defualt":"1"}]}"#;
        assert_eq!(Manifest::parse(json.as_bytes()).unwrap().options.len(), 1);
        assert_eq!(Manifest::check(json).unwrap_err(), "field options.defualt is unknown");
        assert!(Manifest::check(r#"{"name":"a","version":"1"}"#).is_ok());
    }

    #[test]
    fn an_option_needs_what_its_value_needs() {
        let json = r#"{"name":"a","version":"1","needs":["bridge"],"options":[
            {"name":"by","type":"string","default":"vxlan","needs":{"vxlan":["vxlan"],"geneve":["geneve"]}}]}"#;
        let manifest = Manifest::check(json).unwrap();
        for (options, needs) in [
            (r#"{}"#, &["bridge", "vxlan"][..]),
            (r#"{"by":"geneve"}"#, &["bridge", "geneve"]),
            (r#"{"by":"post"}"#, &["bridge"]),
        ] {
            assert_eq!(manifest.needs_with(&serde_json::from_str(options).unwrap()), needs, "{options}");
        }
    }

    #[test]
    fn names_are_labels() {
        for bad in ["", "A", "a/b", "-a", "a-", &"x".repeat(64)] {
            let json = format!(r#"{{"name":"{bad}","version":"1"}}"#);
            assert!(Manifest::parse(json.as_bytes()).unwrap_err().contains("1 to 63"), "{bad}");
        }
    }
}
