//! A cluster on paper: pods, namespaces and policies as Kubernetes' objects, changes to them by lot, and what the API's text says about
//! who reaches whom, written down as plainly as possible and without anything of the crate under test.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};

/// Numbers by lot, the same for the same seed (xorshift).
pub(crate) struct Lot(u64);

/// Pods, namespaces, policies.
#[derive(Clone, Default)]
pub(crate) struct Cluster {
    /// Labels by name.
    pub(crate) namespaces: BTreeMap<String, Labels>,
    /// By uid.
    pub(crate) pods: BTreeMap<String, Pod>,
    /// Specs by namespace and name.
    pub(crate) policies: BTreeMap<(String, String), Value>,
}

pub(crate) type Labels = BTreeMap<String, String>;

#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) labels: Labels,
    pub(crate) ip: Ipv4Addr,
    /// On the node under test.
    pub(crate) local: bool,
    /// (name, protocol, number)
    pub(crate) ports: Vec<(String, &'static str, u16)>,
}

/// A connection's first packet. Protocol "ICMP" has no port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    pub(crate) from: Ipv4Addr,
    pub(crate) to: Ipv4Addr,
    pub(crate) protocol: &'static str,
    pub(crate) port: u16,
}

pub(crate) const NAMESPACES: [&str; 2] = ["x", "y"];
const APPS: [&str; 3] = ["a", "b", "c"];
const TIERS: [&str; 2] = ["front", "back"];

// === impl Lot ===

impl Lot {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }

    pub(crate) fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    pub(crate) fn labels(&mut self) -> Labels {
        let mut labels = Labels::from([("app".to_owned(), (*self.of(&APPS)).to_owned())]);
        if self.one_in(2) {
            labels.insert("tier".into(), (*self.of(&TIERS)).to_owned());
        }
        labels
    }

    pub(crate) fn namespace_labels(&mut self, name: &str) -> Labels {
        let mut labels = Labels::from([("name".to_owned(), name.to_owned())]);
        if self.one_in(2) {
            labels.insert("team".into(), (*self.of(&["red", "blue"])).to_owned());
        }
        labels
    }

    fn selector(&mut self) -> Value {
        match self.below(6) {
            0 => json!({}),
            1 => json!({"matchLabels": {"app": self.of(&APPS), "tier": self.of(&TIERS)}}),
            2 => json!({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}),
            3 => json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", "b"]},
                {"key": "tier", "operator": "DoesNotExist"}]}),
            4 => json!({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["front"]}]}),
            _ => json!({"matchLabels": {"app": self.of(&APPS)}}),
        }
    }

    fn namespace_selector(&mut self) -> Value {
        match self.below(4) {
            0 => json!({}),
            1 => json!({"matchLabels": {"team": self.of(&["red", "blue"])}}),
            2 => json!({"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}),
            _ => json!({"matchLabels": {"name": self.of(&NAMESPACES)}}),
        }
    }

    fn peer(&mut self) -> Value {
        match self.below(6) {
            0 => json!({"podSelector": self.selector()}),
            1 => json!({"namespaceSelector": self.namespace_selector()}),
            2 | 3 => json!({"namespaceSelector": self.namespace_selector(), "podSelector": self.selector()}),
            4 => json!({"ipBlock": {"cidr": self.of(&["10.40.0.0/16", "10.40.1.0/29", "0.0.0.0/0", "203.0.113.0/24"]),
                "except": self.of(&[json!(["10.40.1.4/30", "10.40.1.6/32"]), json!(["10.40.2.0/24"]), json!([])])}}),
            _ => json!({"ipBlock": {"cidr": self.of(&["10.40.1.6/32", "203.0.113.7/32", "10.40.2.0/30"])}}),
        }
    }

    fn port(&mut self) -> Value {
        match self.below(9) {
            0 => json!({"port": 80}),
            1 => json!({"protocol": "TCP", "port": 81}),
            2 => json!({"protocol": "UDP", "port": 80}),
            3 => json!({"protocol": "SCTP", "port": 80}),
            4 => json!({"port": 80, "endPort": 90}),
            5 => json!({"port": 85, "endPort": 65535}),
            6 => json!({"port": "web"}),
            7 => json!({"protocol": "UDP", "port": "dns"}),
            _ => json!({"protocol": *self.of(&["TCP", "UDP", "SCTP"])}),
        }
    }

    /// A policy's spec.
    pub(crate) fn policy(&mut self) -> Value {
        let mut spec = json!({"podSelector": self.selector()});
        let (ingress, egress) = *self.of(&[(true, false), (false, true), (true, true)]);
        let some = |lot: &mut Self, most: usize, make: &dyn Fn(&mut Self) -> Value| -> Vec<Value> {
            (0..lot.below(most + 1)).map(|_| make(lot)).collect()
        };
        let rules = |lot: &mut Self, side: &'static str| {
            some(lot, 3, &|lot| {
                let mut rule = json!({});
                if !lot.one_in(4) {
                    rule[side] = some(lot, 2, &Self::peer).into();
                }
                if !lot.one_in(3) {
                    rule["ports"] = some(lot, 3, &Self::port).into();
                }
                rule
            })
        };
        if ingress {
            spec["ingress"] = rules(self, "from").into();
        }
        if egress {
            spec["egress"] = rules(self, "to").into();
        }
        if !self.one_in(3) {
            let types = [(ingress, "Ingress"), (egress, "Egress")].into_iter().filter(|(has, _)| *has);
            spec["policyTypes"] = types.map(|(_, kind)| kind).collect();
        }
        spec
    }
}

