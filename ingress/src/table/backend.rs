//! A backend: the ready endpoints of one port of one Service, and whose turn it is.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// One port of one Service, as a rule names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendKey {
    /// Namespace of the Ingress and so of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub service: String,
    /// Which of its ports.
    pub port: PortRef,
}

/// A Service port by number or by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortRef {
    /// `port.number`.
    Number(u16),
    /// `port.name`.
    Name(String),
}

/// The endpoints of one backend at one moment. Turn and endpoint health outlive it: a new table takes them over.
#[derive(Debug)]
pub struct Backend {
    /// What it is.
    pub key: BackendKey,
    /// Addresses that take requests, in a stable order.
    pub endpoints: Box<[Arc<Endpoint>]>,
    /// Why there are none.
    pub unavailable: Option<Unavailable>,
    turn: Arc<Turn>,
}

/// Why a backend has no endpoints.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Unavailable {
    /// There is no such Service.
    NoService,
    /// The Service has no such port.
    NoPort,
    /// No endpoint of it is ready.
    NoReadyEndpoints,
    /// An ExternalName that resolves to nothing (yet).
    Unresolved(String),
    /// The rule names something other than a Service.
    NotAService,
}

/// Counts requests of a backend over all cores, so that curl after curl is answered by the pods in turn.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Turn(AtomicUsize);

/// One address, shared by every backend and table that names it.
#[derive(Debug)]
pub struct Endpoint {
    /// Where to connect.
    pub address: SocketAddr,
    /// Milliseconds since start until which new requests go elsewhere.
    ejected_until: AtomicU64,
    failures: AtomicU32,
}

/// The endpoints for one request: first the one whose turn it is, then its neighbours.
#[derive(Debug)]
pub struct Pick {
    next: usize,
    left: usize,
}

// === impl Backend ===

impl Backend {
    pub(crate) fn new(
        key: BackendKey,
        endpoints: Vec<Arc<Endpoint>>,
        unavailable: Option<Unavailable>,
        turn: Arc<Turn>,
    ) -> Self {
        let unavailable = if endpoints.is_empty() { unavailable.or(Some(Unavailable::NoReadyEndpoints)) } else { None };
        Self { key, endpoints: endpoints.into(), unavailable, turn }
    }

    /// A backend of fixed addresses.
    pub fn fixed(key: BackendKey, addresses: &[SocketAddr]) -> Self {
        let endpoints = addresses.iter().map(|a| Arc::new(Endpoint::new(*a))).collect();
        Self::new(key, endpoints, None, Arc::default())
    }

    /// Takes a turn. Ejected endpoints are passed over while there are others.
    pub fn pick(&self) -> Pick {
        Pick { next: self.turn.0.fetch_add(1, Ordering::Relaxed), left: self.endpoints.len() }
    }

    /// The next endpoint to try for a request; `None` when each was tried.
    pub fn next(&self, pick: &mut Pick) -> Option<&Arc<Endpoint>> {
        let count = self.endpoints.len();
        if count == 0 || pick.left == 0 {
            return None;
        }
        let now = millis();
        let first = pick.next;
        for step in 0..pick.left {
            let endpoint = &self.endpoints[first.wrapping_add(step) % count];
            if !endpoint.is_ejected(now) {
                pick.next = first.wrapping_add(step + 1);
                pick.left -= step + 1;
                return Some(endpoint);
            }
        }
        // All that are left are ejected: better one of those than an error.
        pick.next = first.wrapping_add(1);
        pick.left -= 1;
        Some(&self.endpoints[first % count])
    }
}

// === impl Pick ===

impl Pick {
    /// Whether every endpoint was tried.
    pub fn is_last(&self) -> bool {
        self.left == 0
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// A healthy endpoint.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, ejected_until: AtomicU64::new(0), failures: AtomicU32::new(0) }
    }

    /// Notes a failed connect: half a second without new requests, doubled with each further failure up to eight seconds.
    pub fn failed(&self) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).min(4);
        self.ejected_until.store(millis() + (500 << failures), Ordering::Relaxed);
    }

    /// Notes a connection that worked.
    pub fn worked(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.ejected_until.store(0, Ordering::Relaxed);
        }
    }

    /// Whether new requests should go elsewhere.
    pub fn ejected(&self) -> bool {
        self.is_ejected(millis())
    }

    fn is_ejected(&self, now: u64) -> bool {
        let until = self.ejected_until.load(Ordering::Relaxed);
        until != 0 && until > now
    }
}

// === impl BackendKey ===

impl fmt::Display for BackendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.namespace, self.service, self.port)
    }
}

impl fmt::Display for PortRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoService => f.write_str("the Service does not exist"),
            Self::NoPort => f.write_str("the Service has no such port"),
            Self::NoReadyEndpoints => f.write_str("no endpoint is ready"),
            Self::Unresolved(name) => write!(f, "the external name {name} does not resolve"),
            Self::NotAService => f.write_str("the rule names a resource that is not a Service"),
        }
    }
}

/// Milliseconds since the first call in this process.
fn millis() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed().max(Duration::from_millis(1));
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(ports: &[u16]) -> Backend {
        let addresses: Vec<_> = ports.iter().map(|p| SocketAddr::from(([127, 0, 0, 1], *p))).collect();
        let key = BackendKey { namespace: "a".into(), service: "b".into(), port: PortRef::Number(80) };
        Backend::fixed(key, &addresses)
    }

    fn port(backend: &Backend, pick: &mut Pick) -> Option<u16> {
        backend.next(pick).map(|e| e.address.port())
    }

    #[test]
    fn endpoints_take_turns() {
        let backend = backend(&[1, 2, 3]);
        let ports: Vec<_> = (0..6).map(|_| port(&backend, &mut backend.pick())).collect();
        assert_eq!(ports, [Some(1), Some(2), Some(3), Some(1), Some(2), Some(3)]);
    }

    #[test]
    fn an_ejected_endpoint_is_passed_over_while_there_are_others() {
        let backend = backend(&[1, 2]);
        backend.endpoints[0].failed();
        let mut pick = backend.pick();
        assert_eq!(port(&backend, &mut pick), Some(2));
        assert_eq!(port(&backend, &mut pick), None);
        backend.endpoints[1].failed();
        let mut pick = backend.pick();
        assert!(port(&backend, &mut pick).is_some(), "ejected is better than nothing");
        backend.endpoints[0].worked();
        assert!(!backend.endpoints[0].ejected());
    }

    #[test]
    fn each_endpoint_is_tried_once_a_request() {
        let backend = backend(&[1, 2, 3]);
        backend.pick();
        let mut pick = backend.pick();
        let tried: Vec<_> = std::iter::from_fn(|| port(&backend, &mut pick)).collect();
        assert_eq!(tried, [2, 3, 1]);
    }
}
