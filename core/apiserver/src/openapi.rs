//! OpenAPI documents: small, but true.
//!
//! Clients look into them for two things: whether the server validates fields itself (`fieldValidation` among a patch's
//! parameters), and, old ones, that there is a document at all, in protobuf.

use http::{HeaderMap, Response, header};
use prost::Message;
use serde_json::{Map, Value, json};

use crate::body::{self, Body};
use crate::kinds::{Kind, Table};
use crate::status::{ApiError, Result};

/// Clients ask for it with an `@`, which is no good media type; old ones refuse it in an answer.
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// `openapi.v2.Document`, as far as we fill it.
#[derive(Clone, PartialEq, Message)]
struct Document {
    #[prost(string, tag = "1")]
    swagger: String,
    #[prost(message, optional, tag = "2")]
    info: Option<Info>,
    #[prost(message, optional, tag = "8")]
    paths: Option<Empty>,
    #[prost(message, optional, tag = "9")]
    definitions: Option<Empty>,
}

/// `openapi.v2.Info`.
#[derive(Clone, PartialEq, Message)]
struct Info {
    #[prost(string, tag = "1")]
    title: String,
    #[prost(string, tag = "2")]
    version: String,
}

/// A message with nothing in it.
#[derive(Clone, Copy, PartialEq, Message)]
struct Empty {}

/// `/openapi/v2`, in protobuf where the client takes it.
pub fn v2(headers: &HeaderMap) -> Response<Body> {
    let takes_protobuf = headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|value| value.to_str().is_ok_and(|text| text.contains("proto-openapi.spec.v2")));
    if takes_protobuf {
        let document = Document {
            swagger: "2.0".into(),
            info: Some(Info { title: "Switchyard".into(), version: env!("CARGO_PKG_VERSION").into() }),
            paths: Some(Empty {}),
            definitions: Some(Empty {}),
        };
        return body::typed(200, PROTOBUF, document.encode_to_vec());
    }
    body::json(
        200,
        &json!({"swagger": "2.0", "info": {"title": "Switchyard", "version": env!("CARGO_PKG_VERSION")},
        "paths": {}, "definitions": {}}),
    )
}

/// `/openapi/v3` and the documents below it.
pub fn v3(table: &Table, path: &str) -> Result<Response<Body>> {
    let rest = path.trim_start_matches("/openapi/v3").trim_matches('/');
    let place = |group: &str, version: &str| {
        if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
    };
    if rest.is_empty() {
        let mut paths = Map::new();
        for ((group, version), _) in table.groups() {
            let place = place(group, version);
            paths.insert(place.clone(), json!({ "serverRelativeURL": format!("/openapi/v3/{place}") }));
        }
        return Ok(body::json(200, &json!({ "paths": paths })));
    }
    let (_, kinds) = table
        .groups()
        .find(|((group, version), _)| place(group, version) == rest)
        .ok_or_else(ApiError::no_such_path)?;
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for kind in kinds.values() {
        let base = format!("/{rest}{}/{}", if kind.namespaced { "/namespaces/{namespace}" } else { "" }, kind.plural);
        paths.insert(
            base.clone(),
            json!({"get": operation(kind, "list", &[]), "post": operation(kind, "post", &WRITING)}),
        );
        paths.insert(
            format!("{base}/{{name}}"),
            json!({
                "get": operation(kind, "get", &[]),
                "put": operation(kind, "put", &WRITING),
                "patch": operation(kind, "patch", &PATCHING),
                "delete": operation(kind, "delete", &["dryRun", "gracePeriodSeconds", "propagationPolicy"]),
            }),
        );
        let group = if kind.group.is_empty() { "core" } else { &kind.group };
        schemas.insert(format!("io.k8s.api.{group}.{}.{}", kind.version, kind.kind), schema(kind));
    }
    Ok(body::json(
        200,
        &json!({
            "openapi": "3.0.0", "info": {"title": "Switchyard", "version": env!("CARGO_PKG_VERSION")},
            "paths": paths, "components": {"schemas": schemas},
        }),
    ))
}

const WRITING: [&str; 4] = ["dryRun", "fieldManager", "fieldValidation", "pretty"];
const PATCHING: [&str; 5] = ["dryRun", "fieldManager", "fieldValidation", "force", "pretty"];

fn operation(kind: &Kind, action: &str, parameters: &[&str]) -> Value {
    let parameters: Vec<Value> = parameters
        .iter()
        .map(|name| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}}))
        .collect();
    json!({
        "operationId": format!("{action}{}", kind.kind), "parameters": parameters,
        "responses": {"200": {"description": "OK"}}, "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
    })
}

/// The first level, which is what `kubectl explain` shows of a kind.
fn schema(kind: &Kind) -> Value {
    let mut properties = json!({
        "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"},
    });
    for (name, form) in fields(kind) {
        properties[*name] = match *form {
            "list" => json!({"type": "array", "items": {"type": "object"}}),
            form => json!({ "type": form }),
        };
    }
    json!({
        "type": "object", "description": format!("{} of {}", kind.kind, kind.api_version()),
        "properties": properties,
        "x-kubernetes-preserve-unknown-fields": true,
        "x-kubernetes-group-version-kind": [{"group": kind.group, "version": kind.version, "kind": kind.kind}],
    })
}

/// Fields beside those that every kind has, and their forms.
fn fields(kind: &Kind) -> &'static [(&'static str, &'static str)] {
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "ConfigMap") => &[("data", "object"), ("binaryData", "object"), ("immutable", "boolean")],
        ("", "Secret") => &[("data", "object"), ("stringData", "object"), ("type", "string"), ("immutable", "boolean")],
        ("", "ServiceAccount") => {
            &[("secrets", "list"), ("imagePullSecrets", "list"), ("automountServiceAccountToken", "boolean")]
        }
        ("", "Endpoints") => &[("subsets", "list")],
        ("", "Event") => &[
            ("involvedObject", "object"),
            ("type", "string"),
            ("reason", "string"),
            ("message", "string"),
            ("count", "integer"),
        ],
        ("events.k8s.io", "Event") => &[
            ("regarding", "object"),
            ("type", "string"),
            ("reason", "string"),
            ("note", "string"),
            ("action", "string"),
        ],
        ("apps", "ControllerRevision") => &[("revision", "integer"), ("data", "object")],
        ("discovery.k8s.io", "EndpointSlice") => &[("addressType", "string"), ("endpoints", "list"), ("ports", "list")],
        ("rbac.authorization.k8s.io", "Role") => &[("rules", "list")],
        ("rbac.authorization.k8s.io", "ClusterRole") => &[("rules", "list"), ("aggregationRule", "object")],
        ("rbac.authorization.k8s.io", _) => &[("roleRef", "object"), ("subjects", "list")],
        _ if kind.status => &[("spec", "object"), ("status", "object")],
        _ => &[("spec", "object")],
    }
}
