//! How fast a thousand pods on twenty nodes are made, get a node and an address each. The API server runs in the same process.

#[path = "../tests/rig/mod.rs"]
mod rig;

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use rig::*;
use serde_json::json;

const PODS: usize = 1000;
const NODES: usize = 20;

/// From the ReplicaSet's creation to the last binding.
async fn thousand_pods() -> Duration {
    let mut cluster = Cluster::still().await;
    cluster.start();
    for n in 0..NODES {
        cluster.node(&format!("node-{n}"), json!({})).await;
    }
    let begin = Instant::now();
    cluster.create::<ReplicaSet>(replica_set("web", PODS as i32)).await;
    loop {
        let bound = cluster.list::<Pod>().await.iter().filter(|pod| node_of(pod).is_some()).count();
        if bound == PODS {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(120), "{bound} of {PODS} bound");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = begin.elapsed();
    assert_addresses(&cluster.pods().await);
    println!("{PODS} pods on {NODES} nodes: {took:.2?}, {:.0} pods/s", PODS as f64 / took.as_secs_f64());
    took
}

fn schedule(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut group = c.benchmark_group("control");
    group.sample_size(10);
    group.bench_function("1000 pods bound", |b| {
        b.iter_custom(|rounds| (0..rounds).map(|_| runtime.block_on(thousand_pods())).sum());
    });
}

criterion_group!(benches, schedule);
criterion_main!(benches);
