//! Addresses of `ExternalName` Services: all that DNS has, looked up again when it says so.
//!
//! Through hickory-resolver and the pod's own `resolv.conf`, read anew each time, as what it says may change. There is no cache, because
//! each name is asked for once in its time to live.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hickory_resolver::{
    ResolverBuilder, TokioResolver,
    net::{NetError, runtime::TokioRuntimeProvider},
};
use tokio::task::JoinSet;

/// Bounds of a time to live: nobody is asked all the time, and a change shows within the hour whatever was promised.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(3600);
const AGAIN_AFTER_FAILURE: Duration = Duration::from_secs(2);
/// How long a name stays gone before it is asked for again.
const AGAIN_AFTER_ABSENCE: Duration = Duration::from_secs(5);

/// Whom to ask.
type Ask = dyn Fn() -> Result<ResolverBuilder<TokioRuntimeProvider>, NetError> + Send + Sync;

/// Looks names up in the background.
pub(super) struct Resolver {
    ask: Arc<Ask>,
    wanted: BTreeSet<String>,
    known: BTreeMap<String, Vec<IpAddr>>,
    running: JoinSet<(String, Outcome)>,
}

/// What came of a look-up.
#[derive(Debug)]
enum Outcome {
    /// Addresses, and until when.
    Found(Vec<IpAddr>, Instant),
    /// There is no such name, or it has no address.
    Absent,
    /// Nobody knows.
    Failed,
}

// === impl Resolver ===

impl Resolver {
    /// Asks as the system does.
    pub(super) fn new() -> Self {
        Self::with(Arc::new(TokioResolver::builder_tokio))
    }

    fn with(ask: Arc<Ask>) -> Self {
        Self { ask, wanted: BTreeSet::new(), known: BTreeMap::new(), running: JoinSet::new() }
    }

    /// The names to know from now on.
    pub(super) fn want<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        let wanted: BTreeSet<String> = names.map(str::to_owned).collect();
        for name in wanted.difference(&self.wanted) {
            self.running.spawn(resolve(Arc::clone(&self.ask), name.clone(), Duration::ZERO));
        }
        self.known.retain(|name, _| wanted.contains(name));
        self.wanted = wanted;
    }

    /// The next name whose addresses are new; none any more is new, too.
    pub(super) async fn next(&mut self) -> (String, Vec<IpAddr>) {
        loop {
            let Some(done) = self.running.join_next().await else { return std::future::pending().await };
            let Ok((name, outcome)) = done else { continue };
            if !self.wanted.contains(&name) {
                continue;
            }
            let (wait, addresses) = match outcome {
                Outcome::Found(addresses, until) => {
                    (until.saturating_duration_since(Instant::now()).clamp(SHORTEST, LONGEST), Some(addresses))
                }
                Outcome::Absent => (AGAIN_AFTER_ABSENCE, Some(Vec::new())),
                // A resolver that fails for a while does not take away what was known.
                Outcome::Failed => (AGAIN_AFTER_FAILURE, None),
            };
            self.running.spawn(resolve(Arc::clone(&self.ask), name.clone(), wait));
            let Some(addresses) = addresses else { continue };
            let known = self.known.get(&name).map_or(&[][..], Vec::as_slice);
            if known != addresses {
                self.known.insert(name.clone(), addresses.clone());
                return (name, addresses);
            }
        }
    }
}

async fn resolve(ask: Arc<Ask>, name: String, wait: Duration) -> (String, Outcome) {
    tokio::time::sleep(wait).await;
    let outcome = match look_up(&*ask, &name).await {
        Ok((mut addresses, until)) => {
            addresses.sort_unstable();
            addresses.dedup();
            Outcome::Found(addresses, until)
        }
        Err(error) => {
            tracing::debug!(%error, name, "external name does not resolve");
            if error.is_no_records_found() { Outcome::Absent } else { Outcome::Failed }
        }
    };
    (name, outcome)
}

/// IPv4 first, and IPv6 only where there is none: not every cluster carries it.
async fn look_up(ask: &Ask, name: &str) -> Result<(Vec<IpAddr>, Instant), NetError> {
    let mut builder = ask()?;
    builder.options_mut().cache_size = 0;
    // An alias's target is a full name: no search domains.
    let found = builder.build()?.lookup_ip(format!("{}.", name.trim_end_matches('.'))).await?;
    Ok((found.iter().collect(), found.valid_until()))
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, sync::Mutex};

    use hickory_resolver::{
        config::{ConnectionConfig, NameServerConfig, ResolverConfig},
        proto::{
            op::{Message, OpCode, ResponseCode},
            rr::{RData, Record, RecordType},
        },
    };
    use tokio::{net::UdpSocket, sync::watch};

    use super::*;

    /// What the name server says of every name: addresses, and for how many seconds. None: there is no such name.
    type Zone = (Vec<IpAddr>, u32);

    /// When it was asked for IPv4 addresses.
    type Asked = Arc<Mutex<Vec<Instant>>>;

    async fn serve(socket: UdpSocket, zone: watch::Receiver<Zone>, asked: Asked) {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let query = Message::from_vec(&buffer[..length]).unwrap();
            let question = query.queries[0].clone();
            if question.query_type() == RecordType::A {
                asked.lock().unwrap().push(Instant::now());
            }
            let mut answer = Message::response(query.id, OpCode::Query);
            let (addresses, seconds) = zone.borrow().clone();
            if addresses.is_empty() {
                answer.metadata.response_code = ResponseCode::NXDomain;
            } else if question.query_type() == RecordType::A {
                let record = |ip: &IpAddr| Record::from_rdata(question.name().clone(), seconds, RData::from(*ip));
                answer.add_answers(addresses.iter().map(record).collect::<Vec<_>>());
            }
            answer.add_query(question);
            socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
        }
    }

    fn asking(server: SocketAddr) -> Arc<Ask> {
        Arc::new(move || {
            let mut connection = ConnectionConfig::udp();
            connection.port = server.port();
            let server = NameServerConfig::new(server.ip(), true, vec![connection]);
            let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
            Ok(TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()))
        })
    }

    #[tokio::test]
    async fn all_addresses_count_until_their_time_is_over() {
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = socket.local_addr().unwrap();
        let (zone, zone_seen) = watch::channel((addresses(&["198.51.100.2", "198.51.100.1"]), 2));
        let asked = Asked::default();
        tokio::spawn(serve(socket, zone_seen, Arc::clone(&asked)));
        let mut resolver = Resolver::with(asking(server));
        resolver.want(["www.example.net"].into_iter());
        let next = async |resolver: &mut Resolver| {
            tokio::time::timeout(Duration::from_secs(30), resolver.next()).await.expect("news in time")
        };
        let name = "www.example.net".to_owned();
        assert_eq!(next(&mut resolver).await, (name.clone(), addresses(&["198.51.100.1", "198.51.100.2"])));
        zone.send_replace((addresses(&["198.51.100.3"]), 1));
        assert_eq!(next(&mut resolver).await, (name.clone(), addresses(&["198.51.100.3"])));
        zone.send_replace((Vec::new(), 1));
        assert_eq!(next(&mut resolver).await, (name, Vec::new()));
        // Once in each time to live, and never before it is over.
        let asked = asked.lock().unwrap();
        let pauses: Vec<_> = asked.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
        assert!(matches!(pauses[..], [(2..), (1..)]), "three questions, for 2 s, 1 s: {pauses:?} s between them");
    }
}
