//! How fast a hundred and a thousand pods on twenty nodes are made, get a node and an address each. The API server runs in the same process.

#[path = "../tests/rig/mod.rs"]
mod rig;

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode, criterion_group, criterion_main};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use rig::*;
use serde_json::json;

const PODS: [usize; 2] = [100, 1000];
const NODES: usize = 20;

/// From the ReplicaSet's creation to the last binding.
async fn bound(pods: usize) -> Duration {
    let mut cluster = Cluster::still().await;
    cluster.start();
    for n in 0..NODES {
        cluster.node(&format!("node-{n}"), json!({})).await;
    }
    let begin = Instant::now();
    cluster.create::<ReplicaSet>(replica_set("web", pods as i32)).await;
    loop {
        let bound = cluster.list::<Pod>().await.iter().filter(|pod| node_of(pod).is_some()).count();
        if bound == pods {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(120), "{bound} of {pods} bound");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = begin.elapsed();
    assert_addresses(&cluster.pods().await);
    took
}

fn schedule(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut group = c.benchmark_group("control");
    group.sample_size(10);
    group.sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(5));
    for pods in PODS {
        group.bench_function(BenchmarkId::new("pods bound", pods), |b| {
            b.iter_custom(|rounds| (0..rounds).map(|_| runtime.block_on(bound(pods))).sum());
        });
    }
}

criterion_group!(benches, schedule);
criterion_main!(benches);
