//! Delete: at once, after a grace period, or when finalizers are done.

use std::sync::Arc;

use serde_json::{Value, json};
use switchyard_store::{Entry, Expect};

use super::{Write, custom, ending};
use crate::accept::Form;
use crate::body;
use crate::meta;
use crate::request::Query;
use crate::status::{ApiError, Result, success};
use crate::table::{self, Include};

/// What the client said about how to delete.
#[derive(Default, Clone)]
pub struct DeleteOptions {
    grace_seconds: Option<i64>,
    uid: Option<String>,
    revision: Option<u64>,
    propagation: Option<String>,
    pub dry_run: bool,
}

/// What became of a delete.
pub enum Deleted {
    /// It is gone; this was its last value.
    Gone(Arc<Entry>),
    /// It is marked, and goes when others are done with it.
    Marked(Arc<Entry>),
}

const ATTEMPTS: usize = 16;
/// Namespaces that the cluster cannot be without.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

// === impl DeleteOptions ===

impl DeleteOptions {
    /// For this object as it is, and no later state of it.
    pub fn of(entry: &Entry) -> Self {
        Self { revision: Some(entry.revision), ..Self::default() }
    }

    /// From the body, or from the query where there is none.
    pub fn parse(body: Option<Value>, query: &Query) -> Result<Self> {
        let mut options = Self { dry_run: query.dry_run()?, ..Self::default() };
        options.grace_seconds = query.number("gracePeriodSeconds")?;
        options.propagation = query.get("propagationPolicy").map(ToOwned::to_owned);
        if query.is_true("orphanDependents") && query.get("orphanDependents").is_some() {
            options.propagation = Some("Orphan".into());
        }
        if let Some(body) = body {
            if !body.is_object() {
                return Err(ApiError::bad_request("the body must be a DeleteOptions object"));
            }
            options.grace_seconds = meta::number(&body, "/gracePeriodSeconds").or(options.grace_seconds);
            let word = |pointer: &str| Some(meta::text(&body, pointer).to_owned()).filter(|text| !text.is_empty());
            options.propagation = word("/propagationPolicy").or(options.propagation);
            if let Some(orphan) = body.get("orphanDependents").and_then(Value::as_bool) {
                options.propagation = Some(if orphan { "Orphan" } else { "Background" }.into());
            }
            options.uid = word("/preconditions/uid");
            options.revision =
                word("/preconditions/resourceVersion").map(|text| crate::list::parse_revision(&text)).transpose()?;
            options.dry_run |= meta::list(&body, "/dryRun").iter().any(|item| item == "All");
        }
        if let Some(policy) = &options.propagation
            && !matches!(policy.as_str(), "Orphan" | "Background" | "Foreground")
        {
            return Err(ApiError::bad_request(format!(
                "propagationPolicy: Unsupported value: {policy:?}: supported values: \"Background\", \"Foreground\", \"Orphan\""
            )));
        }
        Ok(options)
    }
}

