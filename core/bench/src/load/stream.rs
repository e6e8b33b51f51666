//! As many bytes as TCP carries. What counts is what the server has taken: it says so when a connection ends.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Barrier;
use std::time::Instant;

use anyhow::{Context as _, anyhow};

use super::meter::{Meter, Span};
use super::{Measured, PATIENCE};

/// Bytes of one write.
const CHUNK: usize = 128 << 10;

pub(super) fn run(target: SocketAddr, connections: u16, span: Span) -> anyhow::Result<Measured> {
    let streams = (0..connections)
        .map(|_| TcpStream::connect_timeout(&target, PATIENCE).with_context(|| format!("connect to {target}")))
        .collect::<anyhow::Result<Vec<_>>>()?;
    // All have warmed up, and the meter runs, before any byte counts.
    let (warm, metered) = (Barrier::new(streams.len() + 1), Barrier::new(streams.len() + 1));
    let mut measured = Measured::default();
    std::thread::scope(|scope| {
        let (warm, metered) = (&warm, &metered);
        let senders: Vec<_> = streams
            .into_iter()
            .map(|stream| scope.spawn(move || send(stream, span, || (warm.wait(), metered.wait()))))
            .collect();
        warm.wait();
        let meter = Meter::start(span.told);
        metered.wait();
        for sender in senders {
            measured.bytes += sender.join().map_err(|_| anyhow!("a sender panicked"))??;
        }
        meter?.stop(&mut measured)
    })?;
    Ok(measured)
}

/// Sends for the time of the sample and gives the bytes that the server took of it.
fn send<T>(mut stream: TcpStream, span: Span, wait: impl FnOnce() -> T) -> anyhow::Result<u64> {
    let chunk = vec![b'.'; CHUNK];
    let begun = Instant::now();
    let mut warmup = 0;
    // Whatever fails before, the others wait for this one.
    let warm = (|| -> std::io::Result<()> {
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        while begun.elapsed() < span.warmup {
            stream.write_all(&chunk)?;
            warmup += CHUNK as u64;
        }
        Ok(())
    })();
    wait();
    warm?;
    let begun = Instant::now();
    while begun.elapsed() < span.sample {
        stream.write_all(&chunk)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut total = [0; 8];
    stream.read_exact(&mut total).context("the server did not say what it took")?;
    Ok(u64::from_le_bytes(total).saturating_sub(warmup))
}
