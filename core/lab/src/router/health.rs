//! Health checks: can a node's port be connected to from here? A UDP port cannot be asked; there the node itself has to answer, be
//! it with a refusal. Which nodes have an endpoint, for a policy of Local, is known from EndpointSlices: no `healthCheckNodePort` is
//! needed.
//!
//! Each check is a task with a timer. It reports its first finding and every change. What seems to be down is tried again soon and
//! then less and less often; [`Checks::hurry`] starts that anew when something has happened that may have mended it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use switchyard_api::names::AGENT_PORT;
use tokio::net::TcpSocket;
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::watch::ObjectName;

/// Between two checks of what is up.
const INTERVAL: Duration = Duration::from_secs(1);
/// A connection that takes longer has failed. Refusals come at once; this is for nodes that are gone.
const PATIENCE: Duration = Duration::from_millis(500);
/// Failures in a row that take down what was up.
const FALL: u32 = 2;
/// First pause after a failure; each further one is twice as long, up to [`INTERVAL`].
const RETRY: Duration = Duration::from_millis(10);

/// What is known of a node's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// The first check has not ended.
    Unknown,
    Up,
    Down,
}

/// What is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    /// A TCP port: it takes connections.
    Port(SocketAddrV4),
    /// A node: it answers at all. Its kernel refuses for an agent that is being started again, and carries packets meanwhile.
    Node(Ipv4Addr),
}

/// A finding.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) service: ObjectName,
    pub(super) target: Target,
    pub(super) health: Health,
}

/// All checks that are running.
#[derive(Debug)]
pub(super) struct Checks {
    reports: mpsc::UnboundedSender<Report>,
    running: BTreeMap<ObjectName, BTreeMap<Target, Check>>,
}

#[derive(Debug)]
struct Check {
    source: Ipv4Addr,
    health: Health,
    again: Arc<Notify>,
    _task: AbortOnDropHandle<()>,
}

// === impl Checks ===

impl Checks {
    /// No checks yet; their findings will go to `reports`.
    pub(super) fn new(reports: mpsc::UnboundedSender<Report>) -> Self {
        Self { reports, running: BTreeMap::new() }
    }

    /// Checks these targets of `service`, from `source`, and no others. What is known of those that stay is kept.
    pub(super) fn want(&mut self, service: &ObjectName, source: Ipv4Addr, targets: &BTreeSet<Target>) {
        if targets.is_empty() {
            self.running.remove(service);
            return;
        }
        let running = self.running.entry(service.clone()).or_default();
        running.retain(|target, check| targets.contains(target) && check.source == source);
        for target in targets {
            running.entry(*target).or_insert_with(|| {
                let again = Arc::new(Notify::new());
                let task = check(service.clone(), source, *target, again.clone(), self.reports.clone());
                let task = AbortOnDropHandle::new(tokio::spawn(task));
                Check { source, health: Health::Unknown, again, _task: task }
            });
        }
    }

    /// Something has happened to this Service: check now.
    pub(super) fn hurry(&self, service: &ObjectName) {
        for check in self.running.get(service).into_iter().flat_map(BTreeMap::values) {
            check.again.notify_one();
        }
    }

    /// Notes a finding.
    pub(super) fn note(&mut self, report: &Report) {
        let check = self.running.get_mut(&report.service).and_then(|checks| checks.get_mut(&report.target));
        if let Some(check) = check {
            check.health = report.health;
        }
    }

    /// What is known of a target.
    pub(super) fn health(&self, service: &ObjectName, target: &Target) -> Health {
        let check = self.running.get(service).and_then(|checks| checks.get(target));
        check.map_or(Health::Unknown, |check| check.health)
    }
}

// === impl Target ===

impl Target {
    async fn ask(self, source: Ipv4Addr) -> bool {
        match self {
            Self::Port(port) => connect(source, port).await.is_ok(),
            Self::Node(address) => match connect(source, SocketAddrV4::new(address, AGENT_PORT)).await {
                Ok(()) => true,
                Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
            },
        }
    }
}

