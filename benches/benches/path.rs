//! Pod to pod on a cluster, against the same wiring made by hand, bare and with what Services need of the kernel: bulk throughput and
//! round trips, on one node and between nodes. With `--test` once.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context as _;
use switchyard_benches::{Cluster, Record, Series, byhand, in_namespaces, lasting, load, turns};
use switchyard_kernel::Netns;

const ROUNDS: usize = 30;
const LASTING: Duration = Duration::from_millis(250);

/// A pod that can be entered.
struct Pod {
    netns: Netns,
    ip: IpAddr,
}

fn main() -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() && !in_namespaces()? {
        return Ok(());
    }
    let plugin = std::env::var("NETWORK").unwrap_or_else(|_| "kubenet".into());
    let cluster = Cluster::prepare(|_, text| text.replace("plugin: kubenet", &format!("plugin: {plugin}")))?;
    cluster.up()?;
    let ours = pods(&cluster)?;
    let bare = byhand::Network::make(&[2, 1]);
    let tracked = byhand::Network::make_tracked(&[2, 1])?;
    let worlds = [ours, by_hand(&bare), by_hand(&tracked)];
    let mut record = Record::new(
        "path",
        "Pod to pod, against the same namespaces and wires made by hand: bare, where the bridge of a node passes frames between its \
         pods, and as Services need them, where every packet is routed and every connection tracked.",
    );
    for (place, to) in [("same node", 1), ("other node", 2)] {
        let name = format!("{plugin}: throughput, {place}");
        measure(&mut record, &name, "Gbit/s", &worlds, to, load::Pair::gigabits)?;
        let name = format!("{plugin}: round trips, {place}");
        measure(&mut record, &name, "1/s", &worlds, to, load::Pair::round_trips)?;
    }
    record.save_unless_testing()
}

fn by_hand(network: &byhand::Network) -> [Pod; 3] {
    [(0, 0), (0, 1), (1, 0)].map(|(node, pod): (u8, u8)| Pod {
        netns: network.nodes[usize::from(node)].1[usize::from(pod)].try_clone().expect("a descriptor"),
        ip: byhand::Network::pod_address(node, pod).into(),
    })
}

/// Our pods first, then those by hand.
fn measure(
    record: &mut Record,
    name: &str,
    unit: &str,
    worlds: &[[Pod; 3]; 3],
    to: usize,
    run: impl Fn(load::Pair, Duration) -> anyhow::Result<f64>,
) -> anyhow::Result<()> {
    let names = [name.to_owned(), format!("by hand, bare: {name}"), format!("by hand, tracked: {name}")];
    let mut series = names.map(|name| Series::new(&name, unit));
    for round in 0..=turns(ROUNDS) {
        for turn in 0..worlds.len() {
            let at = (round + turn) % worlds.len();
            let pods = &worlds[at];
            let value = run(load::Pair::connect(&pods[0].netns, (&pods[to].netns, pods[to].ip))?, lasting(LASTING))?;
            // The first round warms up.
            if round > 0 {
                series[at].values.push(value);
            }
        }
    }
    let [ours, bare, tracked] = &series;
    record.compare(&format!("{name}, against bare wires"), ours, bare, "at least 0.99x");
    record.compare(&format!("{name}, against tracked ones"), ours, tracked, "at least 0.99x");
    Ok(())
}

/// Two pods of one node and one of another.
fn pods(cluster: &Cluster) -> anyhow::Result<[Pod; 3]> {
    let mut all = cluster.pods("")?.into_iter();
    let first = all.next().context("no pods")?;
    let second = all.next().filter(|pod| pod.node == first.node).context("a second pod on the node of the first")?;
    let third = all.find(|pod| pod.node != first.node).context("a pod on another node")?;
    Ok([first, second, third].map(|pod| Pod { netns: pod.netns, ip: pod.ip }))
}
