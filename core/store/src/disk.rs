//! The redb file: every key's newest value, and the newest revision.

use std::fs::{DirBuilder, File, Permissions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde_json::Value;

use crate::writer::RELAXED_MOST;
use crate::{Change, Entry, Error, Event};

/// Key -> revision (8 bytes, little endian), then JSON.
const VALUES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("values");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Values that could not be read, as they were found, for people to look at.
const DAMAGED: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("damaged");
/// The store reads everything into memory at the start and never again, so a cache of pages is of little use.
const CACHE_BYTES: usize = 8 << 20;

/// The open file.
pub(crate) struct Disk {
    database: Database,
}

impl Disk {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let failed = |what: &str, error: String| Error::Disk(format!("{what} {}: {error}", path.display()));
        // Secrets are in it: from its first moment on it is its owner's alone.
        if let Some(parent) = path.parent() {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(parent);
            made.map_err(|error| failed("create the directory of", error.to_string()))?;
        }
        let file = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = file.map_err(|error| failed("open", error.to_string()))?;
        file.set_permissions(Permissions::from_mode(0o600)).map_err(|error| failed("protect", error.to_string()))?;
        drop(file);
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(path)
            .map_err(|error| failed("open", error.to_string()))?;
        Ok(Self { database })
    }

    #[cfg(test)]
    pub(crate) fn on(backend: impl redb::StorageBackend) -> Self {
        Self { database: Database::builder().create_with_backend(backend).expect("a database") }
    }

    /// Everything there is that can be read, and the revision to go on from. One damaged value must not cost all the others.
    #[allow(clippy::type_complexity, reason = "the pair is taken apart where it is returned")]
    pub(crate) fn load(&self, index: fn(&str, &Value) -> Option<Arc<str>>) -> Result<(Vec<Arc<Entry>>, u64), Error> {
        let transaction = self.database.begin_read().map_err(disk)?;
        let (mut entries, mut damaged) = (Vec::new(), Vec::new());
        let revision = match transaction.open_table(META) {
            Ok(meta) => meta.get("revision").map_err(disk)?.map_or(0, |value| value.value()),
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok((entries, 0)),
            Err(error) => return Err(disk(error)),
        };
        let values = transaction.open_table(VALUES).map_err(disk)?;
        for item in values.iter().map_err(disk)? {
            let (key, value) = item.map_err(disk)?;
            match read(value.value()) {
                Ok((number, json)) => entries.push(Arc::new(Entry::new(key.value().into(), json, number, index))),
                Err(error) => {
                    tracing::error!(key = key.value(), error, "store file: a value cannot be read and is set aside");
                    damaged.push((key.value().to_owned(), value.value().to_vec()));
                }
            }
        }
        if !damaged.is_empty() {
            self.set_aside(&damaged)?;
        }
        Ok((entries, revision + RELAXED_MOST as u64))
    }

    fn set_aside(&self, damaged: &[(String, Vec<u8>)]) -> Result<(), Error> {
        let transaction = self.database.begin_write().map_err(disk)?;
        {
            let mut values = transaction.open_table(VALUES).map_err(disk)?;
            let mut aside = transaction.open_table(DAMAGED).map_err(disk)?;
            for (key, value) in damaged {
                aside.insert(key.as_str(), value.as_slice()).map_err(disk)?;
                values.remove(key.as_str()).map_err(disk)?;
            }
        }
        transaction.commit().map_err(disk)
    }

    /// Makes events durable, all or none.
    pub(crate) fn commit<'a>(
        &mut self,
        events: impl Iterator<Item = &'a Arc<Event>>,
        revision: u64,
    ) -> Result<(), Error> {
        let transaction = self.database.begin_write().map_err(disk)?;
        {
            let mut values = transaction.open_table(VALUES).map_err(disk)?;
            let mut buffer = Vec::new();
            for event in events {
                let entry = &event.entry;
                if event.change == Change::Deleted {
                    values.remove(&*entry.key).map_err(disk)?;
                } else {
                    buffer.clear();
                    buffer.extend_from_slice(&entry.revision.to_le_bytes());
                    buffer.extend_from_slice(&entry.json);
                    values.insert(&*entry.key, buffer.as_slice()).map_err(disk)?;
                }
            }
            transaction.open_table(META).map_err(disk)?.insert("revision", revision).map_err(disk)?;
        }
        transaction.commit().map_err(disk)
    }
}

/// A value's revision and JSON.
fn read(value: &[u8]) -> Result<(u64, Value), String> {
    let (number, json) = value.split_first_chunk::<8>().ok_or("too short")?;
    let json = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    Ok((u64::from_le_bytes(*number), json))
}

fn disk(error: impl std::fmt::Display) -> Error {
    Error::Disk(error.to_string())
}
