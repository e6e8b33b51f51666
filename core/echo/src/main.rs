//! The image `yard/echo`: answers every request with who it is and what it was asked, as JSON.
//!
//! A cluster under test runs a thousand of these, so it is one thread with small buffers.

mod answer;
mod identity;

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use identity::Identity;

/// An HTTP server that says who it is and what it was asked.
///
/// Paths: /healthz, /readyz (POST /readyz/false and /readyz/true turn it), /status/CODE, /delay/SECONDS, /bytes/N,
/// /echo (answers the request's body); every other path is answered with JSON.
#[derive(Parser)]
#[command(name = "yard-echo", version)]
struct Args {
    /// TCP port to serve HTTP on; may be given several times.
    #[arg(long = "port", value_name = "PORT", env = "PORT", default_values_t = [8080], value_delimiter = ',')]
    ports: Vec<u16>,
    /// UDP port whose datagrams are sent back with the pod's name in front; may be given several times.
    #[arg(long = "udp", value_name = "PORT")]
    udp_ports: Vec<u16>,
    /// Seconds to go on serving after SIGTERM, every answer the last one of its connection.
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS")]
    drain_delay: f64,
    /// Seconds to finish requests in after that.
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    grace: u64,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    LocalSet::new().block_on(&runtime, serve(args))
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let identity = Rc::new(Identity::from_env());
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let drain_delay = Duration::try_from_secs_f64(args.drain_delay).context("--drain-delay")?;
    let (stop, stopped) = tokio::sync::watch::channel(());
    let mut servers = Vec::new();
    for port in args.ports {
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let listener = TcpListener::bind(address).await.with_context(|| format!("listen on TCP port {port}"))?;
        let identity = Rc::clone(&identity);
        let grace = Duration::from_secs(args.grace);
        servers.push(tokio::task::spawn_local(http(listener, port, identity, stopped.clone(), grace)));
    }
    for port in args.udp_ports {
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let socket = UdpSocket::bind(address).await.with_context(|| format!("listen on UDP port {port}"))?;
        tokio::task::spawn_local(udp(socket, Rc::clone(&identity)));
    }
    drop(stopped);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // Whoever sends requests hears of the end no sooner than this process does, so they come for a while longer; quiet connections
    // stay open, as the next request may be on its way.
    identity.leaving.set(true);
    tokio::time::sleep(drain_delay).await;
    drop(stop);
    futures::future::join_all(servers).await;
    Ok(())
}

/// Serves one port until `stop` closes, then finishes what is under way within `grace`.
async fn http(
    listener: TcpListener,
    port: u16,
    identity: Rc<Identity>,
    mut stop: tokio::sync::watch::Receiver<()>,
    grace: Duration,
) {
    let graceful = GracefulShutdown::new();
    loop {
        let (stream, remote) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                // The peer is gone again, or descriptors ran out for a moment; the next accept says which.
                Err(_) => { tokio::task::yield_now().await; continue }
            },
            _ = stop.changed() => break,
        };
        let _ = stream.set_nodelay(true);
        let identity = Rc::clone(&identity);
        let service = service_fn(move |request| answer::answer(Rc::clone(&identity), port, remote, request));
        let connection = hyper::server::conn::http1::Builder::new()
            .half_close(true)
            .max_buf_size(16 * 1024)
            .serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        tokio::task::spawn_local(async move {
            // A broken connection is the client's affair.
            let _ = connection.await;
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(grace, graceful.shutdown()).await;
}

/// Sends every datagram back, with the pod's name and a space in front.
async fn udp(socket: UdpSocket, identity: Rc<Identity>) {
    let mut buffer = vec![0; 65_507];
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else { continue };
        let mut reply = format!("{} ", identity.pod).into_bytes();
        reply.extend_from_slice(&buffer[..length]);
        reply.truncate(65_507);
        let _ = socket.send_to(&reply, peer).await;
    }
}
