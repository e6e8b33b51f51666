//! The API server's store: one value among many, a namespace of them, a write, and who hears of it.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion};
use serde_json::{Value, json};
use switchyard_benches::pieces::{SIZES, WATCHERS};
use switchyard_store::{Durability, Expect, Options, Store, Watch};
use tokio::runtime::Runtime;

/// Objects of one namespace.
const NAMESPACE: usize = 10;

pub(crate) fn all(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    reading(criterion, &runtime);
    writing(criterion, &runtime);
    watching(criterion, &runtime);
}

fn reading(criterion: &mut Criterion, runtime: &Runtime) {
    let mut group = criterion.benchmark_group("store");
    for size in SIZES {
        let store = Store::open(Options::default()).expect("a store in memory");
        runtime.block_on(async {
            for number in 0..size {
                put(&store, &key(number), 0, Durability::Relaxed).await;
            }
        });
        let key = key(size / 2);
        let prefix = format!("{}/", key.rsplit_once('/').expect("a name").0);
        assert_eq!(store.list(&prefix).0.len(), NAMESPACE);
        group.bench_function(BenchmarkId::new("get among", size), |bench| bench.iter(|| store.get(black_box(&key))));
        group.bench_function(BenchmarkId::new("list 10 of", size), |bench| {
            bench.iter(|| store.list(black_box(&prefix)))
        });
    }
    group.finish();
}

/// Each write waits for the one before it, so each has an fsync of its own.
fn writing(criterion: &mut Criterion, runtime: &Runtime) {
    let mut group = criterion.benchmark_group("store put");
    let folder = tempfile::tempdir().expect("a folder");
    let memory = Store::open(Options::default()).expect("a store in memory");
    let path = Some(folder.path().join("store.redb"));
    let disk = Store::open(Options { path, ..Options::default() }).expect("a store on disk");
    let kinds = [
        ("in memory", &memory, Durability::Strict),
        ("relaxed, on disk", &disk, Durability::Relaxed),
        ("strict, on disk", &disk, Durability::Strict),
    ];
    for (name, store, durability) in kinds {
        let mut turn = 0;
        group.bench_function(name, |bench| {
            bench.iter(|| {
                turn += 1;
                runtime.block_on(put(store, "registry/pods/x/p", turn, durability))
            })
        });
    }
    group.finish();
}

/// From a write to the last watcher that has its event.
fn watching(criterion: &mut Criterion, runtime: &Runtime) {
    let mut group = criterion.benchmark_group("store fan-out");
    for watchers in WATCHERS {
        let store = Store::open(Options::default()).expect("a store in memory");
        let mut watches: Vec<Watch> =
            (0..watchers).map(|_| store.watch("registry/pods/", None, 0).expect("a watch")).collect();
        let mut turn = 0;
        group.bench_function(BenchmarkId::new("watchers", watchers), |bench| {
            bench.iter(|| {
                turn += 1;
                runtime.block_on(async {
                    put(&store, "registry/pods/x/p", turn, Durability::Strict).await;
                    for watch in &mut watches {
                        assert_eq!(watch.next(1).await.expect("no watcher lags").len(), 1);
                    }
                });
            })
        });
    }
    group.finish();
}

async fn put(store: &Store, key: &str, turn: usize, durability: Durability) {
    let known = store.get(key);
    let expect = known.map_or(Expect::Absent, |entry| Expect::Revision(entry.revision));
    store.put(key, pod(turn), expect, durability).await.expect("written");
}

fn key(number: usize) -> String {
    format!("registry/pods/ns-{}/p-{number}", number / NAMESPACE)
}

/// As large as a small pod.
fn pod(turn: usize) -> Value {
    let container =
        json!({"name": "web", "image": "yard/echo", "args": ["--port=80"], "resources": {"requests": {"cpu": "10m"}}});
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "namespace": "x", "uid": "0199", "labels": {"app": "web"}, "generation": turn},
        "spec": {"nodeName": "worker-1", "containers": [container, container], "restartPolicy": "Always"},
        "status": {"phase": "Running", "podIP": "10.40.1.5", "conditions": [{"type": "Ready", "status": "True"}]},
    })
}
