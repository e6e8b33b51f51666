//! Connections to ports of a pod, over a WebSocket or SPDY/3.1.
//!
//! In a WebSocket, the protocol `v4.channel.k8s.io`: the n-th port asked for has channel 2n for its bytes and 2n + 1 for what went wrong. The
//! first message on either, from the agent, is the port's number, two bytes, the lower first.
//!
//! Over SPDY, the protocol `portforward.k8s.io`: each connection is a pair of streams with the same `requestid`, opened by the client for a
//! `port`: first one of `streamtype` error for what went wrong, then one of `streamtype` data for the bytes.

mod streams;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use axum::body::Bytes;
use axum::extract::ws::Message;
use axum::extract::{Path as UrlPath, RawQuery, State};
use axum::response::{IntoResponse, Response};
use futures::{Sink, SinkExt as _, Stream, StreamExt as _};
use switchyard_kernel::Netns;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::upgrade::Upgrade;
use super::{Ask, AskError, Asks, ask};

const PROTOCOL: &str = "v4.channel.k8s.io";
/// Most ports of one request, so that every channel has a number.
const MOST_PORTS: usize = 128;
/// Bytes of one message.
const PIECE: usize = 32 << 10;
/// Messages for a port that may wait for it.
const MOST_WAITING: usize = 4;

/// Answers a port-forward request.
pub(super) async fn serve(
    State(asks): State<Asks>,
    UrlPath((namespace, pod)): UrlPath<(String, String)>,
    RawQuery(query): RawQuery,
    upgrade: Upgrade,
) -> Response {
    // A client that asks for what it might speak otherwise, as kubectl does for SPDY in a WebSocket, then comes with SPDY alone.
    let (upgrade, ports) = match upgrade {
        Upgrade::WebSocket(upgrade) => {
            let upgrade = upgrade.protocols([PROTOCOL]);
            if upgrade.selected_protocol().is_none() {
                let error = format!("port-forward over a WebSocket speaks {PROTOCOL}");
                return AskError::BadRequest(error).into_response();
            }
            match ports(query.as_deref().unwrap_or_default()) {
                Ok(ports) => (Upgrade::WebSocket(upgrade), ports),
                Err(error) => return AskError::BadRequest(error).into_response(),
            }
        }
        spdy => (spdy, Vec::new()),
    };
    let (reply, answer) = oneshot::channel();
    match ask(&asks, Ask::Netns { namespace, pod, reply }, answer).await.and_then(|netns| netns) {
        Ok(netns) => match upgrade {
            Upgrade::WebSocket(upgrade) => upgrade.on_upgrade(|socket| {
                let (to, from) = socket.split();
                converse(to, from, ports, netns)
            }),
            Upgrade::Spdy(upgrade) => upgrade.accept(streams::PROTOCOL, |io| streams::converse(io, netns)),
        },
        Err(error) => error.into_response(),
    }
}

/// The ports asked for: `ports=80,90`, or one by one.
fn ports(query: &str) -> Result<Vec<u16>, String> {
    let mut ports = Vec::new();
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        if matches!(&*key, "ports" | "port") {
            for port in value.split(',') {
                match port.parse() {
                    Ok(port @ 1..) => ports.push(port),
                    _ => return Err(format!("ports: {port:?}: must be a number from 1 to 65535")),
                }
            }
        }
    }
    if ports.is_empty() || ports.len() > MOST_PORTS {
        return Err(format!("ports: {} given: must be from 1 to {MOST_PORTS}", ports.len()));
    }
    Ok(ports)
}

/// Carries bytes until the client leaves or the last connection has ended.
async fn converse<O, I, E>(mut to: O, mut from: I, ports: Vec<u16>, netns: Option<PathBuf>)
where
    O: Sink<Message> + Unpin,
    I: Stream<Item = Result<Message, E>> + Unpin,
{
    let (messages, mut output) = mpsc::channel::<Vec<u8>>(8);
    let mut inputs = Vec::with_capacity(ports.len());
    // They end with this.
    let mut connections = JoinSet::new();
    for (number, port) in ports.into_iter().enumerate() {
        let channel = u8::try_from(2 * number).expect("there are at most 128 ports");
        let (input, data) = mpsc::channel(MOST_WAITING);
        inputs.push(input);
        connections.spawn(channel_pair(channel, port, netns.clone(), data, messages.clone()));
    }
    drop(messages);
    let speak = async {
        while let Some(message) = output.recv().await {
            if to.send(Message::Binary(message.into())).await.is_err() {
                return;
            }
        }
        let _ = to.send(Message::Close(None)).await;
    };
    let listen = async {
        while let Some(Ok(message)) = from.next().await {
            let Message::Binary(bytes) = message else { continue };
            let Some((&channel, _)) = bytes.split_first() else { continue };
            if let Some(input) = inputs.get(usize::from(channel / 2)).filter(|_| channel % 2 == 0) {
                // A port that has ended takes nothing more; the others go on.
                let _ = input.send(bytes.slice(1..)).await;
            }
        }
    };
    tokio::select! {
        () = speak => {}
        () = listen => {}
    }
}

