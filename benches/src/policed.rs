//! A node with a sender, a receiver, and this many rules for the receiver, under the tables that the policy layer writes.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use switchyard_kernel::{Engine, Netns, Owner, Places};
use switchyard_kubenet::Kubenet;
use switchyard_netstate::{Address, IfName, Link, LinkKind, Object, Place, Sysctl, UnitId};
use switchyard_plugin::{Facts, NetworkPlugin as _, NodeFacts, Options, PodFacts};
use switchyard_policy::{Labels, Layer, Pod, Policy, network_policy};

use crate::load::Pair;

/// A node in namespaces of its own.
pub struct Policed {
    engine: Engine,
    layer: Layer,
    sender: UdpSocket,
    /// The next port to send to.
    port: u16,
    /// How many rules the receiver has.
    pub rules: usize,
}

/// How many rules there are.
pub const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];
/// Pods of the cluster that rules may speak of.
const PEERS: u16 = 1_000;
const RULES_A_POLICY: usize = 10;
const SENDER: Ipv4Addr = Ipv4Addr::new(10, 40, 1, 5);
const RECEIVER: Ipv4Addr = Ipv4Addr::new(10, 40, 1, 6);
const ENDS: [(&str, Ipv4Addr); 2] = [("sender", SENDER), ("receiver", RECEIVER)];
const FIRST_PORT: u16 = 1024;

/// A policy of ten rules, each for peers and a port of its own; half of the peers are pods, half blocks. The first one also lets
/// the sender in.
pub fn policy(number: usize) -> Policy {
    let rules = (0..RULES_A_POLICY).map(|rule| {
        let id = number * RULES_A_POLICY + rule;
        let peer = match id % 2 {
            0 => json!({"podSelector": {"matchLabels": {"group": (id % usize::from(PEERS)).to_string()}}}),
            _ => json!({"ipBlock": {"cidr": format!("172.{}.{}.{}/30", 16 + id / 16384, id / 64 % 256, id % 64 * 4)}}),
        };
        json!({"from": [peer], "ports": [{"port": usize::from(FIRST_PORT) + id}]})
    });
    let mut spec = json!({"podSelector": {"matchLabels": {"group": "receiver"}}, "ingress": rules.collect::<Vec<_>>()});
    if number == 0 {
        let from = json!([{"podSelector": {"matchLabels": {"group": "sender"}}}]);
        let all = json!({"from": from, "ports": [{"protocol": "UDP"}, {"protocol": "TCP"}]});
        spec["ingress"].as_array_mut().expect("rules").push(all);
    }
    network_policy("x", &format!("np{number}"), &spec).expect("a good policy")
}

/// Policies that hold so many rules.
pub fn policies(rules: usize) -> impl Iterator<Item = Policy> {
    (0..rules / RULES_A_POLICY).map(policy)
}

/// A node's layer with the sender, the receiver and a thousand pods elsewhere, and no policies.
pub fn layer() -> Layer {
    let mut layer = Layer::new(Place::node("n1"));
    layer.namespace("x".into(), Some(Arc::default()));
    for (name, ip) in ENDS {
        layer.pod(pod(name, ip, name, true));
    }
    for number in 0..PEERS {
        let [high, low] = number.to_be_bytes();
        layer.pod(pod(&format!("p{number}"), Ipv4Addr::new(10, 40, 8 + high, low), &number.to_string(), false));
    }
    layer
}

fn pod(uid: &str, address: Ipv4Addr, group: &str, local: bool) -> Pod {
    let labels = Arc::new(Labels::from([("group".to_owned(), group.to_owned())]));
    Pod { uid: uid.into(), namespace: "x".into(), labels, address: address.into(), ports: Arc::new([]), local }
}

// === impl Policed ===

impl Policed {
    /// Makes one.
    pub fn new(rules: usize) -> Self {
        let mut engine = furnished();
        let mut layer = layer();
        for policy in policies(rules) {
            layer.policy(policy);
        }
        engine.apply(layer.settle()).expect("policies");
        let place = engine.places().get(&Place::pod("sender")).expect("the sender");
        let sender = place.run(|| UdpSocket::bind("0.0.0.0:0")).expect("enter the sender").expect("a socket");
        Self { engine, layer, sender, port: FIRST_PORT, rules }
    }

