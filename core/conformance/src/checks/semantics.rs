//! What the answers say, and whether they fit together.

use std::collections::BTreeMap;

use switchyard_kernel::{Engine, Netns, Owner, Places};
use switchyard_netstate::{Fragment, Ledger, Object, Place, UnitId};
use switchyard_plugin::{Facts, NodeFacts};
use switchyard_plugin_host::Plugin;

use crate::cluster;
use crate::subject::{Checked, Subject, fail, skip};
use crate::world::{has_interface, mtu};

type Units = Vec<(String, Fragment)>;

/// Pods on one node for the check of names.
const CROWD: u32 = 1000;

pub(super) fn answers(subject: &Subject) -> Checked {
    units(subject.plugin()?, 3).map(|units| format!("{} of them", units.len()))
}

pub(super) fn valid(subject: &Subject) -> Checked {
    let units = units(subject.plugin()?, 3)?;
    let mut places = Places::new();
    let names = units.iter().flat_map(|(_, fragment)| fragment.places().map(|(place, _)| place.clone()));
    let fixed = ["n1", "n2", "n3"].map(Place::node).into_iter().chain([Place::Router]);
    for place in names.chain(fixed) {
        // Nothing is changed, so any namespace will do.
        let here = Netns::current().map_err(|error| fail(format!("open our own namespace: {error}")))?;
        places.add(place, here);
    }
    let engine = Engine::new(Owner { protocol: 83 }, places);
    let mut ledger = BTreeMap::new();
    for (unit, fragment) in units {
        ledger.insert(UnitId(unit), Some(fragment));
    }
    match engine.plan(&ledger) {
        Ok(plan) => Ok(format!("{} objects", plan.ops().len())),
        // That is another promise's.
        Err(switchyard_kernel::Error::Conflict(_)) => Ok("as far as the answers agree".into()),
        Err(error) => Err(fail(error.to_string())),
    }
}

pub(super) fn agreement(subject: &Subject) -> Checked {
    settle(units(subject.plugin()?, 3)?)
}

pub(super) fn names(subject: &Subject) -> Checked {
    let plugin = subject.plugin()?;
    let (facts, node) = (cluster::facts(), cluster::node(1));
    let large = NodeFacts { pod_cidr: cluster::net("10.40.0.0/20"), ..node };
    let mut units: Units = vec![("node".into(), plugin.node(&facts, &large).map_err(|error| fail(error.to_string()))?)];
    for number in 0..CROWD {
        let ip = format!("10.40.{}.{}", 1 + number / 250, 1 + number % 250);
        let pod = cluster::pod(&format!("pod-{number}"), cluster::ip(&ip));
        let fragment = plugin.pod(&facts, &large, &pod).map_err(|error| fail(error.to_string()))?;
        units.push((format!("pod-{number}"), fragment));
    }
    settle(units)
}

pub(super) fn pool(subject: &Subject) -> Checked {
    let plugin = subject.plugin()?;
    let (facts, node) = (cluster::facts(), cluster::node(1));
    let pod = cluster::pod("a", cluster::ip("0.0.0.0"));
    let pool = plugin.pool(&facts, &node, &pod).map_err(|error| fail(error.to_string()))?;
    if let Some(reserved) = pool.reserved.iter().find(|ip| !pool.block.contains(*ip)) {
        return Err(fail(format!("{reserved} is reserved, but not in block {}", pool.block)));
    }
    let segment = cluster::segment(&pool);
    if pool.segment.is_some() && segment.is_none() {
        return Err(fail(format!("block {} has no subnet for the segment that it asks for", pool.block)));
    }
    let segment = segment.as_ref();
    let free = cluster::addresses(&pool, segment).next();
    let Some(ip) = free else {
        return Err(fail(format!("block {} has no address that is not reserved", pool.block)));
    };
    let mut fragments = vec![plugin.node(&facts, &node).map_err(|error| fail(error.to_string()))?];
    if let Some(segment) = segment {
        fragments.push(plugin.segment(&facts, &node, segment).map_err(|error| fail(error.to_string()))?);
    }
    let pod = cluster::with_address(pod, ip, segment);
    fragments.push(plugin.pod(&facts, &node, &pod).map_err(|error| fail(error.to_string()))?);
    // An address that a node has itself must not be given to a pod.
    for (place, objects) in fragments.iter().flat_map(Fragment::places) {
        for (_, object) in objects.iter() {
            let Object::Address(address) = object else { continue };
            let own = address.address.addr();
            let given = cluster::addresses(&pool, segment).any(|ip| ip == own);
            if given && *place != Place::pod(&pod.uid) {
                return Err(fail(format!("{own} is an address of {place}, and not reserved")));
            }
        }
    }
    Ok(format!("{}, {} reserved", pool.block, pool.reserved.len()))
}

