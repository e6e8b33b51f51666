//! Parameters below /proc/sys/net. What the files say depends on the namespace of whoever opens them, so this runs inside.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;

/// A parameter's value is a line; more is no parameter.
const LONGEST: u64 = 4096;

/// Parameters of br_netfilter. Where the module is not loaded they do not exist, and bridges behave as if they were 0.
const BRIDGE_CALLS: &str = "net/bridge/bridge-nf-";

/// Reads a parameter, in the calling thread's namespace, with white space as one space.
pub(crate) fn read(path: &str) -> io::Result<String> {
    let mut text = String::new();
    match fs::File::open(file(path)) {
        Ok(file) => file.take(LONGEST).read_to_string(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.starts_with(BRIDGE_CALLS) => {
            return Ok("0".into());
        }
        Err(error) => return Err(error),
    };
    Ok(normal(&text))
}

/// Writes a parameter, in the calling thread's namespace.
pub(crate) fn write(path: &str, value: &str) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(file(path))?.write_all(value.as_bytes())
}

/// A value with white space as one space.
pub(crate) fn normal(value: &str) -> String {
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What is wrong with a path, if anything.
pub(crate) fn check(path: &str) -> Result<(), String> {
    let parts: Vec<&str> = path.split('/').collect();
    let good = parts.len() > 1
        && parts[0] == "net"
        && parts.iter().all(|part| !part.is_empty() && *part != "." && *part != ".." && !part.contains('\0'));
    if good { Ok(()) } else { Err("must be a path below net/, like net/ipv4/ip_forward".into()) }
}

fn file(path: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(path)
}
