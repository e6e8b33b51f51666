//! Where a process of the cluster writes its log: standard error, which the supervisor has opened as `D/log/NAME.log`.
//!
//! The file is bounded: once it is full it becomes `NAME.log.1`, the one before `NAME.log.2`, and what was older goes. Standard
//! error itself is moved to the new file, so that also what does not come through the log, a panic's message, is found there.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Bytes of one file.
const LIMIT: u64 = 8 << 20;
/// Older files kept.
const KEPT: u32 = 2;

/// Logs to standard error. `SWITCHYARD_LOG` filters, by default `info`.
pub(super) fn start() {
    let filter = EnvFilter::try_from_env("SWITCHYARD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = Log::of_standard_error();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(log).with_ansi(false).init();
}

/// Standard error, and the file behind it if it is one.
struct Log(Mutex<State>);

struct State {
    path: Option<PathBuf>,
    size: u64,
}

/// Writes one event.
struct Writer<'a>(MutexGuard<'a, State>);

// === impl Log ===

impl Log {
    fn of_standard_error() -> Self {
        let own = Path::new("/proc/self/fd/2");
        // A terminal, a pipe or a file that was removed is nobody's to rename.
        let file = fs::metadata(own).ok().filter(fs::Metadata::is_file);
        let path = file.as_ref().and_then(|_| fs::read_link(own).ok()).filter(|path| path.exists());
        Self(Mutex::new(State { path, size: file.map_or(0, |meta| meta.len()) }))
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Writer<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Writer(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl io::Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = io::stderr().write(bytes)?;
        self.0.size += written as u64;
        if self.0.size >= LIMIT {
            self.0.turn();
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// === impl State ===

impl State {
    /// Begins a new file. If that fails the old one is written on, and it is tried again a file's length later.
    fn turn(&mut self) {
        self.size = 0;
        let Some(path) = &self.path else { return };
        let turned = rotate(path).and_then(|file| Ok(rustix::stdio::dup2_stderr(&file)?));
        if let Err(error) = turned {
            let _ = writeln!(io::stderr(), "cannot rotate {}: {error}", path.display());
        }
    }
}

/// Moves the files on by one, and opens a new first one.
fn rotate(path: &Path) -> io::Result<File> {
    let numbered = |number: u32| match number {
        0 => path.to_owned(),
        _ => PathBuf::from(format!("{}.{number}", path.display())),
    };
    for number in (0..KEPT).rev() {
        match fs::rename(numbered(number), numbered(number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    File::options().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_move_on_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("router.log");
        for word in ["a", "b", "c", "d"] {
            fs::write(&path, word).unwrap();
            rotate(&path).unwrap();
        }
        let text = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!([text("router.log"), text("router.log.1"), text("router.log.2")], ["", "d", "c"]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }
}
