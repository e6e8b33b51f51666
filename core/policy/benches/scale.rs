//! What policies cost as they become many: per packet, and per change.
//!
//! Two nodes with two pods each in namespaces of their own, one with 10 rules and one with 10,000; the same packets on both, in turns,
//! and the ratio of the medians. Changes are timed at each size, from what is told to the layer to the kernel's acknowledgement.

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion};
use switchyard_kernel::{Engine, Netns, Owner, Places};
use switchyard_kubenet::Kubenet;
use switchyard_netstate::{Address, IfName, Link, LinkKind, Object, Place, Sysctl, UnitId};
use switchyard_plugin::{Facts, NetworkPlugin as _, NodeFacts, Options, PodFacts};
use switchyard_policy::{Labels, Layer, Pod, network_policy};

const INSIDE: &str = "SWITCHYARD_BENCH_INSIDE";
const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];
/// Packets between two looks at the clock.
const BATCH: usize = 500;

/// A node with a sender and a receiver, and this many rules for the receiver.
struct World {
    engine: Engine,
    layer: Layer,
    sender: UdpSocket,
    rules: usize,
    /// The next port to send to.
    port: u16,
}

const SENDER: Ipv4Addr = Ipv4Addr::new(10, 40, 1, 5);
const RECEIVER: Ipv4Addr = Ipv4Addr::new(10, 40, 1, 6);

fn labels(pairs: &[(&str, String)]) -> Arc<Labels> {
    Arc::new(pairs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect())
}

fn pod(uid: &str, address: Ipv4Addr, group: usize, local: bool) -> Pod {
    let labels = labels(&[("group", group.to_string())]);
    Pod { uid: uid.into(), namespace: "x".into(), labels, address: address.into(), ports: Arc::new([]), local }
}

/// A policy of ten rules, each for peers and a port of its own; half of the peers are pods, half blocks.
fn policy(number: usize) -> switchyard_policy::Policy {
    let rules = (0..10).map(|rule| {
        let id = number * 10 + rule;
        let peer = match id % 2 {
            0 => serde_json::json!({"podSelector": {"matchLabels": {"group": (id % 1000).to_string()}}}),
            _ => serde_json::json!({"ipBlock": {"cidr": format!("172.{}.{}.{}/30", 16 + id / 16384, id / 64 % 256, id % 64 * 4)}}),
        };
        serde_json::json!({"from": [peer], "ports": [{"port": 1024 + id}]})
    });
    let mut spec = serde_json::json!({"podSelector": {"matchLabels": {"group": "receiver"}}, "ingress": rules.collect::<Vec<_>>()});
    if number == 0 {
        let all = serde_json::json!({"from": [{"podSelector": {"matchLabels": {"group": "sender"}}}], "ports": [{"protocol": "UDP"}]});
        spec["ingress"].as_array_mut().expect("rules").push(all);
    }
    network_policy("x", &format!("np{number}"), &spec).expect("a good policy")
}

// === impl World ===

impl World {
    fn new(rules: usize) -> Self {
        let mut places = Places::new();
        let (node, places_of) = (Place::node("n1"), ["sender", "receiver"].map(Place::pod));
        for place in [&node].into_iter().chain(&places_of) {
            places.add(place.clone(), Netns::create().expect("a namespace"));
        }
        let mut engine = Engine::new(Owner { protocol: 83 }, places);
        let kubenet = Kubenet::new(&Options::new()).expect("no options");
        let facts = Facts {
            cluster: "bench".into(),
            pod_cidr: "10.40.0.0/16".parse().unwrap(),
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            underlay_cidr: "10.140.0.0/24".parse().unwrap(),
            underlay_gateway: "10.140.0.1".parse().unwrap(),
            underlay_mtu: 1500,
        };
        let eth0 = IfName::new("eth0").unwrap();
        let own = NodeFacts {
            name: "n1".into(),
            address: "10.140.0.11".parse().unwrap(),
            pod_cidr: "10.40.1.0/24".parse().unwrap(),
            uplink: eth0.clone(),
            mac: None,
            edge: None,
        };
        let mut whole = kubenet.node(&facts, &own);
        let uplink = Link::new(eth0.clone(), LinkKind::Bridge { multicast_snooping: false });
        let address = Address { dev: eth0, address: "10.140.0.11/24".parse().unwrap(), noprefixroute: false };
        whole.want_all(&node, [Object::Link(uplink), Object::Address(address)]);
        whole.want(&node, Object::Sysctl(Sysctl { path: "net/ipv4/ip_forward".into(), value: "1".into() }));
        engine.set(UnitId("node".into()), whole).expect("the node");
        for (name, ip) in [("sender", SENDER), ("receiver", RECEIVER)] {
            let told = PodFacts {
                uid: name.into(),
                namespace: "x".into(),
                name: name.into(),
                labels: Labels::new(),
                ip: ip.into(),
                segment: None,
            };
            engine.set(UnitId(format!("pod/{name}")), kubenet.pod(&facts, &own, &told)).expect(name);
        }
        let mut layer = Layer::new(node);
        layer.namespace("x".into(), Some(labels(&[])));
        for (name, ip) in [("sender", SENDER), ("receiver", RECEIVER)] {
            let labels = labels(&[("group", name.to_owned())]);
            layer.pod(Pod {
                uid: name.into(),
                namespace: "x".into(),
                labels,
                address: ip.into(),
                ports: Arc::new([]),
                local: true,
            });
        }
        for number in 0..1000u16 {
            let [high, low] = number.to_be_bytes();
            layer.pod(pod(&format!("p{number}"), Ipv4Addr::new(10, 40, 8 + high, low), number.into(), false));
        }
        for number in 0..rules / 10 {
            layer.policy(policy(number));
        }
        let within = |place: &Place, work: fn() -> UdpSocket| engine.places().get(place).unwrap().run(work).unwrap();
        let sender = within(&places_of[0], || UdpSocket::bind("0.0.0.0:0").unwrap());
        let mut world = Self { engine, layer, sender, rules, port: 1024 };
        world.settle();
        world
    }

