//! `yard describe`: an object in words, and what happened to it.
//!
//! Every kind is shown the same way, as kubectl shows those it has no form for: each field under its name in words.

use std::fmt::Write as _;

use anyhow::{Context as _, ensure};
use serde_json::{Map, Value};

use crate::api::{Api, JSON, Kind, TABLE, block_on};
use crate::output;
use crate::which::Which;

/// Show objects in words, with their events.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// KIND NAME..., or KIND/NAME...
    #[arg(required = true)]
    what: Vec<String>,
    /// Namespace.
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

/// Metadata that says nothing to people.
const LEFT_OUT: [&str; 5] = ["managedFields", "resourceVersion", "uid", "generation", "generateName"];
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

pub(crate) fn run(args: &Args, cluster: &Which) -> anyhow::Result<()> {
    block_on(async {
        let (first, names) = args.what.split_first().context("say what to describe")?;
        let words: Vec<(&str, &str)> = match first.split_once('/') {
            Some(_) => {
                let pair = |word| str::split_once(word, '/').with_context(|| format!("{word}: must be KIND/NAME"));
                args.what.iter().map(|word| pair(word)).collect::<anyhow::Result<_>>()?
            }
            None => names.iter().map(|name| (first.as_str(), name.as_str())).collect(),
        };
        ensure!(!words.is_empty(), "say which {first}: yard describe {first} NAME");
        let api = Api::of(cluster).await?;
        let mut texts = Vec::new();
        for (kind, name) in words {
            let kind = Kind::named(&api, kind).await?;
            let object = api.get(&format!("{}/{name}", kind.path(Some(&args.namespace))), JSON).await?;
            let events = events(&api, &object).await?;
            texts.push(describe(&object, &events));
        }
        output::print(&texts.join("\n\n"))?;
        Ok(())
    })
}

/// The table of events about an object.
async fn events(api: &Api, object: &Value) -> anyhow::Result<Value> {
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    let within = object["metadata"]["namespace"].as_str().map(|name| format!("namespaces/{name}/")).unwrap_or_default();
    api.get(&format!("/api/v1/{within}events?fieldSelector=involvedObject.uid%3D{uid}"), TABLE).await
}

fn describe(object: &Value, events: &Value) -> String {
    let mut text = String::new();
    let mut shown = object.as_object().cloned().unwrap_or_default();
    // The fields' own order is kept: removing one by name would put the last in its place.
    shown.retain(|name, _| name != "metadata");
    if let Some(mut rest) = object["metadata"].as_object().cloned() {
        rest.retain(|name, _| !LEFT_OUT.contains(&name.as_str()));
        if let Some(annotations) = rest.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove(LAST_APPLIED);
        }
        fields(&mut text, &rest, 0);
    }
    fields(&mut text, &shown, 0);
    let rows = rows(events);
    match rows.is_empty() {
        true => text.push_str("Events:  <none>\n"),
        false => {
            text.push_str("Events:\n");
            for line in output::table(&["LAST SEEN", "TYPE", "REASON", "MESSAGE"], &rows).lines() {
                let _ = writeln!(text, "  {line}");
            }
        }
    }
    text
}

/// The cells of a table of events, without the object, which is known.
fn rows(events: &Value) -> Vec<Vec<String>> {
    let columns = events["columnDefinitions"].as_array().map_or(&[][..], Vec::as_slice);
    let at = |name: &str| columns.iter().position(|column| column["name"] == name);
    let wanted: Vec<_> = ["Last Seen", "Type", "Reason", "Message"].into_iter().filter_map(at).collect();
    let cell = |row: &Value, at: usize| {
        let cell = &row["cells"][at];
        cell.as_str().map_or_else(|| cell.to_string(), |text| text.trim_end().to_owned())
    };
    let rows = events["rows"].as_array().into_iter().flatten();
    rows.map(|row| wanted.iter().map(|&at| cell(row, at)).collect()).collect()
}

fn fields(text: &mut String, fields: &Map<String, Value>, depth: usize) {
    let width = fields.iter().filter(|(_, value)| is_plain(value)).map(|(name, _)| words(name).chars().count()).max();
    let width = width.unwrap_or(0) + 1;
    for (name, value) in fields {
        field(text, &words(name), value, depth, width);
    }
}

fn field(text: &mut String, name: &str, value: &Value, depth: usize, width: usize) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) if map.is_empty() => {}
        Value::Array(list) if list.is_empty() => {}
        // Labels, annotations and selectors: keys are not ours to put into words.
        Value::Object(map) if map.values().all(Value::is_string) && map.keys().any(|key| !is_word(key)) => {
            let _ = writeln!(text, "{indent}{name}:");
            for (key, value) in map {
                let _ = writeln!(text, "{indent}  {key}={}", plain(value));
            }
        }
        Value::Object(map) => {
            let _ = writeln!(text, "{indent}{name}:");
            fields(text, map, depth + 1);
        }
        Value::Array(list) if list.iter().all(is_plain) => {
            let _ = writeln!(text, "{indent}{name}:");
            for value in list {
                let _ = writeln!(text, "{indent}  {}", plain(value));
            }
        }
        Value::Array(list) => {
            let _ = writeln!(text, "{indent}{name}:");
            for (index, value) in list.iter().enumerate() {
                if index > 0 {
                    let _ = writeln!(text, "{indent}  --");
                }
                match value {
                    Value::Object(map) => fields(text, map, depth + 1),
                    other => field(text, "Item", other, depth + 1, 0),
                }
            }
        }
        value => {
            let _ = writeln!(text, "{indent}{:width$}  {}", format!("{name}:"), plain(value));
        }
    }
}

fn is_plain(value: &Value) -> bool {
    !value.is_object() && !value.is_array()
}

fn is_word(key: &str) -> bool {
    key.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// Control characters could move a terminal's cursor, or worse.
fn plain(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// `terminationGracePeriodSeconds` as `Termination Grace Period Seconds`, `podIPs` as `Pod IPs`.
fn words(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let mut words = String::new();
    for (at, &letter) in letters.iter().enumerate() {
        let begins = at > 0 && letter.is_uppercase() && !letters[at - 1].is_uppercase();
        if begins {
            words.push(' ');
        }
        match at {
            0 => words.extend(letter.to_uppercase()),
            _ => words.push(letter),
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_object_is_put_into_words() {
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web", "namespace": "shop", "uid": "u", "labels": {"app.kubernetes.io/name": "web"},
                "managedFields": [{}], "annotations": {LAST_APPLIED: "{}"}},
            "spec": {"containers": [{"name": "a", "args": ["x\u{1b}[2J", "y"]}, {"name": "b"}], "nodeName": "n1"},
            "status": {"podIPs": [{"ip": "10.40.1.2"}]},
        });
        let events = json!({
            "columnDefinitions": [{"name": "Last Seen"}, {"name": "Type"}, {"name": "Reason"}, {"name": "Object"}, {"name": "Message"}],
            "rows": [{"cells": ["3s", "Normal", "Started", "pod/web", "Started container a"]}],
        });
        let expected = "\
Name:       web
Namespace:  shop
Labels:
  app.kubernetes.io/name=web
Api Version:  v1
Kind:         Pod
Spec:
  Containers:
    Name:  a
    Args:
      x [2J
      y
    --
    Name:  b
  Node Name:  n1
Status:
  Pod IPs:
    Ip:  10.40.1.2
Events:
  LAST SEEN   TYPE     REASON    MESSAGE
  3s          Normal   Started   Started container a
";
        assert_eq!(describe(&object, &events), expected);
        assert!(describe(&object, &json!({})).ends_with("Events:  <none>\n"));
    }
}
