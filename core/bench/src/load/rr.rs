//! Request and answer on one connection, one after the other: the round trip of a path and nothing else.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use anyhow::Context as _;

use super::meter::{Meter, Span};
use super::{Measured, PATIENCE};

pub(super) fn run(target: SocketAddr, bytes: u32, span: Span) -> anyhow::Result<Measured> {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE).with_context(|| format!("connect to {target}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = vec![b'.'; bytes as usize];
    let mut answer = request.clone();
    let mut trip = |stream: &mut TcpStream| -> std::io::Result<()> {
        stream.write_all(&request)?;
        stream.read_exact(&mut answer)
    };
    let begun = Instant::now();
    while begun.elapsed() < span.warmup {
        trip(&mut stream)?;
    }
    let mut measured = Measured::default();
    let meter = Meter::start(span.told)?;
    let begun = Instant::now();
    let mut before = begun;
    loop {
        trip(&mut stream).context("no answer")?;
        let now = Instant::now();
        measured.latency.record(now - before);
        measured.operations += 1;
        if now - begun >= span.sample {
            break;
        }
        before = now;
    }
    meter.stop(&mut measured)?;
    measured.bytes = measured.operations * u64::from(bytes) * 2;
    Ok(measured)
}
