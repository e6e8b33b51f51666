//! Watches, as a stream of JSON lines.
//!
//! A plain watch shares its lines with all others: each event is framed once. A watch with selectors frames its own, because an
//! object that comes to match is ADDED to it and one that ceases to match is DELETED from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::Response;
use serde_json::{Value, json};
use switchyard_store::{Change, Entry, Event, Lagged, Watch};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::accept::Form;
use crate::body::{self, Body};
use crate::kinds::Kind;
use crate::list;
use crate::request::{Query, Target};
use crate::selector::Selector;
use crate::server::Inner;
use crate::status::{ApiError, FieldErrors, Result};
use crate::table::{self, Include};
use crate::view;

/// Watches open at once at most.
pub const MOST_WATCHES: usize = 10_000;
/// How long a watch lasts that does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3600);
/// Bytes put together to one frame.
const FRAME_BYTES: usize = 64 << 10;

/// Counts open watches.
#[derive(Default)]
pub struct Open(Arc<AtomicUsize>);

struct Slot(Arc<AtomicUsize>);

struct Stream {
    kind: Arc<Kind>,
    watch: Watch,
    selector: Selector,
    form: Form,
    include: Include,
    /// The first line of a table describes its columns.
    header: bool,
    bookmarks: bool,
    /// The state before the watch, and whether its end is announced.
    initial: std::vec::IntoIter<Arc<Entry>>,
    announce_end: Option<u64>,
    ticks: Interval,
    deadline: Instant,
    stop: CancellationToken,
    ended: bool,
    last_bookmark: u64,
    _slot: Slot,
}

// === impl Open ===

impl Open {
    fn slot(&self) -> Result<Slot> {
        let slot = Slot(self.0.clone());
        if self.0.fetch_add(1, Ordering::Relaxed) >= MOST_WATCHES {
            return Err(ApiError::too_many(format!("{MOST_WATCHES} watches are open already")));
        }
        Ok(slot)
    }

    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers a watch request.
pub fn watch(server: &Inner, target: &Target, query: &Query, form: Form) -> Result<Response<Body>> {
    let (store, kind) = (&server.store, &target.kind);
    let mut selector = Selector::parse(kind, query.get("labelSelector"), query.get("fieldSelector"))?;
    let name = target.name.as_deref().or_else(|| selector.exact("metadata.name")).map(ToOwned::to_owned);
    if let Some(name) = &target.name {
        selector = Selector::parse(kind, query.get("labelSelector"), Some(&format!("metadata.name={name}")))?;
    }
    let namespace = target.namespace.as_deref().or_else(|| selector.exact("metadata.namespace"));
    let prefix = match &name {
        Some(name) if !kind.namespaced || namespace.is_some() => kind.key(namespace.unwrap_or(""), name),
        _ => kind.prefix_of(namespace),
    };
    let slot = server.watches.slot()?;
    let send_initial = query.is_true("sendInitialEvents");
    let bookmarks = query.is_true("allowWatchBookmarks");
    check_initial(kind, query, send_initial)?;
    let from = query.get("resourceVersion").map(list::parse_revision).transpose()?.unwrap_or(0);
    let legacy_initial = from == 0 && query.get("sendInitialEvents").is_none();
    let begin = |from| store.watch(&prefix, list::index_word(kind, &selector), from);
    let (watch, initial, announce_end) = if send_initial || legacy_initial {
        if from > store.revision() {
            return Err(ApiError::version_from_the_future(from, store.revision()));
        }
        // Between the list and the watch the history could move on; then there is a newer list.
        let mut attempts = 0;
        loop {
            let (entries, revision) = list::select(store, target, &selector);
            match begin(revision) {
                Ok(watch) => break (watch, entries, (send_initial && bookmarks).then_some(revision)),
                Err(error) if attempts == 8 => return Err(ApiError::internal(error)),
                Err(_) => attempts += 1,
            }
        }
    } else {
        let from = if from == 0 { store.revision() } else { from };
        match begin(from) {
            Ok(watch) => (watch, Vec::new(), None),
            Err(_) => return Ok(gone(from, store.revision())),
        }
    };
    let timeout = match query.number("timeoutSeconds")? {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds.min(86_400) as u64),
        _ => DEFAULT_TIMEOUT,
    };
    let mut ticks = tokio::time::interval_at(Instant::now() + server.bookmark_every, server.bookmark_every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stream = Stream {
        kind: kind.clone(),
        watch,
        selector,
        form,
        include: Include::parse(query),
        header: true,
        bookmarks,
        initial: initial.into_iter(),
        announce_end,
        ticks,
        deadline: Instant::now() + timeout,
        stop: server.stop.clone(),
        ended: false,
        last_bookmark: 0,
        _slot: slot,
    };
    let lines =
        futures::stream::unfold(stream, |mut stream| async move { stream.next().await.map(|line| (line, stream)) });
    let mut response = Response::new(Body::stream(lines));
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    Ok(response)
}

fn check_initial(kind: &Kind, query: &Query, send_initial: bool) -> Result<()> {
    let mut errors = FieldErrors::default();
    let version_match = query.get("resourceVersionMatch");
    if send_initial && version_match != Some("NotOlderThan") {
        errors.forbidden(
            "resourceVersionMatch",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        );
    } else if version_match.is_some() && query.get("sendInitialEvents").is_none() {
        errors.forbidden(
            "resourceVersionMatch",
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        );
    }
    errors.into_result(kind, "")
}

/// A watch that begins with its end: its revision is not available any more.
fn gone(from: u64, current: u64) -> Response<Body> {
    let error = ApiError::expired(format!("too old resource version: {from} ({current})"));
    body::json_bytes(200, line("ERROR", &serde_json::to_vec(&error.status()).expect("JSON encodes")))
}

fn line(event: &str, object: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(object.len() + 32);
    out.put_slice(b"{\"type\":\"");
    out.put_slice(event.as_bytes());
    out.put_slice(b"\",\"object\":");
    out.put_slice(object);
    out.put_slice(b"}\n");
    out.freeze()
}

// === impl Stream ===

impl Stream {
    /// The next bytes to send: as many lines as are there, up to a frame.
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let mut frame = BytesMut::new();
        while frame.len() < FRAME_BYTES {
            let Some(entry) = self.initial.next() else { break };
            let one = self.frame("ADDED", &entry);
            frame.put_slice(&one);
        }
        if self.initial.len() == 0
            && let Some(revision) = self.announce_end.take()
        {
            frame.put_slice(&self.bookmark(revision, true));
        }
        if !frame.is_empty() {
            return Some(frame.freeze());
        }
        loop {
            let events = tokio::select! {
                events = self.watch.next(64) => events,
                () = tokio::time::sleep_until(self.deadline) => {
                    self.ended = true;
                    let revision = self.watch.progress().filter(|_| self.bookmarks)?;
                    return Some(self.bookmark(revision, false));
                }
                () = self.stop.cancelled() => return None,
                _ = self.ticks.tick(), if self.bookmarks => {
                    match self.watch.progress() {
                        Some(revision) if revision != self.last_bookmark => return Some(self.bookmark(revision, false)),
                        _ => continue,
                    }
                }
            };
            match events {
                Ok(events) => {
                    let mut lines = events.iter().filter_map(|event| self.event(event)).collect::<Vec<_>>();
                    match lines.len() {
                        0 => {}
                        1 => return lines.pop(),
                        _ => return Some(lines.concat().into()),
                    }
                }
                Err(Lagged) => {
                    self.ended = true;
                    let error = ApiError::expired("the watch was too slow and lost events; list anew");
                    return Some(line("ERROR", error.status().to_string().as_bytes()));
                }
            }
        }
    }

