//! The routing table: immutable, compiled from cluster objects, published whole.

mod backend;
mod certificates;
mod compile;
mod explain;
mod host;
mod path;

use std::{
    fmt::Write as _,
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
};

use arc_swap::ArcSwap;

pub use self::{
    backend::{Backend, BackendKey, Endpoint, Pick, PortRef, Unavailable},
    certificates::Certificates,
    compile::{CONTROLLER, Compiler, Name, Objects},
    explain::Explanation,
    host::{HostError, HostIndex, HostPattern},
    path::{PathIndex, PathKind, PathRule},
};

/// Everything the data plane needs to know to send a request on.
#[derive(Debug, Default)]
pub struct Table {
    /// Hosts and paths.
    pub routes: Arc<Routes>,
    /// Backends, by [`BackendId`].
    pub backends: Vec<Arc<Backend>>,
    /// Certificates for HTTPS.
    pub certificates: Arc<Certificates>,
    /// Counts published tables.
    pub generation: u64,
}

/// Hosts and paths, without the addresses behind them: endpoints change often, rules seldom.
#[derive(Debug, Default)]
pub struct Routes {
    /// Rules by host.
    pub hosts: HostIndex<HostRules>,
    /// Where a request goes that no rule covers, if anywhere.
    pub default: Option<Route>,
    /// Rules that could not be used, in words.
    pub warnings: Vec<String>,
    /// Ingresses served, as `namespace/name`.
    pub served: Vec<Arc<str>>,
}

/// The rules of one host.
#[derive(Debug)]
pub struct HostRules {
    /// By path.
    pub paths: PathIndex<Route>,
    /// Where a path goes that no rule covers: the `defaultBackend` of an Ingress that names this host.
    pub default: Option<Route>,
}

/// Where a rule leads.
#[derive(Clone, Debug)]
pub struct Route {
    /// Index into [`Table::backends`].
    pub backend: BackendId,
    /// The Ingress the rule comes from, as `namespace/name`.
    pub ingress: Arc<str>,
}

/// Index into [`Table::backends`].
pub type BackendId = u32;

/// Why no rule covers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss {
    /// No rule has this host.
    Host,
    /// The host is known, the path is not.
    Path,
}

/// The published table. One writer, many readers; readers keep an [`arc_swap::Cache`] each.
#[derive(Debug, Default)]
pub struct SharedTable {
    current: ArcSwap<Table>,
    generation: AtomicU64,
}

// === impl Table ===

impl Table {
    /// The rule for a normalised host and a path without query.
    ///
    /// # Errors
    /// Says whether the host or the path is unknown.
    pub fn find(&self, host: &str, path: &str) -> Result<&Route, Miss> {
        let default = self.routes.default.as_ref();
        let Some((_, rules)) = self.routes.hosts.find(host) else { return default.ok_or(Miss::Host) };
        let route = rules.paths.find(path).map(|rule| &rule.value);
        route.or(rules.default.as_ref()).or(default).ok_or(Miss::Path)
    }

    /// The backend a route names.
    pub fn backend(&self, route: &Route) -> &Arc<Backend> {
        &self.backends[route.backend as usize]
    }

    /// Up to `limit` hosts that have rules, for people who got a 404.
    pub fn some_hosts(&self, limit: usize) -> String {
        let mut text = String::new();
        for (i, (pattern, _)) in self.routes.hosts.iter().take(limit).enumerate() {
            let _ = write!(text, "{}{pattern}", if i == 0 { "" } else { ", " });
        }
        let more = self.routes.hosts.len().saturating_sub(limit);
        if more > 0 {
            let _ = write!(text, " and {more} more");
        }
        text
    }
}

// === impl SharedTable ===

impl SharedTable {
    /// Makes `table` what every following request is looked up in.
    pub fn publish(&self, mut table: Table) -> Arc<Table> {
        table.generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        let table = Arc::new(table);
        self.current.store(Arc::clone(&table));
        table
    }

    /// The table of this moment.
    pub fn load(&self) -> Arc<Table> {
        self.current.load_full()
    }

    /// What a reader's cache follows.
    pub fn source(&self) -> &ArcSwap<Table> {
        &self.current
    }
}

// === impl HostRules ===

impl<T> Default for HostIndex<T> {
    fn default() -> Self {
        Self::build([])
    }
}

/// Lower case, without port and trailing dot. Allocates only where the client wrote capitals.
pub fn normal_host(authority: &str) -> std::borrow::Cow<'_, str> {
    let host = match authority.rfind(':') {
        // An IPv6 literal ends in a bracket; a colon inside it is no port.
        Some(colon) if !authority[colon..].contains(']') => &authority[..colon],
        _ => authority,
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|b| b.is_ascii_uppercase()) { host.to_ascii_lowercase().into() } else { host.into() }
}
