//! Bodies in protocol buffers.
//!
//! kubectl's own verbs (`create namespace`, `create token`, `auth can-i`, ...) send nothing else for the built-in kinds. We read them into the
//! JSON the rest of the server works with, guided by a table of field numbers, and always answer in JSON, which every client that sends
//! protobuf takes as well. A field the table does not have is an error, never dropped.

use std::collections::HashMap;
use std::sync::LazyLock;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

use crate::meta;
use crate::status::{ApiError, Result};

/// What a body in protocol buffers begins with.
const MAGIC: &[u8] = b"k8s\0";
/// Messages inside messages at most.
const DEEPEST: usize = 64;

type Messages = HashMap<&'static str, HashMap<u64, Field>>;

struct Field {
    name: &'static str,
    shape: Shape,
    kind: &'static str,
}

#[derive(Clone, Copy, PartialEq)]
enum Shape {
    One,
    List,
    Map,
    /// The message's fields belong to the one around it.
    Inline,
}

enum Wire<'a> {
    Number(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
}

static MESSAGES: LazyLock<Messages> = LazyLock::new(|| {
    let lines = include_str!("messages.txt").lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.split(' ');
            let name = words.next().unwrap_or("");
            (name, words.filter_map(field).collect())
        })
        .collect()
});

fn field(word: &'static str) -> Option<(u64, Field)> {
    let (number, rest) = word.split_once('=')?;
    let (name, kind) = rest.split_once(':')?;
    let shape = match name.as_bytes().last()? {
        b'*' => Shape::List,
        b'%' => Shape::Map,
        b'^' => Shape::Inline,
        _ => Shape::One,
    };
    Some((number.parse().ok()?, Field { name: name.trim_end_matches(['*', '%', '^']), shape, kind }))
}

