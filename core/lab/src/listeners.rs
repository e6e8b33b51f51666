//! Loopback ports of the host: all that the host's own network ever sees of a cluster.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use switchyard_api::{DnsSpec, HostPort};
use switchyard_dns::Sockets;

use crate::handover::Handover;
use crate::home::Directory;

/// Connections that may wait for the process that serves them.
const BACKLOG: i32 = 4096;

/// How long ports may still be busy after a supervisor was killed: of all that a process had open, the kernel may give back the lock
/// before it closes the listeners.
pub const CLOSING: Duration = Duration::from_secs(1);
/// Between two attempts to take such a port: its closing is nothing that anybody could be told.
const BETWEEN: Duration = Duration::from_millis(1);

/// Which ports a cluster has on the host. Those taken from port 0 are taken again next time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// Where the API server answers.
    pub api: Option<SocketAddr>,
    /// What each entry of `hostPorts` became, and where it leads.
    pub host: Vec<Forward>,
    /// Where names are answered, over UDP and TCP.
    #[serde(default)]
    pub dns: Option<SocketAddr>,
}

/// A port of the host that leads into the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// As written in the cluster file.
    pub wanted: SocketAddr,
    /// As opened.
    pub listen: SocketAddr,
    /// Where it leads.
    pub to: SocketAddr,
}

/// A port that could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else listens there.
    #[error("{address}: in use by {holder}; stop it, or change {field} (port 0 takes a free one)")]
    Busy {
        /// The address.
        address: SocketAddr,
        /// Who has it, as far as can be seen.
        holder: String,
        /// What to change instead.
        field: String,
    },
    /// Ports below 1024 are root's.
    #[error("{address}: permission denied; take a port from 1024 up in {field}, or allow it: sudo sysctl net.ipv4.ip_unprivileged_port_start={}", address.port())]
    Privileged {
        /// The address.
        address: SocketAddr,
        /// What to change instead.
        field: String,
    },
    /// Anything else.
    #[error("{address}: {source}")]
    Other {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

// === impl Ports ===

impl Ports {
    /// What was in use last time; nothing if there was no last time.
    pub fn remembered(directory: &Directory) -> Self {
        let text = fs::read(directory.ports_file()).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Notes them for next time.
    pub fn remember(&self, directory: &Directory) -> io::Result<()> {
        fs::write(directory.ports_file(), serde_json::to_vec_pretty(self)?)
    }
}

/// Name of the API server's listener in a handover.
pub const API: &str = "host/api";

/// Name of a host port's listener in a handover.
pub fn name(index: usize) -> String {
    format!("host/{index}")
}

/// Name of the host's sockets for DNS in a handover; see [`put_dns`].
pub const HOST_DNS: &str = "host/dns";

/// Opens all listeners and puts them into `handover`, or opens none. What is busy may become free within `patience`.
pub fn open(
    wanted: &[HostPort],
    dns: &DnsSpec,
    before: &Ports,
    patience: Duration,
    handover: &mut Handover,
) -> Result<Ports, Error> {
    let until = Instant::now() + patience;
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let (api, address) = again(any, before.api, until, "the API server's port")?;
    let (names, names_address) = open_dns(dns.listen, before.dns, until)?;
    let mut ports = Ports { api: Some(address), host: Vec::new(), dns: Some(names_address) };
    let mut opened = vec![(API.to_owned(), api)];
    for (index, port) in wanted.iter().enumerate() {
        let last = before.host.iter().find(|last| last.wanted == port.listen && last.to == port.to);
        let field = format!("spec.hostPorts[{index}].listen");
        let (listener, listen) = again(port.listen, last.map(|last| last.listen), until, &field)?;
        ports.host.push(Forward { wanted: port.listen, listen, to: port.to });
        opened.push((name(index), listener));
    }
    for (name, listener) in opened {
        handover.put(name, listener);
    }
    put_dns(HOST_DNS, names, handover);
    Ok(ports)
}

/// Names of a pair of sockets in a handover.
pub fn dns_names(name: &str) -> [String; 2] {
    ["udp", "tcp"].map(|protocol| format!("{name}/{protocol}"))
}

/// Puts sockets for DNS into a handover.
pub fn put_dns(name: &str, sockets: Sockets, handover: &mut Handover) {
    let [udp, tcp] = dns_names(name);
    handover.put(udp, sockets.udp);
    handover.put(tcp, sockets.tcp);
}

/// Takes sockets for DNS out of a handover.
pub fn take_dns(name: &str, handover: &mut Handover) -> io::Result<Sockets> {
    let [udp, tcp] = dns_names(name);
    Ok(Sockets { udp: UdpSocket::from(handover.take(&udp)?), tcp: handover.listener(&tcp)? })
}

fn open_dns(wanted: SocketAddr, before: Option<SocketAddr>, until: Instant) -> Result<(Sockets, SocketAddr), Error> {
    let field = "spec.dns.listen";
    let before = before.filter(|before| wanted.port() == 0 && before.ip() == wanted.ip());
    let kept = before.and_then(|before| once_free(until, || Sockets::bind(before)).ok());
    let opened = match kept {
        Some(sockets) => Ok(sockets),
        None if wanted.port() == 0 => Sockets::bind_free(wanted.ip()),
        None => once_free(until, || Sockets::bind(wanted)),
    };
    let opened = opened.and_then(|sockets| sockets.udp.local_addr().map(|address| (sockets, address)));
    opened.map_err(|source| failed(wanted, field, source))
}

/// A listener for the process that will serve it.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
}

fn again(
    wanted: SocketAddr,
    before: Option<SocketAddr>,
    until: Instant,
    field: &str,
) -> Result<(TcpListener, SocketAddr), Error> {
    let before = before.filter(|before| wanted.port() == 0 && before.ip() == wanted.ip());
    match before.map(|before| bind(before, until, field)) {
        Some(Ok(bound)) => Ok(bound),
        _ => bind(wanted, until, field),
    }
}

fn bind(address: SocketAddr, until: Instant, field: &str) -> Result<(TcpListener, SocketAddr), Error> {
    let bound = once_free(until, || listen(address)).and_then(|listener| {
        let address = listener.local_addr()?;
        Ok((listener, address))
    });
    bound.map_err(|source| failed(address, field, source))
}

/// Opens something, waiting for its address to become free.
fn once_free<T>(until: Instant, mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match open() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::sleep(BETWEEN);
            }
            other => return other,
        }
    }
}

