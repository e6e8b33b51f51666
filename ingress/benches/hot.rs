//! What a request costs before a byte of it is sent on: the gate, the host, the path; and what a change costs: compiling a table.
#![allow(missing_docs)]

use std::{hint::black_box, sync::Arc, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use serde_json::json;
use switchyard_ingress::{
    gate::{GateLimits, HeadLimits, Stream},
    table::{Compiler, HostIndex, HostPattern, Objects, PathIndex, PathKind, PathRule},
};

/// How many rules there are.
const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];
const HEAD: &[u8] = b"GET /api/v1/items/42?full=true HTTP/1.1\r\nHost: sphinx-v1.example.net\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\r\nAccept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\nCookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\nConnection: keep-alive\r\n\r\n";

fn gate(c: &mut Criterion) {
    let mut group = c.benchmark_group("gate");
    let limits = GateLimits { head: HeadLimits { bytes: 32 * 1024, headers: 100 }, body: 0 };
    group.throughput(Throughput::Bytes(HEAD.len() as u64));
    let mut stream = Stream::new(limits);
    group.bench_function("head of 8 fields", |b| b.iter(|| stream.judge(black_box(HEAD))));
    let small = b"GET / HTTP/1.1\r\nHost: a.net\r\n\r\n";
    group.bench_function("head of 1 field", |b| b.iter(|| stream.judge(black_box(small))));
    let mut chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    chunked.extend_from_slice(b"4000\r\n");
    chunked.extend_from_slice(&[b'a'; 0x4000]);
    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
    group.throughput(Throughput::Bytes(chunked.len() as u64));
    group.bench_function("chunked body of 16 KiB", |b| b.iter(|| stream.judge(black_box(&chunked))));
    group.finish();
}

/// Rules of each kind: a third of the names exact, a third with a label for a star, a third with a star inside a label.
fn hosts(c: &mut Criterion) {
    for size in SIZES {
        let each = (size / 3).max(1);
        let exact = |i: usize| format!("app-{i}.team-{}.example.net", i % 997);
        let names = (0..each).map(exact);
        let wild = (0..each).map(|i| format!("*.zone-{i}.example.net"));
        let partial = (0..each).map(|i| format!("sphinx-v{i:04}*.example.net"));
        let patterns = names.chain(wild).chain(partial);
        let index = HostIndex::build(patterns.map(|p| (HostPattern::parse(&p).expect("valid"), ())));
        let middle = each / 2;
        let asked = [
            ("exact", exact(middle), true),
            ("one label", format!("x.zone-{middle}.example.net"), true),
            ("partial", format!("sphinx-v{middle:04}-blue.example.net"), true),
            ("none", "nobody.example.org".into(), false),
        ];
        for (kind, host, there) in asked {
            assert_eq!(index.find(&host).is_some(), there, "{host}");
            c.bench_with_input(BenchmarkId::new(format!("host, {kind}"), size), &host, |b, host| {
                b.iter(|| index.find(black_box(host)).is_some())
            });
        }
    }
}

fn paths(c: &mut Criterion) {
    for size in SIZES {
        let index = PathIndex::build((0..size).map(|i| PathRule {
            kind: if i % 4 == 3 { PathKind::Exact } else { PathKind::Prefix },
            path: format!("/api/v{}/items-{i}", i % 7).into(),
            value: (),
        }));
        let middle = size / 2 / 4 * 4;
        let path = format!("/api/v{}/items-{middle}/sub/page", middle % 7);
        assert!(index.find(&path).is_some(), "{path}");
        c.bench_with_input(BenchmarkId::new("path, prefix", size), &path, |b, path| {
            b.iter(|| index.find(black_box(path)).is_some())
        });
    }
}

fn compile(c: &mut Criterion) {
    let mut group = c.benchmark_group("table");
    group.sample_size(10);
    for rules in [500, 5_000] {
        let objects = objects(rules);
        let mut compiler = Compiler::default();
        group.bench_function(BenchmarkId::new("compiled whole", rules), |b| {
            b.iter(|| compiler.compile(&objects).backends.len())
        });
        group.bench_function(BenchmarkId::new("endpoints only", rules), |b| {
            b.iter(|| compiler.refresh(&objects).backends.len())
        });
    }
    group.finish();
}

/// So many Ingresses, each with a host, a Service and two endpoints.
fn objects(rules: usize) -> Objects {
    let mut objects = Objects::default();
    let from = |value| serde_json::from_value(value).expect("an object");
    objects.classes.insert(
        (String::new(), "yard".into()),
        Arc::new(
            serde_json::from_value(
                json!({ "metadata": { "name": "yard" }, "spec": { "controller": "switchyard.dev/ingress" } }),
            )
            .expect("class"),
        ),
    );
    for i in 0..rules {
        let (name, key) = (format!("app-{i}"), ("default".to_owned(), format!("app-{i}")));
        let ingress = json!({ "metadata": { "name": name, "namespace": "default" }, "spec": { "ingressClassName": "yard", "rules": [{
            "host": format!("{name}.example.net"), "http": { "paths": [{ "path": "/", "pathType": "Prefix",
                "backend": { "service": { "name": name, "port": { "number": 80 } } } }] } }] } });
        let service = json!({ "metadata": { "name": name, "namespace": "default" }, "spec": { "ports": [{ "name": "http", "port": 80 }] } });
        let slice = json!({ "metadata": { "name": name, "namespace": "default", "labels": { "kubernetes.io/service-name": name } },
            "addressType": "IPv4", "ports": [{ "name": "http", "port": 8080 }],
            "endpoints": [{ "addresses": [format!("10.40.{}.{}", i / 250, i % 250)] }, { "addresses": [format!("10.41.{}.{}", i / 250, i % 250)] }] });
        objects.ingresses.insert(key.clone(), Arc::new(from(ingress)));
        objects.services.insert(key.clone(), Arc::new(serde_json::from_value(service).expect("service")));
        objects.slices.insert(key, Arc::new(serde_json::from_value(slice).expect("slice")));
    }
    objects
}

/// Short, as there are many and each is steady.
fn short() -> Criterion {
    Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

criterion_group! { name = benches; config = short(); targets = gate, hosts, paths, compile }
criterion_main!(benches);
