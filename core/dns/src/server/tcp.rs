//! Connections: messages with their length before them, answered one after another.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::answering::message;
use super::encode::Transport;
use super::limits::Limits;
use super::reply::Replier;
use super::wire::QUERY_MAX;

/// Connections by client.
type Open = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// One of a client's connections.
struct Place {
    client: IpAddr,
    open: Open,
}

/// Pause after an error that has nothing to do with the connection (no file descriptor left).
const PAUSE: Duration = Duration::from_millis(100);

/// Serves for ever.
pub(super) async fn serve(listener: &TcpListener, replier: Arc<Replier>, limits: Limits) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
    let room = Arc::new(Semaphore::new(limits.connections_in_all));
    let open = Open::default();
    loop {
        let Ok(seat) = Arc::clone(&room).acquire_owned().await else { return Ok(()) };
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Some(place) = Place::take(from.ip(), &open, limits.connections) else { continue };
        let replier = Arc::clone(&replier);
        tokio::spawn(async move {
            let _held = (seat, place);
            if let Err(error) = converse(stream, from, &replier, limits.idle).await {
                tracing::trace!(%error, %from, "connection");
            }
        });
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

async fn converse(stream: TcpStream, from: SocketAddr, replier: &Replier, idle: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::with_capacity(QUERY_MAX, stream);
    let mut query = Vec::new();
    loop {
        let read = async {
            let length = usize::from(stream.read_u16().await?);
            if length > QUERY_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a query of {length} bytes")));
            }
            query.resize(length, 0);
            stream.read_exact(&mut query).await
        };
        timeout(idle, read).await??;
        let Some(answer) = reply(&query, from, replier).await else { return Ok(()) };
        let mut framed = Vec::with_capacity(answer.len() + 2);
        framed.extend_from_slice(&(answer.len() as u16).to_be_bytes());
        framed.extend_from_slice(&answer);
        timeout(idle, stream.get_mut().write_all(&framed)).await??;
    }
}

async fn reply(query: &[u8], from: SocketAddr, replier: &Replier) -> Option<Vec<u8>> {
    match message(replier, query, from) {
        Ok(answer) => answer,
        Err(asked) => Some(replier.ask(asked.question).await.encode(&asked.request, Transport::Tcp)),
    }
}

// === impl Place ===

impl Place {
    fn take(client: IpAddr, open: &Open, most: usize) -> Option<Self> {
        let mut counts = open.lock().unwrap_or_else(PoisonError::into_inner);
        let own = counts.entry(client).or_default();
        if *own >= most {
            return None;
        }
        *own += 1;
        Some(Self { client, open: Arc::clone(open) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = counts.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                counts.remove(&self.client);
            }
        }
    }
}
