//! The two ways in which clients take a connection over: a WebSocket, or SPDY/3.1 (kubectl's before 1.31, and for port-forward).

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use axum::Error;
use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures::stream::BoxStream;
use futures::{Sink, StreamExt as _};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::AskError;
use super::exec::{CLOSE, RESIZE, STATUS, STDERR, STDIN, STDOUT};
use super::spdy::{Frame, Reader, SPDY, StreamId, Word, write};

/// A request to take the connection over.
pub(super) enum Upgrade {
    WebSocket(WebSocketUpgrade),
    Spdy(Spdy),
}

/// The same, of a client that speaks SPDY/3.1.
pub(super) struct Spdy {
    on: OnUpgrade,
    /// Protocols it would speak over streams.
    offered: Vec<String>,
}

/// Messages that begin with the number of their channel, both ways.
pub(super) struct Channels {
    pub(super) to: Pin<Box<dyn Sink<Message, Error = Error> + Send>>,
    pub(super) from: BoxStream<'static, Result<Message, Error>>,
    /// Whether a client can end its input without leaving.
    pub(super) closable: bool,
}

/// Protocols of channels in a WebSocket, and over streams of SPDY.
const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
const STREAMS: &str = "v4.channel.k8s.io";
const PROTOCOL: &str = "x-stream-protocol-version";
/// Largest message taken from a client.
const LARGEST_MESSAGE: usize = 1 << 20;
/// How long a client may take to open its streams, and to leave when all is said.
const OPENING: Duration = Duration::from_secs(30);
const LEAVING: Duration = Duration::from_secs(5);

// === impl Upgrade ===

impl<S: Send + Sync> FromRequest<S> for Upgrade {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let (mut parts, _) = request.into_parts();
        let wants = |name: &str| {
            let upgrade = parts.headers.get(header::UPGRADE).and_then(|value| value.to_str().ok());
            upgrade.is_some_and(|upgrade| upgrade.eq_ignore_ascii_case(name))
        };
        if wants(SPDY) {
            let offered = offered(&parts.headers);
            let none = || AskError::BadRequest(format!("{SPDY}: this connection cannot be taken over")).into_response();
            let on = parts.extensions.remove::<OnUpgrade>().ok_or_else(none)?;
            return Ok(Self::Spdy(Spdy { on, offered }));
        }
        match WebSocketUpgrade::from_request_parts(&mut parts, state).await {
            Ok(upgrade) => Ok(Self::WebSocket(upgrade.max_message_size(LARGEST_MESSAGE))),
            Err(rejection) => {
                Err(AskError::BadRequest(format!("needs a WebSocket, or {SPDY}: {rejection}")).into_response())
            }
        }
    }
}

impl Upgrade {
    /// Speaks in channels. A client of SPDY has to open a stream for each of `channels` first.
    pub(super) fn channels<F>(
        self,
        channels: Vec<u8>,
        converse: impl FnOnce(Channels) -> F + Send + 'static,
    ) -> Response
    where
        F: Future<Output = ()> + Send + 'static,
    {
        match self {
            Self::WebSocket(upgrade) => upgrade.protocols(PROTOCOLS).on_upgrade(|socket| {
                let closable = socket.protocol().is_some_and(|protocol| protocol == PROTOCOLS[0]);
                let (to, from) = socket.split();
                converse(Channels { to: Box::pin(to), from: from.boxed(), closable })
            }),
            Self::Spdy(upgrade) => upgrade.accept(STREAMS, |io| async move {
                if let Err(error) = by_streams(io, channels, converse).await {
                    tracing::debug!(%error, "a connection of SPDY ended");
                }
            }),
        }
    }
}

/// What a client says it speaks, on one line or several.
fn offered(headers: &HeaderMap) -> Vec<String> {
    let lines = headers.get_all(PROTOCOL).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(|one| one.trim().to_owned()).collect()
}

// === impl Spdy ===

impl Spdy {
    /// Takes the connection over to speak a protocol on it, if the client does.
    pub(super) fn accept<F>(
        self,
        protocol: &'static str,
        converse: impl FnOnce(TokioIo<Upgraded>) -> F + Send + 'static,
    ) -> Response
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if !self.offered.iter().any(|offered| offered == protocol) {
            let error = format!("{PROTOCOL}: {:?}: must hold {protocol}", self.offered.join(", "));
            return AskError::BadRequest(error).into_response();
        }
        tokio::spawn(async move {
            match self.on.await {
                Ok(io) => converse(TokioIo::new(io)).await,
                Err(error) => tracing::debug!(%error, "a client left before its upgrade"),
            }
        });
        let headers = [(header::CONNECTION, "Upgrade"), (header::UPGRADE, SPDY)];
        (StatusCode::SWITCHING_PROTOCOLS, headers, [(PROTOCOL, protocol)]).into_response()
    }
}

