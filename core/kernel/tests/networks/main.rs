//! Networks in real namespaces: what is said of a tunnel's packets is so, and one network turns into the other under traffic.

#![allow(unsafe_code, reason = "offloads of a card are switched by an ioctl")]

mod cluster;
mod flow;
mod tunnel;
#[path = "../world/mod.rs"]
mod world;

use serde_json::json;
use switchyard_kernel::Feature;
use switchyard_netstate::Place;

use cluster::{Cluster, Network, address_of, facts, network};
use flow::Flow;
use world::{has, isolated};

/// Neighbours, pods of two nodes, foreign pods both ways, nodes and pods.
fn flows(cluster: &Cluster, bytes: usize) -> Vec<Flow> {
    let pod = |from: &str, to: &str| Flow::start(cluster, &Place::pod(from), &Place::pod(to), address_of(to), bytes);
    let node = Place::node("n1");
    let (to_node, to_pod) = ("10.140.0.11".parse().unwrap(), address_of("c"));
    let mut flows: Vec<Flow> = [("a", "b"), ("a", "c"), ("c", "f"), ("g", "a")].map(|(from, to)| pod(from, to)).into();
    flows.push(Flow::start(cluster, &node, &Place::pod("c"), to_pod, bytes));
    flows.push(Flow::start(cluster, &Place::pod("c"), &node, to_node, bytes));
    flows
}

/// nsx with this encapsulation. No node here is an edge.
fn tunnels(encapsulation: &str) -> Network {
    network("nsx", json!({"northSouth": "node", "encapsulation": encapsulation}))
}

/// There and back, while at most so many segments are sent twice.
fn there_and_back(here: &Network, there: &Network, bytes: usize, twice: u64) {
    let facts = facts();
    let mut cluster = Cluster::with(here, &facts);
    let before = cluster.state();
    let running = flows(&cluster, bytes);
    let all = |when: &str| running.iter().for_each(|flow| flow.more(5, when));
    all("nothing has happened yet");
    let resent = cluster.counter("Tcp", "RetransSegs");
    let few_resent = |cluster: &Cluster, when: &str| {
        let again = cluster.counter("Tcp", "RetransSegs") - resent;
        assert!(again <= twice, "{again} segments were sent twice, {when}");
    };
    cluster.swap(there, &facts, |when| all(&format!("there: {when}")));
    few_resent(&cluster, "there");
    // What connects now does so on the new network.
    let fresh = flows(&cluster, bytes);
    cluster.swap(here, &facts, |when| {
        running.iter().chain(&fresh).for_each(|flow| flow.more(5, &format!("back: {when}")))
    });
    few_resent(&cluster, "back");
    for flow in running.into_iter().chain(fresh) {
        println!("{}", flow.stop());
    }
    let after = cluster.state();
    let only = |here: &str, there: &str| -> Vec<String> {
        here.lines().filter(|line| !there.lines().any(|other| other == *line)).map(str::to_owned).collect()
    };
    assert!(before == after, "gone: {:#?}\nnew: {:#?}", only(&before, &after), only(&after, &before));
}

#[test]
fn a_swap_to_a_tunnel_and_back_loses_no_packet() {
    isolated("a_swap_to_a_tunnel_and_back_loses_no_packet", || {
        there_and_back(&network("kubenet", json!({})), &network("overlay", json!({})), 1, 0);
    });
}

#[test]
fn a_swap_to_another_tunnel_loses_no_packet() {
    isolated("a_swap_to_another_tunnel_loses_no_packet", || {
        let (one, other) = (json!({}), json!({"vni": 7, "port": 4789, "mtu": 1400}));
        there_and_back(&network("overlay", one), &network("overlay", other), 1, 0);
    });
}

#[test]
fn a_swap_to_direct_routing_loses_no_packet() {
    isolated("a_swap_to_direct_routing_loses_no_packet", || {
        let direct = network("overlay", json!({"directRouting": true}));
        there_and_back(&network("overlay", json!({})), &direct, 1, 0);
    });
}

#[test]
fn a_swap_to_geneve_and_back_loses_no_packet() {
    isolated("a_swap_to_geneve_and_back_loses_no_packet", || {
        if has(Feature::Geneve) {
            there_and_back(&tunnels("vxlan"), &tunnels("geneve"), 1, 0);
            there_and_back(&network("kubenet", json!({})), &tunnels("geneve"), 1, 0);
        }
    });
}

#[test]
fn large_messages_survive_a_change_of_the_mtu() {
    isolated("large_messages_survive_a_change_of_the_mtu", || {
        there_and_back(&network("kubenet", json!({})), &network("overlay", json!({})), 100_000, u64::MAX);
    });
}

#[test]
fn a_swap_to_another_bridge_keeps_connections() {
    isolated("a_swap_to_another_bridge_keeps_connections", || {
        let other = network("overlay", json!({"bridge": "cni0"}));
        // One a flow at most, there and back together; most often none.
        there_and_back(&network("kubenet", json!({})), &other, 1, 12);
    });
}

/// The network of the examples, and of `yard plugin new`.
#[test]
fn a_swap_from_a_bridge_to_cables_keeps_connections() {
    isolated("a_swap_from_a_bridge_to_cables_keeps_connections", || {
        there_and_back(&network("kubenet", json!({})), &network("hello", json!({})), 1, 24);
    });
}
