//! The verbs that change objects.
//!
//! Every write is a compare-and-swap on the revision it was computed from; a patch that loses the race is computed again, an
//! update that named its resourceVersion is told 409.

mod check;
mod collection;
mod create;
mod custom;
mod delete;
mod ending;
mod expiry;
mod rights;
mod subresource;
mod system;
mod update;

use std::sync::{Arc, Mutex};

use serde_json::Value;
use switchyard_store::{Durability, Entry, bounds};

use crate::auth::User;
use crate::kinds::Kind;
use crate::request::Query;
use crate::server::Inner;
use crate::status::{ApiError, Result};

pub use check::{is_dns_label, is_dns_subdomain};
pub use custom::{definition_key, restore_custom_kinds};
pub use delete::DeleteOptions;
pub use ending::end_definitions;
pub use expiry::expire_events;
pub use system::create_system_namespaces;

/// A request that changes something.
pub struct Write<'a> {
    pub server: &'a Inner,
    /// Who changes it.
    pub user: &'a User,
    pub kind: &'a Arc<Kind>,
    pub namespace: &'a str,
    pub dry_run: bool,
    pub validation: FieldValidation,
    pub manager: String,
    /// What the client should be warned of.
    pub warnings: Mutex<Vec<String>>,
}

/// What to do about fields a kind does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// Which part of an object an update may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All but the status.
    Main,
    /// The status.
    Status,
    /// Whatever a subresource's code changed; it knows what it does.
    Any,
}

// === impl FieldValidation ===

impl FieldValidation {
    pub fn parse(query: &Query) -> Result<Self> {
        match query.get("fieldValidation") {
            Some("Ignore") => Ok(Self::Ignore),
            None | Some("Warn") => Ok(Self::Warn),
            Some("Strict") => Ok(Self::Strict),
            Some(other) => Err(ApiError::bad_request(format!(
                "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
            ))),
        }
    }
}

// === impl Write ===

impl<'a> Write<'a> {
    /// A change that the server itself makes.
    pub fn by_server(server: &'a Inner, kind: &'a Arc<Kind>, namespace: &'a str) -> Self {
        Self {
            server,
            user: User::server(),
            kind,
            namespace,
            dry_run: false,
            validation: FieldValidation::Ignore,
            manager: "system:apiserver".into(),
            warnings: Mutex::default(),
        }
    }
}

impl Write<'_> {
    /// Notes what the client should be told besides the answer.
    pub fn warn(&self, text: impl Into<String>) {
        let mut warnings = self.warnings.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if warnings.len() < 20 {
            warnings.push(text.into());
        }
    }

    /// The object as it is.
    pub fn current(&self, name: &str) -> Result<Arc<Entry>> {
        let key = self.kind.key(self.namespace, name);
        self.server.store.get(&key).ok_or_else(|| ApiError::not_found(self.kind, name))
    }

    /// Heartbeats and Events need not wait for the disk: who lost one writes the next.
    fn durability(&self) -> Durability {
        match self.kind.kind.as_str() {
            "Lease" | "Event" => Durability::Relaxed,
            _ => Durability::Strict,
        }
    }

    /// What a dry run answers instead of what was stored, within the same bounds.
    fn imagined(&self, key: String, value: Value, revision: u64) -> Result<Arc<Entry>> {
        if !bounds::is_within(&value, bounds::MOST_DEPTH) {
            return Err(ApiError::too_deep(bounds::MOST_DEPTH));
        }
        let json = serde_json::to_vec(&value).expect("JSON encodes");
        if json.len() > bounds::MOST_BYTES {
            return Err(ApiError::too_large(bounds::MOST_BYTES));
        }
        Ok(Arc::new(Entry { key: key.into(), value, json: json.into(), revision, index: None }))
    }

    fn store_error(&self, name: &str, error: switchyard_store::Error) -> ApiError {
        use switchyard_store::Error;
        match error {
            Error::Exists(_) => ApiError::exists(self.kind, name),
            Error::NotFound(_) => ApiError::not_found(self.kind, name),
            Error::Conflict { .. } => ApiError::modified(self.kind, name),
            Error::Compacted { .. } => ApiError::expired(error.to_string()),
            Error::TooDeep { .. } => ApiError::too_deep(bounds::MOST_DEPTH),
            Error::TooLarge { .. } => ApiError::too_large(bounds::MOST_BYTES),
            Error::Disk(_) => ApiError::internal(error),
            Error::Closed => ApiError::unavailable("the server is shutting down"),
        }
    }
}
