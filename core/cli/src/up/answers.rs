//! The first requests from outside: one way to know that everything works, and the first thing a person wants to see.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// One answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// Who it came from, if it says so.
    pub(crate) from: String,
}

/// Between two attempts. Whether a way through the whole cluster works is nothing that anybody could be told: one has to try.
const BETWEEN: Duration = Duration::from_millis(10);
/// Largest answer read, in bytes.
const MAX_BYTES: usize = 64 << 10;

/// Host names of the Ingress objects among manifests, those without a `*`.
pub(crate) fn hosts(manifests: &[Value]) -> Vec<String> {
    let ingresses = manifests.iter().filter(|object| object["kind"] == "Ingress");
    let rules = ingresses.flat_map(|ingress| ingress["spec"]["rules"].as_array().into_iter().flatten());
    let hosts = rules.filter_map(|rule| rule["host"].as_str().filter(|host| !host.contains('*')));
    hosts.map(str::to_owned).collect()
}

/// Asks until the answer is a 200.
pub(crate) async fn first(address: SocketAddr, host: &str) -> Answer {
    loop {
        match once(address, host).await {
            Ok(answer) if answer.status == StatusCode::OK => return answer,
            _ => tokio::time::sleep(BETWEEN).await,
        }
    }
}

/// Asks once.
pub(crate) async fn once(address: SocketAddr, host: &str) -> anyhow::Result<Answer> {
    let stream = TcpStream::connect(address).await.context("connect")?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get("/").header(http::header::HOST, host).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await.context("ask")?;
    let status = response.status();
    let body =
        Limited::new(response.into_body(), MAX_BYTES).collect().await.map_err(anyhow::Error::from_boxed)?.to_bytes();
    connection.abort();
    Ok(Answer { status, from: sender_of(&body) })
}

fn sender_of(body: &[u8]) -> String {
    let Ok(Value::Object(echo)) = serde_json::from_slice(body) else {
        // The ingress's own pages: the status, then why.
        return String::from_utf8_lossy(body).lines().nth(1).unwrap_or_default().to_owned();
    };
    let text = |field: &str| echo.get(field).and_then(Value::as_str).unwrap_or("?");
    format!("{} on {} ({})", text("pod"), text("node"), text("address"))
}
