//! What policies cost that nobody's packet pays: compiling them, and telling the kernel of a change. Ten thousand of them take their
//! time, and so does making them: samples are few and flat (as many turns each), or the whole would take longer than all other pieces.

use std::cell::OnceCell;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, BenchmarkId, Criterion, SamplingMode};
use switchyard_benches::pieces::SIZES;
use switchyard_benches::policed::{Policed, layer, policies};

/// A change of a node, different from turn to turn.
type Change = fn(&mut Policed, usize);

pub(crate) fn all(criterion: &mut Criterion) {
    compiling(criterion);
    changing(criterion);
}

/// The fewest samples that criterion takes.
fn sparing(group: &mut BenchmarkGroup<'_, WallTime>) {
    let group = group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(500));
}

/// From policies as values to units of desired state, all anew, in a cluster of a thousand pods.
fn compiling(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("policies");
    sparing(&mut group);
    for size in SIZES {
        let told = || {
            let mut layer = layer();
            for policy in policies(size) {
                layer.policy(policy);
            }
            layer
        };
        group.bench_function(BenchmarkId::new("compiled", size), |bench| {
            bench.iter_batched(told, |mut layer| layer.settle(), BatchSize::PerIteration)
        });
    }
    group.finish();
}

/// From what is told to the layer to the kernel's acknowledgement.
fn changing(criterion: &mut Criterion) {
    let changes: [(&str, Change); 3] = [
        ("label of a peer", Policed::relabel),
        ("a pod comes and goes", |node, _| node.pod_comes_and_goes()),
        ("a policy comes and goes", |node, _| node.policy_comes_and_goes()),
    ];
    let mut group = criterion.benchmark_group("policy change");
    sparing(&mut group);
    for size in SIZES {
        // Made when somebody asks for it.
        let mut node = OnceCell::new();
        for (name, change) in changes {
            group.bench_function(BenchmarkId::new(name, size), |bench| {
                node.get_or_init(|| Policed::new(size));
                let node = node.get_mut().expect("made above");
                let mut turn = 0;
                bench.iter(|| {
                    turn += 1;
                    change(node, turn);
                });
            });
        }
    }
    group.finish();
}
