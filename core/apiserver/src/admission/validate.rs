//! Checks of whole objects.

use serde_json::Value;

use crate::kinds::Kind;
use crate::status::FieldErrors;

/// Checks an object; `old` is there on updates.
pub fn object(_kind: &Kind, _object: &Value, _old: Option<&Value>, _errors: &mut FieldErrors) {}
