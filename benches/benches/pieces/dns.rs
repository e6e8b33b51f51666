//! One query to the bytes of its answer, without a socket: one that was given before, and one that is looked up and encoded anew.

use std::hint::black_box;
use std::net::Ipv4Addr;

use criterion::{BenchmarkId, Criterion};
use serde_json::json;
use switchyard_benches::pieces::SIZES;
use switchyard_dns::sources::Naming;
use switchyard_dns::{Answering, Mirror, Shared};

pub(crate) fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("dns answer");
    for size in SIZES {
        let records = records(size);
        let name = format!("svc-{}.default.svc.cluster.local", size / 2);
        let (address, nobody) = (query(&name, 1), query("nobody.default.svc.cluster.local", 1));
        let mut answering = Answering::new(records);
        let mut out = Vec::new();
        answering.datagram(&address, &mut out);
        assert!(out.ends_with(&Ipv4Addr::from(FIRST + size as u32 / 2).octets()), "{out:02x?}");
        group.bench_function(BenchmarkId::new("given before", size), |bench| {
            bench.iter(|| answering.datagram(black_box(&address), &mut out))
        });
        // Nothing is remembered of what goes over a connection.
        for (what, query) in [("encoded anew", &address), ("no such name", &nobody)] {
            group.bench_function(BenchmarkId::new(what, size), |bench| {
                bench.iter(|| answering.message(black_box(query)).expect("an answer"))
            });
        }
    }
    group.finish();
}

/// 10.96.0.0
const FIRST: u32 = 0x0a60_0000;

/// Those of so many Services.
fn records(services: usize) -> Shared {
    let naming = Naming::new("cluster.local", &[]);
    let index = Shared::new(naming.index(&["10.96.0.0/12".parse().expect("a prefix")], None));
    let mut mirror = Mirror::new(naming, index.clone());
    for number in 0..services {
        let service = json!({
            "metadata": {"name": format!("svc-{number}"), "namespace": "default"},
            "spec": {"clusterIP": Ipv4Addr::from(FIRST + number as u32), "ports": [{"name": "web", "port": 80}]},
        });
        mirror.service(serde_json::from_value(service).expect("a Service"));
    }
    index
}

/// A query of class IN.
fn query(name: &str, kind: u8) -> Vec<u8> {
    let mut bytes = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, kind, 0, 1]);
    bytes
}
