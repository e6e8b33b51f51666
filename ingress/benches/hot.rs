//! What a request costs before a byte of it is sent on: the gate, the host, the path; and what a change costs: compiling a table.
#![allow(missing_docs)]

use std::{hint::black_box, sync::Arc};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde_json::json;
use switchyard_ingress::{
    gate::{GateLimits, HeadLimits, Stream},
    table::{Compiler, HostIndex, HostPattern, Objects, PathIndex, PathKind, PathRule},
};

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

fn hosts(c: &mut Criterion) {
    let mut group = c.benchmark_group("host");
    for exact in [1_000, 100_000] {
        let names = (0..exact).map(|i| format!("app-{i}.team-{}.example.net", i % 997));
        let wild = (0..1_000).map(|i| format!("*.zone-{i}.example.net"));
        let partial = (0..1_000).map(|i| format!("sphinx-v{i:03}*.example.net"));
        let patterns = names.chain(wild).chain(partial);
        let index = HostIndex::build(patterns.map(|p| (HostPattern::parse(&p).expect("valid"), ())));
        let team = |i: usize| format!("app-{i}.team-{}.example.net", i % 997);
        let asked = [
            ("exact", team(exact / 2)),
            ("one label", "x.zone-500.example.net".into()),
            ("partial", "sphinx-v500-blue.example.net".into()),
            ("none", "nobody.example.org".into()),
        ];
        for (kind, host) in asked {
            group.bench_function(format!("{kind}, {exact} names and 2000 patterns"), |b| {
                b.iter(|| index.find(black_box(&host)).is_some())
            });
        }
    }
    group.finish();
}

fn paths(c: &mut Criterion) {
    let mut group = c.benchmark_group("path");
    for rules in [1, 20, 1_000] {
        let index = PathIndex::build((0..rules).map(|i| PathRule {
            kind: if i % 4 == 3 { PathKind::Exact } else { PathKind::Prefix },
            path: format!("/api/v{}/items-{i}", i % 7).into(),
            value: (),
        }));
        let path = format!("/api/v{}/items-{}/sub/page", (rules / 2) % 7, rules / 2);
        group.bench_function(format!("among {rules}"), |b| b.iter(|| index.find(black_box(&path)).is_some()));
    }
    group.finish();
}

fn compile(c: &mut Criterion) {
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
    for i in 0..5_000 {
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
    let mut group = c.benchmark_group("table of 5000 rules");
    group.sample_size(20);
    let mut compiler = Compiler::default();
    group.bench_function("compiled whole", |b| b.iter(|| compiler.compile(&objects).backends.len()));
    group.bench_function("endpoints only", |b| b.iter(|| compiler.refresh(&objects).backends.len()));
    group.finish();
}

criterion_group!(benches, gate, hosts, paths, compile);
criterion_main!(benches);