// === impl Cluster: what the API says ===

impl Cluster {
    /// Whether a packet passes the node under test, which judges only for its own pods.
    pub(crate) fn passes(&self, packet: &Packet) -> bool {
        if packet.from == packet.to {
            return true;
        }
        let (from, to) = (self.pod_at(packet.from), self.pod_at(packet.to));
        let sent = from.filter(|pod| pod.local).is_none_or(|pod| self.may(pod, "Egress", packet.to, to, packet));
        let taken = to.filter(|pod| pod.local).is_none_or(|pod| self.may(pod, "Ingress", packet.from, from, packet));
        sent && taken
    }

    fn pod_at(&self, ip: Ipv4Addr) -> Option<&Pod> {
        self.pods.values().find(|pod| pod.ip == ip)
    }

    fn may(&self, pod: &Pod, direction: &str, other_ip: Ipv4Addr, other: Option<&Pod>, packet: &Packet) -> bool {
        let (rules, side) = if direction == "Ingress" { ("ingress", "from") } else { ("egress", "to") };
        let mut isolated = false;
        for ((namespace, _), spec) in &self.policies {
            if *namespace != pod.namespace || !selected(&spec["podSelector"], &pod.labels) {
                continue;
            }
            let named = spec["policyTypes"].as_array().filter(|types| !types.is_empty());
            let concerned = match named {
                Some(types) => types.contains(&json!(direction)),
                None => direction == "Ingress" || !list(&spec["egress"]).is_empty(),
            };
            if !concerned {
                continue;
            }
            isolated = true;
            for rule in list(&spec[rules]) {
                let peers = list(&rule[side]);
                let ports = list(&rule["ports"]);
                let target = if direction == "Ingress" { Some(pod) } else { other };
                let from_one = peers.iter().any(|peer| self.is(peer, namespace, other_ip, other));
                let to_one = ports.iter().any(|port| leads(port, target, packet));
                if (peers.is_empty() || from_one) && (ports.is_empty() || to_one) {
                    return true;
                }
            }
        }
        !isolated
    }

    fn is(&self, peer: &Value, namespace: &str, ip: Ipv4Addr, pod: Option<&Pod>) -> bool {
        if let Some(block) = peer.get("ipBlock") {
            let within = |net: &Value| net.as_str().unwrap().parse::<ipnet::Ipv4Net>().unwrap().contains(&ip);
            return within(&block["cidr"]) && !list(&block["except"]).iter().any(within);
        }
        let Some(pod) = pod else { return false };
        let there = match peer.get("namespaceSelector") {
            Some(selector) => self.namespaces.get(&pod.namespace).is_some_and(|labels| selected(selector, labels)),
            None => pod.namespace == namespace,
        };
        there && peer.get("podSelector").is_none_or(|selector| selected(selector, &pod.labels))
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn selected(selector: &Value, labels: &Labels) -> bool {
    let mut same = selector["matchLabels"].as_object().into_iter().flatten();
    same.all(|(key, value)| labels.get(key).map(String::as_str) == value.as_str())
        && list(&selector["matchExpressions"]).iter().all(|one| {
            let value = labels.get(one["key"].as_str().unwrap());
            let listed = list(&one["values"]).iter().any(|item| item.as_str() == value.map(String::as_str));
            match one["operator"].as_str().unwrap() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                _ => value.is_none(),
            }
        })
}

fn leads(port: &Value, target: Option<&Pod>, packet: &Packet) -> bool {
    let protocol = port["protocol"].as_str().unwrap_or("TCP");
    if protocol != packet.protocol {
        return false;
    }
    match &port["port"] {
        Value::Null => true,
        Value::String(name) => target
            .is_some_and(|pod| pod.ports.iter().any(|one| one.0 == *name && one.1 == protocol && one.2 == packet.port)),
        first => {
            let first = first.as_u64().unwrap();
            (first..=port["endPort"].as_u64().unwrap_or(first)).contains(&u64::from(packet.port))
        }
    }
}

pub(crate) fn ip(address: Ipv4Addr) -> IpAddr {
    address.into()
}
