//! The scheduler: gives each pod a node and an address.
//!
//! One task owns the picture of the cluster and decides, pod by pod; decisions are written side by side. Nothing is remembered that
//! a Pod object does not say: after a crash the picture is made anew from the API.

mod bind;
pub(crate) mod filter;
mod queue;
mod report;
mod score;
pub(crate) mod snapshot;

use std::net::IpAddr;
use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use switchyard_plugin::{NodeFacts, PodFacts, Pool, SegmentPool};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::cache::Key;
use crate::context::{Context, SERVICE_NAMESPACE};
use crate::pod;
use crate::segment::Wish;
use bind::{Bound, Decision};
use filter::Spread;
use queue::Pending;
use report::Reports;
use snapshot::{Followed, PodInfo, Snapshot};

struct Scheduler {
    context: Arc<Context>,
    snapshot: Snapshot,
    pending: Pending,
    reports: Reports,
}

enum Changed {
    Pod(Key),
    Node(Key),
}

const NAME: &str = "default-scheduler";
/// Decisions being written at once.
const IN_FLIGHT: usize = 64;

pub(crate) fn controller(context: &Arc<Context>) -> BoxFuture<'static, ()> {
    let (sender, changes) = mpsc::unbounded_channel();
    let pods = sender.clone();
    context.caches.pods.on_change(move |old, new| {
        if let Some(pod) = new.or(old) {
            let _ = pods.send(Changed::Pod(Key::of(&pod.metadata)));
        }
    });
    context.caches.nodes.on_change(move |old, new| {
        if let Some(node) = new.or(old) {
            let _ = sender.send(Changed::Node(Key::of(&node.metadata)));
        }
    });
    let scheduler = Scheduler {
        context: context.clone(),
        snapshot: Snapshot::new(),
        pending: Pending::default(),
        reports: Reports::new(),
    };
    Box::pin(async move {
        let caches = &scheduler.context.caches;
        // Not before every address in use is known.
        tokio::join!(caches.pods.synced(), caches.nodes.synced(), caches.services.synced(), caches.segments.synced(),);
        let reports = scheduler.reports.clone().run(scheduler.context.clone());
        tokio::join!(scheduler.run(changes), reports);
    })
}

// === impl Scheduler ===

impl Scheduler {
    async fn run(mut self, mut changes: mpsc::UnboundedReceiver<Changed>) {
        // Tasks of their own, as a plugin that is asked meanwhile may take its time.
        let mut binding = JoinSet::new();
        let mut network = self.context.network.subscribe();
        let mut segments = self.context.segments.changes();
        loop {
            while let Ok(change) = changes.try_recv() {
                self.follow(change);
            }
            while binding.len() < IN_FLIGHT
                && let Some((key, pod)) = self.pending.pop()
            {
                if let Some(decision) = self.decide(key, pod).await {
                    binding.spawn(bind::bind(self.context.clone(), decision));
                }
            }
            let retry_at = self.pending.retry_at();
            let retry = async {
                match retry_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                change = changes.recv() => match change {
                    Some(change) => self.follow(change),
                    // The caches were closed.
                    None => return,
                },
                Some(written) = binding.join_next() => {
                    let (decision, bound) = written.expect("writing a decision does not panic");
                    self.bound(&decision, bound);
                }
                Ok(()) = network.changed() => self.pending.retry_soon(),
                Ok(()) = segments.changed() => self.pending.retry_soon(),
                () = retry => self.pending.retry(),
            }
        }
    }

    fn follow(&mut self, change: Changed) {
        let followed = match change {
            Changed::Node(key) => {
                let node = self.context.caches.nodes.get(&key);
                self.snapshot.follow_node(&key.name, node.as_deref())
            }
            Changed::Pod(key) => self.follow_pod(key),
        };
        if followed == Followed::Room {
            self.pending.retry_soon();
        }
    }

    fn follow_pod(&mut self, key: Key) -> Followed {
        let pod = self.context.caches.pods.get(&key);
        let (followed, other) = self.snapshot.follow_pod(&key, pod.as_ref());
        if let (Some(other), Some(pod)) = (other, &pod) {
            let ip = snapshot::address(pod);
            tracing::error!(pod = %key, ?ip, other, "two pods hold one address");
            self.context.events.warning(
                NAME,
                &**pod,
                "DuplicateAddress",
                format!("pod with uid {other} holds the same address"),
            );
        }
        match pod {
            Some(pod) if waits(&pod) => self.pending.put(key, pod),
            _ => {
                self.pending.remove(&key);
                self.reports.forget(&key);
                if let Some(network) = &*self.context.network.borrow() {
                    network.forget(&key);
                }
            }
        }
        followed
    }

    /// Chooses a node and an address and counts them as taken; or says why there are none.
    async fn decide(&mut self, key: Key, pod: Arc<Pod>) -> Option<Decision> {
        let group = snapshot::owner_group(&pod).or_else(|| self.service_group(&pod));
        let info = Arc::new(PodInfo::of(&pod, group));
        match self.choose(&key, &info).await {
            Ok((node, ip)) => {
                self.snapshot.assume(key.clone(), &node, info.clone(), ip);
                Some(Decision { key, uid: info.uid.clone(), node, ip, pod })
            }
            Err(message) => {
                self.pending.park(&key, &info.uid);
                self.reports.say(&key, message);
                None
            }
        }
    }

