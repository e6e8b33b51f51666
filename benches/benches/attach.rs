//! What it takes to attach a pod: each plugin is asked for the fragment through its library's table, its answer is checked and the engine
//! applies it, against the reference CNI plugins `bridge` and `host-local` doing the same, and against the objects of kubenet by hand; with
//! 0, 100 and 1,000 pods there already. With `--test` once, with none.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use ipnet::IpNet;
use switchyard_benches::{Record, Series, built, byhand, cni, in_namespaces, testing, turns};
use switchyard_kernel::{Engine, Netns, Owner, Places};
use switchyard_netstate::{Place, UnitId};
use switchyard_plugin::{Facts, NodeFacts, Options, PodFacts, PodSegment, SegmentFacts};
use switchyard_plugin_host::{Hosting, Plugin, Registry};

const ROUNDS: usize = 25;
const THERE: [usize; 3] = [0, 100, 1000];
/// The first is the one whose objects are made by hand too.
const PLUGINS: [&str; 3] = ["kubenet", "overlay", "nsx"];

fn main() -> anyhow::Result<()> {
    if !in_namespaces()? {
        return Ok(());
    }
    // Where the reference CNI plugins have their bridge.
    byhand::without_ipv6(&Netns::current()?);
    let folder = tempfile::tempdir()?;
    let mut record =
        Record::new("attach", "Attaching one pod, from asking the plugin's library to the kernel's last word.");
    let mut flat: Vec<Series> = Vec::new();
    for there in &THERE[..if testing() { 1 } else { THERE.len() }] {
        let there = *there;
        let mut nodes = PLUGINS.map(Node::new).into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        for node in &mut nodes {
            (0..there).try_for_each(|number| node.attach(number).map(drop))?;
        }
        let reference = cni::Bridge::find(&folder.path().join(there.to_string()), &format!("cni{there}"));
        for number in 0..there {
            if let Some(reference) = &reference {
                attach_by_cni(reference, folder.path(), &format!("{there}-there-{number}"))?;
            }
        }
        let mut engines = PLUGINS.map(|name| Series::new(&format!("{name}, {there} pods there"), "ms"));
        let mut by_hand = Series::new(&format!("by hand, {there} pods there"), "ms");
        let mut by_cni = Series::new(&format!("CNI bridge + host-local, {there} pods there"), "ms");
        for round in 0..turns(ROUNDS) {
            for (node, series) in nodes.iter_mut().zip(&mut engines) {
                series.values.push(node.attach(there + round)?);
                node.detach(there + round);
            }
            by_hand.values.push(attach_by_hand(&nodes[0], round));
            if let Some(reference) = &reference {
                let container = format!("{there}-{round}");
                by_cni.values.push(attach_by_cni(reference, folder.path(), &container)?);
                reference.del(&container, &folder.path().join(&container))?;
            }
        }
        for (name, engine) in PLUGINS.iter().zip(&engines) {
            let title = format!("{name}: attach, {there} pods there");
            record.compare(&title, engine, &by_hand, "flat");
            if reference.is_some() {
                record.compare(&title, engine, &by_cni, "at most 0.05x");
            }
        }
        if reference.is_none() {
            record.absent("the reference CNI plugins", "containernetworking-plugins");
        }
        for ((name, engine), first) in PLUGINS.iter().zip(&engines).zip(&flat) {
            record.compare(&format!("{name}: {there} pods there against none"), engine, first, "1x");
        }
        if flat.is_empty() {
            flat = engines.into();
        }
    }
    record.save_unless_testing()
}

/// A node that a plugin has furnished.
struct Node {
    netns: Netns,
    bridge: byhand::Index,
    engine: Engine,
    plugin: Arc<dyn Plugin>,
    facts: Facts,
    node: NodeFacts,
    /// Where pods have their addresses from, and the segment of all of them, if the plugin has such.
    block: IpNet,
    segment: Option<PodSegment>,
}

