//! Request and answer on one connection, one after the other: the round trip of a path and nothing else.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use anyhow::Context as _;

use super::meter::Span;
use super::turns::{self, Turn};
use super::{Measured, PATIENCE};

pub(super) fn run(target: SocketAddr, bytes: u32, span: Span) -> anyhow::Result<Measured> {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE).with_context(|| format!("connect to {target}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = vec![b'.'; bytes as usize];
    let mut answer = request.clone();
    let mut trip = || -> std::io::Result<()> {
        stream.write_all(&request)?;
        stream.read_exact(&mut answer)
    };
    // A connection that has failed once says nothing any more.
    let turn =
        || trip().map_or_else(|error| Turn::Over(anyhow::Error::new(error).context("no answer")), |()| Turn::Answered);
    let mut measured = turns::take(span, turn)?;
    measured.bytes = measured.operations * u64::from(bytes) * 2;
    Ok(measured)
}
