//! Somebody makes a node's way to the others narrower, and wide again.

use crate::policy::{address, apply, datagrams, idle, ready};
use crate::rig::{Cluster, Powers, State, eventually, scenarios};

scenarios! {
    a_narrow_uplink_is_followed
}

/// Bytes around a datagram's own: IPv4 and UDP headers.
const HEADERS: u32 = 28;

/// Sends a packet of this size that may not be cut; says the MTU that the sender then knows of the way.
fn probe(cluster: &Cluster, from: &str, to: &str, size: u32) -> Option<u32> {
    // IP_MTU_DISCOVER is 10, IP_PMTUDISC_DO 2, IP_MTU 14; an answer on the way back takes a moment.
    let script = "socket(S, PF_INET, SOCK_DGRAM, 17); setsockopt(S, 0, 10, pack('i', 2)); \
                  connect(S, sockaddr_in(9, inet_aton($ARGV[0]))); send(S, 'x' x $ARGV[1], 0); \
                  select(undef, undef, undef, 0.05); print unpack('i', getsockopt(S, 0, 14));";
    let bytes = (size - HEADERS).to_string();
    cluster.shell(&format!("pod/{from}"), &["perl", "-MSocket", "-e", script, to, &bytes]).ok()?.parse().ok()
}

/// A packet that fills the way arrives, and one that is a byte larger is answered with what would fit.
fn carries(cluster: &Cluster, from: &str, to: &str, mtu: u32) {
    // What it has learnt of another way holds for minutes.
    cluster.shell(&format!("pod/{from}"), &["ip", "route", "flush", "cache"]).expect("nothing is remembered");
    let (ip, before) = (address(cluster, to), datagrams(cluster, to).0);
    eventually(&format!("a packet of {mtu} bytes from {from} to {to}"), || {
        probe(cluster, from, &ip, mtu);
        (datagrams(cluster, to).0 > before).then_some(())
    });
    eventually(&format!("{from} learns that {mtu} bytes is the most to {to}"), || {
        let known = probe(cluster, from, &ip, mtu + 1);
        (known == Some(mtu)).then_some(())
    });
}

fn links_are(cluster: &Cluster, links: &[(&str, &str, u32)]) {
    for (place, dev, mtu) in links {
        eventually(&format!("{place}: {dev} with MTU {mtu}"), || {
            let link = cluster.shell(place, &["ip", "link", "show", "dev", dev]).ok()?;
            link.contains(&format!(" mtu {mtu} ")).then_some(())
        });
    }
}

/// The route to a block says this, or no longer says it.
fn route_says(cluster: &Cluster, place: &str, block: &str, mtu: Option<u32>) {
    eventually(&format!("{place}: the route to {block} has MTU {mtu:?}"), || {
        let route = cluster.shell(place, &["ip", "route", "show", block]).ok()?;
        let said = route.split(" mtu ").nth(1).and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        (!route.is_empty() && said == mtu).then_some(())
    });
}

fn a_narrow_uplink_is_followed(powers: Powers) {
    let cluster = Cluster::boot_on(powers, "overlay");
    apply(&cluster, &[idle("near", "worker-1", "near"), idle("far", "worker-2", "far")]);
    ["near", "far"].iter().for_each(|pod| ready(&cluster, pod));
    let block = |node: &str| {
        let node = cluster.get(&["node", node]);
        node["spec"]["podCIDR"].as_str().expect("a block").to_owned()
    };
    let (here, there) = (block("worker-1"), block("worker-2"));
    let before = State::of(&cluster);
    let uplink = |mtu: u32| {
        cluster.shell("worker-1", &["ip", "link", "set", "eth0", "mtu", &mtu.to_string()]).expect("another MTU");
    };

    uplink(1300);
    links_are(&cluster, &[("worker-1", "vxlan1", 1250), ("worker-1", "cbr0", 1250), ("pod/near", "eth0", 1250)]);
    route_says(&cluster, "worker-2", &here, Some(1250));
    carries(&cluster, "near", "far", 1250);
    carries(&cluster, "far", "near", 1250);
    links_are(&cluster, &[("worker-2", "vxlan1", 1450), ("pod/far", "eth0", 1450), ("worker-1", "eth0", 1300)]);
    let node = cluster.get(&["node", "worker-1"]);
    assert_eq!(node["metadata"]["annotations"]["switchyard.dev/uplink-mtu"], "1300");

    cluster.yard(&["network", "use", "nsx"]);
    links_are(&cluster, &[("worker-1", "vx4095", 1250), ("pod/near", "eth0", 1250)]);
    carries(&cluster, "far", "near", 1250);
    cluster.yard(&["network", "use", "kubenet"]);
    links_are(&cluster, &[("pod/near", "eth0", 1300), ("pod/far", "eth0", 1500)]);
    route_says(&cluster, "router", &here, Some(1300));
    carries(&cluster, "far", "near", 1300);

    cluster.yard(&["network", "use", "overlay"]);
    uplink(1500);
    before.is_again(&cluster);
    // A route to one node alone.
    let far = cluster.get(&["node", "worker-2"]);
    let far = far["status"]["addresses"][0]["address"].as_str().expect("an address").to_owned();
    cluster.shell("worker-1", &["ip", "route", "add", &far, "dev", "eth0", "mtu", "lock", "1400"]).expect("a route");
    route_says(&cluster, "worker-1", &there, Some(1350));
    carries(&cluster, "near", "far", 1350);
    links_are(&cluster, &[("worker-1", "vxlan1", 1450), ("pod/near", "eth0", 1450)]);
    cluster.shell("worker-1", &["ip", "route", "del", &far]).expect("no route");
    before.is_again(&cluster);
}