impl Node {
    fn new(plugin: &str) -> anyhow::Result<Self> {
        let netns = byhand::namespace();
        let mut places = Places::new();
        places.add(Place::node("n"), netns.try_clone()?);
        let facts: Facts = serde_json::from_value(serde_json::json!({
            "cluster": "bench", "podCidr": "10.40.0.0/16", "serviceCidr": "10.96.0.0/16", "underlayCidr": "10.140.0.0/24",
            "underlayGateway": "10.140.0.1", "underlayMtu": 1500}))?;
        let node: NodeFacts = serde_json::from_value(
            serde_json::json!({"name": "n", "address": "10.140.0.10", "podCidr": "10.40.0.0/16", "uplink": "eth0"}),
        )?;
        let library = built(&format!("libswitchyard_{plugin}.so"))?;
        let library = library.to_str().context("a path in UTF-8")?;
        let plugin = Registry::new(Vec::new()).open(library, &Options::default(), Hosting::InProcess)?;
        let mut engine = Engine::new(Owner { protocol: 83 }, places);
        engine.set(UnitId("node".into()), plugin.node(&facts, &node)?)?;
        let pool = plugin.pool(&facts, &node, &pod(0))?;
        let block = pool.block;
        let segment = pool.segment.map(|pool| PodSegment { name: pool.name, id: pool.ids.0, subnet: block });
        if let Some(PodSegment { name, id, subnet }) = segment.clone() {
            let segment = SegmentFacts { name, id, subnets: vec![subnet], outside: None };
            engine.set(UnitId("segment".into()), plugin.segment(&facts, &node, &segment)?)?;
        }
        let index =
            || rustix::net::netdevice::name_to_index(&UdpSocket::bind("0.0.0.0:0")?, "cbr0").map_err(Into::into);
        let bridge = netns.run::<std::io::Result<u32>>(index)??;
        Ok(Self { netns, bridge, engine, plugin, facts, node, block, segment })
    }

    /// Milliseconds it takes.
    fn attach(&mut self, number: usize) -> anyhow::Result<f64> {
        let IpAddr::V4(first) = self.block.network() else { anyhow::bail!("a block of IPv6: {}", self.block) };
        let ip = IpAddr::V4(Ipv4Addr::from(u32::from(first) + number as u32 + 10));
        let pod = PodFacts { ip, segment: self.segment.clone(), ..pod(number) };
        self.engine.add_place(Place::pod(&pod.uid), byhand::namespace());
        let begun = Instant::now();
        let fragment = self.plugin.pod(&self.facts, &self.node, &pod)?;
        self.engine.set(UnitId(format!("pod/{}", pod.uid)), fragment)?;
        Ok(begun.elapsed().as_secs_f64() * 1e3)
    }

    fn detach(&mut self, number: usize) {
        let uid = pod(number).uid;
        self.engine.remove(UnitId(format!("pod/{uid}"))).expect("detach");
        self.engine.remove_place(&Place::pod(&uid));
    }
}

fn pod(number: usize) -> PodFacts {
    let uid = format!("0199{number:08x}");
    serde_json::from_value(serde_json::json!({"uid": uid, "namespace": "default", "name": uid, "ip": "0.0.0.0"}))
        .expect("facts of a pod")
}

/// A port of the same bridge, with address and routes: what the kernel does itself with so many ports.
fn attach_by_hand(node: &Node, round: usize) -> f64 {
    let pod = byhand::namespace();
    let index = 900_000 + round as u32;
    let begun = Instant::now();
    let mut here = byhand::Batch::new(&node.netns);
    here.veth(index, &format!("hand{round}"), node.bridge, &pod, (2, "eth0"));
    here.send();
    let mut there = byhand::Batch::new(&pod);
    there.up(byhand::LOOPBACK);
    there.up(2);
    there.address(2, [10, 60, 0, 2].into(), 24);
    there.route([0, 0, 0, 0].into(), 0, [10, 60, 0, 1].into());
    there.send();
    begun.elapsed().as_secs_f64() * 1e3
}

fn attach_by_cni(reference: &cni::Bridge, folder: &Path, container: &str) -> anyhow::Result<f64> {
    let path = folder.join(container);
    std::fs::write(&path, "")?;
    byhand::namespace().bind(&path)?;
    let begun = Instant::now();
    reference.add(container, &path)?;
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}