fn failed(address: SocketAddr, field: &str, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::AddrInUse => Error::Busy { address, holder: holder(address), field: field.into() },
        io::ErrorKind::PermissionDenied => Error::Privileged { address, field: field.into() },
        _ => Error::Other { address, source },
    }
}

/// Who listens on a port: from the kernel's table to the socket's inode, from there to the process that has it open.
fn holder(address: SocketAddr) -> String {
    let inodes = listening(address.port());
    let names: Vec<_> =
        processes().filter_map(|(pid, name)| holds(pid, &inodes).then(|| format!("{name} (pid {pid})"))).collect();
    match names.is_empty() {
        false => names.join(", "),
        true => format!("another user's process (see it with: sudo ss -ltnp sport = :{})", address.port()),
    }
}

fn listening(port: u16) -> BTreeSet<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let local = format!(":{port:04X}");
    let rows =
        tables.iter().flat_map(|table| table.lines().skip(1)).map(|row| row.split_whitespace().collect::<Vec<_>>());
    let listening = rows.filter(|row| row.len() > 9 && row[1].ends_with(&local) && row[3] == "0A");
    listening.map(|row| format!("socket:[{}]", row[9])).collect()
}

fn processes() -> impl Iterator<Item = (u32, String)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        Some((pid, fs::read_to_string(entry.path().join("comm")).ok()?.trim().to_owned()))
    })
}

fn holds(pid: u32, inodes: &BTreeSet<String>) -> bool {
    let open = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd")).into_iter().flatten();
    let targets = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    targets.into_iter().any(|target| target.to_str().is_some_and(|target| inodes.contains(target)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(listen: SocketAddr) -> HostPort {
        HostPort { listen, to: "192.168.100.244:80".parse().unwrap() }
    }

    fn opened(port: &HostPort, before: &Ports, patience: Duration, into: &mut Handover) -> Result<Ports, Error> {
        open(std::slice::from_ref(port), &DnsSpec::default(), before, patience, into)
    }

    #[test]
    fn a_free_port_is_taken_again_next_time() {
        let any = port("127.0.0.1:0".parse().unwrap());
        let first = opened(&any, &Ports::default(), Duration::ZERO, &mut Handover::default()).unwrap();
        let second = opened(&any, &first, Duration::ZERO, &mut Handover::default()).unwrap();
        assert_eq!(first, second);
    }

    #[test]
    fn ports_that_are_being_closed_are_waited_for() {
        let any = port("127.0.0.1:0".parse().unwrap());
        let mut killed = Handover::default();
        let first = opened(&any, &Ports::default(), Duration::ZERO, &mut killed).unwrap();
        let moved = opened(&any, &first, Duration::ZERO, &mut Handover::default()).unwrap();
        assert_ne!(first, moved, "they are busy");
        let closing = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            drop(killed);
        });
        let second = opened(&any, &first, Duration::from_secs(30), &mut Handover::default()).unwrap();
        closing.join().unwrap();
        assert_eq!(first, second);
    }

    #[test]
    fn a_busy_port_is_reported_with_its_holder() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = opened(&port(address), &Ports::default(), Duration::ZERO, &mut Handover::default());
        let error = error.unwrap_err().to_string();
        let me = format!("(pid {})", std::process::id());
        assert!(error.contains(&me) && error.contains("spec.hostPorts[0].listen"), "{error}");
    }
}
