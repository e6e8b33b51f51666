//! From the start of `yard up` to the first 200 through the ingress of examples/sphinx (3 nodes, 8 pods), against a hand-written batch
//! that only makes the same namespaces, links, addresses and routes. Before each, the kernel has got rid of the one before. With `--test` once.

use std::time::Instant;

use switchyard_benches::{Cluster, Record, Series, byhand, in_namespaces, settle, turns};

const ROUNDS: usize = 15;
/// Pods on the control-plane node and the workers.
const PODS: [u8; 3] = [0, 4, 4];

fn main() -> anyhow::Result<()> {
    // Making namespaces needs powers; with root it is done as root, as `yard up` does it.
    if !rustix::process::geteuid().is_root() && !in_namespaces()? {
        return Ok(());
    }
    let cluster = Cluster::prepare(|_, text| text)?;
    let (mut boot, mut again) = (Series::new("yard up to first 200", "ms"), Series::new("again, from its store", "ms"));
    let mut hand = Series::new("namespaces, links, addresses, routes by hand", "ms");
    for _ in 0..turns(ROUNDS) {
        settle()?;
        boot.values.push(cluster.time_to_first_answer()?.as_secs_f64() * 1e3);
        cluster.yard(&["down", "--grace", "0"])?;
        settle()?;
        again.values.push(cluster.time_to_first_answer()?.as_secs_f64() * 1e3);
        cluster.delete()?;
        settle()?;
        let begun = Instant::now();
        let network = byhand::Network::make(&PODS);
        hand.values.push(begun.elapsed().as_secs_f64() * 1e3);
        drop(network);
    }
    let mut record = Record::new("boot", "From `yard up` to the first 200 through the ingress: 3 nodes, 8 pods.");
    record.compare("first boot", &boot, &hand, "at most 5x, below 1 s");
    record.compare("boot from its store", &again, &hand, "at most 5x, below 1 s");
    record.save_unless_testing()
}
