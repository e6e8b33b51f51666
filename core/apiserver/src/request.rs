//! What a request asks for, read from its method, path and query.

use std::borrow::Cow;
use std::sync::Arc;

use http::Method;
use percent_encoding::percent_decode_str;

use crate::kinds::{Kind, Table};
use crate::status::{ApiError, Result};

/// A path that names objects.
pub struct Target {
    pub kind: Arc<Kind>,
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub subresource: Option<String>,
}

/// The query's parameters.
#[derive(Default)]
pub struct Query(Vec<(String, String)>);

/// Parameters of one request at most; a client has no use for more.
const MOST_PARAMETERS: usize = 256;

// === impl Query ===

impl Query {
    pub fn parse(query: Option<&str>) -> Result<Self> {
        let pairs = form_urlencoded::parse(query.unwrap_or("").as_bytes());
        let list: Vec<_> = pairs.map(|(k, v)| (k.into_owned(), v.into_owned())).take(MOST_PARAMETERS + 1).collect();
        if list.len() > MOST_PARAMETERS {
            return Err(ApiError::bad_request(format!("the query has more than {MOST_PARAMETERS} parameters")));
        }
        Ok(Self(list))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    pub fn is_true(&self, name: &str) -> bool {
        matches!(self.0.iter().find(|(key, _)| key == name), Some((_, value)) if value == "true" || value == "1" || value.is_empty())
    }

    pub fn number(&self, name: &str) -> Result<Option<i64>> {
        let parse = |text: &str| {
            text.parse().map_err(|_| ApiError::bad_request(format!("query parameter {name}={text:?} must be a number")))
        };
        self.get(name).map(parse).transpose()
    }

    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    /// `dryRun=All`.
    pub fn dry_run(&self) -> Result<bool> {
        match self.get("dryRun") {
            None => Ok(false),
            Some("All") => Ok(true),
            Some(other) => Err(ApiError::bad_request(format!(
                "Invalid value: {other:?}: dryRun: Unsupported value: supported values: \"All\""
            ))),
        }
    }
}

// === impl Target ===

impl Target {
    /// Reads `/api/v1/...` and `/apis/GROUP/VERSION/...`.
    pub fn parse(table: &Table, path: &str) -> Result<Self> {
        let parts: Vec<Cow<'_, str>> = path
            .split('/')
            .skip(1)
            .map(|part| percent_decode_str(part).decode_utf8())
            .collect::<Result<_, _>>()
            .map_err(|_| ApiError::bad_request("the path is not UTF-8"))?;
        let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return Err(ApiError::no_such_path()),
        };
        let rest = match rest {
            [rest @ .., ""] => rest,
            rest => rest,
        };
        let (namespace, rest) = match rest {
            // `namespaces/NAME/status` is about the namespace itself, `namespaces/NAME/pods` about what is in it.
            ["namespaces", _, "status" | "finalize"] | ["namespaces"] | ["namespaces", _] if group.is_empty() => {
                (None, rest)
            }
            ["namespaces", namespace, rest @ ..] => (Some(*namespace), rest),
            rest => (None, rest),
        };
        let (plural, name, subresource) = match rest {
            [plural] => (plural, None, None),
            [plural, name] => (plural, Some(*name), None),
            [plural, name, subresource] => (plural, Some(*name), Some(*subresource)),
            _ => return Err(ApiError::no_such_path()),
        };
        let place = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        let kind = table.get(group, version, plural);
        let kind = kind.ok_or_else(|| ApiError::not_served(format_args!("{plural} of {place}")))?.clone();
        if namespace.is_some() && !kind.namespaced || namespace.is_none() && kind.namespaced && name.is_some() {
            return Err(ApiError::no_such_path());
        }
        for part in [namespace, name, subresource].into_iter().flatten() {
            if part.is_empty() || part.len() > 253 || part.contains('/') || part == "." || part == ".." {
                return Err(ApiError::bad_request(format!("{part:?} in the path is not a name")));
            }
        }
        if let Some(subresource) = subresource {
            let known = subresource == "status" && kind.status
                || subresource == "scale" && kind.scale
                || kind.subresources.iter().any(|(name, _)| *name == subresource);
            if !known {
                return Err(ApiError::not_served(format_args!("{plural}/{subresource} of {place}")));
            }
        }
        let owned = |part: Option<&str>| part.map(ToOwned::to_owned);
        Ok(Self { kind, namespace: owned(namespace), name: owned(name), subresource: owned(subresource) })
    }

    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("")
    }

    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or("")
    }

    pub fn key(&self) -> String {
        self.kind.key(self.namespace(), self.name())
    }

    /// The verb access rules speak of.
    pub fn verb(&self, method: &Method, query: &Query) -> Result<&'static str> {
        let one = self.name.is_some();
        Ok(match *method {
            Method::GET | Method::HEAD if self.subresource.is_some() => "get",
            Method::GET | Method::HEAD if query.is_true("watch") => "watch",
            Method::GET | Method::HEAD if one => "get",
            Method::GET | Method::HEAD => "list",
            Method::POST => "create",
            Method::PUT if one => "update",
            Method::PATCH if one => "patch",
            Method::DELETE if one => "delete",
            Method::DELETE => "deletecollection",
            _ => return Err(ApiError::method_not_allowed()),
        })
    }
}
