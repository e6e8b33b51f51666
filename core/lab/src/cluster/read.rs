//! From files to objects. Every byte is somebody else's: sizes are bounded, errors name the field.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use serde_json::Value;
use switchyard_api::Cluster;

use super::{Error, Loaded, Topology};

/// Largest file read, in bytes.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// Most objects taken from one folder.
const MAX_OBJECTS: usize = 10_000;

/// Reads a file, or all `*.yaml`, `*.yml` and `*.json` of a folder in the order of their names.
pub fn load(path: &Path) -> Result<Loaded, Error> {
    let mut cluster = None;
    let mut count = 0;
    let mut manifests = Vec::new();
    for object in objects(path)? {
        if object["kind"] == "Cluster" {
            count += 1;
            cluster = Some(object);
        } else {
            manifests.push(object);
        }
    }
    let cluster = cluster.filter(|_| count == 1).ok_or_else(|| Error::Count { path: path.into(), count })?;
    let cluster = parse(cluster)?;
    Topology::of(&cluster)?;
    Ok(Loaded { cluster, manifests })
}

/// Reads all objects of a file or folder; `-` is standard input. Lists (`kind: List`) are taken apart.
pub fn objects(path: &Path) -> Result<Vec<Value>, Error> {
    let mut found = Vec::new();
    for file in files(path)? {
        let text = read(&file)?;
        for document in serde_yaml_ng::Deserializer::from_str(&text) {
            let syntax = |reason: String| Error::Syntax { path: file.clone(), reason };
            let value = Value::deserialize(document).map_err(|error| syntax(error.to_string()))?;
            match value {
                Value::Null => {}
                Value::Object(mut list) if list.get("kind").is_some_and(|kind| kind == "List") => {
                    match list.remove("items") {
                        Some(Value::Array(items)) => found.extend(items),
                        _ => return Err(syntax("a List without items".into())),
                    }
                }
                Value::Object(_) => found.push(value),
                other => return Err(syntax(format!("{other} is no object with apiVersion and kind"))),
            }
            if found.len() > MAX_OBJECTS {
                return Err(syntax(format!("more than {MAX_OBJECTS} objects; split the folder")));
            }
        }
    }
    Ok(found)
}

fn files(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::Read { path: path.into(), source };
    if path == Path::new("-") || !fs::metadata(path).map_err(failed)?.is_dir() {
        return Ok(vec![path.into()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        if file.extension().is_some_and(|ext| ["yaml", "yml", "json"].iter().any(|known| ext == *known)) {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<String, Error> {
    let failed = |source| Error::Read { path: path.into(), source };
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(MAX_FILE_BYTES + 1).read_to_string(&mut text)
    } else {
        fs::File::open(path).map_err(failed)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)
    };
    match read.map_err(failed)? as u64 {
        0..=MAX_FILE_BYTES => Ok(text),
        _ => Err(Error::Syntax { path: path.into(), reason: format!("larger than {MAX_FILE_BYTES} bytes") }),
    }
}

/// A `Cluster` from its YAML, with errors that name the field and what was found there.
pub(super) fn parse(value: Value) -> Result<Cluster, Error> {
    serde_path_to_error::deserialize(&value).map_err(|error| {
        let field = error.path().to_string();
        let found = pick(&value, &field).map_or_else(|| "absent".to_owned(), Value::to_string);
        Error::Field { value: found, rule: rule(&field, &error.into_inner().to_string()), field }
    })
}

fn pick<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, part| {
        let (name, indexes) = part.split_once('[').unwrap_or((part, ""));
        let value = if name.is_empty() { value } else { value.get(name)? };
        let indexes = indexes.split(['[', ']']).filter(|index| !index.is_empty());
        indexes.map(str::parse::<usize>).try_fold(value, |value, index| value.get(index.ok()?))
    })
}

/// The parsers' own messages say what is wrong; this says what would be right.
fn rule(field: &str, message: &str) -> String {
    let is_prefix = ["cidr", "CIDR", "pool"].iter().any(|end| field.ends_with(end));
    let hint = match message {
        _ if is_prefix && message.contains("IP") => "must be a prefix such as 10.140.0.0/24",
        "invalid IP address syntax" => "must be an IP address such as 10.140.0.11",
        "invalid socket address syntax" => "must be ADDRESS:PORT such as 127.0.0.1:8080",
        other => other,
    };
    hint.to_owned()
}