/// One connection, from its first word to its last.
async fn channel_pair(
    channel: u8,
    port: u16,
    netns: Option<PathBuf>,
    input: mpsc::Receiver<Bytes>,
    output: mpsc::Sender<Vec<u8>>,
) {
    let [low, high] = port.to_le_bytes();
    for channel in [channel, channel + 1] {
        if output.send(vec![channel, low, high]).await.is_err() {
            return;
        }
    }
    let wrap = |bytes: &[u8]| [&[channel], bytes].concat();
    if let Err(error) = carry(netns, port, input, &output, wrap).await {
        let mut message = vec![channel + 1];
        message.extend_from_slice(format!("port {port}: {error}").as_bytes());
        let _ = output.send(message).await;
    }
}

/// Carries bytes between a client and a port until the port has said its last word. The client's last word is told to the port.
async fn carry<T>(
    netns: Option<PathBuf>,
    port: u16,
    mut input: mpsc::Receiver<Bytes>,
    output: &mpsc::Sender<T>,
    wrap: impl Fn(&[u8]) -> T,
) -> io::Result<()> {
    let (mut read, mut write) = dial(netns, port).await?.into_split();
    let there = async {
        while let Some(bytes) = input.recv().await {
            write.write_all(&bytes).await?;
        }
        write.shutdown().await?;
        std::future::pending().await
    };
    let back = async {
        let mut buffer = vec![0; PIECE];
        loop {
            let length = read.read(&mut buffer).await?;
            if length == 0 || output.send(wrap(&buffer[..length])).await.is_err() {
                return Ok(());
            }
        }
    };
    tokio::select! {
        result = there => result,
        result = back => result,
    }
}

/// Connects to a port as processes of the pod do: also what listens on loopback only is reached, and no policy is in the way.
async fn dial(netns: Option<PathBuf>, port: u16) -> io::Result<TcpStream> {
    let socket = match netns {
        Some(path) => Netns::open(path)?.run(TcpSocket::new_v4)??,
        None => TcpSocket::new_v4()?,
    };
    socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_come_together_or_one_by_one() {
        assert_eq!(ports("ports=80,90&ports=100"), Ok(vec![80, 90, 100]));
        assert_eq!(ports("port=80"), Ok(vec![80]));
        for bad in ["", "ports=", "ports=0", "ports=70000", "ports=80,x"] {
            assert!(ports(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn each_port_has_its_channels_and_says_what_went_wrong() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap().port();
        let closed = {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap().port()
        };
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut question = [0; 4];
            stream.read_exact(&mut question).await.unwrap();
            stream.write_all(&question).await.unwrap();
        });
        let (mut to_agent, from_client) = futures::channel::mpsc::unbounded();
        let (to_client, heard) = futures::channel::mpsc::unbounded();
        to_agent.send(Ok::<_, ()>(Message::Binary(vec![0, b'p', b'i', b'n', b'g'].into()))).await.unwrap();
        let (heard, ()) =
            tokio::join!(heard.collect::<Vec<Message>>(), converse(to_client, from_client, vec![open, closed], None));
        let of = |channel: u8| {
            let all = heard.iter().filter_map(|message| match message {
                Message::Binary(bytes) if bytes[0] == channel => Some(bytes.slice(1..)),
                _ => None,
            });
            all.collect::<Vec<_>>()
        };
        assert_eq!(of(0), [open.to_le_bytes().to_vec(), b"ping".to_vec()]);
        assert_eq!(of(1), [open.to_le_bytes().to_vec()]);
        assert_eq!(of(2), [closed.to_le_bytes().to_vec()]);
        assert!(String::from_utf8_lossy(&of(3)[1]).contains("refused"), "{heard:?}");
        server.await.unwrap();
    }
}
