//! Segments: made when their first pod comes, extended when they are full, removed when nobody needs them.
//!
//! The scheduler asks for what it misses and tries again when there is news; one worker gives, so no two segments get the same
//! subnet, number or address. The record is written before an address of it is used.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use foldhash::{HashMap, HashSet};
use futures::future::BoxFuture;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, ObjectMeta, PostParams, Preconditions};
use switchyard_api::{ActiveNetwork, Condition, NodeNetworkStatus, Segment, SegmentSpec, SegmentStatus, names};
use switchyard_plugin::{Pool, SegmentPool};
use tokio::sync::watch;

use crate::cache::Key;
use crate::context::Context;
use crate::error::{Result, code, unless_gone};
use crate::meta;
use crate::network::node_report;
use crate::node::condition;
use crate::queue::{Next, Queue};

/// What the scheduler misses.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    plugin: String,
    namespace: String,
    pool: Pool,
    wanted: SegmentPool,
    /// How many subnets it found full; more than that, and somebody has helped already.
    full: usize,
}

/// Where wishes go; a cheap handle.
#[derive(Clone)]
pub(crate) struct Segments {
    queue: Queue<String>,
    state: Arc<Mutex<State>>,
    changes: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    wishes: HashMap<String, Wish>,
    /// Why a wish was not granted when it was last looked at.
    refused: HashMap<String, String>,
}

const NAME: &str = "segment-controller";
const REALISED: &str = "Realised";
/// Names in a message.
const NAMED: usize = 5;
/// Subnets and addresses that are looked at before giving up; what is beyond is as good as full.
const MOST: usize = 1 << 16;

pub(crate) fn controller(context: &Arc<Context>) -> BoxFuture<'static, ()> {
    let queue = context.segments.queue.clone();
    let wake = queue.clone();
    context.caches.segments.on_change(move |old, new| {
        if let Some(segment) = new.or(old) {
            wake.add(segment.metadata.name.clone().unwrap_or_default());
        }
    });
    let (wake, weak) = (queue.clone(), Arc::downgrade(context));
    let all = move || {
        let segments = weak.upgrade().map(|context| context.caches.segments.all()).unwrap_or_default();
        segments.iter().for_each(|segment| wake.add(segment.metadata.name.clone().unwrap_or_default()));
    };
    context.caches.namespaces.on_change({
        let all = all.clone();
        move |_, new| {
            if new.is_none() {
                all();
            }
        }
    });
    context.caches.networks.on_change({
        let all = all.clone();
        move |_, _| all()
    });
    context.caches.nodes.on_change(move |old, new| {
        let said = |node: Option<&Arc<Node>>| node.map(|node| (is_ready(node), in_force(&node_report(node))));
        if said(old) != said(new) {
            all();
        }
    });
    let (wake, weak) = (queue.clone(), Arc::downgrade(context));
    context.caches.pods.on_change(move |old, new| {
        // Nearly always the namespace outlives its pods, and its end is what counts.
        let [old, new] = [old, new].map(|pod| pod.and_then(|pod| address(pod)));
        let (Some(ip), None, Some(context)) = (old, new, weak.upgrade()) else { return };
        for segment in context.caches.segments.all() {
            if segment.spec.subnets.iter().any(|subnet| subnet.contains(&ip)) && !namespace_is_there(&context, &segment)
            {
                wake.add(segment.metadata.name.clone().unwrap_or_default());
            }
        }
    });
    let context = context.clone();
    Box::pin(async move {
        let caches = &context.caches;
        tokio::join!(
            caches.segments.synced(),
            caches.nodes.synced(),
            caches.pods.synced(),
            caches.namespaces.synced(),
            caches.networks.synced()
        );
        // One worker: the next step sees what the last one gave.
        queue.run(NAME, 1, |name| step(&context, name)).await;
    })
}

async fn step(context: &Context, name: String) -> Result<Next> {
    let segment = context.caches.segments.get(&Key::cluster(&name));
    let wish = context.segments.state().wishes.get(&name).cloned();
    let have = segment.as_ref().map_or(0, |segment| segment.spec.subnets.len());
    match (wish, &segment) {
        (Some(wish), _) if wish.full >= have => {
            match grant(context, &wish, segment.as_deref()) {
                Ok(spec) => {
                    write(context, &name, segment.as_deref(), spec).await?;
                    context.segments.granted(&name);
                }
                Err(reason) => {
                    context.segments.refuse(&name, reason);
                    if let Some(segment) = &segment {
                        tell(context, segment).await?;
                    }
                }
            };
        }
        (Some(_), _) => context.segments.granted(&name),
        (None, Some(segment)) if is_done(context, segment) => {
            let preconditions = Preconditions {
                uid: segment.metadata.uid.clone(),
                resource_version: segment.metadata.resource_version.clone(),
            };
            let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            tracing::info!(segment = name, "is of no use any more");
            unless_gone(context.cluster_api::<Segment>().delete(&name, &params).await)?;
        }
        (None, Some(segment)) => tell(context, segment).await?,
        (None, None) => {}
    }
    Ok(Next::Change)
}

