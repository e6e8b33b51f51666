//! Errors as Kubernetes words them: every failure of a request becomes one `Status` object here.

use std::fmt;

use serde_json::{Value, json};

use crate::kinds::Kind;

/// Why a request was not done.
#[derive(Debug)]
pub struct ApiError {
    /// The HTTP status code.
    pub code: u16,
    /// One word for programs.
    pub reason: &'static str,
    /// One line for people.
    pub message: String,
    /// Kind, name, causes.
    pub details: Option<Value>,
}

/// Short form of a request's result.
pub type Result<T, E = ApiError> = std::result::Result<T, E>;

/// One wrong field.
#[derive(Clone, Debug)]
pub struct FieldError {
    path: String,
    reason: &'static str,
    message: String,
}

/// The wrong fields found so far.
#[derive(Default, Debug)]
pub struct FieldErrors(pub Vec<FieldError>);

// === impl ApiError ===

impl ApiError {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    fn about(mut self, kind: &Kind, name: &str) -> Self {
        self.details = Some(json!({"name": name, "group": kind.group, "kind": kind.plural}));
        self
    }

    pub fn not_found(kind: &Kind, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} \"{name}\" not found", kind.resource())).about(kind, name)
    }

    pub fn no_such_path() -> Self {
        let mut error = Self::new(404, "NotFound", "the server could not find the requested resource");
        // `kubectl debug` looks into the details without asking whether there are any.
        error.details = Some(json!({}));
        error
    }

    /// A kind, or a part of one, that this server does not have: which it is, `kubectl` does not say.
    pub fn not_served(what: impl fmt::Display) -> Self {
        let mut error = Self::no_such_path();
        error.message = format!("{}: {what} is not served", error.message);
        error
    }

    pub fn exists(kind: &Kind, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} \"{name}\" already exists", kind.resource())).about(kind, name)
    }

    pub fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", kind.resource());
        Self::new(409, "Conflict", message).about(kind, name)
    }

    pub fn modified(kind: &Kind, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(kind, name, why)
    }

    /// Another manager owns what a server-side apply sets.
    pub fn apply_conflict(message: String, causes: Vec<Value>) -> Self {
        let mut error = Self::new(409, "Conflict", message);
        error.details = Some(json!({ "causes": causes }));
        error
    }

    pub fn invalid(kind: &Kind, name: &str, errors: FieldErrors) -> Self {
        let lines: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
        let text = if lines.len() == 1 { lines[0].clone() } else { format!("[{}]", lines.join(", ")) };
        let of = if kind.group.is_empty() { kind.kind.clone() } else { format!("{}.{}", kind.kind, kind.group) };
        let causes: Vec<Value> = errors
            .0
            .iter()
            .map(|error| json!({"reason": error.reason, "message": error.message, "field": error.path}))
            .collect();
        let mut error = Self::new(422, "Invalid", format!("{of} \"{name}\" is invalid: {text}"));
        error.details = Some(json!({"name": name, "group": kind.group, "kind": kind.kind, "causes": causes}));
        error
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// What `kind name is forbidden:` is followed by is up to the caller.
    pub fn forbidden(kind: &Kind, name: &str, why: impl fmt::Display) -> Self {
        let object = if name.is_empty() { kind.resource() } else { format!("{} \"{name}\"", kind.resource()) };
        Self::new(403, "Forbidden", format!("{object} is forbidden: {why}")).about(kind, name)
    }

    pub fn forbidden_path(user: &str, verb: &str, path: &str) -> Self {
        Self::new(403, "Forbidden", format!("forbidden: User \"{user}\" cannot {verb} path \"{path}\""))
    }

    pub fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    pub fn not_acceptable(offered: &str) -> Self {
        let message = format!("only the following media types are accepted: {offered}");
        Self::new(406, "NotAcceptable", message)
    }

    pub fn unsupported_media(given: &str, taken: &str) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {taken} (got {given:?})"
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub fn too_large(limit: usize) -> Self {
        Self::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit}"))
    }

    pub fn too_slow(limit: std::time::Duration) -> Self {
        Self::new(408, "Timeout", format!("the body of the request did not come within {limit:?}"))
    }

    pub fn too_deep(limit: usize) -> Self {
        Self::bad_request(format!("the object is nested too deep: limit is {limit} levels of maps and lists"))
    }

    pub fn too_many(message: impl Into<String>) -> Self {
        let mut error = Self::new(429, "TooManyRequests", message);
        error.details = Some(json!({"retryAfterSeconds": 1}));
        error
    }

    pub fn version_from_the_future(requested: u64, current: u64) -> Self {
        let mut error =
            Self::new(504, "Timeout", format!("Too large resource version: {requested}, current: {current}"));
        error.details = Some(json!({"causes": [
            {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}], "retryAfterSeconds": 1}));
        error
    }

    pub fn internal(message: impl fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// The `Status` object.
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status
    }
}

/// The `Status` of a success, as a delete answers.
pub fn success(kind: &Kind, name: &str, uid: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {"name": name, "group": kind.group, "kind": kind.plural, "uid": uid},
    })
}

// === impl FieldError ===

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

// === impl FieldErrors ===

impl FieldErrors {
    fn push(&mut self, path: impl Into<String>, reason: &'static str, message: String) {
        // Hostile input must not make the answer huge.
        if self.0.len() < 100 {
            self.0.push(FieldError { path: path.into(), reason, message });
        }
    }

    pub fn required(&mut self, path: impl Into<String>, why: &str) {
        let message = if why.is_empty() { "Required value".into() } else { format!("Required value: {why}") };
        self.push(path, "FieldValueRequired", message);
    }

    pub fn invalid(&mut self, path: impl Into<String>, value: impl Into<Value>, why: &str) {
        let mut shown = value.into().to_string();
        if shown.len() > 300 {
            let end = shown.floor_char_boundary(300);
            shown.truncate(end);
            shown.push_str("...");
        }
        self.push(path, "FieldValueInvalid", format!("Invalid value: {shown}: {why}"));
    }

    pub fn forbidden(&mut self, path: impl Into<String>, why: &str) {
        self.push(path, "FieldValueForbidden", format!("Forbidden: {why}"));
    }

    pub fn duplicate(&mut self, path: impl Into<String>, value: &str) {
        self.push(path, "FieldValueDuplicate", format!("Duplicate value: {value:?}"));
    }

    pub fn unsupported(&mut self, path: impl Into<String>, value: &str, supported: &[&str]) {
        let list: Vec<String> = supported.iter().map(|word| format!("{word:?}")).collect();
        let message = format!("Unsupported value: {value:?}: supported values: {}", list.join(", "));
        self.push(path, "FieldValueNotSupported", message);
    }

    pub fn not_found(&mut self, path: impl Into<String>, value: &str) {
        self.push(path, "FieldValueNotFound", format!("Not found: {value:?}"));
    }

    /// Adds an error unless `value` is one of `supported`; an empty value is left to others.
    pub fn one_of(&mut self, path: impl Into<String>, value: &str, supported: &[&str]) {
        if !value.is_empty() && !supported.contains(&value) {
            self.unsupported(path, value, supported);
        }
    }

    pub fn into_result(self, kind: &Kind, name: &str) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(ApiError::invalid(kind, name, self)) }
    }
}
