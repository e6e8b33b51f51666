//! The redb file: every key's newest value, and the newest revision.

use std::path::Path;
use std::sync::Arc;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde_json::Value;

use crate::writer::RELAXED_MOST;
use crate::{Change, Entry, Error, Event};

/// Key -> revision (8 bytes, little endian), then JSON.
const VALUES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("values");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// The store reads everything into memory at the start and never again, so a cache of pages is of little use.
const CACHE_BYTES: usize = 8 << 20;

/// The open file.
pub(crate) struct Disk {
    database: Database,
}

impl Disk {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let failed = |what: &str, error: String| Error::Disk(format!("{what} {}: {error}", path.display()));
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|error| failed("create the directory of", error.to_string()))?;
        }
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(path)
            .map_err(|error| failed("open", error.to_string()))?;
        // Secrets are in it.
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(path, private).map_err(|error| failed("protect", error.to_string()))?;
        Ok(Self { database })
    }

    /// Everything there is, and the revision to go on from.
    #[allow(clippy::type_complexity, reason = "the pair is taken apart where it is returned")]
    pub(crate) fn load(&self, index: fn(&str, &Value) -> Option<Arc<str>>) -> Result<(Vec<Arc<Entry>>, u64), Error> {
        let transaction = self.database.begin_read().map_err(disk)?;
        let mut entries = Vec::new();
        let revision = match transaction.open_table(META) {
            Ok(meta) => meta.get("revision").map_err(disk)?.map_or(0, |value| value.value()),
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok((entries, 0)),
            Err(error) => return Err(disk(error)),
        };
        let values = transaction.open_table(VALUES).map_err(disk)?;
        for item in values.iter().map_err(disk)? {
            let (key, value) = item.map_err(disk)?;
            let damaged = |error: &str| Error::Disk(format!("value of {}: {error}", key.value()));
            let (number, json) = value.value().split_first_chunk::<8>().ok_or_else(|| damaged("too short"))?;
            let json: Value = serde_json::from_slice(json).map_err(|error| damaged(&error.to_string()))?;
            entries.push(Arc::new(Entry::new(key.value().into(), json, u64::from_le_bytes(*number), index)));
        }
        Ok((entries, revision + RELAXED_MOST as u64))
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

fn disk(error: impl std::fmt::Display) -> Error {
    Error::Disk(error.to_string())
}
