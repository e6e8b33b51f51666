//! Input that no host sends, and input that hosts seldom send.

use switchyard_netstate::Fragment;
use switchyard_plugin::abi;
use switchyard_plugin_host::bare::Reply;

use crate::cluster;
use crate::subject::{Checked, Subject, fail, said};

pub(super) fn malformed(subject: &Subject) -> Checked {
    let mut bare = subject.bare()?;
    let (operation, good) = &subject.questions()[3];
    let text = String::from_utf8_lossy(good).into_owned();
    let inputs: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("a brace", b"{".to_vec()),
        ("no object", b"[]".to_vec()),
        ("null", b"null".to_vec()),
        ("a number", b"7".to_vec()),
        ("an object with nothing in it", b"{}".to_vec()),
        ("no JSON", b"{'facts': None}".to_vec()),
        ("bytes that are no text", vec![0xff, 0xfe, 0x00, 0xc0, 0x80]),
        ("half of a question", good[..good.len() / 2].to_vec()),
        ("a question and more", [&good[..], b"}"].concat()),
        ("a node that is a number", text.replacen("\"node\":{", "\"node\":7,\"x\":{", 1).into_bytes()),
        ("a pod that is null", text.replacen("\"pod\":{", "\"pod\":null,\"x\":{", 1).into_bytes()),
        ("an address that is none", text.replacen("10.40.1.5", "10.40.1.500", 1).into_bytes()),
        ("a uid that is a list", text.replacen("\"uid\":\"", "\"uid\":[],\"x\":\"", 1).into_bytes()),
        ("a hundred thousand brackets", vec![b'['; 100_000]),
        ("a hundred thousand objects", "{\"a\":".repeat(100_000).into_bytes()),
        ("a string of 8 MiB", [b"{\"facts\":\"".to_vec(), vec![b'x'; 8 << 20]].concat()),
    ];
    for (what, input) in &inputs {
        match bare.ask(operation, input) {
            Reply::Status(abi::INVALID | abi::FAILED, _) => {}
            Reply::Answer(_) => {
                return Err(fail(format!("{operation} with {what}: is answered as if it were a question")));
            }
            other => return Err(fail(format!("{operation} with {what}: {}", said(&other)))),
        }
    }
    // It still works.
    match bare.ask(operation, good) {
        Reply::Answer(_) => Ok(format!("{} inputs", inputs.len())),
        other => Err(fail(format!("after that, a good question: {}", said(&other)))),
    }
}

pub(super) fn odd(subject: &Subject) -> Checked {
    let mut bare = subject.bare()?;
    let (mut answered, mut refused) = (0, 0);
    for (what, facts, node, peer, pod) in cluster::odd() {
        for (operation, input) in cluster::questions(&facts, &node, &peer, &pod) {
            match bare.ask(operation, &input) {
                Reply::Answer(bytes) if operation == abi::operation::POOL => {
                    serde_json::from_slice::<switchyard_plugin::Pool>(&bytes)
                        .map_err(|error| fail(format!("{operation}, {what}: no pool: {error}")))?;
                    answered += 1;
                }
                Reply::Answer(bytes) => {
                    serde_json::from_slice::<Fragment>(&bytes)
                        .map_err(|error| fail(format!("{operation}, {what}: no fragment: {error}")))?;
                    answered += 1;
                }
                Reply::Status(abi::NOT_IMPLEMENTED | abi::INVALID | abi::FAILED, _) => refused += 1,
                other => return Err(fail(format!("{operation}, {what}: {}", said(&other)))),
            }
        }
    }
    Ok(format!("{answered} answered, {refused} refused"))
}
