//! Tries, in the middle of a swap, whether packets still arrive: from this node and one of its pods to a few pods of every node,
//! over UDP and TCP, to every node, to Services, and to Services' ports on other nodes, by which requests from outside come in;
//! and keeps packets going all the while, to see how long they stay away at the worst.
//!
//! Sockets are opened in the namespaces of pods, so a probe takes the way that a pod's own packets take. UDP is answered by the
//! agent of the other node, in its pod's namespace; TCP by the kernel, whose refusal is as good an answer as any, but for a
//! Service, which its node's kernel refuses without a packet being sent: there a connection counts. What was not answered before
//! the swap (a policy forbids it, say) counts for nothing afterwards.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use switchyard_api::{Probes, Sample, Swap};
use switchyard_kernel::Netns;
use switchyard_services::Entrance;
use tokio::net::{TcpSocket, UdpSocket};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// The probes of one swap. Dropped, it stops answering, too.
pub(super) struct Prober {
    /// Where probes start: the node, and one of its pods.
    from: Vec<(&'static str, Arc<Netns>, IpAddr)>,
    pub(super) samples: Vec<Sample>,
    /// A thread of its own, so that what the agent does is not measured as well. None if there is none to be had.
    side: Option<Side>,
    /// Ways that led somewhere before anything changed.
    good: Vec<Way>,
    pulse: Option<(CancellationToken, JoinHandle<Beats>)>,
    pub(super) found: Probes,
}

/// A thread with a runtime; it ends with this.
struct Side {
    runtime: Handle,
    stop: CancellationToken,
}

/// From somewhere to somewhere.
#[derive(Clone)]
struct Way {
    name: String,
    netns: Arc<Netns>,
    from: IpAddr,
    to: SocketAddr,
    protocol: Protocol,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Udp,
    /// To an address on which nobody listens.
    Tcp,
    /// To somebody who accepts.
    Service,
}

/// What became of the packets of a flow, or of several.
#[derive(Default)]
struct Beats {
    sent: u64,
    answered: u64,
    longest: Duration,
}

/// Pods of a node that answer probes.
const SAMPLES: usize = 2;
/// Pods elsewhere that are probed, and flows that are kept going.
const MOST_TARGETS: usize = 32;
const MOST_FLOWS: usize = 4;
/// Services that are probed, and nodes at whose ports they are.
const MOST_SERVICES: usize = 8;
const MOST_DOORS: usize = 2;
/// How long an answer may take, at each try: on a machine with more nodes than processors, all ask at once.
const PATIENCE: [Duration; 3] = [Duration::from_millis(60), Duration::from_millis(120), Duration::from_millis(240)];
/// Pause after a connection that was refused.
const REFUSED: Duration = Duration::from_millis(15);
/// Pause between two packets of a flow; what is shorter goes unseen.
const BEAT: Duration = Duration::from_millis(5);
/// A port on which nobody listens, so that the kernel refuses: discard (RFC 863).
const CLOSED: u16 = 9;
/// What is kept of names of ways that were lost.
const MOST_NAMES: usize = 4;

// === impl Prober ===

impl Prober {
    /// Begins to answer for some of these pods: name, namespace, address.
    pub(super) fn start(node: (Arc<Netns>, IpAddr), pods: Vec<(String, Arc<Netns>, IpAddr)>) -> Self {
        let mut from = vec![("node", node.0, node.1)];
        from.extend(pods.first().map(|(_, netns, ip)| ("pod", netns.clone(), *ip)));
        let side = Side::start().inspect_err(|error| warn!(%error, "no thread for probes")).ok();
        let mut samples = Vec::new();
        for (pod, netns, ip) in pods.into_iter().take(SAMPLES) {
            let Ok(socket) = udp(&netns, ip) else { continue };
            let (Ok(port), Some(side)) = (socket.local_addr().map(|at| at.port()), &side) else { continue };
            side.runtime.spawn(answer(socket));
            samples.push(Sample { pod, ip, udp: port });
        }
        Self { from, samples, side, good: Vec::new(), pulse: None, found: Probes::default() }
    }

    /// Finds out which ways lead anywhere, and keeps packets going on some of them.
    pub(super) async fn begin(&mut self, own: &str, swap: &Swap, nodes: &[IpAddr], services: &[Vec<Entrance>]) {
        let ways = self.ways(own, swap, nodes, services);
        self.found.tried = u32::try_from(ways.len()).unwrap_or(u32::MAX);
        self.good = self.answered(ways).await.0;
        self.found.good = u32::try_from(self.good.len()).unwrap_or(u32::MAX);
        let flows: Vec<Way> =
            self.good.iter().filter(|way| way.protocol == Protocol::Udp).take(MOST_FLOWS).cloned().collect();
        let Some(side) = &self.side else { return };
        let stop = side.stop.child_token();
        self.pulse = Some((stop.clone(), side.runtime.spawn(keep_going(flows, stop))));
    }