    async fn choose(&mut self, key: &Key, info: &PodInfo) -> Result<(String, Option<IpAddr>), String> {
        if let Some(named) = pod::node(&info.pod).map(str::to_owned) {
            let ip = self.take_address(key, info, &named).await.map_err(|reason| filter::sentence(1, &[reason]))?;
            return Ok((named, Some(ip)));
        }
        let total = self.snapshot.nodes.values().filter(|node| node.fixed.is_some()).count();
        let (ranked, mut reasons) = self.ranked(info);
        if pod::is_host_network(&info.pod) {
            let best = ranked.into_iter().next();
            return best.map(|node| (node, None)).ok_or_else(|| filter::sentence(total, &reasons));
        }
        for node in ranked {
            match self.take_address(key, info, &node).await {
                Ok(ip) => return Ok((node, Some(ip))),
                Err(reason) => reasons.push(reason),
            }
        }
        Err(filter::sentence(total, &reasons))
    }

    /// Nodes that would do, the best first, and why the others would not.
    fn ranked(&self, info: &PodInfo) -> (Vec<String>, Vec<String>) {
        let mut reasons = vec![];
        let mut feasible = vec![];
        let spread = Spread::of(&info.pod, &self.snapshot);
        for (name, node) in &self.snapshot.nodes {
            let Some(fixed) = &node.fixed else { continue };
            let here = filter::reasons(info, node, &spread);
            if here.is_empty() {
                feasible.push((name.as_str(), node, fixed));
            } else {
                reasons.extend(here);
            }
        }
        (score::ranked(info, &feasible).into_iter().map(str::to_owned).collect(), reasons)
    }

    async fn take_address(&mut self, key: &Key, info: &PodInfo, node: &str) -> Result<IpAddr, String> {
        let facts = self.snapshot.nodes.get(node).and_then(|node| node.fixed.as_ref()?.facts.as_ref());
        let facts = facts.ok_or("node(s) had no address or no block of pod addresses yet")?;
        let network = self.context.network.borrow().clone().ok_or("node(s) had no pod network: none is active")?;
        let pool =
            network.pool(key, &self.context.config.facts, facts, pod_facts(info, facts)).await.map_err(|error| {
                // Nothing else may happen that would be a reason to try again.
                self.pending.retry_later();
                format!("node(s) got no address pool from the network plugin: {error}")
            })?;
        if let Some(wanted) = &pool.segment {
            let namespace = info.pod.metadata.namespace.as_deref().unwrap_or("");
            return self.take_of_segment(&network.active.plugin, &pool, wanted, namespace, &info.uid);
        }
        let ip = self.snapshot.addresses.take(&pool, &info.uid);
        ip.ok_or_else(|| format!("node(s) had no free pod address in {}", pool.block))
    }

    /// An address of a segment, whichever of its subnets has one; or asks for the segment to be made or extended, and waits.
    fn take_of_segment(
        &mut self,
        plugin: &str,
        pool: &Pool,
        wanted: &SegmentPool,
        namespace: &str,
        uid: &str,
    ) -> Result<IpAddr, String> {
        let segment = self.context.caches.segments.get(&Key::cluster(&wanted.name));
        let spec = segment.as_ref().map(|segment| &segment.spec);
        if let Some(other) = spec.filter(|spec| spec.plugin != plugin) {
            return Err(format!("node(s) found segment {} to be of plugin {}", wanted.name, other.plugin));
        }
        let subnets = spec.map_or(&[][..], |spec| &spec.subnets);
        for subnet in subnets {
            let kept = subnet.hosts().take(wanted.kept as usize).chain(pool.reserved.iter().copied());
            let pool = Pool { reserved: kept.collect(), ..Pool::of(*subnet) };
            if let Some(ip) = self.snapshot.addresses.take(&pool, uid) {
                return Ok(ip);
            }
        }
        Err(self.context.segments.want(Wish::new(plugin, namespace, pool, wanted, subnets.len())))
    }

    fn bound(&mut self, decision: &Decision, bound: Bound) {
        match bound {
            Bound::Yes => return,
            Bound::Raced => self.pending.retry_soon(),
            Bound::Refused(why) => {
                self.reports.say(&decision.key, format!("not bound to node {}: {why}", decision.node));
                // Nobody tells when that changes.
                self.pending.retry_later();
            }
        }
        self.snapshot.forget(&decision.key, &decision.uid);
        // Whatever it is now, look at it as new.
        self.pending.park(&decision.key, &decision.uid);
        self.follow_pod(decision.key.clone());
    }

    /// Pods without an owner are spread with those of the first Service that selects them.
    fn service_group(&self, pod: &Pod) -> Option<Arc<str>> {
        let labels = pod.metadata.labels.as_ref()?;
        let services = self.context.caches.services.by(SERVICE_NAMESPACE, pod.metadata.namespace.as_deref()?);
        let selects = services.iter().filter(|service| {
            let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            selector
                .is_some_and(|selector| !selector.is_empty() && selector.iter().all(|(k, v)| labels.get(k) == Some(v)))
        });
        selects.filter_map(|service| service.metadata.uid.as_deref()).min().map(Into::into)
    }
}

/// Whether a pod is ours to place, or has a node, which it named itself or another scheduler gave it, and no address.
fn waits(pod: &Pod) -> bool {
    let Some(spec) = pod::spec(pod) else { return false };
    if pod::node(pod).is_some() {
        return !pod::is_host_network(pod) && snapshot::address(pod).is_none() && pod::is_active(pod);
    }
    let ours = spec.scheduler_name.as_deref().is_none_or(|name| name.is_empty() || name == NAME);
    let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    ours && !gated && pod::is_active(pod)
}

fn pod_facts(info: &PodInfo, node: &NodeFacts) -> PodFacts {
    let unspecified: IpAddr = match node.pod_cidr {
        ipnet::IpNet::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        ipnet::IpNet::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let meta = &info.pod.metadata;
    PodFacts {
        uid: info.uid.clone(),
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        labels: meta.labels.clone().unwrap_or_default(),
        ip: unspecified,
        segment: None,
    }
}
