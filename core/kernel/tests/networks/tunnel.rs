//! The traps of a tunnel: its MTU, fragments, checksums.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use serde_json::json;
use switchyard_kernel::Feature;
use switchyard_netstate::Place;

use super::cluster::{Cluster, Network, address_of, facts, network};
use super::flow::Flow;
use super::tunnels;
use super::world::{has, isolated, json as ip_json, run};

/// IPv4 and UDP headers.
const HEADERS: usize = 28;

/// [`lively`], with VXLAN.
fn overlay() -> Cluster {
    lively(&network("overlay", json!({})))
}

/// A cluster whose links have come to life: until the kernel has seen a new link's carrier, it drops what is sent, and nobody
/// sends a datagram twice.
fn lively(network: &Network) -> Cluster {
    let cluster = Cluster::with(network, &facts());
    for (from, to) in [("a", "b"), ("a", "c"), ("c", "f"), ("g", "a")] {
        let flow = Flow::start(&cluster, &Place::pod(from), &Place::pod(to), address_of(to), 1);
        flow.more(1, "the links come up");
        flow.stop();
    }
    cluster
}

/// An echo in one pod, and a socket in another that talks to it.
fn talk(cluster: &Cluster, from: &str, to: &str) -> UdpSocket {
    let server = cluster.inside(&Place::pod(to), || UdpSocket::bind("0.0.0.0:0")).unwrap();
    let client = cluster.inside(&Place::pod(from), || UdpSocket::bind("0.0.0.0:0")).unwrap();
    client.connect((address_of(to), server.local_addr().unwrap().port())).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    std::thread::spawn(move || {
        let mut message = vec![0; 1 << 16];
        while let Ok((length, from)) = server.recv_from(&mut message) {
            drop(server.send_to(&message[..length], from));
        }
    });
    client
}

/// A packet of so many bytes, and its echo.
fn echo(socket: &UdpSocket, bytes: usize) -> io::Result<()> {
    let message: Vec<u8> = (0..bytes - HEADERS).map(|byte| byte as u8).collect();
    let mut answer = vec![0; 1 << 16];
    socket.send(&message)?;
    let length = socket.recv(&mut answer)?;
    assert!(answer[..length] == message, "{bytes} bytes came back changed");
    Ok(())
}

/// Sets an IPv4 option with an integer.
fn set(socket: &UdpSocket, option: libc::c_int, value: libc::c_int) {
    let (pointer, length) = (std::ptr::from_ref(&value).cast(), size_of_val(&value) as libc::socklen_t);
    // SAFETY: the option takes an int, which lives across the call.
    let code = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IP, option, pointer, length) };
    assert_eq!(code, 0, "{}", io::Error::last_os_error());
}

/// What the kernel knows of the path of a connected socket.
fn path_mtu(socket: &UdpSocket) -> libc::c_int {
    let (mut value, mut length) = (0 as libc::c_int, size_of::<libc::c_int>() as libc::socklen_t);
    let pointer = std::ptr::from_mut(&mut value).cast();
    // SAFETY: the option gives an int, for which there is room.
    let code =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_MTU, pointer, &raw mut length) };
    assert_eq!(code, 0, "{}", io::Error::last_os_error());
    value
}

fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EMSGSIZE)
}

#[test]
fn a_packet_of_the_mtu_passes_whole_and_one_byte_more_does_not() {
    isolated("tunnel::a_packet_of_the_mtu_passes_whole_and_one_byte_more_does_not", || {
        passes_whole_up_to_the_mtu(&overlay());
    });
}

/// Of UDP port 6081, with the number of the transit, each with a checksum.
#[test]
fn geneve_carries_packets_of_the_mtu_and_fragments() {
    isolated("tunnel::geneve_carries_packets_of_the_mtu_and_fragments", || {
        if !has(Feature::Geneve) {
            return;
        }
        let cluster = lively(&tunnels("geneve"));
        let n2 = Place::node("n2");
        let chain = "nft add table netdev look; add chain netdev look in { type filter hook ingress device eth0 priority 0; }; \
            add rule netdev look in udp dport 6081 @th,96,24 4095 udp checksum != 0 ip ttl 64 counter";
        run(&cluster.lab, &n2, chain);
        passes_whole_up_to_the_mtu(&cluster);
        arrives_whole_in_fragments(&cluster);
        let seen = run(&cluster.lab, &n2, "nft list table netdev look");
        assert!(!seen.contains("counter packets 0 ") && seen.contains("counter packets "), "{seen}");
    });
}

