//! The boundary: operations, statuses, arguments of later versions.

use switchyard_plugin::abi;
use switchyard_plugin_host::bare::Reply;

use crate::cluster;
use crate::subject::{Checked, Subject, answer, fail, optional, said};

pub(super) fn load(subject: &Subject) -> Checked {
    subject.bare()?;
    let (major, minor) = subject.inspected().abi;
    Ok(format!("ABI {major}.{minor}"))
}

pub(super) fn operations(subject: &Subject) -> Checked {
    let mut bare = subject.bare()?;
    let mut missing = Vec::new();
    for (operation, input) in subject.questions() {
        if optional(operation, bare.ask(operation, &input))?.is_none() {
            missing.push(operation);
        }
    }
    for unknown in ["", "explain", "pods", "NODE"] {
        match bare.ask(unknown, b"{}") {
            Reply::Status(abi::NOT_IMPLEMENTED, _) => {}
            other => return Err(fail(format!("operation {unknown:?}: {}", said(&other)))),
        }
    }
    Ok(if missing.is_empty() { String::new() } else { format!("without {}", missing.join(", ")) })
}

pub(super) fn arguments(subject: &Subject) -> Checked {
    let mut bare = subject.bare()?;
    for (operation, input) in subject.questions() {
        let Some(plain) = optional(operation, bare.ask(operation, &input))? else { continue };
        let mut value: serde_json::Value = serde_json::from_slice(&input).expect("our own question");
        for part in ["facts", "node", "peer", "pod"] {
            if let Some(part) = value.get_mut(part).and_then(serde_json::Value::as_object_mut) {
                part.insert("ofALaterVersion".into(), serde_json::json!({ "a": [1, null, "b"] }));
            }
        }
        value.as_object_mut().expect("an object").insert("later".into(), 7.into());
        let more = answer(operation, bare.ask(operation, value.to_string().as_bytes()))?;
        if more != plain {
            return Err(fail(format!("{operation}: answers differently when the input has more fields")));
        }
    }
    Ok(String::new())
}

impl Subject {
    /// One question of each kind.
    pub(crate) fn questions(&self) -> [(&'static str, Vec<u8>); 7] {
        let pod = cluster::pod("a", cluster::ip("10.40.1.5"));
        cluster::questions(&cluster::facts(), &cluster::node(1), &cluster::node(2), &pod)
    }
}