/// The segment with one subnet more; or why there is none.
fn grant(context: &Context, wish: &Wish, segment: Option<&Segment>) -> std::result::Result<SegmentSpec, String> {
    let segments = context.caches.segments.all();
    let others = || segments.iter().map(|segment| &segment.spec);
    let subnet = free_subnet(context, &wish.pool, &wish.wanted, &segments)?;
    if let Some(segment) = segment {
        let mut spec = segment.spec.clone();
        spec.subnets.push(subnet);
        return Ok(spec);
    }
    let ids: HashSet<u32> = others().map(|spec| spec.id).collect();
    let (first, last) = wish.wanted.ids;
    let id = (first..=last).find(|id| !ids.contains(id)).ok_or(format!("no number from {first} to {last} is free"))?;
    let outside = match wish.wanted.outside {
        None => None,
        Some(pool) => {
            let used: HashSet<IpAddr> = others().filter_map(|spec| spec.outside).collect();
            let free = pool.hosts().skip(1).take(MOST).find(|ip| !used.contains(ip));
            Some(free.ok_or(format!("no address of {pool} is free to stand for it outside"))?)
        }
    };
    let (plugin, namespace) = (wish.plugin.clone(), wish.namespace.clone());
    Ok(SegmentSpec { plugin, namespace, id, subnets: vec![subnet], outside })
}

/// A subnet that overlaps no node's block, no segment, and no address that is in use.
fn free_subnet(
    context: &Context,
    pool: &Pool,
    wanted: &SegmentPool,
    segments: &[Arc<Segment>],
) -> std::result::Result<IpNet, String> {
    let (length, range) = (wanted.prefix_length, pool.block);
    let nodes = context.caches.nodes.all();
    let blocks = nodes.iter().filter_map(|node| node.spec.as_ref()?.pod_cidr.as_ref()?.parse::<IpNet>().ok());
    let taken: Vec<IpNet> = blocks.chain(segments.iter().flat_map(|segment| segment.spec.subnets.clone())).collect();
    let pods = context.caches.pods.all();
    let held: Vec<IpAddr> = pods.iter().filter_map(|pod| address(pod)).filter(|ip| range.contains(ip)).collect();
    let mut subnets =
        range.subnets(length).map_err(|_| format!("{range} has no subnets of length {length}"))?.take(MOST);
    let free = |subnet: &IpNet| {
        !taken.iter().any(|taken| taken.contains(subnet) || subnet.contains(taken))
            && !held.iter().any(|ip| subnet.contains(ip))
    };
    subnets.find(free).ok_or(format!("no subnet of length {length} is free in {range}"))
}

