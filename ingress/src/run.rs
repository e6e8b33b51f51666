//! Puts the parts together: sockets, follower, admin listener, data plane; and takes them down in the right order.

use std::{io, net::TcpListener, sync::Arc};

use tokio::sync::watch;

use crate::{
    admin::Admin,
    cluster::{Follower, Origin},
    config::Config,
    metrics::Metrics,
    server::{DataPlane, Listeners, Stage},
    table::SharedTable,
    tls::Acceptor,
};

/// What to listen on. The caller opens it, and so knows the addresses.
#[derive(Debug)]
pub struct Sockets {
    /// For HTTP, one for each serving thread.
    pub http: Listeners,
    /// For HTTPS, as many.
    pub https: Option<Listeners>,
    /// For probes, metrics and people.
    pub admin: TcpListener,
}

/// Why serving did not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A thread, runtime or socket could not be made.
    #[error("start: {0}")]
    Io(#[from] io::Error),
    /// The cryptography library offers nothing usable.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

// === impl Sockets ===

impl Sockets {
    /// Opens what the configuration names.
    ///
    /// # Errors
    /// Names the address that could not be opened.
    pub fn bind(config: &Config) -> io::Result<Self> {
        let threads = match config.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            given => given,
        };
        let named = |address: std::net::SocketAddr| {
            move |error: io::Error| io::Error::new(error.kind(), format!("listen on {address}: {error}"))
        };
        let admin = TcpListener::bind(config.admin).map_err(named(config.admin))?;
        admin.set_nonblocking(true)?;
        let https =
            config.https.map(|address| Listeners::bind(address, threads).map_err(named(address))).transpose()?;
        Ok(Self { http: Listeners::bind(config.http, threads).map_err(named(config.http))?, https, admin })
    }
}

/// Serves until `shutdown`, then drains. Clients are accepted once the first table is there; until then they wait in the kernel's queue.
///
/// # Errors
/// When serving cannot start.
pub async fn run(
    config: Config,
    sockets: Sockets,
    origin: Origin,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let mut shutdown = std::pin::pin!(shutdown);
    let table = Arc::new(SharedTable::default());
    let metrics = Arc::new(Metrics::new(sockets.http.count()));
    let (synced, mut has_synced) = watch::channel(false);
    let (ready, is_ready) = watch::channel(false);

    let (http_address, admin_address) = (sockets.http.address, sockets.admin.local_addr()?);
    let admin = Admin { table: Arc::clone(&table), metrics: Arc::clone(&metrics), ready: is_ready };
    let admin = Aborting(tokio::spawn(admin.serve(tokio::net::TcpListener::from_std(sockets.admin)?)));
    let follower = Follower::new(origin, Arc::clone(&table), Arc::clone(&metrics), synced);
    let follower = Aborting(tokio::spawn(follower.run()));

    tokio::select! {
        _ = has_synced.wait_for(|synced| *synced) => {}
        () = &mut shutdown => return Ok(()),
    }
    let https = match sockets.https {
        Some(listeners) => Some((listeners, Acceptor::new(Arc::clone(&table))?)),
        None => None,
    };
    let plane = DataPlane::start(&config, sockets.http, https, &table, &metrics)?;
    ready.send_replace(true);
    tracing::info!(http = %http_address, admin = %admin_address, "serving");

    shutdown.await;
    // Say so first, and go on serving: whoever sends us connections needs a moment to hear it.
    ready.send_replace(false);
    plane.set_stage(Stage::Leaving);
    tracing::info!(delay = ?config.drain_delay, "leaving");
    tokio::time::sleep(config.drain_delay).await;
    let clean = plane.finish(config.grace).await;
    tracing::info!(clean, "stopped");
    drop((follower, admin));
    Ok(())
}

/// A task that ends with its owner.
struct Aborting(tokio::task::JoinHandle<()>);

impl Drop for Aborting {
    fn drop(&mut self) {
        self.0.abort();
    }
}
