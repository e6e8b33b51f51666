//! A cluster serves what its manifests describe.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::rig::{Cluster, Powers, scenarios};

scenarios! {
    requests_reach_pods_in_turn
    yard_shows_applies_and_deletes
    up_twice_is_up_once
    a_shell_is_in_its_node
}

fn requests_reach_pods_in_turn(powers: Powers) {
    let cluster = Cluster::boot(powers);
    for (host, replicas) in [("sphinx-v1.esxcloud.net", 3), ("sphinx-v2.esxcloud.net", 2)] {
        let mut turns = BTreeMap::new();
        for _ in 0..replicas * 4 {
            let answer = cluster.ask(host);
            assert_eq!(answer.status, 200, "{answer:?}");
            *turns.entry(answer.pod()).or_insert(0) += 1;
        }
        assert!(turns.values().all(|&turns| turns == 4) && turns.len() == replicas, "{host}: {turns:?}");
    }
    let answer = cluster.ask("other.esxcloud.net");
    assert_eq!(answer.status, 404);
    assert!(answer.body.contains("other.esxcloud.net"), "the body should say why: {answer:?}");
}

fn yard_shows_applies_and_deletes(powers: Powers) {
    let cluster = Cluster::boot(powers);
    let pods = cluster.yard(&["get", "pods", "-A", "-o", "wide"]);
    assert!(pods.lines().next().unwrap().starts_with("NAMESPACE"), "{pods}");
    assert!(pods.contains("sphinx-rs-1-") && pods.contains("10.40."), "{pods}");
    let map = cluster.file("map.yaml");
    std::fs::write(&map, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: words}\ndata: {a: b}\n").unwrap();
    let map = map.to_str().unwrap();
    assert_eq!(cluster.yard(&["apply", "-f", map]), "configmap/words created\n");
    assert_eq!(cluster.yard(&["apply", "-f", map]), "configmap/words unchanged\n");
    std::fs::write(map, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: words}\ndata: {a: c}\n").unwrap();
    assert_eq!(cluster.yard(&["apply", "-f", map]), "configmap/words configured\n");
    assert_eq!(cluster.get(&["cm", "words"])["data"]["a"], "c");
    assert_eq!(cluster.yard(&["delete", "cm", "words"]), "configmap/words deleted\n");
    let missing = cluster.try_yard(&["get", "cm", "words"]);
    assert_eq!(missing.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&missing.stderr), "yard: configmaps \"words\" not found\n");
}

fn up_twice_is_up_once(powers: Powers) {
    let cluster = Cluster::boot(powers);
    let before = cluster.pid("supervisor");
    cluster.up();
    assert_eq!(cluster.pid("supervisor"), before);
    is_its_owners_alone(&cluster.directory());
}

/// Nobody else gets into a cluster's folder, and nobody else could read what is secret in it.
fn is_its_owners_alone(directory: &Path) {
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(directory), 0o700, "{}", directory.display());
    let (mut folders, mut secrets) = (vec![directory.to_owned()], 0);
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let kubeconfig = name == "kubeconfig" || folder.ends_with("kubeconfigs");
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            } else if kubeconfig || name == "manifests.yaml" || name.ends_with(".key") || name.ends_with(".redb") {
                assert_eq!(mode(&path), 0o600, "{}", path.display());
                secrets += 1;
            }
        }
    }
    assert!(secrets > 8, "there are keys, kubeconfigs, the store and the manifests, not {secrets} files");
}

fn a_shell_is_in_its_node(powers: Powers) {
    let cluster = Cluster::boot(powers);
    let address = cluster.yard(&["shell", "worker-1", "--", "ip", "-br", "address", "show", "eth0"]);
    assert!(address.contains("10.140.0.11/24"), "{address}");
    for place in ["router", "controlplane", "worker-1"] {
        let addresses = cluster.yard(&["shell", place, "--", "ip", "-6", "-o", "addr"]);
        assert!(addresses.lines().all(|line| line.contains(" lo ")), "IPv6 is off in {place}: {addresses}");
    }
    let to_the_api = ["shell", "worker-1", "--", "ss", "-Htn", "state", "established", "dst", "10.140.0.10:6443"];
    let connections = cluster.yard(&to_the_api);
    assert_eq!(connections.lines().count(), 1, "all that an agent asks and watches is one connection: {connections}");
    let routes = cluster.yard(&["shell", "router", "--", "ip", "route"]);
    assert!(routes.contains("10.40.1.0/24 via 10.140.0.11"), "{routes}");
    assert_eq!(cluster.try_yard(&["shell", "worker-2", "--", "sh", "-c", "exit 7"]).status.code(), Some(7));
}