async fn write(context: &Context, name: &str, old: Option<&Segment>, spec: SegmentSpec) -> Result<()> {
    tracing::info!(segment = name, id = spec.id, subnets = ?spec.subnets, "segment");
    let api = context.cluster_api::<Segment>();
    let written = match old {
        Some(old) => {
            let segment = Segment { spec, ..old.clone() };
            api.replace(name, &PostParams::default(), &segment).await
        }
        None => {
            let segment = Segment {
                api_version: format!("{}/{}", names::GROUP, names::VERSION),
                kind: "Segment".into(),
                metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
                spec,
                status: None,
            };
            api.create(&PostParams::default(), &segment).await
        }
    };
    match written {
        Ok(segment) => context.caches.segments.wrote(segment),
        // Somebody else was faster; the cache will show it.
        Err(error) if code(&error) == Some(409) && old.is_none() => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Its condition.
async fn tell(context: &Context, segment: &Segment) -> Result<()> {
    let name = segment.metadata.name.clone().unwrap_or_default();
    let refused = context.segments.state().refused.get(&name).cloned();
    let active = context.network.borrow().as_ref().map(|network| network.active.clone());
    let (status, reason, message) = match (refused, active) {
        (Some(refused), _) => ("False", "Exhausted", format!("cannot be extended: {refused}")),
        (None, Some(active)) if active.plugin == segment.spec.plugin => {
            let nodes = context.caches.nodes.all();
            let reports = nodes
                .iter()
                .filter_map(|node| Some((node.metadata.name.as_deref()?, is_ready(node), node_report(node))));
            carried(&name, &active, reports)
        }
        (None, Some(active)) => {
            ("False", "OtherNetwork", format!("{} carries its pods, with the addresses they have", active.plugin))
        }
        (None, None) => ("False", "NoNetwork", "no network is active".into()),
    };
    let old = segment.status.as_ref().and_then(|status| status.conditions.iter().find(|one| one.kind == REALISED));
    if old.is_some_and(|old| (old.status.as_str(), old.reason.as_str(), &old.message) == (status, reason, &message)) {
        return Ok(());
    }
    let since = old.filter(|old| old.status == status).map(|old| old.last_transition_time.clone());
    let condition = Condition {
        kind: REALISED.into(),
        status: status.into(),
        reason: reason.into(),
        message,
        last_transition_time: since.unwrap_or_else(|| meta::now().0.to_string()),
    };
    let told = Segment { status: Some(SegmentStatus { conditions: vec![condition] }), ..segment.clone() };
    let written = context.cluster_api::<Segment>().replace_status(&name, &PostParams::default(), &told).await;
    if let Some(segment) = unless_gone(written)? {
        context.caches.segments.wrote(segment);
    }
    Ok(())
}

/// Whether nodes (name, whether ready, report) have it in their kernels.
fn carried<'a>(
    segment: &str,
    active: &ActiveNetwork,
    nodes: impl Iterator<Item = (&'a str, bool, NodeNetworkStatus)>,
) -> (&'static str, &'static str, String) {
    let (mut waits, mut count) = (Vec::new(), 0_usize);
    for (node, ready, report) in nodes {
        if let Some(error) = report.segments.get(segment) {
            return ("False", "Failed", format!("{node}: {error}"));
        }
        match report.generation == active.generation {
            true => count += 1,
            false if ready => waits.push(node),
            false => {}
        }
    }
    match (waits.is_empty(), count) {
        (false, _) => {
            let more = waits.len().saturating_sub(NAMED);
            waits.truncate(NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            ("False", "Pending", format!("not in force yet on {}{more}", waits.join(", ")))
        }
        (true, 0) => ("False", "NoNode", "no node is ready".into()),
        (true, count) => ("True", "Realised", format!("{} carries it on {count} nodes", active.plugin)),
    }
}

/// What of a node's report is about segments.
fn in_force(report: &NodeNetworkStatus) -> (i64, BTreeMap<String, String>) {
    (report.generation, report.segments.clone())
}

fn is_ready(node: &Node) -> bool {
    condition(node, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Whether its namespace is gone and no pod has an address of it.
fn is_done(context: &Context, segment: &Segment) -> bool {
    let holds =
        |pod: &Arc<Pod>| address(pod).is_some_and(|ip| segment.spec.subnets.iter().any(|subnet| subnet.contains(&ip)));
    !namespace_is_there(context, segment) && !context.caches.pods.all().iter().any(holds)
}

fn namespace_is_there(context: &Context, segment: &Segment) -> bool {
    context.caches.namespaces.get(&Key::cluster(&segment.spec.namespace)).is_some()
}

fn address(pod: &Pod) -> Option<IpAddr> {
    pod.metadata.annotations.as_ref()?.get(names::POD_IP)?.parse().ok()
}

// === impl Wish ===

impl Wish {
    pub(crate) fn new(plugin: &str, namespace: &str, pool: &Pool, wanted: &SegmentPool, full: usize) -> Self {
        let (plugin, namespace) = (plugin.to_owned(), namespace.to_owned());
        Self { plugin, namespace, pool: pool.clone(), wanted: wanted.clone(), full }
    }
}

// === impl Segments ===

impl Segments {
    pub(crate) fn new() -> Self {
        Self { queue: Queue::new(), state: Arc::default(), changes: watch::Sender::new(()) }
    }

    /// Asks for a segment to be made or extended; says what there is to say meanwhile.
    pub(crate) fn want(&self, wish: Wish) -> String {
        let name = wish.wanted.name.clone();
        let mut state = self.state();
        let refused = state.refused.get(&name).cloned();
        state.wishes.insert(name.clone(), wish);
        drop(state);
        self.queue.add(name.clone());
        match refused {
            Some(refused) => format!("node(s) had no free pod address in segment {name}: {refused}"),
            None => format!("node(s) had no free pod address in segment {name}, which is being extended"),
        }
    }

    /// News for whoever waits.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    fn granted(&self, name: &str) {
        let mut state = self.state();
        state.wishes.remove(name);
        state.refused.remove(name);
        drop(state);
        self.changes.send_replace(());
    }

    fn refuse(&self, name: &str, reason: String) {
        let mut state = self.state();
        state.wishes.remove(name);
        let news = state.refused.insert(name.to_owned(), reason.clone()).as_ref() != Some(&reason);
        drop(state);
        if news {
            self.changes.send_replace(());
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panic while locked")
    }
}
