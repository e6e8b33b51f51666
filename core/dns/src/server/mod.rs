//! Answers queries over UDP and TCP.
//!
//! ```text
//! UDP batch -> wire: plain question? -> answers: given before, same records? -> bytes, with the asker's id and spelling
//!                       | no               | no
//! TCP message --------> hickory: decode -> reply: our index, or whoever is upstream -> hickory: encode
//! ```
//!
//! What hickory encoded once is kept as bytes until a name of it changes, so that a query costs a look-up and its share of three system
//! calls. Limits are per client, and an excess is dropped, as an answer would only help who forges addresses. A message that makes us
//! panic costs its own answer, and whatever else ends serving is only a pause.

mod answering;
mod answers;
mod encode;
mod forward;
mod limits;
mod reply;
mod supervise;
mod tcp;
mod udp;
mod wire;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::thread::JoinHandle;

use futures::future::try_join_all;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

pub use answering::Answering;
pub use limits::Limits;

use crate::Shared;
use forward::Forwarder;
pub(crate) use forward::resolver;
use reply::Replier;
use supervise::{Stop, supervise};

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

/// A thread that answers what arrives at a socket.
struct Datagrams {
    address: SocketAddr,
    thread: JoinHandle<()>,
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

/// Serves until `shutdown`, on threads of its own, so that a flood of queries delays nothing else: one for each socket of datagrams, and
/// one, which is given back, for connections and for what others are asked. The sockets stay open, and may be served again.
pub fn spawn(
    sockets: Vec<Sockets>,
    index: Shared,
    config: Config,
    shutdown: CancellationToken,
) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let forwarder = Forwarder::new(&config.upstreams, &config.limits).map_err(io::Error::other)?;
    let replier = Arc::new(Replier::new(index, forwarder));
    let stop = Arc::new(Stop::default());
    let (mut datagrams, mut listeners) = (Vec::new(), Vec::new());
    for sockets in sockets {
        let (replier, limits, runtime) = (Arc::clone(&replier), config.limits, runtime.handle().clone());
        datagrams.push(Datagrams::spawn(sockets.udp, replier, limits, runtime, Arc::clone(&stop))?);
        listeners.push(sockets.tcp);
    }
    let work = move || {
        let connections = async || {
            let serving = listeners.iter().map(|listener| tcp::serve(listener, Arc::clone(&replier), config.limits));
            tokio::select! {
                served = try_join_all(serving) => served.map(drop),
                () = shutdown.cancelled() => {
                    stop.set();
                    Ok(())
                }
            }
        };
        supervise("connections", &stop, || runtime.block_on(connections()));
        datagrams.into_iter().for_each(Datagrams::end);
    };
    thread("dns", work)
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.into()).spawn(work)
}

// === impl Datagrams ===

impl Datagrams {
    fn spawn(
        socket: UdpSocket,
        replier: Arc<Replier>,
        limits: Limits,
        runtime: Handle,
        stop: Arc<Stop>,
    ) -> io::Result<Self> {
        let address = socket.local_addr()?;
        let socket = Arc::new(socket);
        let serve = move || {
            supervise("datagrams", &stop, || udp::serve(&socket, &replier, &limits, &runtime, &stop));
        };
        Ok(Self { address, thread: thread("dns-udp", serve)? })
    }

    /// Waits for its end, which is told already. It may be waiting for a datagram, so it gets one, which is too short to be answered; the
    /// socket cannot be shut down instead, as it outlives this server.
    fn end(self) {
        let anybody =
            if self.address.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
        let told = UdpSocket::bind((anybody, 0)).and_then(|socket| socket.send_to(&[], self.address));
        self.thread.thread().unpark();
        match told {
            Ok(_) => drop(self.thread.join()),
            // Its address is gone. Nothing can arrive there, and it ends with whatever does.
            Err(error) => tracing::debug!(%error, address = %self.address, "DNS waits on"),
        }
    }
}

#[cfg(test)]
mod tests;
