//! A key's value at one revision, and the change that led to it.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde_json::Value;

/// A key's value at one revision. It is encoded once, when it is written; readers and watchers share the bytes.
#[derive(Debug)]
pub struct Entry {
    /// The key.
    pub key: Arc<str>,
    /// The value, with `metadata.resourceVersion` set to the revision.
    pub value: Value,
    /// The value's JSON.
    pub json: Bytes,
    /// The revision of this write.
    pub revision: u64,
    /// The word by which watches are narrowed.
    pub index: Option<Arc<str>>,
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was absent and is there.
    Created,
    /// It has another value.
    Updated,
    /// It is gone.
    Deleted,
}

/// One revision of the store.
#[derive(Debug)]
pub struct Event {
    /// What happened.
    pub change: Change,
    /// The new value; for a removal, the last value under the revision of its removal.
    pub entry: Arc<Entry>,
    /// The value before.
    pub previous: Option<Arc<Entry>>,
    frame: OnceLock<Bytes>,
}

// === impl Entry ===

impl Entry {
    /// Stamps the revision into the value and encodes it.
    pub(crate) fn new(
        key: Arc<str>,
        mut value: Value,
        revision: u64,
        index: fn(&str, &Value) -> Option<Arc<str>>,
    ) -> Self {
        if let Some(object) = value.as_object_mut() {
            let metadata = object.entry("metadata").or_insert_with(|| Value::Object(Default::default()));
            if let Some(metadata) = metadata.as_object_mut() {
                metadata.insert("resourceVersion".into(), Value::String(revision.to_string()));
            }
        }
        let json = serde_json::to_vec(&value).expect("a JSON value always encodes").into();
        let index = index(&key, &value);
        Self { key, value, json, revision, index }
    }
}

// === impl Event ===

impl Event {
    pub(crate) fn new(change: Change, entry: Arc<Entry>, previous: Option<Arc<Entry>>) -> Self {
        Self { change, entry, previous, frame: OnceLock::new() }
    }

    /// The encoding all plain watchers share: made by the first who asks, from then on the same bytes.
    pub fn frame(&self, make: impl FnOnce(&Self) -> Bytes) -> Bytes {
        self.frame.get_or_init(|| make(self)).clone()
    }
}
