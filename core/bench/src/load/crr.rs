//! Connect, request, answer, close, one after the other: what a path's look-ups and connection tracking cost.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use super::meter::Span;
use super::turns::{self, Turn};
use super::{Measured, PATIENCE};

pub(super) fn run(target: SocketAddr, bytes: u32, span: Span) -> anyhow::Result<Measured> {
    let request = vec![b'.'; bytes as usize];
    let mut answer = request.clone();
    let mut once = || -> std::io::Result<()> {
        let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&request)?;
        stream.read_exact(&mut answer)?;
        // The server closes first, so that the port is free again at once on this side.
        stream.read(&mut [0]).map(drop)
    };
    let failed = |error| Turn::Failed(anyhow::Error::new(error).context(format!("connect to {target}")));
    let mut measured = turns::take(span, || once().map_or_else(failed, |()| Turn::Answered))?;
    measured.bytes = measured.operations * u64::from(bytes) * 2;
    Ok(measured)
}