/// Reads a body: an envelope that names the kind, and the object.
pub fn decode(body: &[u8]) -> Result<Value> {
    let wrong = |why: &str| ApiError::bad_request(format!("the body is not good protobuf: {why}"));
    let envelope = body.strip_prefix(MAGIC).ok_or_else(|| wrong("it does not begin with k8s\\0"))?;
    let (mut version, mut kind, mut raw) = ("", "", &[][..]);
    let mut rest = envelope;
    while let Some((number, wire)) = next(&mut rest).map_err(|error| wrong(&error))? {
        match (number, wire) {
            (1, Wire::Bytes(mut type_meta)) => {
                while let Some((number, wire)) = next(&mut type_meta).map_err(|error| wrong(&error))? {
                    let Wire::Bytes(bytes) = wire else { continue };
                    let text = std::str::from_utf8(bytes).map_err(|_| wrong("a name is not UTF-8"))?;
                    match number {
                        1 => version = text,
                        2 => kind = text,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let group = version.split_once('/').map_or("core", |(group, _)| group.split('.').next().unwrap_or(group));
    let group = if kind == "DeleteOptions" { "meta" } else { group };
    let name = format!("{group}.{kind}");
    if !MESSAGES.contains_key(name.as_str()) {
        let given = format!("application/vnd.kubernetes.protobuf of {version} {kind}");
        return Err(ApiError::unsupported_media(&given, "application/json, application/yaml"));
    }
    let mut object = Map::new();
    object.insert("apiVersion".into(), json!(version));
    object.insert("kind".into(), json!(kind));
    message(&name, raw, &mut object, 0).map_err(|error| wrong(&error))?;
    Ok(Value::Object(object))
}

fn message(name: &str, bytes: &[u8], out: &mut Map<String, Value>, depth: usize) -> Result<(), String> {
    if depth > DEEPEST {
        return Err("messages are nested too deeply".into());
    }
    let fields = MESSAGES.get(name).ok_or_else(|| format!("message {name} is not known; send JSON"))?;
    let mut rest = bytes;
    while let Some((number, wire)) = next(&mut rest)? {
        let field = fields.get(&number).ok_or_else(|| format!("field {number} of {name} is not known; send JSON"))?;
        match field.shape {
            Shape::One => {
                let value = value(field.kind, wire, depth)?;
                // An empty string is how Go writes a string nobody set.
                if !value.is_null() && value != "" {
                    out.insert(field.name.into(), value);
                }
            }
            Shape::Inline => {
                if let Wire::Bytes(bytes) = wire {
                    message(field.kind, bytes, out, depth + 1)?;
                }
            }
            Shape::List => {
                let list = out.entry(field.name).or_insert_with(|| json!([]));
                if let Some(list) = list.as_array_mut() {
                    list.push(value(field.kind, wire, depth)?);
                }
            }
            Shape::Map => {
                let Wire::Bytes(mut entry) = wire else { return Err(format!("{name}.{} is no map", field.name)) };
                let (mut key, mut held) = (String::new(), empty(field.kind));
                while let Some((number, wire)) = next(&mut entry)? {
                    match number {
                        1 => key = value("s", wire, depth)?.as_str().unwrap_or("").to_owned(),
                        _ => held = value(field.kind, wire, depth)?,
                    }
                }
                meta::child(out, field.name).insert(key, held);
            }
        }
    }
    Ok(())
}

fn empty(kind: &str) -> Value {
    match kind {
        "s" | "y" => json!(""),
        "i" => json!(0),
        "b" => json!(false),
        _ => json!({}),
    }
}

fn value(kind: &str, wire: Wire<'_>, depth: usize) -> Result<Value, String> {
    Ok(match (kind, wire) {
        ("s", Wire::Bytes(bytes)) => json!(std::str::from_utf8(bytes).map_err(|_| "a string is not UTF-8")?),
        ("y", Wire::Bytes(bytes)) => json!(BASE64_STANDARD.encode(bytes)),
        ("i", Wire::Number(number)) => json!(number as i64),
        ("b", Wire::Number(number)) => json!(number != 0),
        ("d", Wire::Fixed64(bits)) => json!(f64::from_bits(bits)),
        (kind, Wire::Bytes(bytes)) => match kind {
            "meta.Time" => time(bytes, false)?,
            "meta.MicroTime" => time(bytes, true)?,
            "meta.Duration" => json!(format!("{}ns", numbers(bytes)?.0)),
            "resource.Quantity" => first_text(bytes)?,
            "meta.FieldsV1" | "runtime.RawExtension" => raw(bytes)?,
            "intstr.IntOrString" => int_or_string(bytes)?,
            // A map's value that is a list.
            "authorization.ExtraValue" | "authentication.ExtraValue" => {
                let mut map = Map::new();
                message(kind, bytes, &mut map, depth + 1)?;
                map.shift_remove("items").unwrap_or_else(|| json!([]))
            }
            kind => {
                let mut map = Map::new();
                message(kind, bytes, &mut map, depth + 1)?;
                Value::Object(map)
            }
        },
        (kind, _) => return Err(format!("a field of type {kind} has another type on the wire")),
    })
}

/// Fields 1 and 2 as numbers.
fn numbers(mut bytes: &[u8]) -> Result<(i64, i64), String> {
    let mut found = (0, 0);
    while let Some((number, wire)) = next(&mut bytes)? {
        match (number, wire) {
            (1, Wire::Number(value)) => found.0 = value as i64,
            (2, Wire::Number(value)) => found.1 = value as i64,
            _ => {}
        }
    }
    Ok(found)
}

fn time(bytes: &[u8], micros: bool) -> Result<Value, String> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (seconds, nanos) = numbers(bytes)?;
    let time = jiff::Timestamp::new(seconds, i32::try_from(nanos).unwrap_or(0)).map_err(|error| error.to_string())?;
    Ok(json!(if micros { time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string() } else { meta::timestamp(time) }))
}

fn first_text(mut bytes: &[u8]) -> Result<Value, String> {
    while let Some((number, wire)) = next(&mut bytes)? {
        if let (1, Wire::Bytes(text)) = (number, wire) {
            return value("s", Wire::Bytes(text), 0);
        }
    }
    Ok(json!("0"))
}

fn raw(mut bytes: &[u8]) -> Result<Value, String> {
    while let Some((number, wire)) = next(&mut bytes)? {
        if let (1, Wire::Bytes(text)) = (number, wire) {
            return serde_json::from_slice(text).map_err(|error| format!("embedded JSON: {error}"));
        }
    }
    Ok(Value::Null)
}

fn int_or_string(mut bytes: &[u8]) -> Result<Value, String> {
    let (mut is_text, mut number, mut text) = (false, 0, json!(""));
    while let Some((field, wire)) = next(&mut bytes)? {
        match (field, wire) {
            (1, Wire::Number(kind)) => is_text = kind == 1,
            (2, Wire::Number(value)) => number = value as i64,
            (3, wire) => text = value("s", wire, 0)?,
            _ => {}
        }
    }
    Ok(if is_text { text } else { json!(number) })
}

/// The next field: its number and value.
fn next<'a>(bytes: &mut &'a [u8]) -> Result<Option<(u64, Wire<'a>)>, String> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let tag = varint(bytes)?;
    let mut take = |count: u64| -> Result<&'a [u8], String> {
        let count = usize::try_from(count).map_err(|_| "a length is too great")?;
        let (head, tail) = bytes.split_at_checked(count).ok_or("it ends too early")?;
        *bytes = tail;
        Ok(head)
    };
    let wire = match tag & 7 {
        0 => Wire::Number(varint(bytes)?),
        1 => Wire::Fixed64(u64::from_le_bytes(take(8)?.try_into().map_err(|_| "it ends too early")?)),
        2 => {
            let length = varint(bytes)?;
            let (head, tail) = usize::try_from(length)
                .ok()
                .and_then(|length| bytes.split_at_checked(length))
                .ok_or("a length is beyond the end")?;
            *bytes = tail;
            Wire::Bytes(head)
        }
        5 => Wire::Number(u64::from(u32::from_le_bytes(take(4)?.try_into().map_err(|_| "it ends too early")?))),
        other => return Err(format!("wire type {other}")),
    };
    Ok(Some((tag >> 3, wire)))
}

fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().ok_or("it ends too early")?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a number is too long".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `kubectl auth can-i create pods` sends.
    const CAN_I: &[u8] = b"k8s\0\n2\n\x17authorization.k8s.io/v1\x12\x17SelfSubjectAccessReview\x12?\n\x10\n\0\x12\0\x1a\0\"\0*\x002\x008\0B\0\x12!\n\x1f\n\x07default\x12\x06create\x1a\0\"\0*\x04pods2\x00:\0\x1a\x08\x08\0\x12\0\x1a\0 \0\x1a\0\"\0";

    #[test]
    fn kubectls_own_bytes_are_read() {
        let review = decode(CAN_I).expect("kubectl's bytes");
        assert_eq!(
            review["spec"]["resourceAttributes"],
            json!({"namespace": "default", "verb": "create", "resource": "pods"})
        );
    }

    #[test]
    fn damaged_bytes_are_an_error_and_never_a_panic() {
        for end in 0..CAN_I.len() {
            let _ = decode(&CAN_I[..end]);
            for flip in [1u8, 0x80, 0xff] {
                let mut bytes = CAN_I.to_vec();
                bytes[end] ^= flip;
                let _ = decode(&bytes);
            }
        }
    }

    #[test]
    fn every_message_a_field_names_is_there() {
        let special = [
            "meta.Time",
            "meta.MicroTime",
            "meta.Duration",
            "meta.FieldsV1",
            "resource.Quantity",
            "intstr.IntOrString",
            "runtime.RawExtension",
        ];
        for fields in MESSAGES.values() {
            for field in fields.values().filter(|field| field.kind.contains('.') && !special.contains(&field.kind)) {
                assert!(MESSAGES.contains_key(field.kind), "{}", field.kind);
            }
        }
    }
}