async fn check(
    service: ObjectName,
    source: Ipv4Addr,
    target: Target,
    again: Arc<Notify>,
    reports: mpsc::UnboundedSender<Report>,
) {
    let (mut health, mut failures, mut pause) = (Health::Unknown, 0, RETRY);
    loop {
        let answered = timeout(PATIENCE, target.ask(source)).await.unwrap_or(false);
        failures = if answered { 0 } else { failures + 1 };
        let found = match health {
            _ if answered => Health::Up,
            Health::Up if failures < FALL => Health::Up,
            _ => Health::Down,
        };
        if found != health {
            health = found;
            let report = Report { service: service.clone(), target, health };
            if reports.send(report).is_err() {
                return;
            }
        }
        pause = match (answered, failures) {
            (true, _) => INTERVAL,
            (false, 1) => RETRY,
            (false, _) => INTERVAL.min(pause * 2),
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = again.notified() => failures = failures.min(FALL) * u32::from(health == Health::Up),
        }
    }
}

/// A connection and nothing more. It ends with a reset, so that neither side keeps a memory of it.
async fn connect(source: Ipv4Addr, target: SocketAddrV4) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddrV4::new(source, 0).into())?;
    let stream = socket.connect(target.into()).await?;
    stream.set_zero_linger()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn service() -> ObjectName {
        ObjectName::new("default", "web")
    }

    async fn next(reports: &mut mpsc::UnboundedReceiver<Report>) -> Health {
        timeout(Duration::from_secs(30), reports.recv()).await.expect("a report in time").expect("checks run").health
    }

    #[tokio::test]
    async fn a_port_that_closes_goes_down_and_comes_back_when_it_opens() {
        let (sender, mut reports) = mpsc::unbounded_channel();
        let mut checks = Checks::new(sender);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let std::net::SocketAddr::V4(target) = address else { panic!("bound to IPv4") };
        checks.want(&service(), Ipv4Addr::LOCALHOST, &[Target::Port(target)].into());
        assert_eq!(next(&mut reports).await, Health::Up);
        drop(listener);
        checks.hurry(&service());
        assert_eq!(next(&mut reports).await, Health::Down);
        let _listener = TcpListener::bind(address).await.unwrap();
        checks.hurry(&service());
        assert_eq!(next(&mut reports).await, Health::Up);
    }

    #[tokio::test]
    async fn findings_stay_with_targets_that_stay() {
        let (sender, mut reports) = mpsc::unbounded_channel();
        let mut checks = Checks::new(sender);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let std::net::SocketAddr::V4(up) = listener.local_addr().unwrap() else { panic!("bound to IPv4") };
        let (up, down) = (Target::Port(up), Target::Port(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1)));
        checks.want(&service(), Ipv4Addr::LOCALHOST, &[up, down].into());
        for _ in 0..2 {
            let report = reports.recv().await.unwrap();
            checks.note(&report);
        }
        assert_eq!((checks.health(&service(), &up), checks.health(&service(), &down)), (Health::Up, Health::Down));
        checks.want(&service(), Ipv4Addr::LOCALHOST, &[up].into());
        assert_eq!((checks.health(&service(), &up), checks.health(&service(), &down)), (Health::Up, Health::Unknown));
    }
    #[tokio::test]
    async fn a_node_is_well_as_long_as_it_answers_and_be_it_with_a_refusal() {
        let (sender, mut reports) = mpsc::unbounded_channel();
        let mut checks = Checks::new(sender);
        // Nobody listens there, unless a cluster runs on this very machine.
        checks.want(&service(), Ipv4Addr::LOCALHOST, &[Target::Node(Ipv4Addr::LOCALHOST)].into());
        assert_eq!(next(&mut reports).await, Health::Up);
        // From loopback nothing leaves the machine.
        checks.want(&service(), Ipv4Addr::LOCALHOST, &[Target::Node([192, 0, 2, 1].into())].into());
        assert_eq!(next(&mut reports).await, Health::Down);
    }
}
