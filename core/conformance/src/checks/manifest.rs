//! What the manifest says.

use std::collections::BTreeSet;

use switchyard_plugin::Manifest;
use switchyard_plugin_host::{library_names, program_name};

use crate::subject::{Checked, Subject, fail};

/// Types that an option can have.
pub(super) const TYPES: [&str; 8] =
    ["string", "integer", "boolean", "cidr", "list of CIDRs", "address", "list", "object"];

pub(super) fn complete(subject: &Subject) -> Checked {
    let problems = problems(&subject.inspected().manifest);
    let file = subject.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let found = found_as(&subject.inspected().manifest.name, subject.is_library());
    let renamed = if found.contains(&file) {
        String::new()
    } else {
        format!("to be found by name it must be called {}", found.join(" or "))
    };
    if problems.is_empty() { Ok(renamed) } else { Err(fail(problems.join("; "))) }
}

/// What the file of a plugin may be called.
fn found_as(name: &str, is_library: bool) -> Vec<String> {
    if !is_library {
        return vec![program_name(name)];
    }
    let mut names = library_names(name).to_vec();
    names.dedup();
    names
}

fn problems(manifest: &Manifest) -> Vec<String> {
    let mut problems = Vec::new();
    if manifest.description.is_empty() {
        problems.push("description: is missing".to_owned());
    }
    let mut names = BTreeSet::new();
    for option in &manifest.options {
        let name = &option.name;
        let mut bytes = name.bytes();
        if !bytes.next().is_some_and(|b| b.is_ascii_lowercase()) || !bytes.all(|b| b.is_ascii_alphanumeric()) {
            problems.push(format!("option {name:?}: must be in camelCase"));
        }
        if !names.insert(name) {
            problems.push(format!("option {name}: is there twice"));
        }
        if !TYPES.contains(&option.kind.as_str()) {
            problems.push(format!("option {name}: type {:?} must be one of {}", option.kind, TYPES.join(", ")));
        }
        if option.description.is_empty() {
            problems.push(format!("option {name}: description is missing"));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_makes_of_a_name_is_found_by_it() {
        assert_eq!(found_as("my-net", true), ["libswitchyard_my-net.so", "libswitchyard_my_net.so"]);
        assert_eq!(found_as("mine", true), ["libswitchyard_mine.so"]);
        assert_eq!(found_as("my-net", false), ["switchyard_my-net.plugin"]);
    }

    #[test]
    fn what_is_missing_or_odd_is_named() {
        let manifest = r#"{"name":"a","version":"1","options":[
            {"name":"Mtu","type":"number","description":"x"},{"name":"b","type":"string"},{"name":"b","type":"string"}]}"#;
        let manifest = Manifest::parse(manifest.as_bytes()).unwrap();
        let found = problems(&manifest).join("\n");
        for expected in [
            "description: is missing",
            "option \"Mtu\": must be in camelCase",
            "option Mtu: type \"number\" must be one of string, integer",
            "option b: is there twice",
            "option b: description is missing",
        ] {
            assert!(found.contains(expected), "{found}");
        }
    }
}
