//! Server-side apply.

use serde_json::Value;

use crate::kinds::Kind;
use crate::status::Result;

/// What a manager's apply makes of an object.
pub fn apply(kind: &Kind, old: &Value, wanted: &Value, _manager: &str, _force: bool, _status: bool) -> Result<Value> {
    let mut new = old.clone();
    if kind.check.is_some() {
        super::strategic::merge(&mut new, wanted, super::schema::Type::of(kind)).map_err(crate::status::ApiError::bad_request)?;
    } else {
        json_patch::merge(&mut new, wanted);
    }
    Ok(new)
}

/// Notes who changed what, for objects that somebody applies.
pub fn track_update(_kind: &Kind, _old: &Value, _new: &mut Value, _manager: &str, _status: bool) {}
