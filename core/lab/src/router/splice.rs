//! From a loopback port of the host into the cluster: accepts on a socket that was opened outside, connects from inside the
//! router's namespace, and carries bytes both ways.
//!
//! The sockets belong to the supervisor, which hands them down again when this process is restarted: a client that connects
//! meanwhile waits in the backlog.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Connections that one listener carries at a time; further ones wait in the backlog.
const CONNECTIONS_MAX: usize = 4096;
/// How long the cluster may take to accept.
const CONNECT: Duration = Duration::from_secs(5);
/// Pause after an error that has nothing to do with the connection (no file descriptor left).
const PAUSE: Duration = Duration::from_millis(100);
/// Bytes in flight each way.
const BUFFER: usize = 32 * 1024;

/// Carries connections from `listener` to `to` until `shutdown`.
pub(super) async fn serve(listener: TcpListener, to: SocketAddr, shutdown: CancellationToken) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = async {
            let seat = room.clone().acquire_owned().await.expect("the semaphore is never closed");
            (seat, listener.accept().await)
        };
        let (seat, accepted) = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((client, from)) => {
                let shutdown = shutdown.clone();
                tokio::spawn(async move {
                    let _seat = seat;
                    tokio::select! {
                        () = shutdown.cancelled() => {}
                        carried = carry(client, to) => {
                            if let Err(error) = carried {
                                debug!(%error, %from, %to, "connection ended");
                            }
                        }
                    }
                });
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                warn!(%error, %to, "cannot accept");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Both directions until both have ended; the end of one is passed on as an end, an error as a reset.
async fn carry(mut client: TcpStream, to: SocketAddr) -> io::Result<()> {
    let copied = async {
        let mut server = timeout(CONNECT, TcpStream::connect(to)).await??;
        server.set_nodelay(true)?;
        client.set_nodelay(true)?;
        let copied = copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await;
        copied.inspect_err(|_| drop(server.set_zero_linger()))
    };
    let copied = copied.await;
    copied.map(drop).inspect_err(|_| drop(client.set_zero_linger()))
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    struct Rig {
        entrance: SocketAddr,
        target: TcpListener,
        shutdown: CancellationToken,
    }

    async fn rig() -> Rig {
        let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let entrance = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        tokio::spawn(serve(listener, target.local_addr().unwrap(), shutdown.clone()));
        Rig { entrance, target, shutdown }
    }

    #[tokio::test]
    async fn the_end_of_one_direction_leaves_the_other_open() {
        let rig = rig().await;
        let mut client = TcpStream::connect(rig.entrance).await.unwrap();
        let (mut server, _) = rig.target.accept().await.unwrap();
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = String::new();
        server.read_to_string(&mut question).await.unwrap();
        server.write_all(b"answer").await.unwrap();
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!((question.as_str(), answer.as_str()), ("question", "answer"));
    }

    #[tokio::test]
    async fn a_target_that_refuses_is_a_reset() {
        let Rig { entrance, target, shutdown: _shutdown } = rig().await;
        drop(target);
        let mut client = TcpStream::connect(entrance).await.unwrap();
        let error = client.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn shutdown_ends_connections() {
        let rig = rig().await;
        let mut client = TcpStream::connect(rig.entrance).await.unwrap();
        let (_server, _) = rig.target.accept().await.unwrap();
        rig.shutdown.cancel();
        assert!(client.read_u8().await.is_err());
    }
}
