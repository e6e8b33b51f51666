//! Where load comes from: takes orders on standard input, one line of JSON each, and answers them on standard output.

use std::io::{BufRead as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::Context as _;

use super::follow::Follower;
use super::http::Plan;
use super::meter::Span;
use super::observe::Observer;
use super::probe::Prober;
use super::{Load, Measured, Order, Reply, crr, http, rr, state, stream, udp};
use crate::gauge::Device;

/// What goes on between two orders.
#[derive(Default)]
pub(super) struct Hands {
    follower: Option<Follower>,
    prober: Option<Prober>,
    observer: Option<Observer>,
}

/// Runs until standard input ends.
pub fn run() -> anyhow::Result<()> {
    say(&Reply::Ready)?;
    let mut hands = Hands::default();
    for line in std::io::stdin().lock().lines() {
        let reply = serde_json::from_str(&line?).context("read an order").and_then(|order| obey(order, &mut hands));
        say(&reply.unwrap_or_else(|error| Reply::Failed(format!("{error:#}"))))?;
    }
    Ok(())
}

fn say(reply: &Reply) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all((serde_json::to_string(reply)? + "\n").as_bytes())?;
    Ok(out.flush()?)
}

pub(super) fn obey(order: Order, hands: &mut Hands) -> anyhow::Result<Reply> {
    Ok(match order {
        Order::Load { load, target, host, warmup_milliseconds, sample_milliseconds, seed } => {
            let span = Span {
                warmup: Duration::from_millis(warmup_milliseconds.into()),
                sample: Duration::from_millis(sample_milliseconds.into()),
                // Who does not listen any more gets no sample either.
                told: |reply| drop(say(reply)),
            };
            Reply::Measured(Box::new(sample(&load, target, host.as_deref(), span, seed)?))
        }
        Order::Follow { target } => {
            hands.follower = Some(Follower::start(target)?);
            Reply::Following
        }
        Order::Stop => Reply::Followed(hands.follower.take().context("nothing is followed")?.stop()?),
        Order::Probe { targets } => {
            hands.prober = Some(Prober::start(&targets)?);
            Reply::Done
        }
        Order::Await { target, answers } => {
            Reply::Since(hands.prober.as_ref().context("nothing is probed")?.until(target, answers)?)
        }
        Order::Rest => {
            hands.prober = None;
            Reply::Done
        }
        Order::Observe => Reply::Things(match &hands.observer {
            Some(observer) => observer.things(),
            None => hands.observer.insert(Observer::start()?).things(),
        }),
        Order::Vanish { things } => {
            Reply::Since(hands.observer.as_ref().context("nothing is observed")?.until_gone(&things)?)
        }
        Order::Observed => Reply::Changes(hands.observer.take().context("nothing is observed")?.changes()),
        Order::Devices => Reply::Devices(Device::read()?),
        Order::State => Reply::State(state::read()?),
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
