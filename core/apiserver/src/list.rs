//! Lists, whole or in parts.
//!
//! A list that is given out in parts is kept as it was until its reader may be supposed gone. Entries are shared, so that costs a pointer
//! each; but what has been overwritten since is kept for nobody else, so lists, their bytes and their time are bounded. Who comes late gets
//! 410 and lists anew, as in Kubernetes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::Response;
use serde_json::{Value, json};
use switchyard_store::{Entry, Store};

use crate::accept::Form;
use crate::body::{self, Body};
use crate::kinds::Kind;
use crate::request::{Query, Target};
use crate::selector::Selector;
use crate::status::{ApiError, Result};
use crate::table::{self, Include};
use crate::view;

/// Lists that were given out in part.
pub struct Continuations {
    kept: Arc<Mutex<Kept>>,
    lifetime: Duration,
}

#[derive(Default)]
struct Kept {
    last: u64,
    lists: VecDeque<Arc<Snapshot>>,
}

/// A list as it was.
struct Snapshot {
    id: u64,
    asked: Asked,
    revision: u64,
    entries: Vec<Arc<Entry>>,
    bytes: usize,
}

/// What somebody asked for, and may see: nobody goes on with another's list.
#[derive(Clone, PartialEq, Eq)]
struct Asked {
    prefix: String,
    name: Option<String>,
    labels: Option<String>,
    fields: Option<String>,
}

/// Lists kept at most.
const MOST_LISTS: usize = 64;
/// Bytes of their objects at most; the newest is kept whatever its size.
const MOST_BYTES: usize = 64 << 20;

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
    let asked = Asked::of(target, query);
    let (list, at) = match query.get("continue") {
        Some(token) => continuations.find(token, &asked)?,
        None => {
            let (entries, revision) = select(store, target, &selector);
            check_revision(query, revision)?;
            (Arc::new(Snapshot::new(asked, revision, entries)), 0)
        }
    };
    let (entries, revision) = (&list.entries, list.revision);
    let end = if limit == 0 { entries.len() } else { entries.len().min(at.saturating_add(limit)) };
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if end < entries.len() {
        metadata["continue"] = json!(continuations.keep(&list, end));
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
        Form::Json if entries.iter().all(|entry| view::is_stored(kind, &entry.value)) => {
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

// === impl Asked ===

impl Asked {
    fn of(target: &Target, query: &Query) -> Self {
        let word = |name: &str| query.get(name).filter(|text| !text.is_empty()).map(ToOwned::to_owned);
        Self {
            prefix: target.kind.prefix_of(target.namespace.as_deref()),
            name: target.name.clone(),
            labels: word("labelSelector"),
            fields: word("fieldSelector"),
        }
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// One that is not kept yet.
    fn new(asked: Asked, revision: u64, entries: Vec<Arc<Entry>>) -> Self {
        let bytes = entries.iter().map(|entry| entry.json.len()).sum();
        Self { id: 0, asked, revision, entries, bytes }
    }
}

// === impl Continuations ===

impl Continuations {
    pub fn new(lifetime: Duration) -> Self {
        Self { kept: Arc::default(), lifetime }
    }

    /// The token for what follows in a list, which is kept from its first part on.
    fn keep(&self, list: &Arc<Snapshot>, at: usize) -> String {
        if list.id != 0 {
            return format!("{}-{at}", list.id);
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.last += 1;
        let id = kept.last;
        let Snapshot { asked, revision, entries, bytes, .. } = &**list;
        let list = Snapshot { id, asked: asked.clone(), revision: *revision, entries: entries.clone(), bytes: *bytes };
        kept.lists.push_back(Arc::new(list));
        while kept.lists.len() > MOST_LISTS || kept.lists.len() > 1 && kept.bytes() > MOST_BYTES {
            kept.lists.pop_front();
        }
        drop(kept);
        tokio::spawn(forget(Arc::downgrade(&self.kept), id, self.lifetime));
        format!("{id}-{at}")
    }

    /// A list that is kept, and where in it to go on.
    fn find(&self, token: &str, asked: &Asked) -> Result<(Arc<Snapshot>, usize)> {
        let parsed = token.split_once('-').and_then(|(id, at)| Some((id.parse().ok()?, at.parse().ok()?)));
        let (id, at): (u64, usize) = parsed.ok_or_else(|| {
            let shown: String = token.chars().take(80).collect();
            ApiError::bad_request(format!("continue key is not valid: {shown:?}"))
        })?;
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let list = kept.lists.iter().find(|list| list.id == id && list.asked == *asked && at <= list.entries.len());
        list.map(|list| (list.clone(), at)).ok_or_else(|| {
            ApiError::expired(
                "The provided continue parameter is too old to display a consistent list result. You must start a new list \
                 without the continue parameter.",
            )
        })
    }
}

/// Lets go of a list when its time is over.
async fn forget(kept: Weak<Mutex<Kept>>, id: u64, lifetime: Duration) {
    tokio::time::sleep(lifetime).await;
    let Some(kept) = kept.upgrade() else { return };
    kept.lock().unwrap_or_else(PoisonError::into_inner).lists.retain(|list| list.id != id);
}

// === impl Kept ===

impl Kept {
    fn bytes(&self) -> usize {
        self.lists.iter().map(|list| list.bytes).sum()
    }
}
