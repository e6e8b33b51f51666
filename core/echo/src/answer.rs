//! One request, one answer.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::identity::Identity;

/// Largest request body that /echo keeps in memory.
const LARGEST_ECHO: usize = 16 << 20;
/// Size of one piece of /bytes.
const PIECE: usize = 16 << 10;
/// Longest /delay in seconds.
const LONGEST_DELAY: f64 = 3600.0;

type Body = BoxBody<Bytes, Infallible>;

/// Answers one request that came to `port`.
pub(crate) async fn answer(
    identity: Rc<Identity>,
    port: u16,
    remote: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let mut response = route(&identity, port, remote, request).await;
    if identity.leaving.get() {
        response.headers_mut().insert(hyper::header::CONNECTION, hyper::header::HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// The answer that the path asks for.
async fn route(identity: &Identity, port: u16, remote: SocketAddr, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let mut parts = path.trim_matches('/').splitn(2, '/');
    match (parts.next().unwrap_or_default(), parts.next()) {
        ("healthz", None) => text(StatusCode::OK, "ok\n"),
        ("readyz", None) if identity.ready.get() => text(StatusCode::OK, "ok\n"),
        ("readyz", None) => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        ("readyz", Some(word @ ("true" | "false"))) if request.method() == Method::POST => {
            identity.ready.set(word == "true");
            text(StatusCode::OK, "ok\n")
        }
        ("status", Some(code)) => match code.parse().ok().and_then(|code| StatusCode::from_u16(code).ok()) {
            Some(status) if status.as_u16() >= 200 => text(status, &format!("{status}\n")),
            _ => text(StatusCode::BAD_REQUEST, "status: must be a number from 200 to 999\n"),
        },
        ("delay", Some(seconds)) => match seconds.parse::<f64>() {
            Ok(seconds) if (0.0..=LONGEST_DELAY).contains(&seconds) => {
                tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
                describe(identity, port, remote, &request)
            }
            _ => text(StatusCode::BAD_REQUEST, "delay: must be seconds from 0 to 3600\n"),
        },
        ("bytes", Some(count)) => match count.parse() {
            Ok(count) => stream(count),
            Err(_) => text(StatusCode::BAD_REQUEST, "bytes: must be a number\n"),
        },
        ("echo", None) => echo(request).await,
        _ => describe(identity, port, remote, &request),
    }
}

/// Who answers, and what was asked.
fn describe(identity: &Identity, port: u16, remote: SocketAddr, request: &Request<Incoming>) -> Response<Body> {
    let mut headers = Map::new();
    for (name, value) in request.headers() {
        let value = String::from_utf8_lossy(value.as_bytes());
        match headers.get_mut(name.as_str()) {
            Some(Value::String(before)) => *before = format!("{before}, {value}"),
            _ => _ = headers.insert(name.as_str().to_owned(), value.into()),
        }
    }
    let host = headers.get("host").cloned().unwrap_or(Value::Null);
    let document = json!({
        "pod": identity.pod,
        "namespace": identity.namespace,
        "node": identity.node,
        "address": identity.address,
        "port": port,
        "container": identity.container,
        "method": request.method().as_str(),
        "path": request.uri().path_and_query().map_or("/", |path| path.as_str()),
        "host": host,
        "remote": remote.to_string(),
        "headers": headers,
    });
    let mut response = text(StatusCode::OK, &format!("{document}\n"));
    let json = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
    response
}

/// The request's own body.
async fn echo(request: Request<Incoming>) -> Response<Body> {
    let kind = request.headers().get(hyper::header::CONTENT_TYPE).cloned();
    match Limited::new(request.into_body(), LARGEST_ECHO).collect().await {
        Ok(body) => {
            let mut response = Response::new(Full::new(body.to_bytes()).boxed());
            if let Some(kind) = kind {
                response.headers_mut().insert(hyper::header::CONTENT_TYPE, kind);
            }
            response
        }
        Err(error) => text(StatusCode::PAYLOAD_TOO_LARGE, &format!("echo: at most {LARGEST_ECHO} bytes: {error}\n")),
    }
}

/// `count` zero bytes, piece by piece.
fn stream(count: u64) -> Response<Body> {
    static ZEROS: [u8; PIECE] = [0; PIECE];
    let pieces = futures::stream::unfold(count, |left| async move {
        let size = left.min(PIECE as u64);
        (size > 0).then(|| (Bytes::from_static(&ZEROS[..size as usize]), left - size))
    });
    let body = StreamBody::new(pieces.map(|piece| Ok(Frame::data(piece))));
    let mut response = Response::new(BoxBody::new(body));
    response.headers_mut().insert(hyper::header::CONTENT_LENGTH, count.into());
    response
}

fn text(status: StatusCode, body: &str) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())).boxed());
    *response.status_mut() = status;
    response
}
