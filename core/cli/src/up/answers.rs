//! The first requests from outside: one way to know that everything works, and the first thing a person wants to see.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use http::uri::PathAndQuery;
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
    /// It is the ingress's own: nobody behind it was reached.
    is_own: bool,
    /// Who it came from, if it says so.
    pub(crate) from: String,
}

/// Between two attempts. Whether a way through the whole cluster works is nothing that anybody could be told: one has to try.
const BETWEEN: Duration = Duration::from_millis(10);
/// What the ingress says with its own answers.
const REASON: &str = "x-yard-reason";
/// Largest answer read, in bytes.
const MAX_BYTES: usize = 64 << 10;

/// What may be asked for by the rules of an Ingress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) host: String,
    pub(crate) path: String,
}

/// What the Ingress objects among manifests lead to: the hosts without a `*`, with their first paths.
pub(crate) fn places(manifests: &[Value]) -> Vec<Place> {
    let ingresses = manifests.iter().filter(|object| object["kind"] == "Ingress");
    let rules = ingresses.flat_map(|ingress| ingress["spec"]["rules"].as_array().into_iter().flatten());
    let place = |rule: &Value| {
        let host = rule["host"].as_str().filter(|host| !host.contains('*'))?;
        let first = rule["http"]["paths"][0]["path"].as_str();
        let usable = |path: &&str| path.starts_with('/') && path.parse::<PathAndQuery>().is_ok();
        let path = first.filter(usable).unwrap_or("/");
        Some(Place { host: host.to_owned(), path: path.to_owned() })
    };
    rules.filter_map(place).collect()
}

/// Asks until somebody behind the ingress answers, whatever that is: not every application has something to show to strangers.
/// `note` is told what is the matter until then.
pub(crate) async fn first(address: SocketAddr, place: &Place, note: impl Fn(String)) -> Answer {
    loop {
        let trouble = match once(address, place).await {
            Ok(answer) if !answer.is_own => return answer,
            Ok(answer) => format!("{} {}", answer.status.as_u16(), answer.from),
            Err(error) => format!("{error:#}"),
        };
        note(format!("an answer from {} ({trouble})", place.host));
        tokio::time::sleep(BETWEEN).await;
    }
}

/// Asks once.
pub(crate) async fn once(address: SocketAddr, place: &Place) -> anyhow::Result<Answer> {
    let stream = TcpStream::connect(address).await.context("connect")?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get(&place.path).header(http::header::HOST, &place.host).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await.context("ask")?;
    let (status, is_own) = (response.status(), response.headers().contains_key(REASON));
    let body =
        Limited::new(response.into_body(), MAX_BYTES).collect().await.map_err(anyhow::Error::from_boxed)?.to_bytes();
    connection.abort();
    Ok(Answer { status, is_own, from: sender_of(&body) })
}

fn sender_of(body: &[u8]) -> String {
    let Ok(Value::Object(echo)) = serde_json::from_slice(body) else {
        // The ingress's own pages: the status, then why.
        return String::from_utf8_lossy(body).lines().nth(1).unwrap_or_default().to_owned();
    };
    let text = |field: &str| echo.get(field).and_then(Value::as_str).unwrap_or("?");
    format!("{} on {} ({})", text("pod"), text("node"), text("address"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn what_is_asked_for_is_what_there_is_a_rule_for() {
        let rule = |host: &str, path: &str| json!({"host": host, "http": {"paths": [{"path": path}]}});
        let rules = [rule("a.net", "/api"), rule("v*.a.net", "/"), json!({"host": "b.net"}), json!({})];
        let places = places(&[json!({"kind": "Ingress", "spec": {"rules": rules}}), json!({"kind": "Service"})]);
        let place = |host: &str, path: &str| Place { host: host.into(), path: path.into() };
        assert_eq!(places, [place("a.net", "/api"), place("b.net", "/")]);
    }

    #[tokio::test]
    async fn any_answer_will_do_but_the_ingress_s_own() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let own = ("503 Service Unavailable\r\nx-yard-reason: unavailable", "503\nnobody is ready\n");
            for (head, body) in [own, ("401 Unauthorized", "")] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let read = stream.read(&mut request).await.unwrap();
                assert!(request[..read].starts_with(b"GET /api HTTP/1.1\r\n"));
                let answer = format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let place = Place { host: "a.net".into(), path: "/api".into() };
        let troubles = std::cell::RefCell::new(Vec::new());
        let answer = first(address, &place, |trouble| troubles.borrow_mut().push(trouble)).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        assert_eq!(troubles.take(), ["an answer from a.net (503 nobody is ready)"]);
    }
}
