//! The same networks by hand: the fewest netlink messages that make them, nothing checked beyond the acknowledgements, nothing
//! remembered. Interfaces get their index from us, so nothing has to be looked up. Numbers are those of linux/rtnetlink.h,
//! if_link.h and if_addr.h.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::process::Command;

use netlink_sys::{Socket, SocketAddr};
use switchyard_kernel::Netns;

/// Messages for one namespace, sent together.
pub struct Batch {
    socket: Socket,
    bytes: Vec<u8>,
    messages: u32,
}

/// A network interface by its index.
pub type Index = u32;

/// The loopback interface of any namespace.
pub const LOOPBACK: Index = 1;

const REQUEST_ACK: u16 = 1 | 4;
const CREATE: u16 = 0x400 | 0x200;
const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const UP: u32 = 1;
const DOWN: u32 = 0;
/// Answers are small; this holds many of them.
const ANSWERS: usize = 1 << 18;

// === impl Batch ===

impl Batch {
    /// A socket in a namespace.
    pub fn new(netns: &Netns) -> Self {
        let socket = netns.visit(|| Socket::new(0).expect("a netlink socket")).expect("enter a namespace");
        Self { socket, bytes: Vec::new(), messages: 0 }
    }

    /// Brings an interface up.
    pub fn up(&mut self, index: Index) {
        self.message(NEW_LINK, 0, |m| link_header(m, index, UP));
    }

    /// A bridge.
    pub fn bridge(&mut self, index: Index, name: &str) {
        self.message(NEW_LINK, CREATE, |m| {
            link_header(m, index, UP);
            text(m, 3, name);
            nest(m, 18, |m| attribute(m, 1, b"bridge\0"));
        });
    }

    /// A veth pair whose other end is in `there`, still down, and a port of the bridge `master` unless that is 0.
    pub fn veth(&mut self, index: Index, name: &str, master: Index, there: &Netns, peer: (Index, &str)) {
        self.message(NEW_LINK, CREATE, |m| {
            link_header(m, index, UP);
            text(m, 3, name);
            if master != 0 {
                attribute(m, 10, &master.to_ne_bytes());
            }
            nest(m, 18, |m| {
                attribute(m, 1, b"veth\0");
                nest(m, 2, |m| {
                    nest(m, 1, |m| {
                        // The driver refuses to open an end that has no peer yet.
                        link_header(m, peer.0, DOWN);
                        text(m, 3, peer.1);
                        attribute(m, 28, &(there.as_fd().as_raw_fd() as u32).to_ne_bytes());
                    });
                });
            });
        });
    }

    /// An address on an interface.
    pub fn address(&mut self, index: Index, address: Ipv4Addr, length: u8) {
        self.message(NEW_ADDRESS, CREATE, |m| {
            m.extend([2, length, 0, 0]);
            m.extend(index.to_ne_bytes());
            attribute(m, 2, &address.octets());
            attribute(m, 1, &address.octets());
        });
    }

    /// A route by a gateway.
    pub fn route(&mut self, to: Ipv4Addr, length: u8, gateway: Ipv4Addr) {
        self.message(NEW_ROUTE, CREATE, |m| {
            m.extend([2, length, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0]);
            if length != 0 {
                attribute(m, 1, &to.octets());
            }
            attribute(m, 5, &gateway.octets());
        });
    }

    /// A route to one neighbour on a link.
    pub fn link_route(&mut self, index: Index, to: Ipv4Addr) {
        self.message(NEW_ROUTE, CREATE, |m| {
            m.extend([2, 32, 0, 0, 254, 4, 253, 1, 0, 0, 0, 0]);
            attribute(m, 1, &to.octets());
            attribute(m, 4, &index.to_ne_bytes());
        });
    }

    /// Takes a route back.
    pub fn unroute(&mut self, to: Ipv4Addr, length: u8) {
        self.message(DELETE_ROUTE, 0, |m| {
            m.extend([2, length, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0]);
            attribute(m, 1, &to.octets());
        });
    }

    /// Sends what is there and waits for the kernel's word on each.
    pub fn send(&mut self) {
        if self.messages == 0 {
            return;
        }
        self.socket.send_to(&self.bytes, &SocketAddr::new(0, 0), 0).expect("send");
        let mut answers = vec![0; ANSWERS];
        let mut told = 0;
        while told < self.messages {
            let mut space = &mut answers[..];
            let length = self.socket.recv(&mut space, 0).expect("an answer");
            let mut at = 0;
            while at < length {
                let word = |at: usize| i32::from_ne_bytes(answers[at..at + 4].try_into().expect("four bytes"));
                assert_eq!(word(at + 16), 0, "{}", std::io::Error::from_raw_os_error(-word(at + 16)));
                at += (word(at) as usize).next_multiple_of(4);
                told += 1;
            }
        }
        self.bytes.clear();
        self.messages = 0;
    }

