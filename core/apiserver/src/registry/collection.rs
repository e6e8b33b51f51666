//! Patches, and deletes of many.

use std::sync::Arc;

use serde_json::json;
use switchyard_store::Entry;

use super::{DeleteOptions, Part, Write};
use crate::body::{self, Body};
use crate::list;
use crate::meta;
use crate::patch::Patch;
use crate::request::{Query, Target};
use crate::selector::Selector;
use crate::status::{ApiError, Result};
use crate::view;

impl Write<'_> {
    /// Patches an object; an apply creates it if it is missing. Returns the HTTP status with it.
    pub async fn patch(&self, name: &str, patch: &Patch, part: Part) -> Result<(u16, Arc<Entry>)> {
        let status = part == Part::Status;
        if patch.creates() && !status && self.current(name).is_err() {
            let mut empty =
                json!({"apiVersion": self.kind.api_version(), "kind": self.kind.kind, "metadata": {"name": name}});
            if self.kind.namespaced {
                empty["metadata"]["namespace"] = json!(self.namespace);
            }
            let object = patch.apply(self.kind, name, &empty, status)?;
            match self.create(object).await {
                Err(error) if error.reason == "AlreadyExists" => {}
                result => return result.map(|entry| (201, entry)),
            }
        }
        let entry = self
            .change(name, part, |old| {
                let view = view::of(self.kind, old).into_owned();
                let new = patch.apply(self.kind, name, &view, status)?;
                if meta::name(&new) != name {
                    let why = format!(
                        "the name of the object ({}) does not match the name on the URL ({name})",
                        meta::name(&new)
                    );
                    return Err(ApiError::bad_request(why));
                }
                self.accept(new)
            })
            .await?;
        Ok((200, entry))
    }

    /// Deletes what a selector names.
    pub async fn delete_collection(
        &self,
        target: &Target,
        query: &Query,
        options: &DeleteOptions,
    ) -> Result<http::Response<Body>> {
        let selector = Selector::parse(self.kind, query.get("labelSelector"), query.get("fieldSelector"))?;
        if self.kind.namespaced && target.namespace.is_none() {
            return Err(ApiError::method_not_allowed());
        }
        let (entries, revision) = list::select(&self.server.store, target, &selector);
        let removals = entries.iter().map(|entry| self.remove(meta::name(&entry.value), options));
        for result in futures::future::join_all(removals).await {
            match result {
                Err(error) if error.code != 404 => return Err(error),
                _ => {}
            }
        }
        let items: Vec<_> = entries.iter().map(|entry| view::of(self.kind, &entry.value)).collect();
        let list = json!({"kind": format!("{}List", self.kind.kind), "apiVersion": self.kind.api_version(),
            "metadata": {"resourceVersion": revision.to_string()}, "items": items});
        Ok(body::json(200, &list))
    }
}
