//! Two nodes, an upstream device, the outside, and pods: network namespaces wired as a cluster's are, with the plugin's wishes in force.

mod packets;
mod wiring;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use switchyard_kernel::{Engine, Netns, Owner, Places};
use switchyard_netstate::{Fragment, LinkKind, Object, Place, UnitId};
use switchyard_plugin::{Facts, NodeFacts, PodFacts, SegmentFacts};
use switchyard_plugin_host::{CallError, Plugin};

use crate::cluster;
use packets::Client;

/// Marks of the wiring, and of what the plugin wants.
const WIRING: Owner = Owner { protocol: 84 };
const PLUGIN: Owner = Owner { protocol: 83 };

/// The world after the plugin's wishes were carried out.
pub(crate) struct World {
    engine: RefCell<Engine>,
    patience: Duration,
    pods: BTreeMap<&'static str, Pod>,
    /// What was different in namespaces that the plugin has no business in, or in what was on the nodes before.
    pub(crate) disturbed: Vec<String>,
    before: BTreeMap<Place, BTreeSet<String>>,
    units: Vec<UnitId>,
}

/// A pod, where it is.
struct Pod {
    facts: PodFacts,
    /// The MTU that the plugin wants for its interface.
    mtu: u32,
}

/// Why there is no world.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorldError {
    /// The plugin did not answer.
    #[error(transparent)]
    Plugin(#[from] CallError),
    /// The kernel refused what the plugin wants.
    #[error("{unit}: {source}")]
    Refused { unit: String, source: Box<switchyard_kernel::Error> },
    /// Pods have no interface, so nothing can be sent.
    #[error("it wants no interface in pods")]
    NoInterface,
    /// The pool has no address left for a pod.
    #[error("pool: {0}")]
    NoAddress(String),
    /// The machine does not let us.
    #[error("{what}: {why}")]
    Machine { what: &'static str, why: String },
}

/// Pods `a1` and `a2` run on n1, `b1` on n2; `foreign` runs on n1 with an address that is in no node's block.
const PODS: [(&str, u8); 4] = [("a1", 1), ("a2", 1), ("b1", 2), ("foreign", 1)];

// === impl World ===

impl World {
    /// Builds it, and has the plugin's wishes carried out.
    pub(crate) fn new(plugin: &dyn Plugin, patience: Duration) -> Result<Self, WorldError> {
        let facts = cluster::facts();
        let nodes = [cluster::node(1), cluster::node(2)];
        let (pods, segments) = attach(plugin, &facts, &nodes)?;
        if !pods.iter().any(|(_, _, fragment)| has_interface(fragment)) {
            return Err(WorldError::NoInterface);
        }
        let mut extra = BTreeSet::new();
        for node in &nodes {
            let fragment = plugin.node(&facts, node)?;
            extra.extend(fragment.places().map(|(place, _)| place.clone()).filter(is_extra));
        }
        let namespaces = wiring::namespaces(pods.iter().map(|(_, facts, _)| facts.uid.as_str()), extra)?;
        wiring::build(&namespaces, &nodes)?;
        let mut engine = Engine::new(PLUGIN, places(&namespaces)?);

        let of_plugin = |place: &Place| is_extra(place) || is_plugins_pod(place, &pods);
        let watched: Vec<Place> = namespaces.keys().filter(|place| !of_plugin(place)).cloned().collect();
        let before = snapshots(&mut engine, &watched)?;
        let mut world = Self {
            engine: RefCell::new(engine),
            patience,
            pods: BTreeMap::new(),
            disturbed: Vec::new(),
            before,
            units: Vec::new(),
        };
        world.bring_in(plugin, &facts, &nodes, pods, &segments)?;
        world.disturbed = world.compare()?;
        for (place, port) in wiring::servers(&nodes)
            .into_iter()
            .chain(world.pods.values().map(|pod| (Place::pod(&pod.facts.uid), packets::PORT)))
        {
            let engine = world.engine.borrow();
            let netns = engine.places().get(&place).expect("a place of this world");
            packets::serve(netns, port)
                .map_err(|why| WorldError::Machine { what: "open a server", why: why.to_string() })?;
        }
        Ok(world)
    }

    fn bring_in(
        &mut self,
        plugin: &dyn Plugin,
        facts: &Facts,
        nodes: &[NodeFacts; 2],
        pods: Vec<(&'static str, PodFacts, Fragment)>,
        segments: &[SegmentFacts],
    ) -> Result<(), WorldError> {
        let [one, two] = nodes;
        for (node, peer) in [(one, two), (two, one)] {
            let name = &node.name;
            self.set(format!("{name}: node"), plugin.node(facts, node)?)?;
            self.set(format!("{name}: peer {}", peer.name), plugin.peer(facts, node, peer)?)?;
            self.set(format!("{name}: underlay"), plugin.underlay(facts, node)?)?;
            for segment in segments {
                self.set(format!("{name}: segment {}", segment.name), plugin.segment(facts, node, segment)?)?;
            }
        }
        for ((name, pod, fragment), (_, at)) in pods.into_iter().zip(PODS) {
            let mtu = mtu(&fragment, &pod).unwrap_or(facts.underlay_mtu);
            self.set(format!("pod {name}"), fragment)?;
            let (own, other) = if at == 1 { (one, two) } else { (two, one) };
            if !own.pod_cidr.contains(&pod.ip) {
                self.set(format!("{}: remote {name}", other.name), plugin.remote(facts, other, own, &pod)?)?;
            }
            self.pods.insert(name, Pod { facts: pod, mtu });
        }
        Ok(())
    }

    fn set(&mut self, unit: String, fragment: Fragment) -> Result<(), WorldError> {
        let id = UnitId(unit.clone());
        self.engine
            .get_mut()
            .set(id.clone(), fragment)
            .map_err(|source| WorldError::Refused { unit, source: source.into() })?;
        self.units.push(id);
        Ok(())
    }

    /// What is gone or different of what was there before. Parameters of nodes are the plugin's to set.
    fn compare(&mut self) -> Result<Vec<String>, WorldError> {
        let places: Vec<Place> = self.before.keys().cloned().collect();
        let now = snapshots(self.engine.get_mut(), &places)?;
        let mut lines = Vec::new();
        for (place, before) in &self.before {
            let is_node = matches!(place, Place::Node(_));
            let gone = before.difference(&now[place]).filter(|line| !(is_node && line.starts_with("net/")));
            lines.extend(gone.map(|line| format!("{place}: was {line}")));
            if *place == wiring::bystander() || *place == wiring::outside() {
                lines.extend(now[place].difference(before).map(|line| format!("{place}: is {line}")));
            }
        }
        Ok(lines)
    }

    /// Removes all the plugin wanted, the last first, and says what is not as it was before.
    pub(crate) fn clean(&self) -> Result<Vec<String>, WorldError> {
        let mut engine = self.engine.borrow_mut();
        for unit in self.units.iter().rev() {
            let refused = |source| WorldError::Refused { unit: format!("remove {unit}"), source: Box::new(source) };
            engine.remove(unit.clone()).map_err(refused)?;
        }
        let places: Vec<Place> = self.before.keys().cloned().collect();
        let after = snapshots(&mut engine, &places)?;
        let mut lines = Vec::new();
        for (place, before) in &self.before {
            lines.extend(before.difference(&after[place]).map(|line| format!("{place}: missing {line}")));
            lines.extend(after[place].difference(before).map(|line| format!("{place}: left {line}")));
        }
        Ok(lines)
    }

    /// The address of a pod, a node, or the outside.
    pub(crate) fn address(&self, name: &str) -> IpAddr {
        match name {
            "n1" => cluster::node(1).address,
            "n2" => cluster::node(2).address,
            "outside" => cluster::ip(wiring::OUTSIDE),
            pod => self.pods[pod].facts.ip,
        }
    }

    /// The MTU of a pod's interface.
    pub(crate) fn mtu(&self, pod: &str) -> u32 {
        self.pods[pod].mtu
    }

    /// Somebody who can send.
    pub(crate) fn from(&self, name: &str) -> Client {
        let place = match name {
            "n1" | "n2" => Place::node(name),
            pod => Place::pod(&self.pods[pod].facts.uid),
        };
        let engine = self.engine.borrow();
        Client::new(Arc::clone(engine.places().get(&place).expect("a place of this world")), self.patience)
    }
}

/// Pods, each by its name with what its plugin wants for it; and segments.
type Attached = (Vec<(&'static str, PodFacts, Fragment)>, Vec<SegmentFacts>);

/// Pods with addresses from the plugin's pools, what they want, and the segments of those addresses.
fn attach(plugin: &dyn Plugin, facts: &Facts, nodes: &[NodeFacts; 2]) -> Result<Attached, WorldError> {
    let mut taken = BTreeSet::new();
    let mut pods = Vec::new();
    let mut segments: Vec<SegmentFacts> = Vec::new();
    for (name, at) in PODS {
        let node = &nodes[usize::from(at) - 1];
        let mut pod = cluster::pod(name, cluster::ip("0.0.0.0"));
        if name == "foreign" {
            pod.ip = cluster::ip("10.40.77.5");
        } else {
            let pool = plugin.pool(facts, node, &pod)?;
            let segment = cluster::segment(&pool);
            let free = cluster::addresses(&pool, segment.as_ref()).find(|ip| !taken.contains(ip));
            let none = || WorldError::NoAddress(format!("{} has no address for {name}", pool.block));
            pod = cluster::with_address(pod, free.ok_or_else(none)?, segment.as_ref());
            segments.extend(segment.filter(|segment| !segments.contains(segment)));
        }
        taken.insert(pod.ip);
        let fragment = plugin.pod(facts, node, &pod)?;
        pods.push((name, pod, fragment));
    }
    Ok((pods, segments))
}

fn is_extra(place: &Place) -> bool {
    matches!(place, Place::Extra { .. })
}

fn is_plugins_pod(place: &Place, pods: &[(&str, PodFacts, Fragment)]) -> bool {
    pods.iter().any(|(_, facts, _)| *place == Place::pod(&facts.uid))
}

/// Whether a pod gets more than its loopback.
pub(crate) fn has_interface(fragment: &Fragment) -> bool {
    let pods = fragment.places().filter(|(place, _)| matches!(place, Place::Pod(_)));
    pods.flat_map(|(_, objects)| objects.iter()).any(
        |(_, object)| matches!(object, Object::Link(link) if link.kind != LinkKind::Existing && link.name.as_str() != "lo"),
    )
}

/// The MTU that a pod's interface is to have.
pub(crate) fn mtu(fragment: &Fragment, pod: &PodFacts) -> Option<u32> {
    let objects = fragment.get(&Place::pod(&pod.uid))?;
    objects.iter().find_map(|(_, object)| match object {
        Object::Link(link) if link.kind != LinkKind::Existing => link.mtu,
        _ => None,
    })
}

fn places(namespaces: &BTreeMap<Place, Netns>) -> Result<Places, WorldError> {
    let mut places = Places::new();
    for (place, netns) in namespaces {
        places.add(place.clone(), netns.try_clone().map_err(|why| wiring::machine("open a namespace", &why))?);
    }
    Ok(places)
}

fn snapshots(engine: &mut Engine, places: &[Place]) -> Result<BTreeMap<Place, BTreeSet<String>>, WorldError> {
    let look = |place: &Place| {
        let lines = engine.snapshot(place).map_err(|why| wiring::machine("look at a namespace", &why))?;
        Ok((place.clone(), lines))
    };
    places.iter().map(look).collect()
}
