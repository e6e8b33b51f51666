//! Servers and clients inside namespaces.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use switchyard_kernel::Netns;

/// Where servers listen, TCP and UDP.
pub(super) const PORT: u16 = 8080;
/// Headers of IPv4 and UDP.
const HEADERS: u32 = 28;

/// Somebody who can send.
pub(crate) struct Client {
    netns: Arc<Netns>,
    patience: Duration,
}

/// What a request came to.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The address that the server saw.
    pub(crate) seen: IpAddr,
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("no connection: {0}")]
    Connect(io::Error),
    #[error("connected, and then: {0}")]
    Talk(io::Error),
    #[error("small datagrams are not answered: {0}")]
    Small(io::Error),
    #[error("a datagram of {0} bytes with its headers does not come back, a small one does")]
    Large(u32),
}

/// Answers each connection with the address it came from, and each datagram with itself. The threads stay until the process ends.
pub(super) fn serve(netns: &Netns, port: u16) -> io::Result<()> {
    let open = || -> io::Result<_> { Ok((TcpListener::bind(("0.0.0.0", port))?, UdpSocket::bind(("0.0.0.0", port))?)) };
    let (tcp, udp) = netns.run(open)??;
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let Ok(mut stream) = stream else { continue };
            if let Ok(from) = stream.peer_addr() {
                // A client that has gone is no concern of the server's.
                let _ = stream.write_all(from.ip().to_string().as_bytes());
            }
        }
    });
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(&buffer[..length], from);
        }
    });
    Ok(())
}

// === impl Client ===

impl Client {
    pub(super) fn new(netns: Arc<Netns>, patience: Duration) -> Self {
        Self { netns, patience }
    }

    /// Opens a connection and reads the answer.
    pub(crate) fn ask(&self, to: IpAddr) -> Result<Asked, Problem> {
        let ask = || {
            let to = SocketAddr::new(to, PORT);
            let mut stream = TcpStream::connect_timeout(&to, self.patience).map_err(Problem::Connect)?;
            stream.set_read_timeout(Some(self.patience)).map_err(Problem::Talk)?;
            let mut text = String::new();
            stream.read_to_string(&mut text).map_err(Problem::Talk)?;
            let seen = text.parse().map_err(|_| Problem::Talk(io::Error::other(format!("answered {text:?}"))))?;
            Ok(Asked { seen })
        };
        self.netns.run(ask).map_err(Problem::Connect)?
    }

    /// Sends a datagram that fills `mtu` exactly, and waits for it to come back.
    pub(crate) fn fill(&self, to: IpAddr, mtu: u32) -> Result<(), Problem> {
        let fill = || {
            let socket = UdpSocket::bind(("0.0.0.0", 0)).map_err(Problem::Small)?;
            socket.connect((to, PORT)).map_err(Problem::Small)?;
            self.echo(&socket, 1).map_err(Problem::Small)?;
            // Linux sends a datagram that fits with DF, so a narrower way on the path drops it.
            let size = mtu.saturating_sub(HEADERS).min(65_507) as usize;
            self.echo(&socket, size).map_err(|_| Problem::Large(mtu))
        };
        self.netns.run(fill).map_err(Problem::Small)?
    }

    fn echo(&self, socket: &UdpSocket, size: usize) -> io::Result<()> {
        let mut buffer = vec![0; 1 << 16];
        socket.set_read_timeout(Some(self.patience))?;
        socket.send(&vec![7; size])?;
        match socket.recv(&mut buffer)? {
            length if length == size => Ok(()),
            length => Err(io::Error::other(format!("{length} bytes came back"))),
        }
    }
}
