//! One request, from who and what to the answer.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use serde_json::{Value, json};

use crate::accept::{self, Form};
use crate::auth::{User, rbac, reviews};
use crate::body::{self, Body};
use crate::patch::Patch;
use crate::registry::{DeleteOptions, FieldValidation, Part, Write};
use crate::request::{Query, Target};
use crate::server::Inner;
use crate::status::{ApiError, Result};
use crate::table::{self, Include};
use crate::{discovery, list, openapi, protobuf, proxy, watch};

/// Answers a request. `user` is who the connection's certificate speaks for.
pub async fn handle(server: &Arc<Inner>, user: Option<Arc<User>>, request: Request<Bytes>) -> Response<Body> {
    match route(server, user, request).await {
        Ok(response) => response,
        Err(error) => error.into(),
    }
}

async fn route(server: &Arc<Inner>, user: Option<Arc<User>>, request: Request<Bytes>) -> Result<Response<Body>> {
    let user = match user {
        Some(user) => user,
        None => server.auth.bearer(server, request.headers())?,
    };
    let user = server.auth.impersonate(server, user, request.headers())?;
    let path = request.uri().path();
    let query = Query::parse(request.uri().query())?;
    let is_object =
        path.starts_with("/api/v1/") || path.starts_with("/apis/") && path.trim_end_matches('/').split('/').count() > 4;
    if !is_object {
        rbac::authorize_path(server, &user, request.method(), path)?;
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return Err(ApiError::method_not_allowed());
        }
        return meta_path(server, request.headers(), path);
    }
    if let Some(response) = reviews::answer(server, &user, &request)? {
        return Ok(response);
    }
    let target = Target::parse(&server.kinds.now(), path)?;
    let verb = target.verb(request.method(), &query)?;
    rbac::authorize(server, &user, verb, &target, &query)?;
    match (verb, target.subresource.as_deref()) {
        ("get" | "create", Some("log" | "exec" | "attach" | "portforward")) => {
            proxy::to_agent(server, &target, &query, request).await
        }
        ("get", Some("scale")) => {
            let write = write(server, &target, &query)?;
            let entry = write.current(target.name())?;
            Ok(body::json(200, &write.scale_of(&entry.value)))
        }
        ("get", _) => get(server, &target, &query, accept::form(request.headers())?),
        ("list", None) => {
            list::list(&server.store, &server.continuations, &target, &query, accept::form(request.headers())?)
        }
        ("watch", None) => {
            let form = accept::form(request.headers())?;
            watch::watch(&server.store, &server.watches, &server.stop, &target, &query, form)
        }
        _ => change(server, verb, &target, &query, &request).await,
    }
}

/// Paths that name no objects.
fn meta_path(server: &Inner, headers: &http::HeaderMap, path: &str) -> Result<Response<Body>> {
    match path.trim_end_matches('/') {
        "/healthz" | "/livez" | "/readyz" => Ok(body::typed(200, "text/plain; charset=utf-8", "ok")),
        "/version" => Ok(body::json(200, &discovery::version())),
        "/metrics" => Ok(body::typed(200, "text/plain; version=0.0.4", metrics(server))),
        "/openapi/v2" => Ok(openapi::v2(headers)),
        path if path.starts_with("/healthz/") || path.starts_with("/livez/") || path.starts_with("/readyz/") => {
            Ok(body::typed(200, "text/plain; charset=utf-8", "ok"))
        }
        path if path.starts_with("/openapi/v3") => openapi::v3(&server.kinds.now(), path),
        path => discovery::answer(&server.kinds.now(), headers, path),
    }
}

fn metrics(server: &Inner) -> String {
    format!(
        "# TYPE apiserver_store_revision gauge\napiserver_store_revision {}\n# TYPE apiserver_watches gauge\napiserver_watches \
         {}\n",
        server.store.revision(),
        server.watches.count()
    )
}

fn get(server: &Inner, target: &Target, query: &Query, form: Form) -> Result<Response<Body>> {
    let entry = server.store.get(&target.key()).ok_or_else(|| ApiError::not_found(&target.kind, target.name()))?;
    let bytes = table::encode(&target.kind, &entry.value, &entry.json, form, Include::parse(query));
    Ok(body::json_bytes(200, bytes))
}

