//! Pod to pod on a cluster, against the same wiring made by hand: bulk throughput and round trips, on one node and between nodes.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context as _;
use switchyard_benches::{Cluster, Record, Series, byhand, in_namespaces, load};
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
    let hand = byhand::Network::make(&[2, 1]);
    let theirs = [(0, 0), (0, 1), (1, 0)].map(|(node, pod): (u8, u8)| Pod {
        netns: hand.nodes[usize::from(node)].1[usize::from(pod)].try_clone().expect("a descriptor"),
        ip: byhand::Network::pod_address(node, pod).into(),
    });
    let mut record = Record::new("path", "Pod to pod, against the same namespaces and wires made by hand.");
    for (place, to) in [("same node", 1), ("other node", 2)] {
        measure(
            &mut record,
            &format!("{plugin}: throughput, {place}"),
            "Gbit/s",
            (&ours, &theirs),
            to,
            load::Pair::gigabits,
        )?;
        let name = format!("{plugin}: round trips, {place}");
        measure(&mut record, &name, "1/s", (&ours, &theirs), to, load::Pair::round_trips)?;
    }
    Ok(record.save()?)
}

fn measure(
    record: &mut Record,
    name: &str,
    unit: &str,
    (ours, theirs): (&[Pod; 3], &[Pod; 3]),
    to: usize,
    run: impl Fn(load::Pair, Duration) -> anyhow::Result<f64>,
) -> anyhow::Result<()> {
    let mut here = Series::new(name, unit);
    let mut there = Series::new(&format!("by hand: {name}"), unit);
    let once = |pods: &[Pod; 3]| run(load::Pair::connect(&pods[0].netns, (&pods[to].netns, pods[to].ip))?, LASTING);
    for round in 0..=ROUNDS {
        let order = round % 2 == 0;
        let first = once(if order { ours } else { theirs })?;
        let second = once(if order { theirs } else { ours })?;
        // The first round warms up.
        if round > 0 {
            here.values.push(if order { first } else { second });
            there.values.push(if order { second } else { first });
        }
    }
    record.compare(name, &here, &there, "at least 0.99x");
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
