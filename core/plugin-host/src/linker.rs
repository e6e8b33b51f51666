//! Libraries that are open in this process.
//!
//! A library's constructors are foreign code and may hang, and as long as they run the dynamic linker opens nothing else. So they
//! run on a thread that may be lost, one library at a time; while one of them hangs the next is refused at once, and nobody waits
//! for a lock of ours.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::deadline::within;
use crate::file::Content;
use crate::library::Library;
use crate::registry::OpenError;

/// Opens libraries, each content once.
#[derive(Default)]
pub(crate) struct Linker {
    /// Held while constructors run.
    turn: Mutex<()>,
    at: Mutex<At>,
    /// By the SHA-256 of their content.
    opened: Mutex<HashMap<String, Arc<Library>>>,
}

/// What is being opened.
#[derive(Default)]
struct At {
    path: Option<PathBuf>,
    /// Nobody waits for it any more.
    late: bool,
}

// === impl Linker ===

impl Linker {
    /// The library of a content, if it is open.
    pub(crate) fn library(&self, sha256: &str) -> Option<Arc<Library>> {
        lock(&self.opened).get(sha256).cloned()
    }

    /// Opens a content unless it is open.
    pub(crate) fn open(self: &Arc<Self>, content: &Content, deadline: Duration) -> Result<Arc<Library>, OpenError> {
        if let Some(library) = self.library(&content.sha256) {
            return Ok(library);
        }
        if let Some(other) = self.stuck() {
            return Err(OpenError::Stuck { path: content.path.clone(), other });
        }
        let (linker, copy) = (Arc::clone(self), content.sealed()?);
        let (path, sha256) = (content.path.clone(), content.sha256.clone());
        let work = move || {
            let _turn = lock(&linker.turn);
            if let Some(library) = linker.library(&sha256) {
                return Ok(library);
            }
            lock(&linker.at).path = Some(path.clone());
            let opened = Library::open(&path, copy).map(Arc::new);
            *lock(&linker.at) = At::default();
            if let Ok(library) = &opened {
                lock(&linker.opened).insert(sha256, Arc::clone(library));
            }
            opened
        };
        match within(Instant::now() + deadline, work) {
            Ok(Some(opened)) => Ok(opened?),
            Ok(None) => Err(self.late(&content.path, deadline)),
            Err(error) => Err(OpenError::thread(&content.path, &error)),
        }
    }

    /// The library whose constructors hang.
    fn stuck(&self) -> Option<PathBuf> {
        let at = lock(&self.at);
        at.path.clone().filter(|_| at.late)
    }

    /// Gives up waiting for whatever is being opened.
    fn late(&self, path: &Path, deadline: Duration) -> OpenError {
        let mut at = lock(&self.at);
        at.late = at.path.is_some();
        match &at.path {
            Some(other) if other != path => OpenError::Stuck { path: path.to_owned(), other: other.clone() },
            _ => OpenError::Late { path: path.to_owned(), what: "its constructors have", seconds: deadline.as_secs() },
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
