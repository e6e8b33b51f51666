//! All three types of Service, from pods, from nodes and from outside; and the network plugin's own mishaps.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::rig::{Cluster, Powers, Traffic, eventually, scenarios};

scenarios! {
    every_service_is_reached_from_everywhere
    drift_is_repaired
    a_bad_plugin_changes_nothing
    an_unknown_image_says_what_to_do
}

fn every_service_is_reached_from_everywhere(powers: Powers) {
    let cluster = Cluster::boot(powers);
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
    let pod = format!("pod/{}", cluster.pod_of("app=sphinx,version=v1"));
    for place in ["worker-1", "worker-2", "controlplane", pod.as_str()] {
        for (set, url) in &urls {
            // The hairpin is among them: a pod that its own Service chooses.
            let mut turns = BTreeMap::new();
            for _ in 0..6 {
                *turns.entry(cluster.curl_from(place, url)).or_insert(0) += 1;
            }
            assert!(turns.keys().all(|pod| pod.starts_with(set)), "{place} {url}: {turns:?}");
            let replicas = if *set == "sphinx-rs-1" { 3 } else { 2 };
            assert!(turns.len() == replicas && turns.values().all(|n| *n == 6 / replicas), "{place} {url}: {turns:?}");
        }
    }
    // The outside reaches node ports and external addresses, not addresses of Services.
    for (set, url) in &urls[2..] {
        assert!(cluster.curl_from("router", url).starts_with(set), "router {url}");
    }
}

fn drift_is_repaired(powers: Powers) {
    let cluster = Cluster::boot(powers);
    let node = "worker-1";
    let pod = cluster.get(&["pods", "-l", "version=v1"]);
    let pod = pod["items"].as_array().unwrap().iter().find(|pod| pod["spec"]["nodeName"] == node).expect("a pod there");
    let pod = format!("pod/{}", pod["metadata"]["name"].as_str().unwrap());
    let damage: [(&str, &[&str], &[&str]); 5] = [
        ("router", &["ip", "route", "del", "10.40.1.0/24"], &["ip", "route", "show", "10.40.1.0/24"]),
        (&pod, &["ip", "route", "del", "default"], &["ip", "route", "show", "default"]),
        (
            node,
            &["nft", "delete", "table", "ip", "yard-services"],
            &["nft", "list", "chain", "ip", "yard-services", "services"],
        ),
        (node, &["ip", "route", "del", "default"], &["ip", "route", "show", "default"]),
        (node, &["ip", "link", "del", "cbr0"], &["ip", "-br", "address", "show", "dev", "cbr0"]),
    ];
    for (place, destroy, look) in damage {
        let before = cluster.shell(place, look).expect("what is to be destroyed");
        assert!(!before.trim().is_empty(), "{place}: {look:?}");
        cluster.shell(place, destroy).unwrap_or_else(|error| panic!("{place} {destroy:?}: {error}"));
        eventually(&format!("{place}: {look:?} as before"), || {
            let now = cluster.shell(place, look).unwrap_or_default();
            (first_words(&now) == first_words(&before)).then_some(())
        });
    }
    eventually("an answer", || (cluster.ask("sphinx-v1.esxcloud.net").status == 200).then_some(()));
}

/// Counters and link numbers change; the first words are what matters.
fn first_words(text: &str) -> Vec<String> {
    text.split_whitespace()
        .filter(|word| !word.starts_with("linkdown") && !word.contains("fe80"))
        .take(3)
        .map(str::to_owned)
        .collect()
}

fn a_bad_plugin_changes_nothing(powers: Powers) {
    let cluster = Cluster::boot(powers);
    let traffic = Traffic::start(cluster.door(), "sphinx-v1.esxcloud.net");
    traffic.more(20);
    let network = |spec: &str| {
        let file = cluster.file("network.yaml");
        let text =
            format!("apiVersion: switchyard.dev/v1alpha1\nkind: Network\nmetadata: {{name: default}}\nspec: {spec}\n");
        std::fs::write(&file, text).unwrap();
        cluster.yard(&["apply", "-f", file.to_str().unwrap()]);
    };
    for (spec, complaint) in [
        ("{plugin: nonsense}", "nonsense"),
        ("{plugin: kubenet, options: {colour: red}}", "colour"),
        ("{plugin: /etc/passwd}", "passwd"),
    ] {
        network(spec);
        eventually(complaint, || cluster.yard(&["status"]).contains(complaint).then_some(()));
        traffic.more(20);
    }
    network("{plugin: kubenet}");
    eventually("ready again", || cluster.yard(&["status"]).contains("kubenet 0.1.0, ready").then_some(()));
    traffic.stop().lost_nothing();
}

fn an_unknown_image_says_what_to_do(powers: Powers) {
    let cluster = Cluster::boot(powers);
    let file = cluster.file("pod.yaml");
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: odd}\nspec: {containers: [{name: a, image: \"odd:1\"}]}\n";
    std::fs::write(&file, text).unwrap();
    cluster.yard(&["apply", "-f", file.to_str().unwrap()]);
    eventually("ErrImagePull or its back-off", || cluster.yard(&["get", "pods"]).contains("ImagePull").then_some(()));
    let events = cluster.get(&["events"]).to_string();
    assert!(events.contains("spec.images"), "{events}");
    let described = cluster.yard(&["describe", "pod", "odd"]);
    let image = |line: &str| line.trim_start().starts_with("Image:") && line.ends_with(" odd:1");
    assert!(described.starts_with("Name:") && described.lines().any(image), "{described}");
    assert!(described.contains("Events:\n") && described.contains("spec.images"), "{described}");
    cluster.yard(&["delete", "pod", "odd"]);
}