    fn event(&mut self, event: &Arc<Event>) -> Option<Bytes> {
        if self.selector.is_empty() && self.takes_stored(&event.entry) {
            return Some(event.frame(|event| line(word(event.change), &event.entry.json)));
        }
        let now = event.change != Change::Deleted && self.selector.matches(&event.entry.value);
        let before = event.previous.as_ref().is_some_and(|entry| self.selector.matches(&entry.value));
        match (before, now) {
            // An unchanged edge is the same line for everybody.
            (true, true) if self.takes_stored(&event.entry) => {
                Some(event.frame(|event| line(word(event.change), &event.entry.json)))
            }
            (true, true) => Some(self.frame("MODIFIED", &event.entry)),
            (false, true) => Some(self.frame("ADDED", &event.entry)),
            (true, false) => {
                let mut value = match (&event.previous, event.change) {
                    (Some(previous), Change::Updated) => previous.value.clone(),
                    _ => event.entry.value.clone(),
                };
                value["metadata"]["resourceVersion"] = json!(event.entry.revision.to_string());
                Some(self.frame_value("DELETED", &value))
            }
            (false, false) => None,
        }
    }

    /// Whether the bytes the store has are what this watch sends.
    fn takes_stored(&self, entry: &Entry) -> bool {
        self.form == Form::Json && view::is_stored(&self.kind, &entry.value)
    }

    fn frame(&mut self, event: &str, entry: &Entry) -> Bytes {
        if self.takes_stored(entry) {
            return line(event, &entry.json);
        }
        self.frame_value(event, &entry.value)
    }

    fn frame_value(&mut self, event: &str, value: &Value) -> Bytes {
        let object = table::present(&self.kind, value, self.form, self.include, self.header);
        self.header = false;
        line(event, &serde_json::to_vec(&object).expect("JSON encodes"))
    }

    fn bookmark(&mut self, revision: u64, end_of_initial: bool) -> Bytes {
        self.last_bookmark = revision;
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if end_of_initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.form {
            Form::Json => json!({"kind": self.kind.kind, "apiVersion": self.kind.api_version(), "metadata": metadata}),
            Form::Metadata => table::partial(&json!({ "metadata": metadata })),
            Form::Table => {
                let row = json!({"cells": [], "object": table::partial(&json!({ "metadata": metadata }))});
                json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "columnDefinitions": [], "rows": [row],
                    "metadata": {"resourceVersion": revision.to_string()}})
            }
        };
        line("BOOKMARK", object.to_string().as_bytes())
    }
}

fn word(change: Change) -> &'static str {
    match change {
        Change::Created => "ADDED",
        Change::Updated => "MODIFIED",
        Change::Deleted => "DELETED",
    }
}