    /// Whether all good ways still lead there; an error names some that do not.
    pub(super) async fn check(&mut self) -> Result<(), String> {
        let (_, lost) = self.answered(self.good.clone()).await;
        if lost.is_empty() {
            return Ok(());
        }
        let more = lost.len().saturating_sub(MOST_NAMES);
        self.found.lost = lost.iter().take(MOST_NAMES).map(|way| way.name.clone()).collect();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        Err(format!("no answer any more: {}{more}", self.found.lost.join(", ")))
    }

    /// Ends what was kept going, and counts.
    pub(super) async fn end(&mut self) {
        let Some((stop, beats)) = self.pulse.take() else { return };
        stop.cancel();
        let Ok(beats) = beats.await else { return };
        (self.found.sent, self.found.unanswered) = (beats.sent, beats.sent.saturating_sub(beats.answered));
        self.found.longest_gap = (beats.sent > 0).then(|| (beats.longest.as_secs_f64() * 1e4).round() / 10.0);
    }

    fn ways(&self, own: &str, swap: &Swap, nodes: &[IpAddr], services: &[Vec<Entrance>]) -> Vec<Way> {
        let mut ways = Vec::new();
        let others = swap.participants.iter().filter(|(name, _)| *name != own);
        let remote = others.flat_map(|(name, one)| one.samples.iter().take(SAMPLES).map(move |sample| (name, sample)));
        let remote: Vec<_> = remote.take(MOST_TARGETS).collect();
        for (kind, netns, from) in &self.from {
            let mut way = |name: String, to: SocketAddr, protocol| {
                let name = format!("{kind} to {name}, {protocol:?}").to_lowercase();
                ways.push(Way { name, netns: netns.clone(), from: *from, to, protocol });
            };
            for (node, sample) in &remote {
                let name = format!("{} on {node}", sample.pod);
                if sample.udp != 0 {
                    way(name.clone(), SocketAddr::new(sample.ip, sample.udp), Protocol::Udp);
                }
                way(name, SocketAddr::new(sample.ip, CLOSED), Protocol::Tcp);
            }
            for sample in self.samples.iter().filter(|sample| sample.ip != *from) {
                way(sample.pod.clone(), SocketAddr::new(sample.ip, sample.udp), Protocol::Udp);
            }
            for node in nodes.iter().take(MOST_TARGETS).filter(|node| **node != *from) {
                way(node.to_string(), SocketAddr::new(*node, CLOSED), Protocol::Tcp);
            }
            for to in doors(services, nodes) {
                way(format!("service {to}"), to, Protocol::Service);
            }
        }
        // Flows between pods come first when some are picked to be kept going.
        ways.sort_by_key(|way| !way.name.starts_with("pod"));
        ways
    }

    /// Those that lead somewhere, and those that do not.
    async fn answered(&self, ways: Vec<Way>) -> (Vec<Way>, Vec<Way>) {
        let answers = join_all(ways.iter().map(Way::leads)).await;
        let mut both = (Vec::new(), Vec::new());
        for (way, leads) in ways.into_iter().zip(answers) {
            if leads { both.0.push(way) } else { both.1.push(way) }
        }
        both
    }
}

// === impl Side ===

impl Side {
    fn start() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (handle, stop) = (runtime.handle().clone(), CancellationToken::new());
        let stopped = stop.clone();
        std::thread::Builder::new().name("probes".into()).spawn(move || runtime.block_on(stopped.cancelled()))?;
        Ok(Self { runtime: handle, stop })
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

// === impl Way ===

impl Way {
    async fn leads(&self) -> bool {
        match self.protocol {
            Protocol::Udp => self.answers_udp().await.unwrap_or(false),
            Protocol::Tcp | Protocol::Service => self.answers_tcp().await.unwrap_or(false),
        }
    }