/// Waits for a stream for each channel, then converses as if there were channels.
async fn by_streams<F>(
    io: impl AsyncRead + AsyncWrite + Send + 'static,
    channels: Vec<u8>,
    converse: impl FnOnce(Channels) -> F,
) -> std::io::Result<()>
where
    F: Future<Output = ()>,
{
    let (read, to_write) = tokio::io::split(io);
    let (words, outgoing) = mpsc::channel(8);
    let writer = tokio::spawn(write(to_write, outgoing));
    let mut reader = Reader::new(read);
    let streams = match tokio::time::timeout(OPENING, open(&mut reader, &words, &channels)).await {
        Ok(streams) => streams?,
        Err(_) => return Err(std::io::Error::from(std::io::ErrorKind::TimedOut)),
    };
    let channel_of: BTreeMap<StreamId, u8> = streams.iter().map(|(channel, stream)| (*stream, *channel)).collect();
    let (heard, messages) = mpsc::channel::<Vec<u8>>(4);
    let listening = tokio::spawn(listen(reader, channel_of, heard, words.clone()));
    let from = futures::stream::unfold(messages, |mut messages| async {
        let message = messages.recv().await?;
        Some((Ok(Message::Binary(message.into())), messages))
    });
    let to = futures::sink::unfold((words, streams), |(words, streams), message| async move {
        for word in words_of(message, &streams) {
            words.send(word).await.map_err(Error::new)?;
        }
        Ok::<_, Error>((words, streams))
    });
    converse(Channels { to: Box::pin(to), from: from.boxed(), closable: true }).await;
    // Whoever has heard everything leaves. To leave first could take the last words back.
    if tokio::time::timeout(LEAVING, listening).await.is_err() {
        writer.abort();
    }
    Ok(())
}

/// Accepts streams until each channel has one.
async fn open<R: AsyncRead + Unpin>(
    reader: &mut Reader<R>,
    words: &mpsc::Sender<Word>,
    channels: &[u8],
) -> std::io::Result<BTreeMap<u8, StreamId>> {
    let mut streams = BTreeMap::new();
    while streams.len() < channels.len() {
        let word = match reader.next().await? {
            Some(Frame::Open { stream, headers }) => match headers.get("streamtype").and_then(|kind| channel(kind)) {
                Some(channel) if channels.contains(&channel) && !streams.contains_key(&channel) => {
                    streams.insert(channel, stream);
                    Word::Accept { stream }
                }
                _ => Word::Refuse { stream },
            },
            Some(Frame::Ping { id }) => Word::Pong { id },
            Some(_) => continue,
            None => return Err(std::io::ErrorKind::UnexpectedEof.into()),
        };
        let _ = words.send(word).await;
    }
    Ok(streams)
}

fn channel(stream_type: &str) -> Option<u8> {
    [("stdin", STDIN), ("stdout", STDOUT), ("stderr", STDERR), ("error", STATUS), ("resize", RESIZE)]
        .into_iter()
        .find_map(|(name, channel)| (name == stream_type).then_some(channel))
}

/// Hands on what the client sends until it leaves.
async fn listen<R: AsyncRead + Unpin>(
    mut reader: Reader<R>,
    channel_of: BTreeMap<StreamId, u8>,
    heard: mpsc::Sender<Vec<u8>>,
    words: mpsc::Sender<Word>,
) {
    while let Ok(Some(frame)) = reader.next().await {
        match frame {
            Frame::Data { stream, bytes, last } => {
                let Some(&channel) = channel_of.get(&stream) else { continue };
                if !bytes.is_empty() {
                    let _ = heard.send([&[channel], &bytes[..]].concat()).await;
                }
                if last {
                    let _ = heard.send(vec![CLOSE, channel]).await;
                }
            }
            Frame::Ping { id } => drop(words.send(Word::Pong { id }).await),
            Frame::Open { stream, .. } => drop(words.send(Word::Refuse { stream }).await),
            Frame::Reset { .. } => {}
        }
    }
}

/// A message of a channel as data of its stream; the end of all channels as the last of all streams.
fn words_of(message: Message, streams: &BTreeMap<u8, StreamId>) -> Vec<Word> {
    match message {
        Message::Binary(message) if !message.is_empty() => {
            let stream = streams.get(&message[0]);
            let word = |stream: &StreamId| Word::Data { stream: *stream, bytes: message.slice(1..), last: false };
            stream.map(word).into_iter().collect()
        }
        Message::Close(_) => {
            streams.values().map(|stream| Word::Data { stream: *stream, bytes: Bytes::new(), last: true }).collect()
        }
        _ => Vec::new(),
    }
}
