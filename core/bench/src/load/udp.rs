//! Datagrams at a rate. The server counts them, and says how many when it is asked afterwards, and how many found no room because it
//! was too slow itself. Where as many as can be sent are sent, those count too: the network has carried them.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::Measured;
use super::meter::{Meter, Span};
use super::server::{COUNT, QUERY};

/// How long to wait for one answer to a query, and how often to ask.
const ANSWER: Duration = Duration::from_millis(200);
const TRIES: usize = 20;

pub(super) fn run(target: SocketAddr, rate: Option<f64>, bytes: u32, span: Span) -> anyhow::Result<Measured> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(target)?;
    socket.set_read_timeout(Some(ANSWER))?;
    let mut datagram = vec![0; bytes as usize];
    datagram[0] = COUNT;
    send(&socket, &datagram, rate, span.warmup);
    let before = count(&socket).with_context(|| format!("ask {target}"))?;
    let mut measured = Measured::default();
    let meter = Meter::start(span.told)?;
    let (sent, late) = send(&socket, &datagram, rate, span.sample);
    meter.stop(&mut measured)?;
    let after = count(&socket).with_context(|| format!("ask {target}"))?;
    measured.dropped = after.overflowed.saturating_sub(before.overflowed);
    measured.operations = after.taken.saturating_sub(before.taken);
    if rate.is_none() {
        measured.operations = (measured.operations + measured.dropped).min(sent);
    }
    measured.errors = sent.saturating_sub(measured.operations);
    measured.late = late;
    measured.bytes = measured.operations * u64::from(bytes);
    Ok(measured)
}

/// Sends at a rate, or all that it can, for so long; gives how many, and how many of them a millisecond late or more.
fn send(socket: &UdpSocket, datagram: &[u8], rate: Option<f64>, lasting: Duration) -> (u64, u64) {
    let begun = Instant::now();
    let (mut sent, mut late) = (0u64, 0u64);
    loop {
        let now = begun.elapsed();
        let due = rate.map_or(now, |rate| Duration::from_secs_f64(sent as f64 / rate));
        if due >= lasting {
            return (sent, late);
        }
        if let Some(wait) = due.checked_sub(now) {
            pause(wait);
        } else if now - due >= Duration::from_millis(1) {
            late += 1;
        }
        // What the network does not take (nobody listened a moment ago, a policy, no route) has not arrived: who counts will notice.
        let _ = socket.send(datagram);
        sent += 1;
    }
}

/// What the server has counted.
struct Count {
    /// Datagrams of this socket.
    taken: u64,
    /// Datagrams of anybody that found no room.
    overflowed: u64,
}

fn count(socket: &UdpSocket) -> anyhow::Result<Count> {
    let mut answer = [0; 32];
    for number in 0..TRIES {
        let query = [QUERY, number as u8];
        socket.send(&query)?;
        let begun = Instant::now();
        while begun.elapsed() < ANSWER {
            match socket.recv(&mut answer) {
                Ok(18) if answer[..2] == query => {
                    let number = |at: usize| u64::from_le_bytes(answer[at..at + 8].try_into().expect("eight bytes"));
                    return Ok(Count { taken: number(2), overflowed: number(10) });
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
    }
    bail!("the server does not say what it counted")
}

/// Sleeps most of a time; the clock of a sleeping thread is late by some fifty microseconds, so the last of it is spent awake.
fn pause(wait: Duration) {
    const AWAKE: Duration = Duration::from_micros(80);
    let begun = Instant::now();
    if let Some(asleep) = wait.checked_sub(AWAKE) {
        std::thread::sleep(asleep);
    }
    while begun.elapsed() < wait {
        std::hint::spin_loop();
    }
}
