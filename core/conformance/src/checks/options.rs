//! Options that are wrong.

use serde_json::{Value, json};
use switchyard_plugin::{Options, abi};
use switchyard_plugin_host::bare::Reply;

use crate::subject::{Checked, Subject, fail, said};

pub(super) fn unknown(subject: &Subject) -> Checked {
    refused(subject, "noSuchOption", json!(1))?;
    Ok(String::new())
}

pub(super) fn types(subject: &Subject) -> Checked {
    let options = &subject.inspected().manifest.options;
    if options.is_empty() {
        return Ok("it takes none".into());
    }
    for option in options {
        let wrong: &[Value] = match option.kind.as_str() {
            "string" => &[json!(7), json!({ "a": 1 }), json!([])],
            "integer" => &[json!("seven"), json!(true), json!({}), json!(-1), json!(1e300)],
            "boolean" => &[json!("yes"), json!(1), json!([])],
            "cidr" => &[json!("10.0.0.0/33"), json!(10), json!("ten")],
            "address" => &[json!("10.0.0.256"), json!(10), json!({})],
            "list of CIDRs" => &[json!(["10.0.0.0/33"]), json!("10.0.0.0/8 "), json!({ "a": 1 })],
            "list" => &[json!("a"), json!(7), json!({ "a": 1 })],
            _ => &[json!("a"), json!(7), json!([[]])],
        };
        for value in wrong {
            refused(subject, &option.name, value.clone())?;
        }
    }
    Ok(format!("{} options", options.len()))
}

/// With this option on top, `create` must answer INVALID and name it.
fn refused(subject: &Subject, option: &str, value: Value) -> Result<(), crate::Outcome> {
    let mut options: Options = subject.options.clone();
    let given = format!("{option} = {value}");
    options.insert(option.to_owned(), value);
    let mut bare = subject.bare()?;
    match bare.create(&serde_json::to_vec(&options).expect("a JSON map serialises")) {
        Reply::Status(abi::INVALID, said) => {
            let named: Value = serde_json::from_str(&said).unwrap_or_default();
            if named["option"] == option && named["problem"].as_str().is_some_and(|problem| !problem.is_empty()) {
                return Ok(());
            }
            Err(fail(format!("{given}: is refused, but not as {{\"option\": \"{option}\", \"problem\": ..}}: {said}")))
        }
        Reply::Answer(_) => Err(fail(format!("{given}: is taken"))),
        other => Err(fail(format!("{given}: {}", said(&other)))),
    }
}