impl Write<'_> {
    /// Deletes one object and answers as Kubernetes does.
    pub async fn delete(&self, name: &str, options: &DeleteOptions) -> Result<http::Response<body::Body>> {
        let kind = self.kind;
        Ok(match self.remove(name, options).await? {
            Deleted::Gone(entry) if kind.is("", "Pod") || kind.is("", "Namespace") => {
                body::json_bytes(200, entry.json.clone())
            }
            Deleted::Gone(entry) => body::json(200, &success(kind, name, meta::text(&entry.value, "/metadata/uid"))),
            Deleted::Marked(entry) => {
                let bytes = table::encode(kind, &entry.value, &entry.json, Form::Json, Include::Metadata);
                body::json_bytes(200, bytes)
            }
        })
    }

    /// Deletes, or marks as being deleted.
    pub async fn remove(&self, name: &str, options: &DeleteOptions) -> Result<Deleted> {
        let mut attempt = 1;
        loop {
            match self.try_remove(name, options).await {
                Err(error) if error.reason == "Conflict" && error.details.is_some() && attempt < ATTEMPTS => {
                    attempt += 1
                }
                result => return result,
            }
        }
    }

    async fn try_remove(&self, name: &str, options: &DeleteOptions) -> Result<Deleted> {
        let kind = self.kind;
        let old = self.current(name)?;
        if kind.is("", "Namespace") && IMMORTAL.contains(&name) {
            return Err(ApiError::forbidden(kind, name, "this namespace may not be deleted"));
        }
        let key = kind.key(self.namespace, name);
        self.preconditions(name, &old, options)?;
        let mut new = old.value.clone();
        self.set_finalizers(&mut new, options);
        let grace = self.grace_seconds(&new, options);
        let expect = Expect::Revision(old.revision);
        if grace == 0 && !meta::has_finalizers(&new) {
            if options.dry_run || self.dry_run {
                return Ok(Deleted::Gone(old));
            }
            let gone = self.server.store.delete(&key, expect, self.durability()).await;
            let gone = gone.map_err(|error| self.store_error(name, error))?;
            self.server.quota.touch(self.namespace);
            if kind.kind == custom::DEFINITION {
                custom::withdraw(self.server, &gone.value);
            }
            return Ok(Deleted::Gone(gone));
        }
        let deadline = jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_secs(grace));
        let deadline =
            deadline.map_err(|error| ApiError::bad_request(format!("gracePeriodSeconds={grace}: {error}")))?;
        let generation = meta::number(&new, "/metadata/generation");
        let was_deleting = meta::is_deleting(&old.value);
        let metadata = meta::metadata_mut(&mut new);
        let shorter = metadata.get("deletionGracePeriodSeconds").and_then(Value::as_i64).is_none_or(|old| grace < old);
        if !was_deleting || shorter {
            metadata.insert("deletionTimestamp".into(), meta::timestamp(deadline).into());
            metadata.insert("deletionGracePeriodSeconds".into(), json!(grace));
            if let (Some(generation), false) = (generation, was_deleting) {
                metadata.insert("generation".into(), json!(generation + 1));
            }
        }
        if kind.is("", "Namespace") {
            meta::child(meta::as_map(&mut new), "status").insert("phase".into(), json!("Terminating"));
        }
        if new == old.value || options.dry_run || self.dry_run {
            return Ok(Deleted::Marked(old));
        }
        let put = self.server.store.put(&key, new, expect, self.durability()).await;
        put.map(Deleted::Marked).map_err(|error| self.store_error(name, error))
    }

    fn preconditions(&self, name: &str, old: &Entry, options: &DeleteOptions) -> Result<()> {
        let failed = |what: &str, wanted: &str, real: &str| {
            let why = format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {real}");
            // No details: computing it anew would not help.
            Err(ApiError { details: None, ..ApiError::conflict(self.kind, name, &why) })
        };
        let uid = meta::text(&old.value, "/metadata/uid");
        if let Some(wanted) = options.uid.as_deref().filter(|wanted| *wanted != uid) {
            return failed("UID", wanted, uid);
        }
        if let Some(wanted) = options.revision.filter(|wanted| *wanted != old.revision) {
            return failed("ResourceVersion", &wanted.to_string(), &old.revision.to_string());
        }
        Ok(())
    }

    fn set_finalizers(&self, object: &mut Value, options: &DeleteOptions) {
        let wanted = match options.propagation.as_deref() {
            Some("Foreground") => Some("foregroundDeletion"),
            Some("Orphan") => Some("orphan"),
            _ => None,
        };
        let is_deleting = meta::is_deleting(object);
        let metadata = meta::metadata_mut(object);
        let mut list = metadata.get("finalizers").and_then(Value::as_array).cloned().unwrap_or_default();
        if options.propagation.is_some() {
            list.retain(|item| item != "foregroundDeletion" && item != "orphan");
        }
        // Its objects go before it.
        if self.kind.kind == custom::DEFINITION && !is_deleting && !list.iter().any(|item| item == ending::FINALIZER) {
            list.push(ending::FINALIZER.into());
        }
        list.extend(wanted.map(Value::from));
        if list.is_empty() {
            metadata.shift_remove("finalizers");
        } else {
            metadata.insert("finalizers".into(), list.into());
        }
    }

    /// Only a pod that runs on a node has something to do before it goes.
    fn grace_seconds(&self, object: &Value, options: &DeleteOptions) -> i64 {
        if !self.kind.is("", "Pod") {
            return 0;
        }
        if meta::text(object, "/spec/nodeName").is_empty() || meta::has_ended(object) {
            return 0;
        }
        let pods_own = meta::number(object, "/spec/terminationGracePeriodSeconds").unwrap_or(30);
        let wanted = options.grace_seconds.unwrap_or(pods_own).max(0);
        // Once it is being deleted, time only gets shorter.
        let running = meta::number(object, "/metadata/deletionGracePeriodSeconds");
        running.map_or(wanted, |running| if options.grace_seconds.is_some() { wanted.min(running) } else { running })
    }
}
