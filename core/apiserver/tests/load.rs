//! A thousand pods on twenty nodes: what the API server's part of that costs. Slow in a debug build, so it is run by name:
//! `cargo test --release -p switchyard-apiserver --test load -- --ignored --nocapture`.

mod rig;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use rig::{Rig, pod};
use serde_json::json;
use switchyard_apiserver::pki::Identity;

const NODES: usize = 20;
const PODS: usize = 1000;
const STATUS_WRITES: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a while"]
async fn a_thousand_pods_on_twenty_nodes() {
    let rig = Rig::start_on_disk().await;
    let done = Arc::new(AtomicUsize::new(0));
    // Each agent: a watch of its own pods over TLS, and status writes in answer to what it sees.
    for node in 0..NODES {
        let name = format!("n{node}");
        let pods: Api<Pod> = Api::all(rig.client(&Identity::node(&name)).await);
        let client = rig.client(&Identity::node(&name)).await;
        let done = done.clone();
        tokio::spawn(async move {
            let config = watcher::Config::default().fields(&format!("spec.nodeName={name}"));
            let mut events = watcher::watcher(pods, config).boxed();
            while let Ok(Some(event)) = events.try_next().await {
                let watcher::Event::Apply(pod) = event else { continue };
                if pod.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Pending") {
                    continue;
                }
                let (client, done) = (client.clone(), done.clone());
                tokio::spawn(async move {
                    let own: Api<Pod> = Api::namespaced(client, "default");
                    let name = pod.metadata.name.expect("a name");
                    for n in 0..STATUS_WRITES {
                        let status = json!({"status": {"phase": "Running", "podIP": format!("10.0.0.{n}")}});
                        own.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await.expect("status");
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                });
            }
        });
    }
    let begin = Instant::now();
    let pods: Api<Pod> = Api::default_namespaced(rig.server.client());
    let params = PostParams::default();
    futures::stream::iter(0..PODS)
        .for_each_concurrent(32, |n| {
            let (pods, params) = (&pods, &params);
            async move {
                let name = format!("p{n}");
                pods.create(params, &pod(&name)).await.expect("create");
                let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
                    "target": {"kind": "Node", "name": format!("n{}", n % NODES)}});
                pods.create_subresource::<_, serde_json::Value>("binding", &name, params, &binding)
                    .await
                    .expect("bind");
            }
        })
        .await;
    let made = begin.elapsed();
    rig::eventually("all pods run", || async { done.load(Ordering::Relaxed) >= PODS }).await;
    println!("{PODS} pods made and bound in {made:?}, all running after {:?}", begin.elapsed());
    let one = Instant::now();
    for n in 0..50 {
        let status = json!({"metadata": {"annotations": {"n": n.to_string()}}});
        pods.patch("p0", &PatchParams::default(), &Patch::Merge(status)).await.expect("patch");
    }
    println!("one durable write after the other: {:?} each", one.elapsed() / 50);
    rig.stop().await;
}
