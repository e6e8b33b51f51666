//! Two nodes on an upstream device, each part with an engine of its own as in life, and pods that any network may carry.
//!
//! ```text
//! router 10.140.0.1 ┬── n1 10.140.0.11: pods a 10.40.1.5, b 10.40.1.6, foreign f 10.40.2.77
//!                   └── n2 10.140.0.12: pod c 10.40.2.7, foreign g 10.40.9.9
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;
use switchyard_kernel::{Engine, Error, Netns, Owner, Places};
use switchyard_netstate::{Fragment, IfName, Place, UnitId};
use switchyard_plugin::{Facts, NodeFacts, PodFacts};
use switchyard_plugin_host::{Hosting, Plugin, Registry};

/// What the units of one part want.
pub(crate) type Units = BTreeMap<UnitId, Option<Fragment>>;

/// The cluster. No network is in it at first.
pub(crate) struct Cluster {
    /// The hardware, and the places of everybody, to look at.
    pub(crate) lab: Engine,
    /// Router and agents.
    pub(crate) parts: BTreeMap<&'static str, Engine>,
}

/// A network that could carry it.
pub(crate) type Network = Arc<dyn Plugin>;

/// A pod: its name, its node's, its address.
pub(crate) type Pod = (&'static str, &'static str, &'static str);

pub(crate) const PODS: [Pod; 5] = [
    ("a", "n1", "10.40.1.5"),
    ("b", "n1", "10.40.1.6"),
    ("c", "n2", "10.40.2.7"),
    ("f", "n1", "10.40.2.77"),
    ("g", "n2", "10.40.9.9"),
];
const NODES: [(&str, &str, &str); 2] = [("n1", "10.140.0.11", "10.40.1.0/24"), ("n2", "10.140.0.12", "10.40.2.0/24")];
const PARTS: [&str; 3] = ["router", "n1", "n2"];

// === impl Cluster ===

impl Cluster {
    /// Hardware only.
    pub(crate) fn build() -> Self {
        let mut all = BTreeMap::from([(Place::Router, Netns::create().unwrap())]);
        all.extend(NODES.map(|(node, ..)| (Place::node(node), Netns::create().unwrap())));
        all.extend(PODS.map(|(pod, ..)| (Place::pod(pod), Netns::create().unwrap())));
        let places = |mine: &dyn Fn(&Place) -> bool| {
            let mut places = Places::new();
            for (place, netns) in all.iter().filter(|(place, _)| mine(place)) {
                places.add(place.clone(), netns.try_clone().unwrap());
            }
            places
        };
        let mut lab = Engine::new(Owner { protocol: 84 }, places(&|_| true));
        lab.set(UnitId("hardware".into()), hardware()).unwrap();
        let part = |name: &'static str| {
            let mine = move |place: &Place| match place {
                Place::Router => name == "router",
                Place::Node(node) => node == name,
                Place::Pod(pod) => PODS.iter().any(|(this, on, _)| this == pod && *on == name),
                Place::Extra { .. } => false,
            };
            (name, Engine::new(Owner { protocol: if name == "router" { 85 } else { 83 } }, places(&mine)))
        };
        Self { lab, parts: PARTS.map(part).into() }
    }

    /// A cluster with this network.
    pub(crate) fn with(network: &Network, facts: &Facts) -> Self {
        let mut cluster = Self::build();
        for (part, units) in wishes(network, facts) {
            cluster.part(part).apply(units).unwrap_or_else(|error| panic!("{part}: {error}"));
        }
        cluster
    }

    pub(crate) fn part(&mut self, part: &str) -> &mut Engine {
        self.parts.get_mut(part).expect("a part of this cluster")
    }

    /// From one network to another, one part after the other in each phase, as far apart as parts can ever be. `between` is
    /// called after every step.
    pub(crate) fn swap(&mut self, to: &Network, facts: &Facts, mut between: impl FnMut(&str)) {
        type Step = fn(&mut Engine) -> Result<(), Error>;
        for (part, units) in wishes(to, facts) {
            self.part(part).prepare(units).unwrap_or_else(|error| panic!("prepare {part}: {error}"));
            between(&format!("{part} prepared"));
        }
        // The router knows the new ways before a node forgets an old one, and forgets its own last.
        let steps: [(&str, Step, [&'static str; 3]); 3] = [
            ("switch", Engine::switch, ["router", "n1", "n2"]),
            ("withdraw", Engine::withdraw, ["n1", "n2", "router"]),
            ("clean", Engine::clean, ["n1", "n2", "router"]),
        ];
        for (name, step, order) in steps {
            for part in order {
                step(self.part(part)).unwrap_or_else(|error| panic!("{name} {part}: {error}"));
                between(&format!("{part}: {name} done"));
            }
        }
    }

    /// What the kernel holds in every place.
    pub(crate) fn state(&self) -> String {
        let places: Vec<Place> = self.lab.places().iter().map(|(place, _)| place.clone()).collect();
        super::world::state(&self.lab, &places)
    }

    /// Does something inside a place.
    pub(crate) fn inside<T: Send>(&self, place: &Place, work: impl FnOnce() -> T + Send) -> T {
        self.lab.places().get(place).expect("a place of this cluster").run(work).expect("enter a namespace")
    }

    /// A counter of `/proc/net/snmp`, over all places: `Tcp RetransSegs`.
    pub(crate) fn counter(&self, protocol: &str, name: &str) -> u64 {
        let read = |(_, netns): (&Place, &Arc<Netns>)| {
            let text = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap()).unwrap();
            let mut lines = text.lines().filter(|line| line.starts_with(&format!("{protocol}: ")));
            let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
            let mut pairs = names.split(' ').zip(values.split(' '));
            let (_, value) = pairs.find(|(this, _)| *this == name).expect("a counter");
            value.parse::<u64>().expect("a number")
        };
        self.lab.places().iter().map(read).sum()
    }
}

/// A network of this name with these options, opened from its file.
pub(crate) fn network(name: &str, options: Value) -> Network {
    let built = std::env::current_exe().unwrap().parent().expect("a folder").to_owned();
    let options = options.as_object().expect("options");
    Registry::new(vec![built]).open(name, options, Hosting::InProcess).unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn address_of(pod: &str) -> IpAddr {
    let (.., ip) = PODS.iter().find(|(name, ..)| *name == pod).expect("a pod of this cluster");
    ip.parse().unwrap()
}

pub(crate) fn facts() -> Facts {
    Facts {
        cluster: "test".into(),
        pod_cidr: "10.40.0.0/16".parse().unwrap(),
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        underlay_cidr: "10.140.0.0/24".parse().unwrap(),
        underlay_gateway: "10.140.0.1".parse().unwrap(),
        underlay_mtu: 1500,
    }
}

/// All that a network says about this cluster, part by part.
fn wishes(network: &Network, facts: &Facts) -> BTreeMap<&'static str, Units> {
    let mut wishes: BTreeMap<&'static str, Units> = BTreeMap::new();
    let mut want = |part, unit: String, fragment| {
        wishes.entry(part).or_default().insert(UnitId(unit), Some(fragment));
    };
    for (name, ..) in NODES {
        let node = node_facts(name);
        want("router", format!("underlay/{name}"), network.underlay(facts, &node).unwrap());
        want(name, "node".into(), network.node(facts, &node).unwrap());
        for peer in NODES.iter().filter(|(peer, ..)| *peer != name).map(|(peer, ..)| node_facts(peer)) {
            want(name, format!("peer/{}", peer.name), network.peer(facts, &node, &peer).unwrap());
        }
        for (pod, on, ip) in PODS {
            let pod = pod_facts(pod, ip);
            let host = node_facts(on);
            if on == name {
                want(name, format!("pod/{}", pod.uid), network.pod(facts, &node, &pod).unwrap());
            } else if !host.pod_cidr.contains(&pod.ip) {
                want(name, format!("remote/{}", pod.uid), network.remote(facts, &node, &host, &pod).unwrap());
            }
        }
    }
    wishes
}

fn node_facts(name: &str) -> NodeFacts {
    let (name, address, block) = NODES.into_iter().find(|(this, ..)| *this == name).expect("a node of this cluster");
    NodeFacts {
        name: name.into(),
        address: address.parse().unwrap(),
        pod_cidr: block.parse().unwrap(),
        uplink: IfName::new("eth0").unwrap(),
        mac: None,
        mtu: None,
        edge: None,
    }
}

fn pod_facts(name: &str, ip: &str) -> PodFacts {
    let (uid, namespace, name) = (name.to_owned(), "default".to_owned(), name.to_owned());
    PodFacts { uid, namespace, name, labels: BTreeMap::new(), ip: ip.parse().unwrap(), segment: None }
}

/// The upstream device with a card in every node.
fn hardware() -> Fragment {
    let router = r#"{"router": [
        {"kind":"link","name":"lo","type":"existing"},
        {"kind":"link","name":"underlay0","type":{"bridge":{"multicast_snooping":false}}},
        {"kind":"address","dev":"underlay0","address":"10.140.0.1/24"},
        {"kind":"sysctl","path":"net/bridge/bridge-nf-call-iptables","value":"0"},
        {"kind":"sysctl","path":"net/ipv4/conf/all/send_redirects","value":"0"},
        {"kind":"sysctl","path":"net/ipv4/conf/default/send_redirects","value":"0"},
        {"kind":"sysctl","path":"net/ipv4/conf/all/rp_filter","value":"0"},
        {"kind":"sysctl","path":"net/ipv4/ip_forward","value":"1"}]}"#;
    let mut hardware: Fragment = serde_json::from_str(router).unwrap();
    for (node, address, _) in NODES {
        let card = format!(
            r#"{{"node/{node}": [
            {{"kind":"link","name":"lo","type":"existing"}},
            {{"kind":"link","name":"eth0","type":{{"veth":{{"peer":{{"place":"router","name":"{node}"}}}}}}}},
            {{"kind":"address","dev":"eth0","address":"{address}/24"}},
            {{"kind":"route","to":"0.0.0.0/0","via":{{"gateway":"10.140.0.1"}}}},
            {{"kind":"sysctl","path":"net/bridge/bridge-nf-call-iptables","value":"0"}},
            {{"kind":"sysctl","path":"net/ipv4/conf/all/rp_filter","value":"0"}},
            {{"kind":"sysctl","path":"net/ipv4/ip_forward","value":"1"}}],
            "router": [{{"kind":"link","name":"{node}","master":"underlay0",
                "type":{{"veth":{{"peer":{{"place":"node/{node}","name":"eth0"}}}}}}}}]}}"#
        );
        hardware.merge(serde_json::from_str(&card).unwrap());
    }
    hardware
}