    fn message(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Vec<u8>)) {
        self.messages += 1;
        let start = self.bytes.len();
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((REQUEST_ACK | flags).to_ne_bytes());
        self.bytes.extend(self.messages.to_ne_bytes());
        self.bytes.extend([0; 4]);
        fill(&mut self.bytes);
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

/// `ifinfomsg`, with flags and the mask of those that are to change.
fn link_header(bytes: &mut Vec<u8>, index: Index, flags: u32) {
    bytes.extend([0; 4]);
    bytes.extend(index.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(UP.to_ne_bytes());
}

fn text(bytes: &mut Vec<u8>, kind: u16, value: &str) {
    attribute(bytes, kind, &[value.as_bytes(), b"\0"].concat());
}

fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend((value.len() as u16 + 4).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn nest(bytes: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = bytes.len();
    bytes.extend([0; 2]);
    bytes.extend((kind | 0x8000).to_ne_bytes());
    fill(bytes);
    let length = (bytes.len() - start) as u16;
    bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
}

/// Namespaces wired as a kubenet cluster: nodes on the router's bridge, pods on the nodes' bridges, static routes on the router.
pub struct Network {
    /// The upstream device.
    pub router: Netns,
    /// Nodes with their pods.
    pub nodes: Vec<(Netns, Vec<Netns>)>,
}

const BRIDGE: Index = 100;
const CARD: Index = 101;
const FIRST_PORT: Index = 1000;
const POD_CARD: Index = 2;
const UNDERLAY: Ipv4Addr = Ipv4Addr::new(10, 140, 0, 1);
const ANYWHERE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

impl Network {
    /// Makes one with so many pods on each node; IP forwarding is on.
    pub fn make(pods: &[u8]) -> Self {
        Self::wire(pods, 24)
    }

    /// `seen`: the length of the prefix that a pod takes for its own link.
    fn wire(pods: &[u8], seen: u8) -> Self {
        let router = namespace();
        let nodes: Vec<_> =
            pods.iter().map(|&pods| (namespace(), (0..pods).map(|_| namespace()).collect::<Vec<_>>())).collect();
        let mut upstream = Batch::new(&router);
        upstream.up(LOOPBACK);
        upstream.bridge(BRIDGE, "underlay0");
        upstream.address(BRIDGE, UNDERLAY, 24);
        for (number, (node, pods)) in (0u8..).zip(&nodes) {
            let (address, block) = (Ipv4Addr::new(10, 140, 0, 10 + number), Ipv4Addr::new(10, 40, number, 0));
            let port = format!("node{number}");
            upstream.veth(FIRST_PORT + Index::from(number), &port, BRIDGE, node, (CARD, "eth0"));
            upstream.send();
            make_node(node, address, number, (pods, seen));
            upstream.route(block, 24, address);
        }
        upstream.send();
        forward(&router);
        Self { router, nodes }
    }

    /// The same as a Kubernetes node needs it, whatever its plugin: packets between pods of one node are routed too, and every
    /// connection is tracked, for the translated addresses of Services. `nft` writes the one rule that it takes.
    pub fn make_tracked(pods: &[u8]) -> anyhow::Result<Self> {
        let network = Self::wire(pods, 32);
        track(&network.router)?;
        for (node, _) in &network.nodes {
            track(node)?;
            // A redirect would lead pods around the node.
            for interface in ["all", "cbr0"] {
                set(node, &format!("net/ipv4/conf/{interface}/send_redirects"), "0");
            }
        }
        Ok(network)
    }

    /// The address of a pod.
    pub fn pod_address(node: u8, pod: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 40, node, 2 + pod)
    }
}

fn make_node(node: &Netns, address: Ipv4Addr, number: u8, (pods, seen): (&[Netns], u8)) {
    let gateway = Ipv4Addr::new(10, 40, number, 1);
    let mut here = Batch::new(node);
    here.up(LOOPBACK);
    here.up(CARD);
    here.address(CARD, address, 24);
    here.route(ANYWHERE, 0, UNDERLAY);
    here.bridge(BRIDGE, "cbr0");
    here.address(BRIDGE, gateway, 24);
    for (pod, netns) in (0u8..).zip(pods) {
        here.veth(FIRST_PORT + Index::from(pod), &format!("pod{pod}"), BRIDGE, netns, (POD_CARD, "eth0"));
    }
    here.send();
    for (pod, netns) in (0u8..).zip(pods) {
        let mut there = Batch::new(netns);
        there.up(LOOPBACK);
        there.up(POD_CARD);
        there.address(POD_CARD, Network::pod_address(number, pod), seen);
        if seen == 32 {
            there.link_route(POD_CARD, gateway);
        }
        there.route(ANYWHERE, 0, gateway);
        there.send();
    }
    forward(node);
}

/// A new namespace whose interfaces have IPv4 only, as those of nodes and pods.
pub fn namespace() -> Netns {
    let netns = Netns::create().expect("a network namespace");
    without_ipv6(&netns);
    netns
}

/// Interfaces made here from now on have IPv4 only, if the kernel has more.
pub fn without_ipv6(netns: &Netns) {
    if std::path::Path::new("/proc/sys/net/ipv6").exists() {
        set(netns, "net/ipv6/conf/default/disable_ipv6", "1");
    }
}

fn forward(netns: &Netns) {
    set(netns, "net/ipv4/ip_forward", "1");
}

fn set(netns: &Netns, key: &str, value: &str) {
    // The thread's own view: /proc/sys/net follows the namespace of who opens it.
    let set = || std::fs::write(format!("/proc/sys/{key}"), value);
    netns.run(set).expect("enter a namespace").unwrap_or_else(|error| panic!("{key}: {error}"));
}

/// A rule that asks for the state of connections makes the kernel track them.
fn track(netns: &Netns) -> anyhow::Result<()> {
    const RULES: &str = "table ip by-hand { chain forward { type filter hook forward priority 0; \
                         ct state established,related accept; }; }";
    let status = netns.run(|| Command::new("nft").arg(RULES).status())??;
    anyhow::ensure!(status.success(), "nft: {status}");
    Ok(())
}
