//! A small cluster of real namespaces: an upstream device with a client behind it, two nodes on it, pods on kubenet. The test
//! runs again in a child process in namespaces of its own, as root there whoever runs it here.
//!
//! ```text
//! outside 172.16.0.2 ── router 10.140.0.1 ┬── n1 10.140.0.11: pods a 10.40.1.5, b 10.40.1.6
//!                                         └── n2 10.140.0.12: pod c 10.40.2.7
//! ```

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};
use switchyard_kernel::conntrack::{Filter, Flow};
use switchyard_kernel::{Engine, Netns, Owner, Places};
use switchyard_kubenet::Kubenet;
use switchyard_netstate::{
    Address, Fragment, IfName, Link, LinkKind, NextHop, Object, PeerEnd, Place, Route, Sysctl, UnitId,
};
use switchyard_plugin::{Facts, NetworkPlugin as _, NodeFacts, Options, PodFacts};
use switchyard_services::{NodeServiceFacts, Stale, Taken, UdpWays, node_base, pod_here, service, udp_ways};

const INSIDE: &str = "SWITCHYARD_TEST_INSIDE";
/// Longer than anything takes that works, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const CLUSTER_IP: &str = "10.96.0.10";
pub(crate) const EXTERNAL_IP: &str = "192.168.100.5";
pub(crate) const PORT: u16 = 80;
pub(crate) const NODE_PORT: u16 = 30080;

/// (name, node, address)
const PODS: [(&str, &str, &str); 3] = [("a", "n1", "10.40.1.5"), ("b", "n1", "10.40.1.6"), ("c", "n2", "10.40.2.7")];
const NODES: [(&str, &str, &str); 2] = [("n1", "10.140.0.11", "10.40.1.0/24"), ("n2", "10.140.0.12", "10.40.2.0/24")];

pub(crate) struct World {
    pub(crate) engine: Engine,
    /// How long a client waits.
    pub(crate) patience: Duration,
}

/// A transport protocol to ask over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    Tcp,
    Udp,
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

pub(crate) fn outside() -> Place {
    Place::pod("outside")
}

