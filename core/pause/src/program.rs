//! Finding and executing a program, the way a shell does.

use std::convert::Infallible;
use std::ffi::CString;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Replaces the process by `argv[0]`, looked up in `PATH` of `env`. Returns only an error.
pub(crate) fn execute(argv: &[String], env: &[(String, String)]) -> Result<Infallible, String> {
    let Some(name) = argv.first().filter(|name| !name.is_empty()) else {
        return Err("no command: must name a program".into());
    };
    let path = env.iter().rev().find(|(key, _)| key == "PATH").map_or(DEFAULT_PATH, |(_, value)| value);
    let program = find(name, path)?;
    let text = |text: String| CString::new(text).map_err(|_| "command and environment must not hold NUL".to_owned());
    let args = argv.iter().cloned().map(text).collect::<Result<Vec<_>, _>>()?;
    let env = env.iter().map(|(key, value)| text(format!("{key}={value}"))).collect::<Result<Vec<_>, _>>()?;
    let file = text(program.display().to_string())?;
    nix::unistd::execve(&file, &args, &env).map_err(|error| format!("exec {}: {}", program.display(), error.desc()))
}

fn find(name: &str, path: &str) -> Result<PathBuf, String> {
    if name.contains('/') {
        return Ok(name.into());
    }
    let mut denied = None;
    for dir in path.split(':').filter(|dir| !dir.is_empty()) {
        let file = Path::new(dir).join(name);
        if !file.is_file() {
            continue;
        }
        match access(&file, AccessFlags::X_OK) {
            Ok(()) => return Ok(file),
            Err(error) => denied = Some((file, error)),
        }
    }
    match denied {
        Some((file, error)) => Err(format!("exec {}: {}", file.display(), error.desc())),
        None => Err(format!("exec {name:?}: executable file not found in PATH ({path}): {}", Errno::ENOENT.desc())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_and_a_path_is_not() {
        assert!(find("sh", DEFAULT_PATH).unwrap().ends_with("sh"));
        assert_eq!(find("./sh", "").unwrap(), Path::new("./sh"));
        let error = find("no-such-program", "/bin").unwrap_err();
        assert!(error.contains("no-such-program") && error.contains("/bin"), "{error}");
    }
}
