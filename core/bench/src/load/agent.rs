//! Where load comes from: takes orders on standard input, one line of JSON each, and answers them on standard output.

use std::io::{BufRead as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::Context as _;

use super::follow::Follower;
use super::http::Plan;
use super::meter::Span;
use super::{Load, Measured, Order, Reply, crr, http, rr, stream, udp};
use crate::gauge::Device;

/// Runs until standard input ends.
pub fn run() -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let mut say = |reply: &Reply| -> anyhow::Result<()> {
        out.write_all((serde_json::to_string(reply)? + "\n").as_bytes())?;
        Ok(out.flush()?)
    };
    say(&Reply::Ready)?;
    let mut follower = None;
    for line in std::io::stdin().lock().lines() {
        let reply = serde_json::from_str(&line?).context("read an order").and_then(|order| obey(order, &mut follower));
        say(&reply.unwrap_or_else(|error| Reply::Failed(format!("{error:#}"))))?;
    }
    Ok(())
}

fn obey(order: Order, follower: &mut Option<Follower>) -> anyhow::Result<Reply> {
    Ok(match order {
        Order::Load { load, target, host, warmup_milliseconds, sample_milliseconds, seed } => {
            let span = Span {
                warmup: Duration::from_millis(warmup_milliseconds.into()),
                sample: Duration::from_millis(sample_milliseconds.into()),
            };
            Reply::Measured(Box::new(sample(&load, target, host.as_deref(), span, seed)?))
        }
        Order::Follow { target } => {
            *follower = Some(Follower::start(target)?);
            Reply::Following
        }
        Order::Stop => Reply::Followed(follower.take().context("nothing is followed")?.stop()?),
        Order::Devices => Reply::Devices(Device::read()?),
        Order::Mtu { target } => Reply::Mtu(mtu(target)?),
    })
}

pub(super) fn sample(
    load: &Load,
    target: SocketAddr,
    host: Option<&str>,
    span: Span,
    seed: u64,
) -> anyhow::Result<Measured> {
    match *load {
        Load::Stream { connections } => stream::run(target, connections, span),
        Load::Rr { bytes } => rr::run(target, bytes, span),
        Load::Crr { bytes } => crr::run(target, bytes, span),
        Load::Http { rate, connections, arrivals, body } => {
            http::run(&Plan { target, host, rate, connections, arrivals, body, span, seed })
        }
        Load::Udp { rate, bytes } => udp::run(target, rate, bytes, span),
    }
}

fn mtu(target: SocketAddr) -> anyhow::Result<u32> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(target)?;
    Ok(rustix::net::sockopt::ip_mtu(&socket)?)
}

#[cfg(test)]
mod tests {
    use super::super::{Arrivals, server};
    use super::*;

    /// On loopback, with the fixed ports: one test that tries every load, so that nobody else listens there.
    #[test]
    fn every_load_is_answered_by_the_server_and_counted() {
        let Ok(server) = server::Server::bind() else {
            eprintln!("skipped: the ports are taken");
            return;
        };
        std::thread::spawn(|| server.run());
        let span = Span { warmup: Duration::from_millis(5), sample: Duration::from_millis(40) };
        let http = Load::Http { rate: 500.0, connections: 4, arrivals: Arrivals::Constant, body: 100 };
        let loads = [
            (Load::Stream { connections: 2 }, super::super::ports::SINK),
            (Load::Rr { bytes: 3 }, super::super::ports::ECHO),
            (Load::Crr { bytes: 3 }, super::super::ports::CRR),
            (Load::Udp { rate: 1000.0, bytes: 100 }, super::super::ports::UDP),
            (http, super::super::ports::HTTP),
        ];
        for (load, port) in loads {
            let measured = sample(&load, SocketAddr::from(([127, 0, 0, 1], port)), None, span, 1).unwrap();
            assert!(measured.bytes > 0 && measured.errors == 0, "{load:?}: {measured:?}");
            assert!(measured.seconds >= 0.039, "{load:?}: {measured:?}");
            match load {
                Load::Stream { .. } => assert!(measured.bytes > 1 << 20),
                Load::Http { .. } => assert_eq!((measured.operations, measured.latency.len()), (20, 20)),
                Load::Udp { .. } => assert_eq!(measured.operations, 40),
                _ => assert_eq!(measured.latency.len(), measured.operations),
            }
        }
        let mut follower = Some(Follower::start(SocketAddr::from(([127, 0, 0, 1], super::super::ports::UDP))).unwrap());
        std::thread::sleep(Duration::from_millis(30));
        let Reply::Followed(followed) = obey(Order::Stop, &mut follower).unwrap() else { panic!("another reply") };
        assert!(followed.sent > 0 && followed.answered > 0 && followed.longest_gap > 0.0, "{followed:?}");
    }
}
