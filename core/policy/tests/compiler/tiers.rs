//! Rules of all tiers by lot, against the order read out literally.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use switchyard_netstate::{Ledger, Place};
use switchyard_policy::{
    Action, Direction, Labels, Layer, Namespaces, Numbers, Peer, Pod, PodGroup, Policy, Port, Protocol, Rule, Selector,
    Tier, counter_chain,
};

use super::common::{Lot, Packet};
use super::paper::Kernel;

const TIERS: [Tier; 4] = [Tier::Emergency, Tier::Infrastructure, Tier::Environment, Tier::Application];
const ACTIONS: [Action; 4] = [Action::Accept, Action::Drop, Action::Reject, Action::Pass];

fn place() -> Place {
    Place::node("n1")
}

fn pod(number: u8, lot: &mut Lot) -> Pod {
    Pod {
        uid: format!("p{number}").into(),
        namespace: "x".into(),
        labels: Arc::new(lot.labels()),
        address: Ipv4Addr::new(10, 40, 1, number).into(),
        ports: Arc::new([]),
        local: number < 5,
    }
}

fn group(lot: &mut Lot) -> PodGroup {
    let labels = match lot.below(4) {
        0 => Selector::default(),
        n => Selector::label("app", ["a", "b", "c"][n - 1]),
    };
    PodGroup { namespaces: Namespaces::All, labels }
}

fn policy(name: usize, lot: &mut Lot) -> Policy {
    let rules = (0..lot.below(4)).map(|_| {
        let port = |lot: &mut Lot| Port {
            protocol: Protocol::Tcp,
            numbers: [Numbers::All, Numbers::Range(80, 80), Numbers::Range(80, 90), Numbers::Range(85, 443)]
                [lot.below(4)]
            .clone(),
        };
        let peer = |lot: &mut Lot| match lot.below(3) {
            0 => Peer::Block { cidr: "10.40.1.4/30".parse().unwrap(), except: vec!["10.40.1.6/32".parse().unwrap()] },
            _ => Peer::Pods(group(lot)),
        };
        Rule {
            direction: [Direction::Ingress, Direction::Egress][lot.below(2)],
            action: ACTIONS[lot.below(4)],
            peers: (0..lot.below(3)).map(|_| peer(lot)).collect(),
            ports: (0..lot.below(3)).map(|_| port(lot)).collect(),
            counter: lot.one_in(2).then(|| format!("rule {}", lot.below(9))),
        }
    });
    let rules = rules.collect();
    let otherwise = |lot: &mut Lot| lot.one_in(3).then(|| ACTIONS[lot.below(3)]);
    Policy {
        name: format!("p{name}"),
        tier: TIERS[lot.below(4)],
        priority: name as u32,
        subjects: vec![group(lot)],
        rules,
        otherwise_ingress: otherwise(lot),
        otherwise_egress: otherwise(lot),
    }
}

/// The order, read out.
fn passes(policies: &[Policy], pods: &[Pod], packet: &Packet) -> bool {
    let at = |ip: Ipv4Addr| pods.iter().find(|pod| pod.address == ip);
    let (from, to) = (at(packet.from), at(packet.to));
    if packet.from == packet.to {
        return true;
    }
    let judge = |subject: &Pod, direction: Direction, other: Ipv4Addr| -> bool {
        let mut mine: Vec<&Policy> =
            policies.iter().filter(|policy| policy.subjects.iter().any(|group| holds(group, subject))).collect();
        mine.sort_by_key(|policy| (policy.tier, policy.priority));
        let mut passed = None;
        for policy in mine {
            let rules =
                policy.rules.iter().filter(|rule| rule.direction == direction && fits(rule, other, at(other), packet));
            let actions = rules.map(|rule| rule.action).chain(policy.otherwise(direction));
            for action in actions {
                match action {
                    _ if passed == Some(policy.tier) => {}
                    Action::Accept => return true,
                    Action::Pass => passed = Some(policy.tier),
                    Action::Drop | Action::Reject => return false,
                }
            }
        }
        true
    };
    from.filter(|pod| pod.local).is_none_or(|pod| judge(pod, Direction::Egress, packet.to))
        && to.filter(|pod| pod.local).is_none_or(|pod| judge(pod, Direction::Ingress, packet.from))
}

fn holds(group: &PodGroup, pod: &Pod) -> bool {
    let labels: &Labels = &pod.labels;
    group.labels.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value))
}

