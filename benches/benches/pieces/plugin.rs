//! One question to kubenet, answered by a call of a function, through the table of a plugin that is linked in, of one that was loaded,
//! and by a process of its own. Answers are checked in the last three.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use criterion::Criterion;
use serde_json::json;
use switchyard_kubenet::{Kubenet, MANIFEST};
use switchyard_plugin::{Facts, NetworkPlugin as _, NodeFacts, Options, PodFacts};
use switchyard_plugin_host::{Hosting, Plugin, ProcessHost, Registry};

const LIBRARY: &str = "libswitchyard_kubenet.so";

pub(crate) fn all(criterion: &mut Criterion) {
    let facts: Facts = serde_json::from_value(json!({
        "cluster": "bench", "podCidr": "10.40.0.0/16", "serviceCidr": "10.96.0.0/16", "underlayCidr": "10.140.0.0/24",
        "underlayGateway": "10.140.0.1", "underlayMtu": 1500}))
    .expect("facts");
    let node: NodeFacts = serde_json::from_value(
        json!({"name": "n1", "address": "10.140.0.11", "podCidr": "10.40.1.0/24", "uplink": "eth0"}),
    )
    .expect("facts of a node");
    let pod: PodFacts =
        serde_json::from_value(json!({"uid": "0199", "namespace": "x", "name": "p", "ip": "10.40.1.5"}))
            .expect("facts of a pod");

    let function = Kubenet::new(&Options::new()).expect("no options");
    let mut group = criterion.benchmark_group("plugin call");
    group.bench_function("a function", |bench| bench.iter(|| function.pod(&facts, &node, &pod)));
    for (name, plugin) in [("static", linked()), ("in process", loaded()), ("child process", hosted())] {
        let answer = plugin.pod(&facts, &node, &pod).expect("an answer");
        assert_eq!(answer, function.pod(&facts, &node, &pod), "{name}");
        group.bench_function(name, |bench| bench.iter(|| plugin.pod(&facts, &node, &pod).expect("an answer")));
    }
    group.finish();
}

fn linked() -> Arc<dyn Plugin> {
    let registry = Registry::new(Vec::new()).with_static::<Kubenet>(MANIFEST);
    registry.open("kubenet", &Options::new(), Hosting::InProcess).expect("the linked kubenet")
}

fn loaded() -> Arc<dyn Plugin> {
    Registry::new(Vec::new()).open(&library(), &Options::new(), Hosting::InProcess).expect("kubenet's library")
}

fn hosted() -> Arc<dyn Plugin> {
    let program = std::env::current_exe().expect("this program");
    let host = ProcessHost { program, arguments: vec!["plugin-host".into()], deadline: Duration::from_secs(60) };
    let registry = Registry::new(Vec::new()).with_process_host(host);
    registry.open(&library(), &Options::new(), Hosting::Process).expect("kubenet in a process")
}

/// Where cargo has put the library of a dependency: beside this program.
fn library() -> String {
    let own: PathBuf = std::env::current_exe().expect("this program");
    own.with_file_name(LIBRARY).to_str().expect("a path in UTF-8").to_owned()
}
