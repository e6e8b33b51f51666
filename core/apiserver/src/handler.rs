//! One request, from who and what to the answer.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, header};
use serde_json::{Value, json};

use crate::accept::{self, Form};
use crate::auth::reviews::Review;
use crate::auth::{User, rbac};
use crate::body::{self, Body};
use crate::intake::{MOST_BODY_BYTES, Taken};
use crate::patch::Patch;
use crate::registry::{DeleteOptions, FieldValidation, Part, Write};
use crate::request::{Query, Target};
use crate::server::Inner;
use crate::status::{ApiError, Result};
use crate::table::{self, Include};
use crate::{discovery, list, openapi, protobuf, proxy, watch, yaml};

/// What a request is about, and that its user may ask for it.
struct Admitted {
    user: Arc<User>,
    query: Query,
    ask: Ask,
}

enum Ask {
    /// A path that names no objects.
    About,
    /// A question about access.
    Review(Review),
    /// A verb on objects.
    Objects { verb: &'static str, target: Target },
}

/// Answers a request. `user` is who the connection's certificate speaks for. Nothing of the body is read before it is known who asks for
/// what, and that they may.
pub async fn handle<B>(server: &Arc<Inner>, user: Option<Arc<User>>, request: Request<B>) -> Response<Body>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (parts, body) = request.into_parts();
    let answer = async {
        let admitted = admit(server, user, &parts)?;
        let reads = parts.method == Method::GET || parts.method == Method::HEAD;
        let taken = if reads { Taken::default() } else { server.intake.take(body).await? };
        perform(server, admitted, Request::from_parts(parts, taken.bytes.clone())).await
    };
    answer.await.unwrap_or_else(Into::into)
}

/// Judges a request by its head.
fn admit(server: &Inner, user: Option<Arc<User>>, head: &Parts) -> Result<Admitted> {
    let user = match user {
        Some(user) => user,
        None => server.auth.bearer(server, &head.headers)?,
    };
    let user = server.auth.impersonate(server, user, &head.headers)?;
    let path = head.uri.path();
    let query = Query::parse(head.uri.query())?;
    let is_object =
        path.starts_with("/api/v1/") || path.starts_with("/apis/") && path.trim_end_matches('/').split('/').count() > 4;
    let ask = if !is_object {
        rbac::authorize_path(server, &user, &head.method, path)?;
        if head.method != Method::GET && head.method != Method::HEAD {
            return Err(ApiError::method_not_allowed());
        }
        Ask::About
    } else if let Some(review) = Review::of_path(path) {
        review.authorize(server, &user, &head.method, path)?;
        Ask::Review(review)
    } else {
        let target = Target::parse(&server.kinds.now(), path)?;
        let verb = target.verb(&head.method, &query)?;
        rbac::authorize(server, &user, verb, &target, &query)?;
        Ask::Objects { verb, target }
    };
    Ok(Admitted { user, query, ask })
}

/// Does what was admitted.
async fn perform(server: &Arc<Inner>, admitted: Admitted, request: Request<Bytes>) -> Result<Response<Body>> {
    let Admitted { user, query, ask } = admitted;
    let (verb, target) = match ask {
        Ask::About => return about(server, request.headers(), request.uri().path()),
        Ask::Review(review) => return review.answer(server, &user, &parse_body(request.headers(), request.body())?),
        Ask::Objects { verb, target } => (verb, target),
    };
    match (verb, target.subresource.as_deref()) {
        ("get" | "create", Some("log" | "exec" | "attach" | "portforward")) => {
            proxy::to_agent(server, &target, &query, request).await
        }
        ("get", Some("scale")) => {
            let write = write(server, &user, &target, &query)?;
            let entry = write.current(target.name())?;
            Ok(body::json(200, &write.scale_of(&entry.value)))
        }
        ("get", _) => get(server, &target, &query, accept::form(request.headers())?),
        ("list", None) => {
            list::list(&server.store, &server.continuations, &target, &query, accept::form(request.headers())?)
        }
        ("watch", None) => watch::watch(server, &target, &query, accept::form(request.headers())?),
        _ => change(server, &user, verb, &target, &query, &request).await,
    }
}

/// Paths that name no objects.
fn about(server: &Inner, headers: &http::HeaderMap, path: &str) -> Result<Response<Body>> {
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

fn write<'a>(server: &'a Inner, user: &'a User, target: &'a Target, query: &Query) -> Result<Write<'a>> {
    Ok(Write {
        server,
        user,
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
    user: &User,
    verb: &str,
    target: &Target,
    query: &Query,
    request: &Request<Bytes>,
) -> Result<Response<Body>> {
    let headers = request.headers();
    let form = accept::form(headers)?;
    let write = write(server, user, target, query)?;
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
        ("update", None | Some("status")) => present(200, write.replace(name, sent()?, part).await?),
        ("update", Some("finalize")) => present(200, write.finalize(name, sent()?).await?),
        ("update", Some("scale")) => {
            let scale = sent()?;
            body::json(200, &write.set_scale(name, |_| Ok(scale.clone())).await?)
        }
        ("patch", subresource) => {
            let patch = Patch::parse(media_type(headers), request.body(), query)?;
            match subresource {
                Some("scale") => {
                    let made = write.set_scale(name, |scale| patch.apply_to_scale(&target.kind, name, scale));
                    body::json(200, &made.await?)
                }
                None | Some("status") => {
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
    yaml::parse(bytes, MOST_BODY_BYTES)
        .map_err(|error| ApiError::bad_request(format!("the body is not good YAML: {error}")))
}
