//! Who reaches whom, and as whom.

use std::collections::BTreeMap;

use serde_json::Value;

use super::stage::Stage;
use crate::rig::eventually;

/// The address without the port.
fn seen(answer: &Value) -> &str {
    let remote = answer["remote"].as_str().expect("a remote address");
    remote.rsplit_once(':').expect("address and port").0
}

pub(super) fn same_node(stage: &Stage) {
    assert_eq!(stage.ask("pod/a", &stage.ip("b"))["pod"], "b");
    assert_eq!(stage.ask("pod/b", &stage.ip("a"))["pod"], "a");
}

pub(super) fn other_node(stage: &Stage) {
    assert_eq!(stage.ask("pod/a", &stage.ip("c"))["pod"], "c");
    assert_eq!(stage.ask("pod/c", &stage.ip("b"))["pod"], "b");
}

pub(super) fn node_to_pod(stage: &Stage) {
    for node in ["worker-1", "worker-2", "controlplane"] {
        for pod in ["a", "c"] {
            assert_eq!(stage.ask(node, &stage.ip(pod))["pod"], pod, "{node}");
        }
    }
}

pub(super) fn pod_to_node(stage: &Stage) {
    for pod in ["pod/a", "pod/c"] {
        for node in ["10.140.0.10", "10.140.0.11", "10.140.0.12"] {
            // The agent listens there.
            stage.sh(pod, &format!("exec 3<>/dev/tcp/{node}/10250"));
        }
    }
}

/// All types, from pods, nodes and outside, each endpoint in its turn.
pub(super) fn services(stage: &Stage) {
    let cluster = &stage.cluster;
    let services = cluster.get(&["services"]);
    let field = |name: &str, pointer: &str| {
        let items = services["items"].as_array().unwrap();
        let service = items.iter().find(|item| item["metadata"]["name"] == name).expect("a service");
        service.pointer(pointer).and_then(Value::as_str).expect("an address").to_owned()
    };
    let urls = [
        ("sphinx-rs-1", format!("http://{}/", field("sphinx-svc-1", "/spec/clusterIP"))),
        ("sphinx-rs-2", format!("http://{}/", field("sphinx-svc-2", "/spec/clusterIP"))),
        ("sphinx-rs-2", "http://10.140.0.11:30080/".to_owned()),
        ("sphinx-rs-2", "http://10.140.0.12:30080/".to_owned()),
        ("sphinx-rs-3", format!("http://{}/", field("sphinx-svc-3", "/status/loadBalancer/ingress/0/ip"))),
    ];
    // Who answers six times, and how often each.
    let turns = |place: &str, url: &str| -> BTreeMap<String, usize> {
        let answers = stage.sh(place, &format!("for i in 1 2 3 4 5 6; do curl -sS -m 20 {url}; echo; done"));
        let mut turns = BTreeMap::new();
        for line in answers.lines().filter(|line| !line.is_empty()) {
            let answer: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{place} {url}: {line}"));
            *turns.entry(answer["pod"].as_str().expect("a pod").to_owned()).or_insert(0) += 1;
        }
        turns
    };
    let pod = format!("pod/{}", cluster.pod_of("app=sphinx,version=v1"));
    for place in ["worker-1", "worker-2", "controlplane", pod.as_str()] {
        for (set, url) in &urls {
            let turns = turns(place, url);
            // The hairpin is among them: a pod that its own Service chooses.
            assert!(turns.keys().all(|pod| pod.starts_with(set)), "{place} {url}: {turns:?}");
            let replicas = if *set == "sphinx-rs-1" { 3 } else { 2 };
            assert!(turns.len() == replicas && turns.values().all(|n| *n == 6 / replicas), "{place} {url}: {turns:?}");
        }
    }
    // The outside reaches node ports and external addresses, not addresses of Services.
    for (set, url) in &urls[2..] {
        assert!(turns("router", url).keys().all(|pod| pod.starts_with(set)), "router {url}");
    }
}

pub(super) fn hairpin(stage: &Stage) {
    let answer = stage.ask("pod/a", &stage.service("mirror"));
    assert_eq!(answer["pod"], "a");
    assert_ne!(seen(&answer), stage.ip("a"), "the answer would not have come back through the Service");
}