    async fn answers_udp(&self) -> io::Result<bool> {
        let socket = UdpSocket::from_std(udp(&self.netns, self.from)?)?;
        let mut buffer = [0; 16];
        for patience in PATIENCE {
            // A refusal that comes late belongs to a try before.
            let _ = socket.send_to(b"yard", self.to).await;
            if let Ok(Ok((_, from))) = timeout(patience, socket.recv_from(&mut buffer)).await
                && from == self.to
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn answers_tcp(&self) -> io::Result<bool> {
        for patience in PATIENCE {
            let socket = tcp(&self.netns, self.to)?;
            match timeout(patience, socket.connect(self.to)).await {
                Ok(Ok(_)) => return Ok(true),
                Ok(Err(error))
                    if self.protocol == Protocol::Tcp && error.kind() == io::ErrorKind::ConnectionRefused =>
                {
                    return Ok(true);
                }
                Ok(Err(_)) => tokio::time::sleep(REFUSED).await,
                Err(_) => {}
            }
        }
        Ok(false)
    }
}

/// Where Services are knocked at: each at one address of its own, and at a port of a few other nodes, not always of the same ones.
fn doors(services: &[Vec<Entrance>], nodes: &[IpAddr]) -> Vec<SocketAddr> {
    let mut doors = Vec::new();
    for (number, entrances) in services.iter().enumerate().take(MOST_SERVICES) {
        let address = entrances.iter().find_map(|entrance| match entrance {
            Entrance::Address(ip, _, port) => Some(SocketAddr::from((*ip, *port))),
            Entrance::NodePort(..) => None,
        });
        doors.extend(address);
        let port = entrances.iter().find_map(|entrance| match entrance {
            Entrance::NodePort(_, port) => Some(*port),
            Entrance::Address(..) => None,
        });
        let others = nodes.iter().cycle().skip(number).take(MOST_DOORS.min(nodes.len()));
        doors.extend(port.into_iter().flat_map(|port| others.clone().map(move |node| SocketAddr::new(*node, port))));
    }
    doors
}

/// Keeps packets going on all these ways until told to stop.
async fn keep_going(flows: Vec<Way>, stop: CancellationToken) -> Beats {
    let all = join_all(flows.iter().map(|way| flow(way, &stop))).await;
    all.into_iter().flatten().fold(Beats::default(), |sum, one| Beats {
        sent: sum.sent + one.sent,
        answered: sum.answered + one.answered,
        longest: sum.longest.max(one.longest),
    })
}

async fn flow(way: &Way, stop: &CancellationToken) -> io::Result<Beats> {
    let socket = UdpSocket::from_std(udp(&way.netns, way.from)?)?;
    let mut beats = Beats::default();
    let mut open: BTreeMap<u64, Instant> = BTreeMap::new();
    let mut clock = interval(BEAT);
    clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut last = Instant::now();
    let mut buffer = [0; 16];
    loop {
        tokio::select! {
            biased;
            received = socket.recv_from(&mut buffer) => {
                let Ok((8, from)) = received else { continue };
                let number = u64::from_be_bytes(buffer[..8].try_into().expect("eight bytes"));
                if from == way.to && open.remove(&number).is_some() {
                    beats.answered += 1;
                    beats.longest = beats.longest.max(last.elapsed());
                    last = Instant::now();
                }
            }
            _ = clock.tick(), if !stop.is_cancelled() => {
                beats.sent += 1;
                open.insert(beats.sent, Instant::now());
                let _ = socket.send_to(&beats.sent.to_be_bytes(), way.to).await;
            }
            // What is under way may still come.
            () = tokio::time::sleep(PATIENCE[0]), if stop.is_cancelled() => break,
            () = stop.cancelled(), if !stop.is_cancelled() => {}
        }
        if stop.is_cancelled() && open.is_empty() {
            break;
        }
    }
    if !open.is_empty() {
        beats.longest = beats.longest.max(last.elapsed());
    }
    Ok(beats)
}

/// Sends back what comes.
async fn answer(socket: std::net::UdpSocket) {
    let Ok(socket) = UdpSocket::from_std(socket) else { return };
    let mut buffer = [0; 64];
    loop {
        if let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(&buffer[..length], from).await;
        }
    }
}

fn udp(netns: &Netns, from: IpAddr) -> io::Result<std::net::UdpSocket> {
    let socket = netns.run(|| std::net::UdpSocket::bind((from, 0)))??;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn tcp(netns: &Netns, to: SocketAddr) -> io::Result<TcpSocket> {
    netns.run(|| if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() })?
}

#[cfg(test)]
mod tests {
    use switchyard_services::Protocol as Transport;

    use super::*;

    #[test]
    fn services_are_knocked_at_their_address_and_at_ports_of_some_other_nodes() {
        let address = |last, port| Entrance::Address([10, 96, 0, last].into(), Transport::Tcp, port);
        let node_port = |port| Entrance::NodePort(Transport::Tcp, port);
        let services =
            [vec![address(1, 443)], vec![address(2, 80), address(2, 90), node_port(30080), node_port(30090)]];
        let nodes = ["10.140.0.11", "10.140.0.12", "10.140.0.13"].map(|node| node.parse().unwrap());
        let found: Vec<String> = doors(&services, &nodes).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.96.0.1:443", "10.96.0.2:80", "10.140.0.12:30080", "10.140.0.13:30080"]);
        assert_eq!(doors(&services, &[]).len(), 2);
        assert_eq!(doors(&vec![services[0].clone(); 20], &nodes).len(), MOST_SERVICES);
    }
}
