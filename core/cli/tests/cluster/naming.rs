//! Names: from pods, from nodes, from the host; and what happens to them while somebody dies.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::rig::{Cluster, Powers, eventually, scenarios};

scenarios! {
    everything_has_a_name
    a_killed_server_loses_no_query
}

/// Where every pod and node asks.
const INSIDE: &str = "@10.96.0.10";
const SVC_1: &str = "sphinx-svc-1.default.svc.cluster.local";

/// A resolver's patience with one server: who is started again within it, with the queries that waited, was never away.
const RESTART: Duration = Duration::from_secs(5);

fn everything_has_a_name(powers: Powers) {
    let cluster = Cluster::boot(powers);
    let services = cluster.get(&["services", "-A"]);
    let field = |name: &str, pointer: &str| {
        let items = services["items"].as_array().unwrap();
        let service = items.iter().find(|item| item["metadata"]["name"] == name).expect(name);
        service.pointer(pointer).and_then(Value::as_str).expect("an address").to_owned()
    };
    assert_eq!(field("kube-dns", "/spec/clusterIP"), "10.96.0.10");
    let cluster_ip = field("sphinx-svc-1", "/spec/clusterIP");
    let balanced = field("sphinx-svc-3", "/status/loadBalancer/ingress/0/ip");
    let names = [
        (SVC_1, "A", cluster_ip.clone()),
        ("sphinx-v1.esxcloud.net", "A", "192.168.100.244".into()),
        ("sphinx-v2.esxcloud.net", "A", "192.168.100.244".into()),
        ("sphinx-v42.esxcloud.net", "A", "192.168.100.244".into()),
        ("sphinx-w1.esxcloud.net", "A", String::new()),
        ("sphinx-svc-3.default.esxcloud.net", "A", balanced),
        ("kubernetes.default.svc.cluster.local", "A", "10.96.0.1".into()),
        ("dns-version.cluster.local", "TXT", "\"1.1.0\"".into()),
    ];
    let host = cluster.names();
    let pod = cluster.pod_of("app=sphinx,version=v1");
    let place = format!("pod/{pod}");
    // The ingress writes the addresses that it serves shortly after it is ready.
    eventually("names outside", || (!dig(&host, &["+short", "sphinx-v1.esxcloud.net"]).is_empty()).then_some(()));
    for (name, kind, expected) in &names {
        assert_eq!(dig(&host, &["+short", kind, name]).trim(), expected, "host: {name}");
        for from in [place.as_str(), "worker-1", "controlplane"] {
            eventually(&format!("{from}: {name}"), || {
                let answer = cluster.shell(from, &["dig", "+short", INSIDE, kind, name]).expect("dig");
                (answer.trim() == expected).then_some(())
            });
        }
    }
    let absent = dig(&host, &["sphinx-w1.esxcloud.net"]);
    assert!(absent.contains("status: NXDOMAIN") && absent.contains("SOA"), "{absent}");
    let outside = cluster.shell("router", &["dig", "+short", "@10.140.0.1", "sphinx-v42.esxcloud.net"]).expect("dig");
    assert_eq!(outside.trim(), "192.168.100.244");
    assert_eq!(dig(&host, &["+short", "-x", &cluster_ip]).trim(), format!("{SVC_1}."));

    // As a program in a pod sees it: its own resolv.conf, its own domain.
    let resolv = cluster.yard(&["exec", &pod, "--", "cat", "/etc/resolv.conf"]);
    let expected =
        "nameserver 10.96.0.10\nsearch default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n";
    assert_eq!(resolv, expected);
    for short in ["sphinx-svc-1", "sphinx-svc-1.default", SVC_1] {
        let found = cluster.yard(&["exec", &pod, "--", "getent", "ahostsv4", short]);
        assert!(found.starts_with(&cluster_ip), "{short}: {found}");
    }

    // By name through everything, from the host: through its port, and from the router where no port leads.
    for (url, set) in [
        ("http://sphinx-v1.esxcloud.net/", "sphinx-rs-1"),
        ("http://sphinx-svc-3.default.esxcloud.net/", "sphinx-rs-3"),
    ] {
        let echo: Value = serde_json::from_str(&cluster.yard(&["curl", url])).expect("JSON");
        assert!(echo["pod"].as_str().unwrap().starts_with(set), "{url}: {echo}");
    }
    let unknown = cluster.try_yard(&["curl", "http://sphinx-w1.esxcloud.net/"]);
    let complaint = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(!unknown.status.success() && complaint.contains("no such name"), "{complaint}");

    follow_endpoints(&cluster, &host);
}

/// A headless Service's name follows its endpoints.
fn follow_endpoints(cluster: &Cluster, host: &SocketAddr) {
    let file = cluster.file("headless.json");
    let write = |addresses: &[&str]| {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "hdls", "namespace": "default"},
            "spec": {"clusterIP": "None", "ports": [{"name": "web", "port": 80}]},
        });
        let endpoints: Vec<_> = addresses.iter().map(|address| json!({"addresses": [address]})).collect();
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "hdls-a", "namespace": "default", "labels": {"kubernetes.io/service-name": "hdls"}},
            "endpoints": endpoints, "ports": [{"name": "web", "port": 80, "protocol": "TCP"}],
        });
        let list = json!({"kind": "List", "apiVersion": "v1", "items": [service, slice]});
        std::fs::write(&file, list.to_string()).unwrap();
        cluster.yard(&["apply", "-f", file.to_str().unwrap()]);
        Instant::now()
    };
    let name = "hdls.default.svc.cluster.local";
    for addresses in [&["198.51.100.1", "198.51.100.2"][..], &["198.51.100.2"], &[]] {
        let applied = write(addresses);
        eventually(name, || {
            let answer = dig(host, &["+short", name]);
            let mut answer: Vec<_> = answer.lines().collect();
            answer.sort_unstable();
            (answer == addresses).then_some(())
        });
        eprintln!("{} addresses after {:?}", addresses.len(), applied.elapsed());
    }
}

/// Queries that arrive while an agent, or the router, is started again are answered afterwards, not lost.
fn a_killed_server_loses_no_query(powers: Powers) {
    let cluster = Cluster::boot(powers);
    let host = cluster.names();
    for part in ["node-worker-1", "router"] {
        let before = cluster.kill(part);
        let asked = Instant::now();
        // One try only, so a query that is lost is a failure.
        let patient = ["+tries=1", "+time=10", "+short", SVC_1];
        let answer = match part {
            "router" => dig(&host, &patient),
            _ => cluster.shell("worker-1", &[&["dig", INSIDE], &patient[..]].concat()).expect("dig"),
        };
        assert!(answer.starts_with("10.96."), "{part}: {answer}");
        assert!(asked.elapsed() < RESTART, "{part}: answered {:?} after the kill", asked.elapsed());
        eventually("another process", || (cluster.pid(part) != before).then_some(()));
    }
}

/// What `dig` says, asked on the host.
#[track_caller]
fn dig(server: &SocketAddr, arguments: &[&str]) -> String {
    let (at, port) = (format!("@{}", server.ip()), server.port().to_string());
    let output = Command::new("dig").args([&at, "-p", &port]).args(arguments).output();
    let output = output.expect("dig is installed (bind9-dnsutils)");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
