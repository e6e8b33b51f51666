//! What the layer wants of a kernel, run on paper: changes by lot, and after each of them every packet has to fare as the API says.

#[path = "../common/mod.rs"]
mod common;
mod paper;
mod tiers;

use std::net::Ipv4Addr;
use std::sync::Arc;

use common::{Cluster, Lot, NAMESPACES, Packet, Pod, ip};
use paper::Kernel;
use serde_json::json;
use switchyard_netstate::{Ledger, Place, Plan};
use switchyard_policy::{Layer, NamedPort, Protocol, network_policy, policy_name};

struct World {
    cluster: Cluster,
    layer: Layer,
    ledger: Ledger,
    /// Units that were told the last time.
    told: usize,
}

/// What was there before the pods: addresses outside of the cluster.
const OUTSIDE: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 7), Ipv4Addr::new(198, 51, 100, 1)];

fn place() -> Place {
    Place::node("n1")
}

// === impl World ===

impl World {
    fn new() -> Self {
        Self { cluster: Cluster::default(), layer: Layer::new(place()), ledger: Ledger::default(), told: 0 }
    }

    /// Two namespaces, six pods here and three elsewhere.
    fn populated(lot: &mut Lot) -> Self {
        let mut world = Self::new();
        for namespace in NAMESPACES {
            world.namespace(namespace, lot);
        }
        for number in 0..9u8 {
            world.pod(&format!("p{number}"), lot);
        }
        world
    }

    fn namespace(&mut self, name: &str, lot: &mut Lot) {
        let labels = lot.namespace_labels(name);
        self.layer.namespace(name.into(), Some(Arc::new(labels.clone())));
        self.cluster.namespaces.insert(name.to_owned(), labels);
    }

    fn pod(&mut self, uid: &str, lot: &mut Lot) {
        let number: u8 = uid[1..].parse().unwrap();
        let ports = [("web", "TCP", 80), ("web", "TCP", 81), ("dns", "UDP", 80)];
        let ports = ports.map(|(name, over, port)| (name.to_owned(), over, port)).into_iter();
        let ports = ports.filter(|_| lot.one_in(2)).collect();
        let local = number < 6;
        let pod = Pod {
            namespace: NAMESPACES[usize::from(number) % 2].to_owned(),
            labels: lot.labels(),
            ip: Ipv4Addr::new(10, 40, if local { 1 } else { 2 }, number),
            local,
            ports,
        };
        self.tell(uid, &pod);
        self.cluster.pods.insert(uid.to_owned(), pod);
    }

    fn tell(&mut self, uid: &str, pod: &Pod) {
        let ports = pod.ports.iter().map(|(name, over, port)| NamedPort {
            name: name.clone(),
            protocol: Protocol::named(over).unwrap(),
            port: *port,
        });
        self.layer.pod(switchyard_policy::Pod {
            uid: uid.into(),
            namespace: pod.namespace.as_str().into(),
            labels: Arc::new(pod.labels.clone()),
            address: ip(pod.ip),
            ports: ports.collect(),
            local: pod.local,
        });
    }

    fn policy(&mut self, namespace: &str, name: &str, spec: serde_json::Value) {
        self.layer.policy(network_policy(namespace, name, &spec).unwrap());
        self.cluster.policies.insert((namespace.to_owned(), name.to_owned()), spec);
    }

    fn no_policy(&mut self, namespace: &str, name: &str) {
        self.layer.policy_gone(&policy_name(namespace, name));
        self.cluster.policies.remove(&(namespace.to_owned(), name.to_owned()));
    }

    /// Something happens.
    fn change(&mut self, lot: &mut Lot) {
        let uid = format!("p{}", lot.below(9));
        let namespace = NAMESPACES[lot.below(2)];
        let policy = format!("np{}", lot.below(6));
        match lot.below(8) {
            0 => self.namespace(namespace, lot),
            1 => {
                self.layer.pod_gone(&uid);
                self.cluster.pods.remove(&uid);
            }
            2 | 3 => self.pod(&uid, lot),
            4 => self.no_policy(namespace, &policy),
            _ => self.policy(namespace, &policy, lot.policy()),
        }
    }

    /// Takes in what changed; gives what that does to the kernel.
    fn settle(&mut self) -> Plan {
        let units = self.layer.settle();
        self.told = units.len();
        let plan = self.ledger.plan(&units).expect("units agree");
        self.ledger.commit(units);
        plan
    }

    fn kernel(&self) -> Kernel {
        Kernel::new(self.ledger.wanted(&place()))
    }

