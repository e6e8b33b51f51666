//! What the cluster's API holds, followed by watches, compiled into tables, and answered with status.
//!
//! One loop owns the objects: it takes in everything that is ready, then publishes one table. So a burst costs one compilation and a
//! single change is visible as soon as it has arrived.

mod external;
mod status;
mod watch;

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use futures::{FutureExt, StreamExt};

use self::{external::Resolver, status::Publisher, watch::Change};
use crate::{
    metrics::Metrics,
    table::{Compiler, Objects, SharedTable},
};

pub use self::watch::{ConnectError, connect};

/// Where objects come from.
pub enum Origin {
    /// A cluster's API.
    Cluster {
        /// How to reach it.
        client: kube::Client,
        /// Watch one namespace only.
        namespace: Option<String>,
        /// The Service (namespace, name) whose addresses go to the Ingresses' status.
        publish: Option<(String, String)>,
        /// Whether certificates are needed.
        secrets: bool,
    },
    /// Given by hand, for tests and for embedding.
    Given(tokio::sync::watch::Receiver<Objects>),
}

/// Publishes a table for every change; never returns by itself.
pub struct Follower {
    origin: Origin,
    table: Arc<SharedTable>,
    metrics: Arc<Metrics>,
    synced: tokio::sync::watch::Sender<bool>,
    compiler: Compiler,
}

/// How much of a table a change makes stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stale {
    Nothing,
    /// Only what others see of an Ingress.
    Status,
    Endpoints,
    Rules,
}

// === impl Follower ===

impl Follower {
    /// Follows `origin`; `synced` turns true with the first table.
    pub fn new(
        origin: Origin,
        table: Arc<SharedTable>,
        metrics: Arc<Metrics>,
        synced: tokio::sync::watch::Sender<bool>,
    ) -> Self {
        Self { origin, table, metrics, synced, compiler: Compiler::default() }
    }

    /// Runs until dropped.
    pub async fn run(mut self) {
        match std::mem::replace(&mut self.origin, Origin::Given(tokio::sync::watch::channel(Objects::default()).1)) {
            Origin::Given(mut given) => {
                loop {
                    let objects = given.borrow_and_update().clone();
                    self.publish(&objects, Stale::Rules);
                    if given.changed().await.is_err() {
                        // Whoever gave the objects is gone; what they said stands.
                        return std::future::pending().await;
                    }
                }
            }
            Origin::Cluster { client, namespace, publish, secrets } => {
                let changes = watch::changes(&client, namespace.as_deref(), secrets);
                let publisher = publish.map(|service| Publisher::new(client, service));
                self.follow(changes, publisher).await;
            }
        }
    }

    async fn follow(&mut self, mut changes: watch::Changes, mut publisher: Option<Publisher>) {
        let mut objects = Objects::default();
        let mut resolver = Resolver::new();
        let mut stale = Stale::Nothing;
        let mut waiting = changes.kinds;
        loop {
            let first = tokio::select! {
                change = changes.stream.next() => change,
                answer = resolver.next() => Some(Change::External(answer.0, answer.1)),
            };
            let Some(first) = first else { return };
            let mut next = Some(first);
            while let Some(change) = next {
                let (now_stale, initial) = change.apply(&mut objects);
                stale = stale.max(now_stale);
                if initial {
                    waiting -= 1;
                }
                next = changes.stream.next().now_or_never().flatten();
            }
            if waiting > 0 || stale == Stale::Nothing {
                continue;
            }
            if stale > Stale::Status {
                resolver.want(objects.external_names());
                self.publish(&objects, stale);
            }
            if let Some(publisher) = &mut publisher {
                publisher.update(&objects);
            }
            stale = Stale::Nothing;
        }
    }

    fn publish(&mut self, objects: &Objects, stale: Stale) {
        let started = Instant::now();
        let table = match stale {
            Stale::Rules => self.compiler.compile(objects),
            _ => self.compiler.refresh(objects),
        };
        let table = self.table.publish(table);
        let took = started.elapsed();
        self.metrics.tables.fetch_add(1, Relaxed);
        self.metrics.compile_nanos.store(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        if stale == Stale::Rules {
            for warning in &table.routes.warnings {
                tracing::warn!("{warning}");
            }
        }
        tracing::debug!(generation = table.generation, hosts = table.routes.hosts.len(), ?took, "table published");
        if !*self.synced.borrow() {
            tracing::info!(hosts = table.routes.hosts.len(), backends = table.backends.len(), "synced");
            self.synced.send_replace(true);
        }
    }
}
