//! Waiting from outside: a connection is tried until one is made and answered.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::bail;

/// Between two tries, and how long one may take: a first packet that is dropped is not to be waited for.
const PACE: Duration = Duration::from_millis(1);
const TRY: Duration = Duration::from_millis(20);
/// Longest that anything may take.
const LIMIT: Duration = Duration::from_secs(30);

pub(super) fn until_answered(target: SocketAddr) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !answers(target).unwrap_or(false) {
        if begun.elapsed() > LIMIT {
            bail!("{target} does not answer within {} s", LIMIT.as_secs());
        }
        std::thread::sleep(PACE);
    }
    Ok(())
}

fn answers(target: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&target, TRY)?;
    stream.set_read_timeout(Some(TRY))?;
    stream.write_all(b".")?;
    Ok(stream.read(&mut [0])? == 1)
}
