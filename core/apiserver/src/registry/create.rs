//! Create.

use std::sync::Arc;

use serde_json::{Value, json};
use switchyard_store::{Entry, Expect};

use super::{Part, Write, check, custom};
use crate::admission::{self, Admission};
use crate::meta;
use crate::status::{ApiError, FieldErrors, Result};

/// Attempts to find a free name for `generateName`.
const NAMES_TO_TRY: usize = 8;

impl Write<'_> {
    /// Stores a new object.
    pub async fn create(&self, object: Value) -> Result<Arc<Entry>> {
        let object = self.accept(object)?;
        let generate = meta::text(&object, "/metadata/generateName").to_owned();
        if !meta::name(&object).is_empty() || generate.is_empty() {
            return self.create_named(object).await;
        }
        let mut attempt = 1;
        loop {
            let mut object = object.clone();
            let mut prefix = generate.clone();
            prefix.truncate(prefix.floor_char_boundary(58));
            meta::metadata_mut(&mut object).insert("name".into(), format!("{prefix}{}", random_word(5)).into());
            match self.create_named(object).await {
                Err(error) if error.reason == "AlreadyExists" && attempt < NAMES_TO_TRY => attempt += 1,
                result => return result,
            }
        }
    }

    async fn create_named(&self, mut object: Value) -> Result<Arc<Entry>> {
        let kind = self.kind;
        let now = meta::now();
        let has_spec = object.get("spec").is_some();
        let metadata = meta::metadata_mut(&mut object);
        if metadata.get("resourceVersion").and_then(Value::as_str).is_some_and(|version| !version.is_empty()) {
            return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
        }
        for field in ["selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion"] {
            metadata.shift_remove(field);
        }
        // Ascending (RFC 9562, version 7), as creation timestamps only tell seconds apart.
        metadata.insert("uid".into(), uuid::Uuid::now_v7().to_string().into());
        metadata.insert("creationTimestamp".into(), now.into());
        metadata.shift_remove("generation");
        if has_spec {
            metadata.insert("generation".into(), json!(1));
        }
        let name = meta::name(&object).to_owned();
        let key = kind.key(self.namespace, &name);
        // A duplicate is told apart before anything is allocated for it; the store decides in the end.
        if !name.is_empty() && self.server.store.get(&key).is_some() {
            return Err(ApiError::exists(kind, &name));
        }
        let admission = Admission { server: self.server, kind, namespace: self.namespace };
        if kind.kind == custom::DEFINITION {
            custom::establish(&mut object);
        }
        admission::defaults(kind, &mut object);
        admission.mutate(&mut object)?;
        let mut errors = FieldErrors::default();
        check::metadata(kind, &object, None, &mut errors);
        admission::validate(self.server, kind, &object, None, &mut errors);
        if kind.kind == custom::DEFINITION {
            custom::check(self.server, &object, &mut errors);
        }
        errors.into_result(kind, &name)?;
        self.rights(&object, None, Part::Main)?;
        let mut held = admission.allocate(&mut object, None)?;
        held.charge(admission.quota(&object, None)?);
        if self.dry_run {
            return self.imagined(key, object, 0);
        }
        let stored = self.server.store.put(&key, object, Expect::Absent, self.durability()).await;
        let entry = stored.map_err(|error| self.store_error(&name, error))?;
        drop(held);
        self.server.quota.touch(self.namespace);
        if kind.kind == custom::DEFINITION {
            custom::serve(self.server, &entry.value);
        }
        Ok(entry)
    }
}

/// Letters and digits that make no words, as Kubernetes picks them.
fn random_word(length: usize) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let random = uuid::Uuid::new_v4();
    random.as_bytes().iter().take(length).map(|byte| ALPHABET[*byte as usize % ALPHABET.len()] as char).collect()
}