fn fits(rule: &Rule, other: Ipv4Addr, pod: Option<&Pod>, packet: &Packet) -> bool {
    let from_one = rule.peers.iter().any(|peer| match peer {
        Peer::Pods(group) => pod.is_some_and(|pod| holds(group, pod)),
        Peer::Block { cidr, except } => {
            cidr.contains(&std::net::IpAddr::from(other))
                && !except.iter().any(|one| one.contains(&std::net::IpAddr::from(other)))
        }
    });
    let to_one = rule.ports.iter().any(|port| {
        packet.protocol == "TCP"
            && match port.numbers {
                Numbers::All => true,
                Numbers::Range(from, to) => (from..=to).contains(&packet.port),
                Numbers::Named(_) => false,
            }
    });
    (rule.peers.is_empty() || from_one) && (rule.ports.is_empty() || to_one)
}

#[test]
fn rules_of_all_tiers_are_asked_in_their_order() {
    for seed in 1..=60 {
        let mut lot = Lot::new(seed);
        let mut layer = Layer::new(place());
        let pods: Vec<Pod> = (0..8).map(|number| pod(number, &mut lot)).collect();
        let policies: Vec<Policy> = (0..lot.below(7)).map(|name| policy(name, &mut lot)).collect();
        pods.iter().for_each(|pod| layer.pod(pod.clone()));
        policies.iter().for_each(|policy| assert!(layer.policy(policy.clone())));
        let mut ledger = Ledger::default();
        ledger.commit(layer.settle());
        let kernel = Kernel::new(ledger.wanted(&place()));
        for from in 0..9 {
            for to in 0..9 {
                for (protocol, port) in
                    [("TCP", 80), ("TCP", 82), ("TCP", 87), ("TCP", 443), ("TCP", 444), ("UDP", 80), ("ICMP", 0)]
                {
                    let [from, to] = [from, to].map(|n| Ipv4Addr::new(10, 40, 1, n));
                    let packet = Packet { from, to, protocol, port };
                    let expected = passes(&policies, &pods, &packet);
                    assert_eq!(
                        kernel.passes(&packet),
                        expected,
                        "seed {seed}: {packet:?}\n{policies:#?}\n{pods:#?}\n{kernel:#?}"
                    );
                }
            }
        }
    }
}

#[test]
fn policies_of_all_tiers_come_change_and_go_and_leave_what_the_others_want() {
    for seed in 1..=20 {
        let mut lot = Lot::new(seed);
        let pods: Vec<Pod> = (0..8).map(|number| pod(number, &mut lot)).collect();
        let told = |policies: &BTreeMap<usize, Policy>| {
            let mut layer = Layer::new(place());
            pods.iter().for_each(|pod| layer.pod(pod.clone()));
            for policy in policies.values() {
                layer.policy(policy.clone());
            }
            layer
        };
        let (mut policies, mut ledger) = (BTreeMap::new(), Ledger::default());
        let mut layer = told(&policies);
        for step in 0..20 {
            for name in (0..=lot.below(2)).map(|_| lot.below(7)).collect::<Vec<_>>() {
                match lot.one_in(3) {
                    true => {
                        policies.remove(&name);
                        layer.policy_gone(&format!("p{name}"));
                    }
                    false => {
                        // Several of one priority say something otherwise.
                        let policy = Policy { priority: (name / 3) as u32, ..policy(name, &mut lot) };
                        layer.policy(policy.clone());
                        policies.insert(name, policy);
                    }
                }
            }
            ledger.commit(layer.settle());
            let mut again = Ledger::default();
            again.commit(told(&policies).settle());
            assert_eq!(ledger.wanted(&place()), again.wanted(&place()), "seed {seed}, step {step}");
        }
    }
}

#[test]
fn a_counter_has_a_chain_of_its_own_for_each_action() {
    let mut lot = Lot::new(1);
    let mut layer = Layer::new(place());
    layer.pod(pod(1, &mut lot));
    let rule = |action| Rule {
        direction: Direction::Ingress,
        action,
        peers: vec![],
        ports: vec![],
        counter: Some("web from anywhere".into()),
    };
    let mut one = policy(1, &mut lot);
    one.subjects = vec![PodGroup { namespaces: Namespaces::All, labels: Selector::default() }];
    one.rules = vec![rule(Action::Accept), rule(Action::Drop)];
    layer.policy(one);
    let mut ledger = Ledger::default();
    ledger.commit(layer.settle());
    let wanted: Vec<String> = ledger.wanted(&place()).iter().map(|(key, _)| key.to_string()).collect();
    for action in [Action::Accept, Action::Drop] {
        let chain = counter_chain("web from anywhere", action);
        assert!(wanted.iter().any(|key| key.ends_with(&chain)), "{chain} in {wanted:#?}");
    }
}