    fn check(&self, what: &str) {
        let kernel = self.kernel();
        let ends: Vec<Ipv4Addr> =
            (0..9).map(|n| Ipv4Addr::new(10, 40, if n < 6 { 1 } else { 2 }, n)).chain(OUTSIDE).collect();
        let targets =
            [("TCP", 80), ("TCP", 81), ("TCP", 86), ("TCP", 443), ("UDP", 80), ("UDP", 9), ("SCTP", 80), ("ICMP", 0)];
        for from in &ends {
            for to in &ends {
                for (protocol, port) in targets {
                    let packet = Packet { from: *from, to: *to, protocol, port };
                    let (expected, got) = (self.cluster.passes(&packet), kernel.passes(&packet));
                    if expected != got {
                        let policies = serde_json::to_string_pretty(
                            &self
                                .cluster
                                .policies
                                .iter()
                                .map(|((ns, n), spec)| json!({"name": format!("{ns}/{n}"), "spec": spec}))
                                .collect::<Vec<_>>(),
                        );
                        panic!(
                            "{what}: {packet:?} expected {expected}, got {got}\npods {:#?}\nnamespaces {:?}\n{}\n{kernel:#?}",
                            self.cluster.pods,
                            self.cluster.namespaces,
                            policies.unwrap()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn every_packet_fares_as_the_api_says_whatever_changes() {
    for seed in 1..=10 {
        let mut lot = Lot::new(seed);
        let mut world = World::populated(&mut lot);
        for step in 0..16 {
            for _ in 0..=lot.below(3) {
                world.change(&mut lot);
            }
            world.settle();
            world.check(&format!("seed {seed}, step {step}"));
        }
    }
}

#[test]
fn what_is_wanted_does_not_depend_on_the_way_to_it() {
    for seed in 1..=8 {
        let mut lot = Lot::new(seed);
        let mut world = World::populated(&mut lot);
        for _ in 0..60 {
            world.change(&mut lot);
            if lot.one_in(2) {
                world.settle();
            }
        }
        world.settle();
        let mut again = World::new();
        again.cluster = world.cluster.clone();
        for ((namespace, name), spec) in world.cluster.policies.iter().rev() {
            again.layer.policy(network_policy(namespace, name, spec).unwrap());
        }
        for (uid, pod) in world.cluster.pods.iter().rev() {
            again.tell(uid, pod);
        }
        for (name, labels) in &world.cluster.namespaces {
            again.layer.namespace(name.as_str().into(), Some(Arc::new(labels.clone())));
        }
        again.settle();
        assert_eq!(again.ledger.wanted(&place()), world.ledger.wanted(&place()), "seed {seed}");
    }
}

#[test]
fn nothing_is_left_of_policies_that_are_gone() {
    let mut lot = Lot::new(7);
    let mut world = World::populated(&mut lot);
    world.settle();
    let before = world.ledger.wanted(&place());
    for _ in 0..100 {
        world.policy(NAMESPACES[lot.below(2)], &format!("np{}", lot.below(20)), lot.policy());
        world.settle();
    }
    assert_ne!(world.ledger.wanted(&place()), before);
    for (namespace, name) in world.cluster.policies.clone().into_keys() {
        world.no_policy(&namespace, &name);
    }
    world.settle();
    assert_eq!(world.ledger.wanted(&place()), before);
}

/// A label of a peer that changes is one element, or a handful if nobody had such labels before; never a chain.
#[test]
fn a_label_change_touches_elements_of_its_own_and_no_rules() {
    let mut lot = Lot::new(3);
    let mut world = World::populated(&mut lot);
    for number in 0..6 {
        let from =
            json!([{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "a", "n": number.to_string()}}}]);
        world.policy(
            "x",
            &format!("np{number}"),
            json!({"podSelector": {}, "ingress": [{"from": from, "ports": [{"port": 80}]}]}),
        );
    }
    world.settle();
    world.cluster.pods.get_mut("p8").unwrap().labels =
        [("app".to_owned(), "a".to_owned()), ("n".to_owned(), "4".to_owned())].into();
    let pod = world.cluster.pods["p8"].clone();
    world.tell("p8", &pod);
    let plan = world.settle();
    let touched: Vec<String> = plan.ops().iter().map(ToString::to_string).collect();
    assert_eq!(touched.len(), 2, "{touched:#?}");
    assert!(touched.iter().all(|op| op.contains("element")), "{touched:#?}");
    world.check("after the label change");
}

/// A policy beside a larger one, for the same pods, adds and takes away what it says itself; the first and the last word of the larger one stay.
#[test]
fn a_small_policy_comes_and_goes_beside_a_large_one() {
    let mut lot = Lot::new(5);
    let mut world = World::populated(&mut lot);
    let ports: Vec<_> = (1000..1200)
        .map(|port| {
            let cidr = format!("203.0.{}.0/24", port % 200);
            json!({"ports": [{"port": port}], "from": [{"ipBlock": {"cidr": cidr}}]})
        })
        .collect();
    world.policy("x", "m-large", json!({"podSelector": {}, "ingress": ports}));
    world.settle();
    let before = world.ledger.wanted(&place());
    let from = json!([{"ipBlock": {"cidr": "198.51.100.0/24"}}]);
    let small = json!({"podSelector": {}, "ingress": [{"from": from, "ports": [{"port": 80}]}]});
    for name in ["a-small", "z-small"] {
        world.policy("x", name, small.clone());
        let came = world.settle();
        assert!(world.told < 5, "{name} came: {} units", world.told);
        world.check("beside a large one");
        world.no_policy("x", name);
        let went = world.settle();
        assert!(world.told < 5, "{name} went: {} units", world.told);
        for plan in [came, went] {
            let touched: Vec<String> = plan.ops().iter().map(ToString::to_string).collect();
            assert!(!touched.is_empty() && touched.len() < 10, "{name}: {} {touched:#?}", touched.len());
        }
        assert_eq!(world.ledger.wanted(&place()), before);
    }
}
