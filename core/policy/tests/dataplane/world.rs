//! Two nodes on an upstream device, six pods of two namespaces on them.
//!
//! ```text
//! router 10.140.0.1 ┬── n1 10.140.0.11: pods a, b, c, d
//!                   └── n2 10.140.0.12: pods e, f
//! ```

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use switchyard_kernel::{Engine, Netns, Owner, Places};
use switchyard_kubenet::Kubenet;
use switchyard_netstate::{
    Address, Fragment, IfName, Link, LinkKind, NextHop, Object, PeerEnd, Place, Route, Sysctl, UnitId,
};
use switchyard_plugin::{Facts, NetworkPlugin as _, NodeFacts, Options, PodFacts};
use switchyard_policy::{Layer, NamedPort, Policy, Protocol, network_policy, policy_name};
use switchyard_services::{NodeServiceFacts, Taken, node_base, pod_here, service};

use super::common::{Cluster, Labels, NAMESPACES, Packet, Pod};

const INSIDE: &str = "SWITCHYARD_TEST_INSIDE";
/// Longer than anything takes that works, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// (name, namespace, address, app)
pub(crate) const PODS: [(&str, &str, &str, &str); 6] = [
    ("a", "x", "10.40.1.5", "a"),
    ("b", "x", "10.40.1.6", "b"),
    ("c", "y", "10.40.1.7", "a"),
    ("d", "y", "10.40.1.8", "c"),
    ("e", "x", "10.40.2.2", "c"),
    ("f", "y", "10.40.2.6", "b"),
];
const NODES: [(&str, &str, &str); 2] = [("n1", "10.140.0.11", "10.40.1.0/24"), ("n2", "10.140.0.12", "10.40.2.0/24")];
const PORTS: [u16; 3] = [80, 81, 86];
pub(crate) const CLUSTER_IP: &str = "10.96.0.10";