pub(crate) fn ready(pods: &[&str]) -> Vec<EndpointSlice> {
    let known = |pod: &str| PODS.into_iter().find(|(name, ..)| *name == pod).expect("a pod of this world");
    let endpoint = |pod: &&str| json!({"addresses": [known(pod).2], "nodeName": known(pod).1});
    let endpoints: Vec<Value> = pods.iter().map(endpoint).collect();
    let slice = json!({"metadata": {"name": "web-1"}, "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "t", "port": 8080}, {"name": "u", "port": 8080, "protocol": "UDP"}]});
    vec![serde_json::from_value(slice).unwrap()]
}

/// The Service `default/web`, TCP and UDP, of type LoadBalancer, with more fields of its spec.
pub(crate) fn web(more: Value) -> Service {
    let mut spec = json!({"type": "LoadBalancer", "clusterIP": CLUSTER_IP, "ports": [
        {"name": "t", "port": PORT, "nodePort": NODE_PORT},
        {"name": "u", "port": PORT, "nodePort": NODE_PORT, "protocol": "UDP"}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let status = json!({"loadBalancer": {"ingress": [{"ip": EXTERNAL_IP}]}});
    let object = json!({"metadata": {"namespace": "default", "name": "web"}, "spec": spec, "status": status});
    serde_json::from_value(object).unwrap()
}

// === impl World ===

impl World {
    fn build() -> Self {
        let mut places = Places::new();
        let all =
            NODES.iter().map(|(name, ..)| Place::node(*name)).chain(PODS.iter().map(|(name, ..)| Place::pod(*name)));
        for place in all.chain([Place::Router, outside()]) {
            places.add(place, Netns::create().unwrap());
        }
        let mut world = Self { engine: Engine::new(Owner { protocol: 83 }, places), patience: PATIENCE };
        world.set("hardware", hardware());
        let kubenet = Kubenet::new(&Options::new()).unwrap();
        let facts = facts();
        for node in nodes() {
            let mut whole = kubenet.node(&facts, &node);
            whole.merge(kubenet.underlay(&facts, &node));
            whole.merge(node_base(&service_facts(&node)));
            world.set(&format!("node/{}", node.name), whole);
        }
        for (pod, on, ip) in PODS {
            let node = nodes().into_iter().find(|node| node.name == on).unwrap();
            let (uid, namespace, name) = (pod.to_owned(), "default".to_owned(), pod.to_owned());
            let pod_facts =
                PodFacts { uid, namespace, name, labels: BTreeMap::new(), ip: ip.parse().unwrap(), segment: None };
            let mut whole = kubenet.pod(&facts, &node, &pod_facts);
            whole.merge(pod_here(on, pod_facts.ip));
            world.set(&format!("pod/{pod}"), whole);
            world.serve(pod);
        }
        world
    }

    pub(crate) fn set(&mut self, unit: &str, fragment: Fragment) {
        self.engine.set(UnitId(unit.into()), fragment).unwrap_or_else(|error| panic!("{unit}: {error}"));
    }

    /// Tells both nodes about the Service. Gives who answers UDP on each.
    pub(crate) fn publish(&mut self, web: &Service, slices: &[EndpointSlice]) -> [(Place, UdpWays); 2] {
        nodes().map(|node| {
            let (unit, facts) = (format!("service/default/web@{}", node.name), service_facts(&node));
            self.set(&unit, service(&facts, web, slices, &Taken::new()));
            (Place::node(&node.name), udp_ways(&facts, web, slices, &Taken::new()))
        })
    }

    /// Drops UDP flows from conntrack in a place; gives how many there were.
    pub(crate) fn drop_flows(&mut self, place: &Place, stale: &Stale) -> usize {
        let is_stale = |flow: &Flow| {
            let (to, from) = (flow.original, flow.reply);
            flow.proto == 17 && stale.takes((to.destination, to.destination_port), (from.source, from.source_port))
        };
        self.engine.drop_flows_if(place, &Filter::default(), is_stale).unwrap()
    }

    /// Connects from a place, perhaps from one of its addresses.
    pub(crate) fn connect(&self, from: &Place, to: (&str, u16)) -> io::Result<TcpStream> {
        let to = SocketAddr::new(to.0.parse().unwrap(), to.1);
        let patience = self.patience;
        let stream = self.inside(from, move || TcpStream::connect_timeout(&to, patience))??;
        stream.set_read_timeout(Some(self.patience))?;
        Ok(stream)
    }

    /// Asks who is there: `(pod, the address it sees)`.
    pub(crate) fn ask(&self, over: Over, from: &Place, to: (&str, u16)) -> io::Result<(String, IpAddr)> {
        let mut text = [0; 64];
        let read = match over {
            Over::Tcp => {
                let mut stream = self.connect(from, to)?;
                stream.write_all(b"?")?;
                stream.read(&mut text)?
            }
            Over::Udp => {
                let socket = self.inside(from, || UdpSocket::bind("0.0.0.0:0"))??;
                socket.set_read_timeout(Some(self.patience))?;
                socket.connect(SocketAddr::new(to.0.parse().unwrap(), to.1))?;
                socket.send(b"?")?;
                socket.recv(&mut text)?
            }
        };
        let text = std::str::from_utf8(&text[..read]).expect("pods answer in text");
        let (pod, peer) = text.split_once(' ').expect("pods answer with two words");
        Ok((pod.to_owned(), peer.parse().expect("an address")))
    }

    /// Asks several times; who answered, in order.
    pub(crate) fn answers(&self, over: Over, from: &Place, to: (&str, u16), times: usize) -> Vec<String> {
        let ask = |_| self.ask(over, from, to).unwrap_or_else(|error| panic!("{from} -> {to:?} {over:?}: {error}")).0;
        (0..times).map(ask).collect()
    }

    pub(crate) fn inside<T: Send>(&self, place: &Place, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        self.engine.places().get(place).expect("a place of this world").run(work)
    }

    /// Echo servers of one pod on port 8080: they say who they are and whom they see, to each message anew.
    fn serve(&self, pod: &'static str) {
        let place = Place::pod(pod);
        let sockets = || Ok((TcpListener::bind("0.0.0.0:8080")?, UdpSocket::bind("0.0.0.0:8080")?));
        let (tcp, udp) =
            self.inside(&place, sockets).unwrap().unwrap_or_else(|error: io::Error| panic!("{pod}: {error}"));
        std::thread::spawn(move || {
            for stream in tcp.incoming().map_while(Result::ok) {
                std::thread::spawn(move || answer(pod, stream));
            }
        });
        std::thread::spawn(move || {
            while let Ok((_, peer)) = udp.recv_from(&mut [0; 64]) {
                drop(udp.send_to(format!("{pod} {}", peer.ip()).as_bytes(), peer));
            }
        });
    }
}

fn answer(pod: &str, mut stream: TcpStream) -> io::Result<()> {
    let answer = format!("{pod} {}", stream.peer_addr()?.ip());
    while stream.read(&mut [0; 1])? > 0 {
        stream.write_all(answer.as_bytes())?;
    }
    Ok(())
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

/// The upstream device, a client behind it, and a card in every node.
fn hardware() -> Fragment {
    let mut fragment = Fragment::new();
    let bridge = |name| Object::Link(Link::new(ifname(name), LinkKind::Bridge { multicast_snooping: false }));
    let on = |name: &str| Object::Sysctl(Sysctl { path: format!("net/ipv4/{name}"), value: "1".into() });
    let off = |name: &str| Object::Sysctl(Sysctl { path: format!("net/ipv4/{name}"), value: "0".into() });
    let router = Place::Router;
    fragment.want_all(&router, [bridge("underlay0"), bridge("external0"), address("underlay0", "10.140.0.1/24"), lo()]);
    fragment.want_all(&router, [on("ip_forward"), off("conf/all/send_redirects"), off("conf/default/send_redirects")]);
    for (name, ip, _) in NODES {
        let node = Place::node(name);
        wire(&mut fragment, (&node, "eth0"), (&router, name), Some("underlay0"));
        let default = Object::Route(Route::new(any(), NextHop::gateway("10.140.0.1".parse().unwrap())));
        fragment.want_all(&node, [address("eth0", &format!("{ip}/24")), default, lo(), on("ip_forward")]);
        fragment.want(&node, off("conf/all/rp_filter"));
    }
    wire(&mut fragment, (&outside(), "eth0"), (&router, "outside"), None);
    fragment.want(&router, address("outside", "172.16.0.1/24"));
    let default = Object::Route(Route::new(any(), NextHop::gateway("172.16.0.1".parse().unwrap())));
    fragment.want_all(&outside(), [address("eth0", "172.16.0.2/24"), default, lo()]);
    fragment
}

fn wire(fragment: &mut Fragment, a: (&Place, &str), b: (&Place, &str), master: Option<&str>) {
    let veth =
        |place: &Place, name: &str| LinkKind::Veth { peer: PeerEnd { place: place.clone(), name: ifname(name) } };
    fragment.want(a.0, Object::Link(Link::new(ifname(a.1), veth(b.0, b.1))));
    let other = Link { master: master.map(ifname), ..Link::new(ifname(b.1), veth(a.0, a.1)) };
    fragment.want(b.0, Object::Link(other));
}

fn address(dev: &str, net: &str) -> Object {
    Object::Address(Address { dev: ifname(dev), address: net.parse().unwrap(), noprefixroute: false })
}

fn lo() -> Object {
    Object::Link(Link::new(ifname("lo"), LinkKind::Existing))
}

fn any() -> IpNet {
    "0.0.0.0/0".parse().unwrap()
}

fn ifname(name: &str) -> IfName {
    IfName::new(name).unwrap()
}
