//! What clients of a kind see of objects that may be stored as another kind's or another version's.

use std::borrow::Cow;

use serde_json::Value;

use crate::events;
use crate::kinds::{Kind, View};
use crate::meta;

/// Whether clients of `kind` see a stored object as it is stored, and so may have its bytes.
pub fn is_stored(kind: &Kind, object: &Value) -> bool {
    match &kind.view {
        View::Stored => true,
        View::Events => false,
        View::Version { .. } => meta::text(object, "/apiVersion") == kind.api_version(),
    }
}

/// What clients of `kind` see of a stored object.
pub fn of<'a>(kind: &Kind, object: &'a Value) -> Cow<'a, Value> {
    match &kind.view {
        _ if is_stored(kind, object) => Cow::Borrowed(object),
        View::Events => Cow::Owned(events::to_new(object)),
        // Conversion strategy None: versions differ in their name.
        _ => {
            let mut view = object.clone();
            meta::as_map(&mut view).insert("apiVersion".into(), kind.api_version().into());
            Cow::Owned(view)
        }
    }
}

/// What is stored of an object a client of `kind` sent.
pub fn stored(kind: &Kind, mut object: Value) -> Value {
    match &kind.view {
        View::Stored => object,
        View::Events => events::from_new(&object),
        View::Version { stored } => {
            meta::as_map(&mut object).insert("apiVersion".into(), stored.clone().into());
            object
        }
    }
}