pub(crate) struct World {
    pub(crate) engine: Engine,
    layers: BTreeMap<&'static str, Layer>,
    cluster: Cluster,
    /// What pods have received: (pod, port), and what was sent to it.
    ears: Vec<(&'static str, u16, UdpSocket)>,
    rounds: u16,
}

/// Runs `work` in a world of its own. `name` is the test's full name.
pub(crate) fn isolated(name: &str, work: impl FnOnce(World)) {
    if std::env::var_os(INSIDE).is_some() {
        return work(World::build());
    }
    let mut child = Command::new("unshare");
    child.args(["--user", "--map-root-user", "--net", "--mount", "--"]).arg(std::env::current_exe().unwrap());
    child.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(INSIDE, "1");
    let output = child.output().expect("run unshare of util-linux");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

// === impl World ===

impl World {
    fn build() -> Self {
        let mut places = Places::new();
        let all = NODES.iter().map(|one| Place::node(one.0)).chain(PODS.iter().map(|one| Place::pod(one.0)));
        for place in all.chain([Place::Router]) {
            places.add(place, Netns::create().unwrap());
        }
        let mut world = Self {
            engine: Engine::new(Owner { protocol: 83 }, places),
            layers: NODES.map(|(name, ..)| (name, Layer::new(Place::node(name)))).into(),
            cluster: Cluster::default(),
            ears: Vec::new(),
            rounds: 0,
        };
        world.set("hardware", hardware());
        let kubenet = Kubenet::new(&Options::new()).unwrap();
        for node in nodes() {
            let mut whole = kubenet.node(&facts(), &node);
            whole.merge(kubenet.underlay(&facts(), &node));
            whole.merge(node_base(&service_facts(&node)));
            world.set(&format!("node/{}", node.name), whole);
        }
        for name in NAMESPACES {
            let labels: Labels =
                [("name".to_owned(), name.to_owned()), ("team".to_owned(), format!("{name}-team"))].into();
            world.cluster.namespaces.insert(name.into(), labels.clone());
            let labels = Arc::new(labels);
            world.layers.values_mut().for_each(|layer| layer.namespace(name.into(), Some(Arc::clone(&labels))));
        }
        for (pod, namespace, ip, app) in PODS {
            let node =
                nodes().into_iter().find(|node| node.pod_cidr.contains(&ip.parse::<std::net::IpAddr>().unwrap()));
            let (uid, name) = (pod.to_owned(), pod.to_owned());
            let ip: Ipv4Addr = ip.parse().unwrap();
            let told = PodFacts {
                uid,
                namespace: namespace.into(),
                name,
                labels: BTreeMap::new(),
                ip: ip.into(),
                segment: None,
            };
            let node = node.unwrap();
            let mut whole = kubenet.pod(&facts(), &node, &told);
            whole.merge(pod_here(&node.name, told.ip));
            world.set(&format!("pod/{pod}"), whole);
            let labels = [("app".to_owned(), app.to_owned())].into();
            let ports =
                vec![("web".to_owned(), "TCP", if app == "a" { 81 } else { 80 }), ("dns".to_owned(), "UDP", 80)];
            // Judged wherever it is: the nodes together.
            world.cluster.pods.insert(pod.into(), Pod { namespace: namespace.into(), labels, ip, local: true, ports });
            world.tell(pod);
            world.serve(pod);
        }
        world.settle();
        world
    }

    fn set(&mut self, unit: &str, fragment: Fragment) {
        self.engine.set(UnitId(unit.into()), fragment).unwrap_or_else(|error| panic!("{unit}: {error}"));
    }

    fn tell(&mut self, name: &str) {
        let pod = &self.cluster.pods[name];
        for node in nodes() {
            let ports = pod.ports.iter().map(|(name, over, port)| NamedPort {
                name: name.clone(),
                protocol: Protocol::named(over).unwrap(),
                port: *port,
            });
            self.layers.get_mut(node.name.as_str()).unwrap().pod(switchyard_policy::Pod {
                uid: name.into(),
                namespace: pod.namespace.as_str().into(),
                labels: Arc::new(pod.labels.clone()),
                address: pod.ip.into(),
                ports: ports.collect(),
                local: node.pod_cidr.contains(&std::net::IpAddr::from(pod.ip)),
            });
        }
    }

    pub(crate) fn relabel(&mut self, name: &str, labels: Labels) {
        self.cluster.pods.get_mut(name).unwrap().labels = labels;
        self.tell(name);
        self.settle();
    }

    pub(crate) fn policy(&mut self, namespace: &str, name: &str, spec: Value) {
        self.model(network_policy(namespace, name, &spec).unwrap());
        self.cluster.policies.insert((namespace.to_owned(), name.to_owned()), spec);
    }

    pub(crate) fn model(&mut self, policy: Policy) {
        self.layers.values_mut().for_each(|layer| assert!(layer.policy(policy.clone())));
        self.settle();
    }

    pub(crate) fn no_policies(&mut self) {
        for (namespace, name) in std::mem::take(&mut self.cluster.policies).into_keys() {
            self.layers.values_mut().for_each(|layer| layer.policy_gone(&policy_name(&namespace, &name)));
        }
        self.settle();
    }

    fn settle(&mut self) {
        for (node, layer) in &mut self.layers {
            // Units of both nodes are in one engine here.
            let units =
                layer.settle().into_iter().map(|(unit, fragment)| (UnitId(format!("{node}/{}", unit.0)), fragment));
            self.engine.apply(units.collect()).unwrap_or_else(|error| panic!("{node}: {error}"));
        }
        let audit = self.engine.reconcile().unwrap();
        assert!(audit.is_clean(), "{audit:?}");
    }

    /// The Service at [`CLUSTER_IP`], with one endpoint.
    pub(crate) fn publish(&mut self, pod: &str) {
        let ip = self.cluster.pods[pod].ip;
        let web = json!({"metadata": {"namespace": "x", "name": "web"}, "spec": {"clusterIP": CLUSTER_IP, "ports": [{"port": 80}]}});
        let slice = json!({"metadata": {"name": "web-1"}, "addressType": "IPv4", "ports": [{"port": 80}],
            "endpoints": [{"addresses": [ip], "nodeName": "n1"}]});
        let (web, slices) = (serde_json::from_value(web).unwrap(), [serde_json::from_value(slice).unwrap()]);
        for node in nodes() {
            self.set(&format!("service@{}", node.name), service(&service_facts(&node), &web, &slices, &Taken::new()));
        }
    }

    /// Has every pod send to every other and itself, over TCP and UDP, and compares what arrives with what the API says.
    pub(crate) fn check(&mut self, what: &str) {
        self.rounds += 1;
        let pods: Vec<(String, Ipv4Addr)> =
            self.cluster.pods.iter().map(|(name, pod)| (name.clone(), pod.ip)).collect();
        let mut wanted = Vec::new();
        let mut unwanted = Vec::new();
        for (from, source) in &pods {
            let bound = SocketAddr::from(([0, 0, 0, 0], 20000 + self.rounds));
            // A port of its own each round: no flow of the last one goes on.
            let mouth = self.inside(&Place::pod(from.as_str()), move || UdpSocket::bind(bound)).unwrap().unwrap();
            for (to, target) in &pods {
                for port in PORTS {
                    let packet = |protocol| Packet { from: *source, to: *target, protocol, port };
                    let at = SocketAddr::from((*target, port));
                    let stream = self.inside(&Place::pod(from.as_str()), move || begin(at)).unwrap().unwrap();
                    let text = format!("{} {from} {to} {port}", self.rounds);
                    // A refusal of an earlier packet may be told here.
                    while mouth.send_to(text.as_bytes(), at).is_err() {}
                    let (tcp, udp) = (self.cluster.passes(&packet("TCP")), self.cluster.passes(&packet("UDP")));
                    if tcp { &mut wanted } else { &mut unwanted }.push((text.clone(), Some(stream)));
                    if udp { &mut wanted } else { &mut unwanted }.push((text, None));
                }
            }
        }
        let mut heard = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        let mut missing = wanted;
        while !missing.is_empty() {
            self.hear(&mut heard);
            missing.retain(|(text, stream)| !arrived(text, stream.as_ref(), &heard));
            let texts = || missing.iter().map(|(text, stream)| (text, stream.is_some())).collect::<Vec<_>>();
            assert!(Instant::now() < deadline, "{what}: did not arrive: {:?}\n{}", texts(), self.policies());
            std::thread::yield_now();
        }
        self.hear(&mut heard);
        let wrong: Vec<_> = unwanted.iter().filter(|(text, stream)| arrived(text, stream.as_ref(), &heard)).collect();
        assert!(wrong.is_empty(), "{what}: arrived: {wrong:?}\n{}", self.policies());
    }

    fn policies(&self) -> String {
        let all: Vec<_> = self.cluster.policies.iter().map(|(name, spec)| format!("{name:?} {spec}")).collect();
        format!("{}\n{:#?}", all.join("\n"), self.cluster.pods)
    }

    fn hear(&self, heard: &mut Vec<String>) {
        let mut bytes = [0; 64];
        for (_, _, ear) in &self.ears {
            while let Ok(read) = ear.recv(&mut bytes) {
                heard.push(String::from_utf8_lossy(&bytes[..read]).into_owned());
            }
        }
    }

    /// Connects, with patience.
    pub(crate) fn connect(&self, from: &Place, to: (Ipv4Addr, u16)) -> io::Result<TcpStream> {
        let stream = self.inside(from, move || TcpStream::connect_timeout(&to.into(), PATIENCE))??;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// Whether a connection comes about by the time that somebody who may connects to the same port of a pod of his.
    pub(crate) fn reaches(&self, from: &Place, to: (Ipv4Addr, u16), who_may: &Place) -> bool {
        let stream = self.inside(from, move || begin(to.into())).unwrap().unwrap();
        let own = self.cluster.pods["a"].ip;
        self.connect(who_may, (own, 80)).unwrap();
        stream.peer_addr().is_ok()
    }

    fn inside<T: Send>(&self, place: &Place, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        self.engine.places().get(place).expect("a place of this world").run(work)
    }

    /// Listens on all ports of a pod; what connects gets back what it sends.
    fn serve(&mut self, pod: &'static str) {
        for port in PORTS {
            let sockets = move || Ok((TcpListener::bind(("0.0.0.0", port))?, UdpSocket::bind(("0.0.0.0", port))?));
            let (tcp, udp) =
                self.inside(&Place::pod(pod), sockets).unwrap().unwrap_or_else(|error: io::Error| panic!("{error}"));
            udp.set_nonblocking(true).unwrap();
            self.ears.push((pod, port, udp));
            std::thread::spawn(move || {
                for mut stream in tcp.incoming().map_while(Result::ok) {
                    std::thread::spawn(move || {
                        let mut byte = [0; 1];
                        while stream.read(&mut byte).is_ok_and(|read| read > 0) && stream.write_all(&byte).is_ok() {}
                    });
                }
            });
        }
    }
}

/// Begins to connect.
fn begin(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(115 /* EINPROGRESS */) => Err(error),
        _ => Ok(socket.into()),
    }
}

/// Whether a connection came about, or a datagram was heard.
fn arrived(text: &str, stream: Option<&TcpStream>, heard: &[String]) -> bool {
    match stream {
        Some(stream) => stream.peer_addr().is_ok(),
        None => heard.iter().any(|one| one == text),
    }
}

fn nodes() -> [NodeFacts; 2] {
    NODES.map(|(name, address, pod_cidr)| NodeFacts {
        name: name.into(),
        address: address.parse().unwrap(),
        pod_cidr: pod_cidr.parse().unwrap(),
        uplink: ifname("eth0"),
        mac: None,
        mtu: None,
        edge: None,
    })
}

fn service_facts(node: &NodeFacts) -> NodeServiceFacts {
    NodeServiceFacts { node: node.name.clone(), address: node.address, service_cidr: facts().service_cidr }
}

fn facts() -> Facts {
    Facts {
        cluster: "test".into(),
        pod_cidr: "10.40.0.0/16".parse().unwrap(),
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        underlay_cidr: "10.140.0.0/24".parse().unwrap(),
        underlay_gateway: "10.140.0.1".parse().unwrap(),
        underlay_mtu: 1500,
    }
}

/// The upstream device and a card in every node.
fn hardware() -> Fragment {
    let mut fragment = Fragment::new();
    let on = |name: &str| Object::Sysctl(Sysctl { path: format!("net/ipv4/{name}"), value: "1".into() });
    let router = Place::Router;
    let bridge = Link::new(ifname("underlay0"), LinkKind::Bridge { multicast_snooping: false });
    fragment.want_all(&router, [Object::Link(bridge), address("underlay0", "10.140.0.1/24"), lo(), on("ip_forward")]);
    for (name, ip, _) in NODES {
        let node = Place::node(name);
        let veth =
            |place: &Place, name: &str| LinkKind::Veth { peer: PeerEnd { place: place.clone(), name: ifname(name) } };
        fragment.want(&node, Object::Link(Link::new(ifname("eth0"), veth(&router, name))));
        let other = Link { master: Some(ifname("underlay0")), ..Link::new(ifname(name), veth(&node, "eth0")) };
        fragment.want(&router, Object::Link(other));
        let gateway = NextHop::gateway("10.140.0.1".parse().unwrap());
        let default = Object::Route(Route::new("0.0.0.0/0".parse().unwrap(), gateway));
        fragment.want_all(&node, [address("eth0", &format!("{ip}/24")), default, lo(), on("ip_forward")]);
        fragment.want(&node, Object::Sysctl(Sysctl { path: "net/ipv4/conf/all/rp_filter".into(), value: "0".into() }));
    }
    fragment
}

fn address(dev: &str, net: &str) -> Object {
    Object::Address(Address { dev: ifname(dev), address: net.parse().unwrap(), noprefixroute: false })
}

fn lo() -> Object {
    Object::Link(Link::new(ifname("lo"), LinkKind::Existing))
}

fn ifname(name: &str) -> IfName {
    IfName::new(name).unwrap()
}