    /// Tells the kernel what the layer has been told.
    pub fn settle(&mut self) {
        self.engine.apply(self.layer.settle()).expect("policies");
    }

    /// A pod elsewhere gets another label, one of two in turn.
    pub fn relabel(&mut self, turn: usize) {
        self.layer.pod(pod("p7", Ipv4Addr::new(10, 40, 8, 7), &(turn % 2 * 500).to_string(), false));
        self.settle();
    }

    /// A pod of this node comes and goes.
    pub fn pod_comes_and_goes(&mut self) {
        self.layer.pod(pod("new", Ipv4Addr::new(10, 40, 1, 77), "3", true));
        self.settle();
        self.layer.pod_gone("new");
        self.settle();
    }

    /// A policy of ten rules comes and goes.
    pub fn policy_comes_and_goes(&mut self) {
        let new = policy(1_000);
        let name = new.name.clone();
        self.layer.policy(new);
        self.settle();
        self.layer.policy_gone(&name);
        self.settle();
    }

    /// A TCP connection from the sender to the receiver.
    pub fn connect(&self) -> anyhow::Result<Pair> {
        let end = |name: &str| self.engine.places().get(&Place::pod(name)).expect("made in new");
        Pair::connect(end("sender"), (end("receiver"), RECEIVER.into()))
    }

    /// Sends the first packet of so many connections, each of which is judged. Nanoseconds each.
    pub fn first_packets(&mut self, count: u32) -> f64 {
        let begun = Instant::now();
        for _ in 0..count {
            self.port = self.port.checked_add(1).unwrap_or(FIRST_PORT);
            // Nobody listens: once told so, the socket fails now and then, and has sent all the same.
            let _ = self.sender.send_to(b"x", SocketAddr::from((RECEIVER, self.port)));
        }
        begun.elapsed().as_secs_f64() * 1e9 / f64::from(count)
    }

    /// Round trips over a new connection. Microseconds each.
    pub fn round_trips(&self, lasting: Duration) -> anyhow::Result<f64> {
        Ok(1e6 / self.connect()?.round_trips(lasting)?)
    }

    /// A bulk transfer over a new connection. Gbit/s.
    pub fn gigabits(&self, lasting: Duration) -> anyhow::Result<f64> {
        self.connect()?.gigabits(lasting)
    }
}

/// A node with its two pods on kubenet's bridge, and no table yet.
fn furnished() -> Engine {
    let mut places = Places::new();
    let node = Place::node("n1");
    for place in [node.clone(), Place::pod("sender"), Place::pod("receiver")] {
        places.add(place, Netns::create().expect("a network namespace"));
    }
    let mut engine = Engine::new(Owner { protocol: 83 }, places);
    let kubenet = Kubenet::new(&Options::new()).expect("no options");
    let facts: Facts = serde_json::from_value(json!({
        "cluster": "bench", "podCidr": "10.40.0.0/16", "serviceCidr": "10.96.0.0/16", "underlayCidr": "10.140.0.0/24",
        "underlayGateway": "10.140.0.1", "underlayMtu": 1500}))
    .expect("facts");
    let own: NodeFacts = serde_json::from_value(
        json!({"name": "n1", "address": "10.140.0.11", "podCidr": "10.40.1.0/24", "uplink": "eth0"}),
    )
    .expect("facts of a node");
    let mut whole = kubenet.node(&facts, &own);
    let eth0 = IfName::new("eth0").expect("a name");
    let uplink = Link::new(eth0.clone(), LinkKind::Bridge { multicast_snooping: false });
    let address = Address { dev: eth0, address: "10.140.0.11/24".parse().expect("an address"), noprefixroute: false };
    whole.want_all(&node, [Object::Link(uplink), Object::Address(address)]);
    whole.want(&node, Object::Sysctl(Sysctl { path: "net/ipv4/ip_forward".into(), value: "1".into() }));
    engine.set(UnitId("node".into()), whole).expect("the node");
    for (name, ip) in ENDS {
        let told: PodFacts =
            serde_json::from_value(json!({"uid": name, "namespace": "x", "name": name, "ip": ip})).expect("facts");
        engine.set(UnitId(format!("pod/{name}")), kubenet.pod(&facts, &own, &told)).expect(name);
    }
    engine
}
