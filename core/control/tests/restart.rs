//! Killed at any moment and started again, the control plane goes on: nothing is there twice, nothing is lost.

mod rig;

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use rig::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_again_and_again_it_makes_no_pod_and_gives_no_address_twice() {
    let mut cluster = Cluster::with_nodes(&["a", "b", "c"]).await;
    cluster.create::<ReplicaSet>(replica_set("web", 60)).await;
    cluster.create::<Deployment>(deployment("app", 20, "echo")).await;
    for round in 0..12u64 {
        tokio::time::sleep(Duration::from_millis(3 + 11 * round % 40)).await;
        cluster.kill().await;
        cluster.start();
    }
    eventually!("eighty pods, ready", cluster.ready_pods().await == 80);
    eventually!("no others", cluster.pods().await.len() == 80);
    assert_addresses(&cluster.pods().await);
    assert_eq!(cluster.list::<ReplicaSet>().await.len(), 2);
}
