//! Policies with real packets: kubenet's fragments, Services' and ours, applied by the engine in fresh namespaces.

#[path = "../common/mod.rs"]
mod common;
mod world;

use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;

use common::{Lot, NAMESPACES};
use serde_json::json;
use switchyard_netstate::Place;
use switchyard_policy::{
    Action, Direction, Namespaces, Numbers, PodGroup, Policy, Port, Protocol, Rule, Selector, Tier, counter_chain,
};
use world::{CLUSTER_IP, PODS, isolated};

fn pod(name: &str) -> Place {
    Place::pod(name)
}

fn address(name: &str) -> Ipv4Addr {
    PODS.into_iter().find(|one| one.0 == name).expect("a pod of this world").2.parse().unwrap()
}

#[test]
fn policies_by_lot_let_through_what_the_api_says_and_nothing_else() {
    isolated("policies_by_lot_let_through_what_the_api_says_and_nothing_else", |mut world| {
        world.check("without policies");
        for seed in [11, 12, 13] {
            let mut lot = Lot::new(seed);
            for round in 0..4 {
                for _ in 0..3 {
                    let name = format!("np{}", lot.below(4));
                    world.policy(NAMESPACES[lot.below(2)], &name, lot.policy());
                }
                world.relabel(PODS[lot.below(PODS.len())].0, lot.labels());
                world.check(&format!("seed {seed}, round {round}"));
            }
            world.no_policies();
        }
        world.check("without policies again");
    });
}

#[test]
fn what_is_established_goes_on_and_what_is_new_is_judged() {
    isolated("what_is_established_goes_on_and_what_is_new_is_judged", |mut world| {
        let mut open = world.connect(&pod("a"), (address("c"), 80)).unwrap();
        world.policy("x", "deny", json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}));
        world.policy("y", "deny", json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}));
        open.write_all(b"?").unwrap();
        let mut answer = [0; 1];
        open.read_exact(&mut answer).unwrap();
        world.check("all denied");
        // Answers need no rule of their own.
        world.policy("x", "out", json!({"podSelector": {}, "egress": [{}], "policyTypes": ["Egress"]}));
        world.policy("y", "in", json!({"podSelector": {}, "ingress": [{}]}));
        world.check("one way");
        let mut open = world.connect(&pod("a"), (address("d"), 80)).unwrap();
        open.write_all(b"?").unwrap();
        open.read_exact(&mut answer).unwrap();
    });
}

#[test]
fn a_node_reaches_its_own_pods_and_no_others() {
    isolated("a_node_reaches_its_own_pods_and_no_others", |mut world| {
        for namespace in NAMESPACES {
            world.policy(namespace, "deny", json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}));
        }
        let (n1, n2) = (Place::node("n1"), Place::node("n2"));
        world.connect(&n1, (address("a"), 80)).unwrap();
        assert!(!world.reaches(&n2, (address("a"), 80), &n1));
        let block = json!({"ipBlock": {"cidr": "10.140.0.12/32"}});
        world.policy("x", "n2", json!({"podSelector": {}, "ingress": [{"from": [block]}]}));
        world.connect(&n2, (address("a"), 80)).unwrap();
    });
}

#[test]
fn through_a_service_it_is_the_endpoint_that_counts_and_nobody_is_kept_from_himself() {
    isolated("through_a_service_it_is_the_endpoint_that_counts_and_nobody_is_kept_from_himself", |mut world| {
        let service = (CLUSTER_IP.parse().unwrap(), 80);
        world.publish("a");
        world.policy("x", "in", json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}],
            "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "a"}}}]}], "policyTypes": ["Ingress", "Egress"]}));
        world.relabel("a", [("app".to_owned(), "a".to_owned())].into());
        world.connect(&pod("b"), service).unwrap();
        // Through the Service back to itself: the source is hidden only after the rules were asked.
        world.connect(&pod("a"), service).unwrap();
        assert!(!world.reaches(&pod("d"), service, &Place::node("n1")), "from another namespace");
        world.policy("x", "in", json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}));
        world.connect(&pod("a"), service).unwrap();
        assert!(!world.reaches(&pod("b"), service, &Place::node("n1")), "nothing is allowed");
    });
}

#[test]
fn a_rule_refuses_and_counts() {
    isolated("a_rule_refuses_and_counts", |mut world| {
        let everybody = || PodGroup { namespaces: Namespaces::All, labels: Selector::default() };
        let refuse = Rule {
            direction: Direction::Ingress,
            action: Action::Reject,
            peers: vec![],
            ports: vec![Port { protocol: Protocol::Tcp, numbers: Numbers::Range(80, 80) }],
            counter: Some("no web".into()),
        };
        world.model(Policy {
            name: "firewall/no-web".into(),
            tier: Tier::Emergency,
            priority: 1,
            subjects: vec![everybody()],
            rules: vec![refuse],
            otherwise_ingress: None,
            otherwise_egress: None,
        });
        for _ in 0..2 {
            let error = world.connect(&pod("a"), (address("b"), 80)).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        }
        world.connect(&pod("a"), (address("b"), 81)).unwrap();
        let counters = world.engine.counters(&Place::node("n1"), &switchyard_policy::table()).unwrap();
        assert_eq!(counters[&counter_chain("no web", Action::Reject)].packets, 2, "{counters:?}");
    });
}
