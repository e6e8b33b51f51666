//! Traffic between two namespaces: a bulk stream, whose ends have a processor each, and round trips, whose ends share one. Left to the
//! scheduler, chance decides that, and with it more than any network does.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use switchyard_bench::load::Pinned;
use switchyard_kernel::Netns;

/// A connection between two namespaces, both ends in this process.
pub struct Pair {
    client: TcpStream,
    server: TcpStream,
}

const CHUNK: usize = 128 << 10;

// === impl Pair ===

impl Pair {
    /// Connects from `from` to the address `to` in another namespace.
    pub fn connect(from: &Netns, to: (&Netns, std::net::IpAddr)) -> anyhow::Result<Self> {
        let listener = to.0.run(|| TcpListener::bind(SocketAddr::new(to.1, 0)))?.context("listen")?;
        let address = listener.local_addr()?;
        let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(5));
        let client = from.run(connect)?.with_context(|| format!("connect to {address}"))?;
        let (server, _) = listener.accept()?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        Ok(Self { client, server })
    }

    /// Bytes a second that arrive in a bulk transfer of this length, in Gbit/s.
    pub fn gigabits(mut self, lasting: Duration) -> anyhow::Result<f64> {
        let begun = Instant::now();
        let sender = std::thread::spawn(move || {
            let _pinned = Pinned::last();
            let chunk = vec![0u8; CHUNK];
            while begun.elapsed() < lasting {
                self.client.write_all(&chunk)?;
            }
            std::io::Result::Ok(())
        });
        let _pinned = Pinned::first();
        let mut space = vec![0u8; CHUNK];
        let mut bytes = 0u64;
        loop {
            match self.server.read(&mut space)? {
                0 => break,
                read => bytes += read as u64,
            }
        }
        let took = begun.elapsed();
        sender.join().expect("the sender does not panic")?;
        Ok(bytes as f64 * 8.0 / took.as_secs_f64() / 1e9)
    }

    /// Round trips of one byte a second, for so long.
    pub fn round_trips(mut self, lasting: Duration) -> anyhow::Result<f64> {
        let mut server = self.server;
        let _pinned = Pinned::first();
        // Starts where its maker is, and stays there.
        let echo = std::thread::spawn(move || {
            let mut byte = [0];
            while server.read(&mut byte)? == 1 {
                server.write_all(&byte)?;
            }
            std::io::Result::Ok(())
        });
        let begun = Instant::now();
        let mut trips = 0u64;
        let mut byte = [1];
        while begun.elapsed() < lasting {
            self.client.write_all(&byte)?;
            self.client.read_exact(&mut byte)?;
            trips += 1;
        }
        let took = begun.elapsed();
        drop(self.client);
        echo.join().expect("the echo does not panic")?;
        Ok(trips as f64 / took.as_secs_f64())
    }
}
