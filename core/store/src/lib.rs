//! A versioned key-value store with watch.
//!
//! Values are JSON objects; every write gets the next number of one global revision, which is also stamped into the value as
//! `metadata.resourceVersion`. Reads come from an ordered map in memory, watches from a bounded ring of recent events, and a redb
//! file behind both makes writes durable. One thread writes: it takes every proposal that waits, decides them in order, commits
//! them with one fsync, publishes them, and only then answers. So nobody, reader or watcher, ever sees what a crash could take
//! back, except what was written [`Durability::Relaxed`]; those may be lost, and revisions therefore jump at every start, which
//! makes clients from before the crash list anew instead of missing something.

pub mod bounds;
mod disk;
mod entry;
mod hub;
mod state;
mod writer;

pub use entry::{Change, Entry, Event};
pub use hub::{Lagged, Watch};

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

/// Handle to a store; cheap to clone.
#[derive(Clone)]
pub struct Store {
    shared: Arc<state::Shared>,
    writer: writer::Writer,
}

/// How a store is set up.
pub struct Options {
    /// The redb file; none keeps everything in memory only.
    pub path: Option<PathBuf>,
    /// Events kept for watches to resume from. Default 8192.
    pub history_events: usize,
    /// Bytes of encoded values kept for the same purpose. Default 16 MiB.
    pub history_bytes: usize,
    /// Events that may wait in one watch before it is told that it lagged. Default 8192.
    pub watch_queue: usize,
    /// Bytes of encoded values that may wait in it. Watches share them, so slow ones together hold what the slowest holds. Default 16 MiB.
    pub watch_bytes: usize,
    /// The word by which watches of a key may be narrowed (a pod's node), taken from its value.
    pub index: fn(key: &str, value: &Value) -> Option<Arc<str>>,
}

/// What must be true of the key for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// There is no such key.
    Absent,
    /// There is, whatever its revision.
    Present,
    /// Its last write has this revision.
    Revision(u64),
}

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When it is on disk.
    #[default]
    Strict,
    /// At once; it is on disk a moment later. For heartbeats and Events.
    Relaxed,
}

/// Why an operation was not done.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A create found the key taken.
    #[error("key {0} exists")]
    Exists(String),
    /// An update or delete found no such key.
    #[error("key {0} not found")]
    NotFound(String),
    /// The key's revision is another one than expected.
    #[error("key {key} is at revision {current}, not {expected}")]
    Conflict {
        /// The key.
        key: String,
        /// What the caller knew.
        expected: u64,
        /// What it is.
        current: u64,
    },
    /// A watch cannot start from that revision; list anew.
    #[error("revision {requested} is not available: history begins at {oldest}, now is {current}")]
    Compacted {
        /// What was asked for.
        requested: u64,
        /// The oldest revision a watch may start from.
        oldest: u64,
        /// The newest.
        current: u64,
    },
    /// The value has more levels than can be read again.
    #[error("the value of {key} has more than {} levels of maps and lists", bounds::MOST_DEPTH)]
    TooDeep {
        /// The key.
        key: String,
    },
    /// The encoded value is too long.
    #[error("the value of {key} has {bytes} bytes, more than {}", bounds::MOST_BYTES)]
    TooLarge {
        /// The key.
        key: String,
        /// Its length.
        bytes: usize,
    },
    /// The file behind the store failed; whether it has the change shows when it is opened again, until when nothing is written.
    #[error("store file: {0}")]
    Disk(String),
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
}

// === impl Store ===

impl Store {
    /// Opens the store, reading all of it into memory. A value that cannot be read is told of and set aside in the file; its key is
    /// free.
    pub fn open(options: Options) -> Result<Self, Error> {
        let disk = options.path.as_ref().map(|path| disk::Disk::open(path)).transpose()?;
        let shared = Arc::new(state::Shared::new(&options));
        if let Some(disk) = &disk {
            let (entries, revision) = disk.load(options.index)?;
            shared.restore(entries, revision);
        }
        let writer = writer::Writer::start(shared.clone(), disk, options.index)?;
        Ok(Self { shared, writer })
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.shared.get(key)
    }

    /// All entries under a prefix (ending in `/`), in order of their keys, and the revision at which that was so.
    pub fn list(&self, prefix: &str) -> (Vec<Arc<Entry>>, u64) {
        self.shared.list(prefix)
    }

    /// The newest revision.
    pub fn revision(&self) -> u64 {
        self.shared.revision()
    }

    /// Writes a key if `expect` holds and the value is within [`bounds`]; returns the new entry.
    pub async fn put(
        &self,
        key: &str,
        value: Value,
        expect: Expect,
        durability: Durability,
    ) -> Result<Arc<Entry>, Error> {
        if !bounds::is_within(&value, bounds::MOST_DEPTH) {
            return Err(Error::TooDeep { key: key.into() });
        }
        self.writer.submit(key, Some(value), expect, durability).await
    }

    /// Writes a key that must not exist.
    pub async fn create(&self, key: &str, value: Value) -> Result<Arc<Entry>, Error> {
        self.put(key, value, Expect::Absent, Durability::Strict).await
    }

    /// Overwrites a key whose last write has the given revision.
    pub async fn update(&self, key: &str, value: Value, revision: u64) -> Result<Arc<Entry>, Error> {
        self.put(key, value, Expect::Revision(revision), Durability::Strict).await
    }

    /// Removes a key; the returned entry is the last value under the revision of its removal.
    pub async fn delete(&self, key: &str, expect: Expect, durability: Durability) -> Result<Arc<Entry>, Error> {
        self.writer.submit(key, None, expect, durability).await
    }

    /// Every event under `prefix` (a key, or a prefix ending in `/`) after revision `from`, in order, each once. With `index`, only
    /// those where the value's index word is or was that one.
    pub fn watch(&self, prefix: &str, index: Option<&str>, from: u64) -> Result<Watch, Error> {
        self.shared.watch(prefix, index, from)
    }

    /// How many watches are open.
    pub fn watches(&self) -> usize {
        self.shared.watches()
    }

    /// Returns once nothing is written any more: the store was closed, or its file failed and has to be opened anew.
    pub async fn ended(&self) {
        self.writer.ended().await;
    }

    /// Writes what was relaxed and waits for it; later writes fail.
    pub async fn close(&self) {
        self.writer.close().await;
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            path: None,
            history_events: 8192,
            history_bytes: 16 << 20,
            watch_queue: 8192,
            watch_bytes: 16 << 20,
            index: |_, _| None,
        }
    }
}