fn write<'a>(server: &'a Inner, target: &'a Target, query: &Query) -> Result<Write<'a>> {
    Ok(Write {
        server,
        kind: &target.kind,
        namespace: target.namespace(),
        dry_run: query.dry_run()?,
        validation: FieldValidation::parse(query)?,
        manager: query.get("fieldManager").unwrap_or("unknown").to_owned(),
        warnings: Mutex::default(),
    })
}

async fn change(
    server: &Inner,
    verb: &str,
    target: &Target,
    query: &Query,
    request: &Request<Bytes>,
) -> Result<Response<Body>> {
    let headers = request.headers();
    let form = accept::form(headers)?;
    let write = write(server, target, query)?;
    let name = target.name();
    let sent = || parse_body(headers, request.body());
    let part = if target.subresource.as_deref() == Some("status") { Part::Status } else { Part::Main };
    let present = |code, entry: Arc<switchyard_store::Entry>| {
        body::json_bytes(code, table::encode(&target.kind, &entry.value, &entry.json, form, Include::Metadata))
    };
    let mut response = match (verb, target.subresource.as_deref()) {
        ("create", None) if target.name.is_none() => present(201, write.create(sent()?).await?),
        ("create", Some("binding")) => {
            write.bind(name, &sent()?).await?;
            body::json(
                201,
                &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
            )
        }
        ("create", Some("eviction")) => body::json(201, &write.evict(name, &sent()?).await?),
        ("create", Some("token")) => body::json(201, &server.auth.token_request(server, target, &sent()?)?),
        ("update", None | Some("status" | "ephemeralcontainers")) => {
            present(200, write.replace(name, sent()?, part).await?)
        }
        ("update", Some("finalize")) => present(200, write.finalize(name, sent()?).await?),
        ("update", Some("scale")) => {
            let scale = sent()?;
            body::json(200, &write.set_scale(name, |_| Ok(scale.clone())).await?)
        }
        ("patch", subresource) => {
            let patch = Patch::parse(media_type(headers), request.body(), query)?;
            match subresource {
                Some("scale") => {
                    let made = write.set_scale(name, |mut scale| {
                        match &patch {
                            Patch::Json(patch) => json_patch::patch(&mut scale, patch)
                                .map_err(|error| ApiError::bad_request(format!("the patch does not apply: {error}")))?,
                            Patch::Merge(patch) | Patch::Strategic(patch) | Patch::Apply { wanted: patch, .. } => {
                                json_patch::merge(&mut scale, patch);
                            }
                        }
                        Ok(scale)
                    });
                    body::json(200, &made.await?)
                }
                None | Some("status" | "ephemeralcontainers") => {
                    let (code, entry) = write.patch(name, &patch, part).await?;
                    present(code, entry)
                }
                _ => return Err(ApiError::method_not_allowed()),
            }
        }
        ("delete", None) => {
            let options = if request.body().is_empty() { None } else { Some(sent()?) };
            write.delete(name, &DeleteOptions::parse(options, query)?).await?
        }
        ("deletecollection", None) => {
            let options = if request.body().is_empty() { None } else { Some(sent()?) };
            write.delete_collection(target, query, &DeleteOptions::parse(options, query)?).await?
        }
        _ => return Err(ApiError::method_not_allowed()),
    };
    for warning in write.warnings.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter() {
        let text = warning.replace(|c: char| c.is_control(), " ").replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    Ok(response)
}

fn media_type(headers: &http::HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    value.split(';').next().unwrap_or("").trim()
}

/// Reads a body as the media type says.
pub fn parse_body(headers: &http::HeaderMap, bytes: &[u8]) -> Result<Value> {
    match media_type(headers) {
        "" | "application/json" | "text/plain" | "application/x-www-form-urlencoded" => parse_json(bytes),
        "application/yaml" => parse_yaml(bytes),
        "application/vnd.kubernetes.protobuf" => protobuf::decode(bytes),
        other => Err(ApiError::unsupported_media(
            other,
            "application/json, application/yaml, application/vnd.kubernetes.protobuf",
        )),
    }
}

/// JSON of bounded depth.
pub fn parse_json(bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|error| ApiError::bad_request(format!("the body is not good JSON: {error}")))
}

/// JSON or YAML.
pub fn parse_yaml(bytes: &[u8]) -> Result<Value> {
    if bytes.first() == Some(&b'{') {
        return parse_json(bytes);
    }
    serde_yaml_ng::from_slice(bytes)
        .map_err(|error| ApiError::bad_request(format!("the body is not good YAML: {error}")))
}