pub(super) fn outside(stage: &Stage) {
    let answer = stage.cluster.ask("sphinx-v1.esxcloud.net");
    assert_eq!(answer.status, 200, "{answer:?}");
    // And the other way: the load balancer lives outside, and its addresses are nobody's in the cluster.
    let services = stage.cluster.get(&["service", "sphinx-svc-3"]);
    let external = services["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().expect("an address").to_owned();
    for pod in ["pod/a", "pod/c"] {
        assert!(stage.ask(pod, &external)["pod"].as_str().unwrap().starts_with("sphinx-rs-3"), "{pod}");
    }
}

pub(super) fn source_address(stage: &Stage) {
    let (a, all) = (stage.ip("a"), stage.service("all"));
    for pod in ["b", "c"] {
        assert_eq!(seen(&stage.ask("pod/a", &stage.ip(pod))), a, "{pod}");
    }
    for _ in 0..6 {
        let answer = stage.ask("pod/a", &all);
        assert!(answer["pod"] == "a" || seen(&answer) == a, "{answer}");
    }
    // A node that answers for its own pods only has no reason to hide the client.
    for (node, pods) in [("10.140.0.11", ["a", "b"]), ("10.140.0.12", ["c", "c"])] {
        let answer = stage.ask("router", &format!("{node}:30181"));
        assert!(pods.iter().any(|pod| answer["pod"] == *pod), "{answer}");
        assert_eq!(seen(&answer), "10.140.0.1");
    }
    // A pod is inside, wherever its network has its address from: all endpoints answer it at a node port, and see it.
    let c = stage.ip("c");
    for _ in 0..3 {
        let answer = stage.ask("pod/c", "10.140.0.12:30180");
        assert!(answer["pod"] == "c" || seen(&answer) == c, "{answer}");
    }
    let answer = stage.ask("pod/c", "10.140.0.12:30182");
    assert_eq!((answer["pod"].as_str(), seen(&answer)), (Some("a"), c.as_str()), "nobody else answers");
}

pub(super) fn udp_fragments(stage: &Stage) {
    let ways = [
        ("pod/a", stage.ip("b"), 53),
        ("pod/a", stage.ip("c"), 53),
        ("pod/c", stage.service("all"), 53),
        ("worker-1", stage.ip("c"), 53),
        ("router", "10.140.0.11".into(), 30153),
    ];
    for (place, ip, port) in ways {
        for bytes in [100, 1473, 8000] {
            // One datagram there, and one back with the pod's name in front. A datagram may be lost; not every time.
            let line = format!(
                "exec 3<>/dev/udp/{ip}/{port}; dd if=/dev/zero bs={bytes} count=1 >&3 2>/dev/null; \
                 timeout 2 dd bs=65536 count=1 <&3 2>/dev/null | wc -c"
            );
            eventually(&format!("{}: {place} -> {ip}: {bytes} bytes come back", stage.network), || {
                let length: usize = stage.sh(place, &line).trim().parse().expect("a number");
                (length > bytes).then_some(())
            });
        }
    }
}

/// Nobody reaches such a pod, and it reaches nobody.
pub(super) fn no_way(stage: &Stage) {
    let addresses = stage.sh("pod/alone", "ip -o address show");
    assert!(addresses.lines().all(|line| line.contains(" lo ")), "{addresses}");
    assert!(stage.sh("pod/alone", "curl -sS -m 20 127.0.0.1").contains("\"port\":80"));
    assert!(stage.try_sh("pod/alone", "curl -sS -m 2 10.140.0.11:10250").is_err());
    assert!(stage.try_sh("worker-1", &format!("curl -sS -m 1 {}", stage.ip("alone"))).is_err());
}

pub(super) fn host_network(stage: &Stage) {
    assert_eq!(stage.ip("open"), "10.140.0.12");
    for place in ["worker-1", "controlplane", "router"] {
        assert_eq!(stage.ask(place, "10.140.0.12:8081")["pod"], "open", "{place}");
    }
}
