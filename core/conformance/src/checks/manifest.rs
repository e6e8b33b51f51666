//! What the manifest says.

use std::collections::BTreeSet;

use switchyard_plugin::Manifest;

use crate::subject::{Checked, Subject, fail};

/// Types that an option can have.
pub(super) const TYPES: [&str; 8] =
    ["string", "integer", "boolean", "cidr", "list of CIDRs", "address", "list", "object"];

pub(super) fn complete(subject: &Subject) -> Checked {
    let problems = problems(&subject.inspected().manifest);
    let file = subject.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let name = &subject.inspected().manifest.name;
    let expected =
        if subject.is_library() { format!("libswitchyard_{name}.so") } else { format!("switchyard_{name}.plugin") };
    let renamed =
        if file == expected { String::new() } else { format!("to be found by name it must be called {expected}") };
    if problems.is_empty() { Ok(renamed) } else { Err(fail(problems.join("; "))) }
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
