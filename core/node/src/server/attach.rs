//! What a container says from now on, over a WebSocket, in the channels of [`exec`].
//!
//! Containers outlive the agent, so their output goes to the pod's first process and its log, never to the agent: attaching is
//! following the log. Their input is `/dev/null`, and a request for it is refused.

use std::io;

use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection};
use axum::extract::{Path as UrlPath, RawQuery, State};
use axum::response::{IntoResponse, Response};
use futures::{Sink, SinkExt as _, Stream, StreamExt as _};
use tokio::sync::{mpsc, oneshot};

use super::exec::{self, PROTOCOLS};
use super::logs::{self, Selection};
use super::{Ask, AskError, Asks, ContainerRef, LogFile, ask};

/// Answers an attach request.
pub(super) async fn serve(
    State(asks): State<Asks>,
    UrlPath((namespace, pod, container)): UrlPath<(String, String, String)>,
    RawQuery(query): RawQuery,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    if wants_input(query.as_deref().unwrap_or_default()) {
        let error = "stdin: containers read from /dev/null: attach without it, or run a command with exec";
        return AskError::BadRequest(error.to_owned()).into_response();
    }
    let (reply, answer) = oneshot::channel();
    let wanted = Ask::Log { container: ContainerRef { namespace, pod, container }, previous: false, reply };
    let log = match ask(&asks, wanted, answer).await.and_then(|log| log) {
        Ok(log) => log,
        Err(error) => return error.into_response(),
    };
    // What kept a WebSocket from being one was said already: whom it is refused, kubectl asks again without, and shows that answer.
    match upgrade {
        Ok(upgrade) => upgrade.protocols(PROTOCOLS).on_upgrade(|socket| converse(socket, log)),
        Err(rejection) => AskError::BadRequest(format!("attach needs a WebSocket: {rejection}")).into_response(),
    }
}

fn wants_input(query: &str) -> bool {
    form_urlencoded::parse(query.as_bytes())
        .any(|(key, value)| matches!(&*key, "stdin" | "input") && matches!(&*value, "true" | "1"))
}

async fn converse(socket: WebSocket, log: LogFile) {
    let (to, from) = socket.split();
    tokio::select! {
        () = speak(to, log) => {}
        () = until_left(from) => {}
    }
}

async fn speak<S: Sink<Message> + Unpin>(mut to: S, log: LogFile) {
    let (pieces, mut output) = mpsc::channel::<io::Result<Bytes>>(16);
    tokio::spawn(async move { logs::send(log, Selection::from_now_on(), true, &pieces).await });
    while let Some(Ok(piece)) = output.recv().await {
        if to.send(Message::Binary(piece)).await.is_err() {
            return;
        }
    }
    exec::finish(to, &exec::status(Some(0))).await;
}

async fn until_left<S: Stream<Item = Result<Message, E>> + Unpin, E>(mut from: S) {
    while let Some(Ok(_)) = from.next().await {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::watch;

    #[test]
    fn only_a_wish_for_input_is_refused() {
        assert!(wants_input("output=1&input=1") && wants_input("stdin=true"));
        assert!(!wants_input("stdin=false&stdout=true") && !wants_input(""));
    }

    #[tokio::test]
    async fn what_is_said_from_now_on_is_heard_until_the_run_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, "2026-01-01T00:00:00Z stdout F before\n").unwrap();
        let (ended, watch) = watch::channel(false);
        let (to, mut heard) = futures::channel::mpsc::channel(4);
        let speaking = tokio::spawn(speak(to, LogFile { path: path.clone(), ended: watch }));
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        // A line counts only if it is written after the first read, so say it until it is heard.
        let first = loop {
            io::Write::write_all(&mut file, b"2026-01-01T00:00:01Z stderr F after\n").unwrap();
            let heard = tokio::time::timeout(std::time::Duration::from_millis(50), heard.next());
            if let Ok(message) = heard.await {
                break message.unwrap();
            }
        };
        assert_eq!(first, Message::Binary(Bytes::from_static(b"\x02after\n")));
        ended.send(true).unwrap();
        let rest: Vec<_> = heard.collect().await;
        assert!(matches!(rest.last(), Some(Message::Close(_))), "{rest:?}");
        speaking.await.unwrap();
    }
}
