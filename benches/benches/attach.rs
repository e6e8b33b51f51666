//! What it takes to attach a pod: kubenet is asked for the fragment and the engine applies it, against the reference CNI plugins
//! `bridge` and `host-local` doing the same, and against the same objects by hand; with 0, 100 and 1,000 pods there already.

use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::time::Instant;

use switchyard_benches::{Record, Series, byhand, cni, in_namespaces};
use switchyard_kernel::{Engine, Netns, Owner, Places};
use switchyard_kubenet::Kubenet;
use switchyard_netstate::{Place, UnitId};
use switchyard_plugin::{Facts, NetworkPlugin, NodeFacts, Options, PodFacts};

const ROUNDS: usize = 25;
const THERE: [usize; 3] = [0, 100, 1000];

fn main() -> anyhow::Result<()> {
    if !in_namespaces()? {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let mut record = Record::new("attach", "Attaching one pod, from asking the plugin to the kernel's last word.");
    let mut flat: Option<Series> = None;
    for there in THERE {
        let mut node = Node::new();
        for number in 0..there {
            node.attach(number);
        }
        let reference = cni::Bridge::find(&folder.path().join(there.to_string()), &format!("cni{there}"));
        for number in 0..there {
            if let Some(reference) = &reference {
                attach_by_cni(reference, folder.path(), &format!("{there}-there-{number}"))?;
            }
        }
        let mut engine = Series::new(&format!("kubenet, {there} pods there"), "ms");
        let mut by_hand = Series::new(&format!("by hand, {there} pods there"), "ms");
        let mut by_cni = Series::new(&format!("CNI bridge + host-local, {there} pods there"), "ms");
        for round in 0..ROUNDS {
            engine.values.push(node.attach(there + round));
            node.detach(there + round);
            by_hand.values.push(attach_by_hand(&node, round));
            if let Some(reference) = &reference {
                let container = format!("{there}-{round}");
                by_cni.values.push(attach_by_cni(reference, folder.path(), &container)?);
                reference.del(&container, &folder.path().join(&container))?;
            }
        }
        record.compare(&format!("attach, {there} pods there"), &engine, &by_hand, "flat");
        match reference {
            Some(_) => record.compare(&format!("attach, {there} pods there"), &engine, &by_cni, "at most 0.05x"),
            None => println!("no reference CNI plugins on this machine: apt-get install containernetworking-plugins"),
        }
        match &flat {
            Some(first) => record.compare(&format!("{there} pods there against none"), &engine, first, "1x"),
            None => flat = Some(engine),
        }
    }
    Ok(record.save()?)
}

/// A node that kubenet has furnished.
struct Node {
    netns: Netns,
    bridge: byhand::Index,
    engine: Engine,
    plugin: Kubenet,
    facts: Facts,
    node: NodeFacts,
}

impl Node {
    fn new() -> Self {
        let netns = Netns::create().expect("a network namespace");
        let mut places = Places::new();
        places.add(Place::node("n"), netns.try_clone().expect("a descriptor"));
        let facts: Facts = serde_json::from_value(serde_json::json!({
            "cluster": "bench", "podCidr": "10.40.0.0/16", "serviceCidr": "10.96.0.0/16", "underlayCidr": "10.140.0.0/24",
            "underlayGateway": "10.140.0.1", "underlayMtu": 1500}))
        .expect("facts");
        let node: NodeFacts = serde_json::from_value(
            serde_json::json!({"name": "n", "address": "10.140.0.10", "podCidr": "10.40.0.0/16", "uplink": "eth0"}),
        )
        .expect("facts of a node");
        let plugin = Kubenet::new(&Options::default()).expect("no options");
        let mut engine = Engine::new(Owner { protocol: 83 }, places);
        engine.set(UnitId("node".into()), plugin.node(&facts, &node)).expect("a node");
        let index =
            || rustix::net::netdevice::name_to_index(&UdpSocket::bind("0.0.0.0:0")?, "cbr0").map_err(Into::into);
        let bridge = netns.run::<std::io::Result<u32>>(index).expect("enter the node").expect("cbr0 is there");
        Self { netns, bridge, engine, plugin, facts, node }
    }

    /// Milliseconds it takes.
    fn attach(&mut self, number: usize) -> f64 {
        let [high, low] = (number as u16 + 2).to_be_bytes();
        let pod = PodFacts { ip: IpAddr::from([10, 40, high, low]), ..pod(number) };
        self.engine.add_place(Place::pod(&pod.uid), Netns::create().expect("a network namespace"));
        let begun = Instant::now();
        let fragment = self.plugin.pod(&self.facts, &self.node, &pod);
        self.engine.set(UnitId(format!("pod/{}", pod.uid)), fragment).expect("attach");
        begun.elapsed().as_secs_f64() * 1e3
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
    let pod = Netns::create().expect("a network namespace");
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
    Netns::create()?.bind(&path)?;
    let begun = Instant::now();
    reference.add(container, &path)?;
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}
