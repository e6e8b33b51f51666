//! Answers queries over UDP and TCP.
//!
//! ```text
//! UDP batch -> wire: plain question? -> answers: given before, same records? -> bytes, with the asker's id and spelling
//!                       | no               | no
//! TCP message --------> hickory: decode -> reply: our index, or whoever is upstream -> hickory: encode
//! ```
//!
//! What hickory encoded once is kept as bytes until a record changes, so that a query costs a look-up and its share of two system
//! calls. Limits are per client, and an excess is dropped, as an answer would only help who forges addresses.

mod answering;
mod answers;
mod encode;
mod forward;
mod limits;
mod reply;
mod tcp;
mod udp;
mod wire;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

use futures::future::try_join_all;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio_util::sync::CancellationToken;

pub use answering::Answering;
pub use limits::Limits;

use crate::Shared;
use forward::Forwarder;
pub(crate) use forward::resolver;
use reply::Replier;

/// What a server is told.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Who is asked about names that are not ours. Nobody: such queries are refused.
    pub upstreams: Vec<SocketAddr>,
    /// How much one client may ask.
    pub limits: Limits,
}

/// Where queries arrive. They may be handed down, and then keep what arrives while nobody serves them.
#[derive(Debug)]
pub struct Sockets {
    /// Datagrams.
    pub udp: UdpSocket,
    /// Connections.
    pub tcp: TcpListener,
}

/// Bytes of queries that may wait, as far as the kernel allows: some thousands.
const RECEIVE_BUFFER: usize = 4 << 20;
const BACKLOG: i32 = 256;

// === impl Sockets ===

impl Sockets {
    /// Opens both at an address and port. The address may come later.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let domain = Domain::for_address(address);
        let udp = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        let tcp = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        tcp.set_reuse_address(true)?;
        for socket in [&udp, &tcp] {
            socket.set_freebind_v4(true).or_else(|error| if address.is_ipv6() { Ok(()) } else { Err(error) })?;
            socket.bind(&address.into())?;
        }
        // Less than asked for is no failure.
        let _ = udp.set_recv_buffer_size(RECEIVE_BUFFER);
        tcp.listen(BACKLOG)?;
        Ok(Self { udp: udp.into(), tcp: tcp.into() })
    }

    /// Opens both at the same free port of an address.
    pub fn bind_free(address: IpAddr) -> io::Result<Self> {
        const ATTEMPTS: usize = 16;
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let udp = UdpSocket::bind((address, 0))?;
            let _ = SockRef::from(&udp).set_recv_buffer_size(RECEIVE_BUFFER);
            match TcpListener::bind(udp.local_addr()?) {
                Ok(tcp) => return Ok(Self { udp, tcp }),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
    }
}

/// Serves until `shutdown`, on the runtime it is called on.
pub async fn serve(
    sockets: Vec<Sockets>,
    index: Shared,
    config: Config,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let forwarder = Forwarder::new(&config.upstreams, &config.limits).map_err(io::Error::other)?;
    let replier = Arc::new(Replier::new(index, forwarder));
    let serving = sockets.into_iter().map(|sockets| {
        let (replier, limits) = (Arc::clone(&replier), config.limits);
        async move {
            tokio::try_join!(
                udp::serve(sockets.udp, Arc::clone(&replier), limits),
                tcp::serve(sockets.tcp, replier, limits)
            )
        }
    });
    tokio::select! {
        served = try_join_all(serving) => served.map(drop),
        () = shutdown.cancelled() => Ok(()),
    }
}

/// Serves on a thread of its own, so that a flood of queries delays nothing else, and ends with `shutdown`.
pub fn spawn(
    sockets: Vec<Sockets>,
    index: Shared,
    config: Config,
    shutdown: CancellationToken,
) -> io::Result<std::thread::JoinHandle<io::Result<()>>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let work = move || {
        let served = runtime.block_on(serve(sockets, index, config, shutdown));
        served.inspect_err(|error| tracing::error!(%error, "DNS ended"))
    };
    std::thread::Builder::new().name("dns".into()).spawn(work)
}