    fn settle(&mut self) {
        self.engine.apply(self.layer.settle()).expect("policies");
    }

    /// Sends packets of one connection.
    fn established(&mut self) -> Duration {
        let to = SocketAddr::from((RECEIVER, 9));
        let begun = Instant::now();
        for _ in 0..BATCH {
            let _ = black_box(self.sender.send_to(b"x", to));
        }
        begun.elapsed()
    }

    /// Sends the first packet of as many connections, each of which is judged.
    fn first_packets(&mut self) -> Duration {
        let begun = Instant::now();
        for _ in 0..BATCH {
            self.port = self.port.checked_add(1).unwrap_or(1024);
            let _ = black_box(self.sender.send_to(b"x", SocketAddr::from((RECEIVER, self.port))));
        }
        begun.elapsed()
    }
}

/// Median of what a few against many rules cost, taken in turns.
fn ratio(few: &mut World, many: &mut World, measure: fn(&mut World) -> Duration) -> (f64, f64) {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..200 {
        times[0].push(measure(few));
        times[1].push(measure(many));
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64() * 1e9 / BATCH as f64
    };
    let [a, b] = &mut times;
    (median(a), median(b))
}

fn packets() {
    let (mut few, mut many) = (World::new(SIZES[0]), World::new(SIZES[3]));
    for (what, measure) in [
        ("packet of a connection", World::established as fn(&mut World) -> Duration),
        ("first packet of a connection", World::first_packets),
    ] {
        let (a, b) = ratio(&mut few, &mut many, measure);
        println!("{what}: {a:.0} ns with {} rules, {b:.0} ns with {}, ratio {:.3}", few.rules, many.rules, b / a);
    }
}

fn changes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("change");
    group.sample_size(20).measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
    for size in SIZES {
        let mut world = World::new(size);
        let mut turn = 0;
        group.bench_function(BenchmarkId::new("label of a peer", size), |bench| {
            bench.iter(|| {
                turn += 1;
                world.layer.pod(pod("p7", Ipv4Addr::new(10, 40, 8, 7), turn % 2 * 500, false));
                world.settle();
            });
        });
        group.bench_function(BenchmarkId::new("a pod comes and goes", size), |bench| {
            bench.iter(|| {
                world.layer.pod(pod("new", Ipv4Addr::new(10, 40, 1, 77), 3, true));
                world.settle();
                world.layer.pod_gone("new");
                world.settle();
            });
        });
        group.bench_function(BenchmarkId::new("a policy comes and goes", size), |bench| {
            bench.iter(|| {
                world.layer.policy(policy(1000));
                world.settle();
                world.layer.policy_gone("networkpolicy/x/np1000");
                world.settle();
            });
        });
    }
    group.finish();
}

fn main() {
    if std::env::var_os(INSIDE).is_none() {
        // In namespaces of its own, as root there whoever runs it here.
        let mut inside = Command::new("unshare");
        inside
            .args(["--user", "--map-root-user", "--net", "--mount", "--"])
            .arg(std::env::current_exe().expect("a path"));
        let status =
            inside.args(std::env::args_os().skip(1)).env(INSIDE, "1").status().expect("run unshare of util-linux");
        std::process::exit(status.code().unwrap_or(1));
    }
    let testing = std::env::args().any(|argument| argument == "--test");
    if !testing {
        packets();
    }
    let mut criterion = Criterion::default().configure_from_args();
    changes(&mut criterion);
    criterion.final_summary();
}
