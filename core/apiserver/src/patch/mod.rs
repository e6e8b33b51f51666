//! Patches, in the four forms Kubernetes has.

pub mod apply;
mod fields;
mod json;
pub mod schema;
mod strategic;

use serde_json::Value;
use switchyard_store::bounds::MOST_DEPTH;

use crate::kinds::Kind;
use crate::request::Query;
use crate::status::{ApiError, FieldErrors, Result};

/// A patch, read but not yet applied.
pub enum Patch {
    /// RFC 6902: a list of operations.
    Json(json_patch::Patch),
    /// RFC 7386: a partial object, null removes.
    Merge(Value),
    /// A partial object with Kubernetes' rules for lists.
    Strategic(Value),
    /// Server-side apply: all a manager wants of the object.
    Apply { wanted: Value, manager: String, force: bool },
}

const TYPES: &str = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, \
                     application/apply-patch+yaml";
/// Operations of a JSON patch at most, as in Kubernetes.
const MOST_OPERATIONS: usize = 10_000;

// === impl Patch ===

impl Patch {
    pub fn parse(media_type: &str, body: &[u8], query: &Query) -> Result<Self> {
        let json = || crate::handler::parse_json(body);
        let object = || {
            json().and_then(|value| {
                if value.is_object() {
                    Ok(value)
                } else {
                    Err(ApiError::bad_request("the patch must be a JSON object"))
                }
            })
        };
        Ok(match media_type {
            "application/json-patch+json" => {
                let patch: json_patch::Patch = serde_json::from_value(json()?)
                    .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
                if patch.0.len() > MOST_OPERATIONS {
                    return Err(ApiError::too_large(MOST_OPERATIONS));
                }
                Self::Json(patch)
            }
            "application/merge-patch+json" => Self::Merge(object()?),
            "application/strategic-merge-patch+json" => Self::Strategic(object()?),
            "application/apply-patch+yaml" | "application/apply-patch+json" => {
                let wanted = crate::handler::parse_yaml(body)?;
                if !wanted.is_object() {
                    return Err(ApiError::bad_request("the applied configuration must be an object"));
                }
                let Some(manager) = query.get("fieldManager") else {
                    return Err(ApiError::bad_request(
                        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
                    ));
                };
                Self::Apply {
                    wanted,
                    manager: manager.into(),
                    force: query.is_true("force") && query.get("force").is_some(),
                }
            }
            other => return Err(ApiError::unsupported_media(other, TYPES)),
        })
    }

    /// Whether it may create the object it is for.
    pub fn creates(&self) -> bool {
        matches!(self, Self::Apply { .. })
    }

    /// The object this patch makes of `old`.
    pub fn apply(&self, kind: &Kind, name: &str, old: &Value, status: bool) -> Result<Value> {
        let mut new = old.clone();
        match self {
            Self::Json(patch) => json::apply(&mut new, patch).map_err(|refused| self::refused(kind, name, refused))?,
            Self::Merge(patch) => json_patch::merge(&mut new, patch),
            Self::Strategic(patch) => {
                if kind.check.is_none() || kind.group == switchyard_api::names::GROUP {
                    let why = "strategic-merge-patch is not supported for this kind";
                    return Err(ApiError::unsupported_media(why, "application/merge-patch+json"));
                }
                strategic::merge(&mut new, patch, schema::Type::of(kind)).map_err(ApiError::bad_request)?;
            }
            Self::Apply { wanted, manager, force } => new = apply::apply(kind, old, wanted, manager, *force, status)?,
        }
        if !new.is_object() {
            return Err(ApiError::bad_request("the patched value is not an object any more"));
        }
        Ok(new)
    }

    /// The `Scale` this patch makes of an object's; there all forms but the first are a merge.
    pub fn apply_to_scale(&self, kind: &Kind, name: &str, mut scale: Value) -> Result<Value> {
        match self {
            Self::Json(patch) => {
                json::apply(&mut scale, patch).map_err(|refused| self::refused(kind, name, refused))?
            }
            Self::Merge(patch) | Self::Strategic(patch) | Self::Apply { wanted: patch, .. } => {
                json_patch::merge(&mut scale, patch);
            }
        }
        Ok(scale)
    }
}

fn refused(kind: &Kind, name: &str, refused: json::Refused) -> ApiError {
    match refused {
        json::Refused::Wrong(error) => {
            let mut errors = FieldErrors::default();
            errors.invalid("patch", name, &error.to_string());
            ApiError::invalid(kind, name, errors)
        }
        json::Refused::TooDeep => ApiError::too_deep(MOST_DEPTH),
        json::Refused::TooMuch => ApiError::too_large(json::MOST_COPIED),
    }
}

/// A pod patched, without a server: for comparison with other implementations.
#[doc(hidden)]
pub fn for_tests(form: &str, pod: &Value, patch: &Value) -> Result<Value, String> {
    let table = crate::kinds::Kinds::built_in().now();
    let kind = table.find("", "pods").ok_or("pods are built in")?;
    let patch = if form == "merge" { Patch::Merge(patch.clone()) } else { Patch::Strategic(patch.clone()) };
    patch.apply(kind, "p", pod, false).map_err(|error| error.message)
}
