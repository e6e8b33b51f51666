//! Asking others, with hickory's resolver: its cache, its retries, TCP where an answer is too long.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_net::runtime::TokioRuntimeProvider;
use hickory_net::{DnsError, NetError};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};

use super::Limits;

/// Whom to ask, and how many may be asked about at a time.
#[derive(Debug)]
pub(super) struct Forwarder {
    resolver: Option<TokioResolver>,
    forwarded: usize,
    forwarded_in_all: usize,
    under_way: Arc<Mutex<UnderWay>>,
}

/// What somebody else said.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) code: ResponseCode,
    pub(super) answers: Vec<Record>,
    pub(super) authorities: Vec<Record>,
}

/// A query that is being asked about; gone with it.
#[derive(Debug)]
pub(super) struct Turn {
    client: IpAddr,
    under_way: Arc<Mutex<UnderWay>>,
}

#[derive(Debug, Default)]
struct UnderWay {
    all: usize,
    by_client: HashMap<IpAddr, usize>,
}

/// How long one upstream may take, and how often it is asked: less than 5 s in all, when glibc gives up.
const TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;
/// Answers kept.
const CACHE: u64 = 4096;
/// An answer is kept an hour at most, an absence five minutes.
const POSITIVE_MAX: Duration = Duration::from_secs(3600);
const NEGATIVE_MAX: Duration = Duration::from_secs(300);

// === impl Forwarder ===

impl Forwarder {
    pub(super) fn new(upstreams: &[SocketAddr], limits: &Limits) -> Result<Self, NetError> {
        let resolver = if upstreams.is_empty() { None } else { Some(resolver(upstreams)?) };
        let Limits { forwarded, forwarded_in_all, .. } = *limits;
        Ok(Self { resolver, forwarded, forwarded_in_all, under_way: Arc::default() })
    }

    /// Asks nobody.
    pub(super) fn nobody() -> Self {
        Self { resolver: None, forwarded: 0, forwarded_in_all: 0, under_way: Arc::default() }
    }

    /// Whether there is anybody to ask.
    pub(super) fn is_there(&self) -> bool {
        self.resolver.is_some()
    }

    /// A turn for a client's query, unless it has too many already.
    pub(super) fn turn(&self, client: IpAddr) -> Option<Turn> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if under_way.all >= self.forwarded_in_all {
            return None;
        }
        let own = under_way.by_client.entry(client).or_default();
        if *own >= self.forwarded {
            return None;
        }
        *own += 1;
        under_way.all += 1;
        Some(Turn { client, under_way: Arc::clone(&self.under_way) })
    }

    /// Asks.
    pub(super) async fn ask(&self, name: Name, wanted: RecordType) -> Told {
        let nothing = |code| Told { code, answers: Vec::new(), authorities: Vec::new() };
        let Some(resolver) = &self.resolver else { return nothing(ResponseCode::Refused) };
        let mut name = name;
        name.set_fqdn(true);
        match resolver.lookup(name, wanted).await {
            Ok(lookup) => {
                Told { code: ResponseCode::NoError, answers: lookup.answers().to_vec(), authorities: Vec::new() }
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                let soa =
                    none.soa.map(|soa| Record::from_rdata(soa.name.clone(), soa.ttl, RData::SOA(soa.data.clone())));
                Told { authorities: soa.into_iter().collect(), ..nothing(none.response_code) }
            }
            Err(error) => {
                tracing::debug!(%error, "upstream");
                nothing(ResponseCode::ServFail)
            }
        }
    }
}

/// A resolver that asks these and nobody else.
pub(crate) fn resolver(upstreams: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let server = |address: &SocketAddr| {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = address.port();
            connection
        });
        NameServerConfig::new(address.ip(), true, connections.into())
    };
    let config = ResolverConfig::from_parts(None, Vec::new(), upstreams.iter().map(server).collect());
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.timeout = TIMEOUT;
    // Hickory counts those after the first.
    options.attempts = ATTEMPTS - 1;
    options.cache_size = CACHE;
    options.positive_max_ttl = Some(POSITIVE_MAX);
    options.negative_max_ttl = Some(NEGATIVE_MAX);
    options.use_hosts_file = ResolveHosts::Never;
    options.preserve_intermediates = true;
    builder.build()
}

// === impl Turn ===

impl Drop for Turn {
    fn drop(&mut self) {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.all -= 1;
        if let Some(own) = under_way.by_client.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                under_way.by_client.remove(&self.client);
            }
        }
    }
}