pub(super) fn address(subject: &Subject) -> Checked {
    let plugin = subject.plugin()?;
    let (facts, node) = (cluster::facts(), cluster::node(1));
    for ip in ["10.40.1.5", "10.40.77.5", "10.40.2.9"] {
        let pod = cluster::pod("a", cluster::ip(ip));
        let fragment = plugin.pod(&facts, &node, &pod).map_err(|error| fail(error.to_string()))?;
        if !has_interface(&fragment) {
            return match ip {
                "10.40.1.5" => Err(skip("it wants no interface in pods")),
                _ => Err(fail(format!("a pod with {ip}, from outside the pool, gets no interface"))),
            };
        }
        let objects = fragment.get(&Place::pod(&pod.uid)).into_iter().flat_map(|objects| objects.iter());
        let mut addresses = objects.filter_map(|(_, object)| match object {
            Object::Address(address) => Some(address.address.addr()),
            _ => None,
        });
        if !addresses.any(|address| address == pod.ip) {
            return Err(fail(format!("a pod with {ip} is not given that address")));
        }
    }
    Ok(String::new())
}

/// The MTU of a pod's interface follows that of its node's uplink, down to the least that IPv6 works with.
pub(super) fn uplink(subject: &Subject) -> Checked {
    const NARROW: u32 = 1280;
    let plugin = subject.plugin()?;
    let (facts, node) = (Facts { underlay_mtu: NARROW, ..cluster::facts() }, cluster::node(1));
    let pod = cluster::pod("a", cluster::ip("10.40.1.5"));
    let fragment = plugin.pod(&facts, &node, &pod).map_err(|error| fail(error.to_string()))?;
    match mtu(&fragment, &pod) {
        Some(mtu) if mtu > NARROW => Err(fail(format!("{mtu} bytes, and the uplink carries {NARROW}"))),
        Some(mtu) => Ok(format!("{mtu} bytes by an uplink of {NARROW}")),
        None => Err(skip("it leaves the MTU in pods to the kernel")),
    }
}

/// Everything about `count` nodes with two pods each and one foreign one.
fn units(plugin: &dyn Plugin, count: u8) -> Result<Units, crate::Outcome> {
    let facts = cluster::facts();
    let nodes: Vec<NodeFacts> = (1..=count).map(cluster::node).collect();
    let mut units = Units::new();
    for node in &nodes {
        node_units(plugin, &facts, node, &nodes, &mut units).map_err(|error| fail(error.to_string()))?;
    }
    Ok(units)
}

fn node_units(
    plugin: &dyn Plugin,
    facts: &Facts,
    node: &NodeFacts,
    nodes: &[NodeFacts],
    units: &mut Units,
) -> Result<(), switchyard_plugin_host::CallError> {
    let name = &node.name;
    units.push((format!("{name}: node"), plugin.node(facts, node)?));
    units.push((format!("{name}: underlay"), plugin.underlay(facts, node)?));
    let number = &name[1..];
    for pod in ["x", "y"] {
        let pod = format!("{pod}{number}");
        let mut pod = cluster::pod(&pod, cluster::ip("0.0.0.0"));
        let pool = plugin.pool(facts, node, &pod)?;
        let segment = cluster::segment(&pool);
        if let Some(segment) = segment.as_ref().filter(|_| pod.name.starts_with('x')) {
            units.push((format!("{name}: segment {}", segment.name), plugin.segment(facts, node, segment)?));
        }
        // A segment's addresses are shared by all nodes.
        let before = if segment.is_some() { 2 * (number.parse::<usize>().unwrap_or(1) - 1) } else { 0 };
        let skip = before + usize::from(pod.name.starts_with('y'));
        let ip = cluster::addresses(&pool, segment.as_ref()).nth(skip).unwrap_or(pool.block.addr());
        pod = cluster::with_address(pod, ip, segment.as_ref());
        units.push((format!("{name}: pod {}", pod.name), plugin.pod(facts, node, &pod)?));
    }
    let foreign = cluster::pod(&format!("foreign{number}"), cluster::ip(&format!("10.40.77.{number}")));
    units.push((format!("{name}: pod {}", foreign.name), plugin.pod(facts, node, &foreign)?));
    for peer in nodes.iter().filter(|peer| peer.name != *name) {
        units.push((format!("{name}: peer {}", peer.name), plugin.peer(facts, node, peer)?));
        let number = &peer.name[1..];
        let remote = cluster::pod(&format!("foreign{number}"), cluster::ip(&format!("10.40.77.{number}")));
        let fragment = plugin.remote(facts, node, peer, &remote)?;
        units.push((format!("{name}: remote {}", remote.name), fragment));
    }
    Ok(())
}

/// One after the other into a ledger, as an agent does it.
fn settle(units: Units) -> Checked {
    let mut ledger = Ledger::default();
    let count = units.len();
    for (unit, fragment) in units {
        let changes = BTreeMap::from([(UnitId(unit), Some(fragment))]);
        ledger.plan(&changes).map_err(|conflict| fail(conflict.to_string()))?;
        ledger.commit(changes);
    }
    Ok(format!("{count} answers"))
}
