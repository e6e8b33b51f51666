//! Lists, whole or in parts.
//!
//! A part's continuation keeps the rest of the list as it was: entries are shared, so that costs a pointer each. Only so many
//! are kept; who comes late gets 410 and lists anew, as in Kubernetes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use http::Response;
use serde_json::{Value, json};
use switchyard_store::{Entry, Store};

use crate::accept::Form;
use crate::body::{self, Body};
use crate::kinds::{Kind, View};
use crate::request::{Query, Target};
use crate::selector::Selector;
use crate::status::{ApiError, Result};
use crate::table::{self, Include};

/// Lists that were given out in part.
#[derive(Default)]
pub struct Continuations(Mutex<(u64, VecDeque<Rest>)>);

struct Rest {
    id: u64,
    prefix: String,
    revision: u64,
    entries: Arc<Vec<Arc<Entry>>>,
    at: usize,
}

const MOST_CONTINUATIONS: usize = 64;

/// The entries a target and selector name, with the revision at which that was so.
pub fn select(store: &Store, target: &Target, selector: &Selector) -> (Vec<Arc<Entry>>, u64) {
    let kind = &target.kind;
    let name = target.name.as_deref().or_else(|| selector.exact("metadata.name"));
    let namespace = target.namespace.as_deref().or_else(|| selector.exact("metadata.namespace"));
    let (mut entries, revision) = match name {
        Some(name) if !kind.namespaced || namespace.is_some() => {
            let revision = store.revision();
            (store.get(&kind.key(namespace.unwrap_or(""), name)).into_iter().collect(), revision)
        }
        _ => store.list(&kind.prefix_of(namespace)),
    };
    if let Some(node) = index_word(kind, selector) {
        entries.retain(|entry| entry.index.as_deref() == Some(node));
    }
    if !selector.is_empty() {
        entries.retain(|entry| selector.matches(&entry.value));
    }
    (entries, revision)
}

/// The word by which the store narrows watches of this kind: a pod's node.
pub fn index_word<'a>(kind: &Kind, selector: &'a Selector) -> Option<&'a str> {
    selector.exact("spec.nodeName").filter(|node| kind.is("", "Pod") && !node.is_empty())
}

/// Answers a list request.
pub fn list(
    store: &Store,
    continuations: &Continuations,
    target: &Target,
    query: &Query,
    form: Form,
) -> Result<Response<Body>> {
    let selector = Selector::parse(&target.kind, query.get("labelSelector"), query.get("fieldSelector"))?;
    let limit = query.number("limit")?.unwrap_or(0).max(0) as usize;
    let (entries, revision, at) = match query.get("continue") {
        Some(token) => {
            let rest = continuations.take(token, &target.kind.prefix_of(target.namespace.as_deref()))?;
            (rest.entries, rest.revision, rest.at)
        }
        None => {
            let (entries, revision) = select(store, target, &selector);
            check_revision(query, revision)?;
            (Arc::new(entries), revision, 0)
        }
    };
    let end = if limit == 0 { entries.len() } else { entries.len().min(at.saturating_add(limit)) };
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if end < entries.len() {
        let prefix = target.kind.prefix_of(target.namespace.as_deref());
        metadata["continue"] = json!(continuations.keep(prefix, revision, entries.clone(), end));
        if selector.is_empty() {
            metadata["remainingItemCount"] = json!(entries.len() - end);
        }
    }
    let part = &entries[at..end];
    Ok(body::json_bytes(200, encode(&target.kind, part, metadata, form, Include::parse(query))))
}

fn check_revision(query: &Query, current: u64) -> Result<()> {
    let Some(text) = query.get("resourceVersion") else { return Ok(()) };
    let wanted = parse_revision(text)?;
    if wanted > current {
        return Err(ApiError::version_from_the_future(wanted, current));
    }
    if query.get("resourceVersionMatch") == Some("Exact") && wanted != current {
        return Err(ApiError::expired(format!("The resourceVersion {wanted} for the provided list is too old.")));
    }
    Ok(())
}

/// A resource version of a query.
pub fn parse_revision(text: &str) -> Result<u64> {
    text.parse()
        .map_err(|_| ApiError::bad_request(format!("Invalid value: {text:?}: resourceVersion must be a number")))
}

fn encode(kind: &Kind, entries: &[Arc<Entry>], metadata: Value, form: Form, include: Include) -> Bytes {
    let values = entries.iter().map(|entry| &entry.value);
    match form {
        Form::Table => {
            serde_json::to_vec(&table::table(kind, values, metadata, include, true)).expect("JSON encodes").into()
        }
        Form::Json if kind.view == View::Stored => {
            let size: usize = entries.iter().map(|entry| entry.json.len() + 1).sum();
            let mut out = BytesMut::with_capacity(size + 256);
            let head = format!(
                "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
                kind.kind,
                kind.api_version()
            );
            out.put_slice(head.as_bytes());
            for (at, entry) in entries.iter().enumerate() {
                if at > 0 {
                    out.put_u8(b',');
                }
                out.put_slice(&entry.json);
            }
            out.put_slice(b"]}");
            out.freeze()
        }
        form => {
            let items: Vec<Value> = values.map(|value| table::present(kind, value, form, include, false)).collect();
            let (list, version) = match form {
                Form::Metadata => ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned()),
                _ => (format!("{}List", kind.kind), kind.api_version()),
            };
            let list = json!({"kind": list, "apiVersion": version, "metadata": metadata, "items": items});
            serde_json::to_vec(&list).expect("JSON encodes").into()
        }
    }
}

// === impl Continuations ===

impl Continuations {
    fn keep(&self, prefix: String, revision: u64, entries: Arc<Vec<Arc<Entry>>>, at: usize) -> String {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, kept) = &mut *guard;
        *next += 1;
        kept.push_back(Rest { id: *next, prefix, revision, entries, at });
        if kept.len() > MOST_CONTINUATIONS {
            kept.pop_front();
        }
        format!("{next}-{at}")
    }

    fn take(&self, token: &str, prefix: &str) -> Result<Rest> {
        let gone = || {
            ApiError::expired(
                "The provided continue parameter is too old to display a consistent list result. You must start a new list \
                 without the continue parameter.",
            )
        };
        let id: u64 = token.split_once('-').and_then(|(id, _)| id.parse().ok()).ok_or_else(|| {
            ApiError::bad_request(format!(
                "continue key is not valid: {:?}",
                token.chars().take(80).collect::<String>()
            ))
        })?;
        let guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = guard.1.iter().find(|rest| rest.id == id && rest.prefix == prefix).ok_or_else(gone)?;
        Ok(Rest {
            id,
            prefix: rest.prefix.clone(),
            revision: rest.revision,
            entries: rest.entries.clone(),
            at: rest.at,
        })
    }
}