fn passes_whole_up_to_the_mtu(cluster: &Cluster) {
    let socket = talk(cluster, "a", "c");
    set(&socket, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO);
    echo(&socket, 1450).expect("the MTU");
    let error = echo(&socket, 1451).expect_err("one byte more");
    assert!(is_too_long(&error), "{error}");
    // The outer packet fitted into the underlay: nobody cut anything on the way.
    assert_eq!(cluster.counter("Ip", "FragCreates"), 0);
}

#[test]
fn a_pod_that_thinks_too_big_is_told_by_its_node() {
    isolated("tunnel::a_pod_that_thinks_too_big_is_told_by_its_node", || {
        let cluster = overlay();
        run(&cluster.lab, &Place::pod("a"), "ip link set eth0 mtu 1451");
        let socket = talk(&cluster, "a", "c");
        set(&socket, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO);
        assert_eq!(path_mtu(&socket), 1451);
        // Nothing in the pod speaks against it, so it is sent, and the node answers: fragmentation needed.
        let message = vec![0; 1451 - HEADERS];
        let begun = Instant::now();
        while !socket.send(&message).is_err_and(|error| is_too_long(&error)) {
            assert!(begun.elapsed() < Duration::from_secs(30), "nobody says that 1451 bytes are too long");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(path_mtu(&socket), 1450);
        assert!(cluster.counter("Icmp", "OutDestUnreachs") >= 1);
        // This socket may have more of those answers waiting; the path is known to others as well.
        let other = talk(&cluster, "a", "c");
        set(&other, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO);
        echo(&other, 1450).expect("what the node said");
    });
}

#[test]
fn a_datagram_in_fragments_arrives_whole() {
    isolated("tunnel::a_datagram_in_fragments_arrives_whole", || {
        arrives_whole_in_fragments(&overlay());
    });
}

fn arrives_whole_in_fragments(cluster: &Cluster) {
    for (from, to) in [("a", "c"), ("a", "b"), ("c", "f"), ("g", "a")] {
        let socket = talk(cluster, from, to);
        set(&socket, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT);
        for bytes in [1450, 1451, 9000, 65000] {
            echo(&socket, bytes).unwrap_or_else(|error| panic!("{from} -> {to}, {bytes} bytes: {error}"));
        }
    }
    assert_eq!(cluster.counter("Ip", "ReasmFails"), 0);
}

/// Cards that leave checksums to the kernel make it compute those of both packets, the outer and the inner; the receiver then
/// looks at them. Between virtual cards alone nobody ever would.
#[test]
fn checksums_are_right_with_and_without_offload() {
    isolated("tunnel::checksums_are_right_with_and_without_offload", || {
        let cluster = overlay();
        for offload in [true, false] {
            for node in ["n1", "n2"] {
                let place = Place::node(node);
                cluster.inside(&place, || transmit_checksums("eth0", offload));
                let link = ip_json(&cluster.lab, &place, "ip -d -j link show dev vxlan1");
                assert_eq!(link[0]["linkinfo"]["info_data"]["udp_csum"], true, "{link}");
            }
            let bulk = Flow::start(&cluster, &Place::pod("a"), &Place::pod("c"), address_of("c"), 300_000);
            bulk.more(20, "offloads were switched");
            println!("offload {offload}: {}", bulk.stop());
            let socket = talk(&cluster, "a", "c");
            for bytes in [100, 1450, 9000] {
                echo(&socket, bytes).unwrap_or_else(|error| panic!("offload {offload}, {bytes} bytes: {error}"));
            }
        }
        for protocol in ["Tcp", "Udp"] {
            assert_eq!(cluster.counter(protocol, "InCsumErrors"), 0, "{protocol}");
        }
    });
}

/// `ethtool -K DEV tx on|off`.
fn transmit_checksums(dev: &str, on: bool) {
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    const ETHTOOL_STXCSUM: u32 = 0x17;
    let mut value = Value { command: ETHTOOL_STXCSUM, data: on.into() };
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(dev.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(&mut value).cast();
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    const SIOCETHTOOL: libc::Ioctl = 0x8946;
    // SAFETY: the request names a device and points to a value of the command's form; both live across the call.
    let code = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    assert_eq!(code, 0, "{}", io::Error::last_os_error());
}
