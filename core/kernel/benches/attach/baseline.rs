//! The same objects by hand: the fewest messages and system calls that make them, nothing checked beyond the acknowledgements,
//! nothing remembered. Numbers are those of linux/rtnetlink.h, if_link.h and nf_tables.h.

use std::os::fd::{AsFd, AsRawFd};

use netlink_sys::{Socket, SocketAddr};
use switchyard_kernel::Netns;

const ACK: u16 = 1 | 4;
const CREATE: u16 = 0x400 | 0x200;
const NODE_END: i32 = 900_000;
const POD_END: i32 = 2;

/// Sockets in the node, opened once.
pub(crate) struct Baseline {
    route: Socket,
    nft: Socket,
    bridge: u32,
    next: i32,
    buffer: Vec<u8>,
}

impl Baseline {
    pub(crate) fn new(node: &Netns) -> Self {
        let (route, nft, bridge) = node
            .run(|| {
                let route = Socket::new(0).expect("socket");
                let index = rustix::net::netdevice::name_to_index(&route, "cbr0").expect("cbr0 is there");
                (route, Socket::new(12).expect("socket"), index)
            })
            .expect("enter the node");
        Self { route, nft, bridge, next: NODE_END, buffer: vec![0; 65536] }
    }

    pub(crate) fn attach(&mut self, pod: &Netns) {
        let pod_socket = pod.run(|| Socket::new(0).expect("socket")).expect("enter the pod");
        self.next += 1;
        let mut node = Vec::new();
        message(&mut node, 16, ACK | CREATE, 1, |m| {
            link_header(m, self.next, 1);
            attribute(m, 3, b"bench0\0");
            attribute(m, 4, &1500u32.to_ne_bytes());
            attribute(m, 10, &self.bridge.to_ne_bytes());
            nest(m, 18, |m| {
                attribute(m, 1, b"veth\0");
                nest(m, 2, |m| {
                    nest(m, 1, |m| {
                        link_header(m, POD_END, 0);
                        attribute(m, 3, b"eth0\0");
                        attribute(m, 4, &1500u32.to_ne_bytes());
                        attribute(m, 1, &[0x0a, 0x58, 10, 40, 0, 7]);
                        attribute(m, 28, &(pod.as_fd().as_raw_fd() as u32).to_ne_bytes());
                    });
                });
            });
        });
        message(&mut node, 16, ACK, 2, |m| {
            link_header(m, self.next, 1);
            nest(m, 18, |m| {
                attribute(m, 4, b"bridge\0");
                nest(m, 5, |m| attribute(m, 4, &[1]));
            });
        });
        message(&mut node, 28, ACK | CREATE, 3, |m| {
            m.extend([2, 0, 0, 0]);
            m.extend(self.bridge.to_ne_bytes());
            m.extend([0x80, 0, 0, 0]);
            attribute(m, 1, &[10, 40, 0, 7]);
            attribute(m, 2, &[0x0a, 0x58, 10, 40, 0, 7]);
        });
        exchange(&self.route, &node, 3, &mut self.buffer);

        let mut inside = Vec::new();
        message(&mut inside, 16, ACK, 1, |m| link_header(m, POD_END, 1));
        message(&mut inside, 20, ACK | CREATE, 2, |m| {
            m.extend([2, 16, 0, 0]);
            m.extend(POD_END.to_ne_bytes());
            attribute(m, 2, &[10, 40, 0, 7]);
            attribute(m, 1, &[10, 40, 0, 7]);
            attribute(m, 8, &0x200u32.to_ne_bytes());
        });
        message(&mut inside, 24, ACK | CREATE, 3, |m| {
            m.extend([2, 32, 0, 0, 254, 4, 253, 1, 0, 0, 0, 0]);
            attribute(m, 1, &[10, 40, 0, 1]);
            attribute(m, 4, &POD_END.to_ne_bytes());
        });
        message(&mut inside, 24, ACK | CREATE, 4, |m| {
            m.extend([2, 0, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0]);
            attribute(m, 5, &[10, 40, 0, 1]);
            attribute(m, 4, &POD_END.to_ne_bytes());
        });
        exchange(&pod_socket, &inside, 4, &mut self.buffer);
        self.element(12, CREATE & 0x400);
    }

    pub(crate) fn detach(&mut self) {
        let mut node = Vec::new();
        message(&mut node, 17, ACK, 1, |m| link_header(m, self.next, 0));
        message(&mut node, 29, ACK, 2, |m| {
            m.extend([2, 0, 0, 0]);
            m.extend(self.bridge.to_ne_bytes());
            m.extend([0, 0, 0, 0]);
            attribute(m, 1, &[10, 40, 0, 7]);
        });
        exchange(&self.route, &node, 2, &mut self.buffer);
        self.element(14, 0);
    }

    fn element(&mut self, kind: u16, flags: u16) {
        let mut batch = Vec::new();
        message(&mut batch, 16, 1, 1, |m| m.extend([0, 0, 0, 10]));
        message(&mut batch, 10 << 8 | kind, ACK | flags, 2, |m| {
            m.extend([2, 0, 0, 0]);
            attribute(m, 1, b"yard-bench\0");
            attribute(m, 2, b"pods\0");
            nest(m, 3, |m| nest(m, 1, |m| nest(m, 1, |m| attribute(m, 1, &[10, 40, 0, 7]))));
        });
        message(&mut batch, 17, 1, 3, |m| m.extend([0, 0, 0, 10]));
        exchange(&self.nft, &batch, 1, &mut self.buffer);
    }
}

fn exchange(socket: &Socket, bytes: &[u8], answers: usize, buffer: &mut [u8]) {
    socket.send_to(bytes, &SocketAddr::new(0, 0), 0).expect("send");
    for _ in 0..answers {
        let mut space = &mut buffer[..];
        socket.recv(&mut space, 0).expect("an answer");
        let error = i32::from_ne_bytes(buffer[16..20].try_into().expect("four bytes"));
        assert_eq!(error, 0, "{}", std::io::Error::from_raw_os_error(-error));
    }
}

fn message(bytes: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = bytes.len();
    bytes.extend([0; 4]);
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    fill(bytes);
    let length = (bytes.len() - start) as u32;
    bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

fn link_header(bytes: &mut Vec<u8>, index: i32, up: u32) {
    bytes.extend([0; 4]);
    bytes.extend(index.to_ne_bytes());
    bytes.extend(up.to_ne_bytes());
    bytes.extend(up.to_ne_bytes());
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
