//! Addresses of `ExternalName` Services, from the system's resolver, looked up again every half minute.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use tokio::task::JoinSet;

const AGAIN: Duration = Duration::from_secs(30);
const AGAIN_AFTER_FAILURE: Duration = Duration::from_secs(2);

/// Looks names up in the background.
#[derive(Debug)]
pub(super) struct Resolver {
    wanted: BTreeSet<String>,
    known: BTreeMap<String, Vec<IpAddr>>,
    running: JoinSet<(String, Vec<IpAddr>)>,
}

// === impl Resolver ===

impl Resolver {
    pub(super) fn new() -> Self {
        Self { wanted: BTreeSet::new(), known: BTreeMap::new(), running: JoinSet::new() }
    }

    /// The names to know from now on.
    pub(super) fn want<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        let wanted: BTreeSet<String> = names.map(str::to_owned).collect();
        for name in wanted.difference(&self.wanted) {
            self.running.spawn(resolve(name.clone(), Duration::ZERO));
        }
        self.known.retain(|name, _| wanted.contains(name));
        self.wanted = wanted;
    }

    /// The next name whose addresses are new.
    pub(super) async fn next(&mut self) -> (String, Vec<IpAddr>) {
        loop {
            let Some(done) = self.running.join_next().await else { return std::future::pending().await };
            let Ok((name, addresses)) = done else { continue };
            if !self.wanted.contains(&name) {
                continue;
            }
            let wait = if addresses.is_empty() { AGAIN_AFTER_FAILURE } else { AGAIN };
            self.running.spawn(resolve(name.clone(), wait));
            // A resolver that fails for a while does not take away what was known.
            let news = !addresses.is_empty() && self.known.get(&name) != Some(&addresses);
            if news {
                self.known.insert(name.clone(), addresses.clone());
                return (name, addresses);
            }
        }
    }
}

async fn resolve(name: String, wait: Duration) -> (String, Vec<IpAddr>) {
    tokio::time::sleep(wait).await;
    let mut addresses: Vec<IpAddr> = match tokio::net::lookup_host((name.as_str(), 0)).await {
        Ok(found) => found.map(|address| address.ip()).collect(),
        Err(error) => {
            tracing::debug!(%error, name, "external name does not resolve");
            Vec::new()
        }
    };
    addresses.sort_unstable();
    addresses.dedup();
    (name, addresses)
}
