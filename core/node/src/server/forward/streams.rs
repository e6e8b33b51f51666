//! The protocol `portforward.k8s.io`, over SPDY/3.1.

use std::collections::BTreeMap;
use std::path::PathBuf;

use axum::body::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::super::spdy::{Frame, Reader, StreamId, Word, write};
use super::{MOST_WAITING, carry};

pub(super) const PROTOCOL: &str = "portforward.k8s.io";
/// Connections at a time of one client; what comes above is refused.
const MOST_CONNECTIONS: usize = 512;

/// Connections of one client.
struct Connections {
    netns: Option<PathBuf>,
    words: mpsc::Sender<Word>,
    /// Streams for what goes wrong, by request, until the stream of its bytes is there.
    errors: BTreeMap<String, StreamId>,
    /// By their stream of bytes. No way in: the client has said its last word.
    running: BTreeMap<StreamId, (Option<mpsc::Sender<Bytes>>, AbortHandle)>,
    /// Answers the stream that has ended. They all end with this.
    tasks: JoinSet<StreamId>,
}

/// Carries bytes of as many connections as the client begins, until it leaves.
pub(super) async fn converse(io: impl AsyncRead + AsyncWrite, netns: Option<PathBuf>) {
    let (read, to_write) = tokio::io::split(io);
    let (words, outgoing) = mpsc::channel(8);
    let connections =
        Connections { netns, words, errors: BTreeMap::new(), running: BTreeMap::new(), tasks: JoinSet::new() };
    let ended = tokio::select! {
        ended = write(to_write, outgoing) => ended,
        ended = connections.listen(Reader::new(read)) => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection of SPDY ended");
    }
}

// === impl Connections ===

impl Connections {
    async fn listen<R: AsyncRead + Unpin>(mut self, mut reader: Reader<R>) -> std::io::Result<()> {
        while let Some(frame) = reader.next().await? {
            while let Some(Ok(stream)) = self.tasks.try_join_next() {
                self.running.remove(&stream);
            }
            match frame {
                Frame::Open { stream, headers } => {
                    let word = match self.open(stream, &headers) {
                        Some(()) => Word::Accept { stream },
                        None => Word::Refuse { stream },
                    };
                    let _ = self.words.send(word).await;
                }
                Frame::Data { stream, bytes, last } => {
                    let Some((input, _)) = self.running.get_mut(&stream) else { continue };
                    if let Some(input) = input.as_ref().filter(|_| !bytes.is_empty()) {
                        // A port that has ended takes nothing more; the others go on.
                        let _ = input.send(bytes).await;
                    }
                    if last {
                        *input = None;
                    }
                }
                Frame::Reset { stream } => {
                    if let Some((_, task)) = self.running.remove(&stream) {
                        task.abort();
                    }
                }
                Frame::Ping { id } => drop(self.words.send(Word::Pong { id }).await),
            }
        }
        Ok(())
    }

    /// Begins a connection with the second of its two streams. None: it makes no sense, or there are too many.
    fn open(&mut self, stream: StreamId, headers: &BTreeMap<String, String>) -> Option<()> {
        let (kind, request) = (headers.get("streamtype")?, headers.get("requestid")?);
        let port = headers.get("port")?.parse().ok().filter(|port| *port != 0)?;
        match kind.as_str() {
            "error" if self.errors.len() < MOST_CONNECTIONS => drop(self.errors.insert(request.clone(), stream)),
            "data" if self.running.len() < MOST_CONNECTIONS => {
                let errors = self.errors.remove(request)?;
                let (input, data) = mpsc::channel(MOST_WAITING);
                let task = self.tasks.spawn(pair(self.netns.clone(), port, stream, errors, data, self.words.clone()));
                self.running.insert(stream, (Some(input), task));
            }
            _ => return None,
        }
        Some(())
    }
}

/// One connection, from its first word to its last.
async fn pair(
    netns: Option<PathBuf>,
    port: u16,
    stream: StreamId,
    errors: StreamId,
    input: mpsc::Receiver<Bytes>,
    words: mpsc::Sender<Word>,
) -> StreamId {
    let wrap = |bytes: &[u8]| Word::Data { stream, bytes: Bytes::copy_from_slice(bytes), last: false };
    let why = match carry(netns, port, input, &words, wrap).await {
        Ok(()) => Bytes::new(),
        Err(error) => format!("port {port}: {error}").into(),
    };
    for (stream, bytes) in [(errors, why), (stream, Bytes::new())] {
        let _ = words.send(Word::Data { stream, bytes, last: true }).await;
    }
    stream
}
