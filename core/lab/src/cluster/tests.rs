use serde_json::{Value, json};

use super::*;

fn textbook() -> Value {
    json!({
        "apiVersion": "switchyard.dev/v1alpha1", "kind": "Cluster", "metadata": {"name": "sphinx"},
        "spec": {"nodes": [
            {"name": "n1"},
            {"name": "control-plane", "role": "control-plane"},
            {"name": "n2", "podCIDR": "10.40.2.0/24"},
        ]},
    })
}

fn check(file: Value) -> Result<Topology, Error> {
    read::parse(file).and_then(|cluster| Topology::of(&cluster))
}

fn complaint(change: impl FnOnce(&mut Value)) -> String {
    let mut file = textbook();
    change(&mut file);
    check(file).expect_err("should have been refused").to_string()
}

#[test]
fn defaults_are_those_of_the_textbook() {
    let topology = check(textbook()).unwrap();
    assert_eq!(topology.gateway.to_string(), "10.140.0.1");
    assert_eq!(topology.api().to_string(), "10.140.0.10:6443");
    let addresses: Vec<_> = topology.nodes.iter().map(|node| node.address.to_string()).collect();
    assert_eq!(addresses, ["10.140.0.11", "10.140.0.10", "10.140.0.12"]);
}

#[test]
fn default_addresses_keep_clear_of_written_ones() {
    let mut file = textbook();
    file["spec"]["nodes"][2]["address"] = json!("10.140.0.11");
    assert_eq!(check(file).unwrap().nodes[0].address.to_string(), "10.140.0.12");
}

#[test]
fn complaints_name_field_value_and_rule() {
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 26] = [
        (|f| f["apiVersion"] = json!("v2"), "apiVersion: v2: must be switchyard.dev/v1alpha1"),
        (|f| f["metadata"]["name"] = json!("A"), "metadata.name: \"A\": must be 1 to 63"),
        (|f| f["spec"]["nodes"][1]["role"] = json!("worker"), "spec.nodes: 0 control-plane nodes: exactly one"),
        (|f| f["spec"]["nodes"][0]["role"] = json!("control-plane"), "spec.nodes: 2 control-plane nodes"),
        (|f| f["spec"]["nodes"][0]["role"] = json!("boss"), "spec.nodes[0].role: \"boss\": unknown variant"),
        (|f| f["spec"]["nodes"][2]["name"] = json!("n1"), "spec.nodes[2].name: n1: is also the name of spec.nodes[0]"),
        (
            |f| f["spec"]["nodes"][0]["address"] = json!("10.1.0.1"),
            "spec.nodes[0].address: 10.1.0.1: must be a host address",
        ),
        (|f| f["spec"]["nodes"][0]["address"] = json!("10.140.0.1"), "10.140.0.1: is also spec.underlay.gateway"),
        (|f| f["spec"]["nodes"][0]["podCIDR"] = json!("10.40.2.0/24"), "spec.nodes[2].podCIDR: 10.40.2.0/24: is also"),
        (|f| f["spec"]["nodes"][0]["podCIDR"] = json!("10.41.2.0/24"), "must be a /24"),
        (|f| f["spec"]["podCIDR"] = json!("10.140.0.0/16"), "spec.podCIDR: 10.140.0.0/16: overlaps spec.underlay.cidr"),
        (|f| f["spec"]["podCIDR"] = json!("10.40.0.1/16"), "has host bits; write 10.40.0.0/16"),
        (|f| f["spec"]["podCIDR"] = json!("ten"), "spec.podCIDR: \"ten\": must be a prefix such as"),
        (|f| f["spec"]["underlay"] = json!({"mtu": 12}), "spec.underlay.mtu: 12: must be"),
        (
            |f| f["spec"]["underlay"] = json!({"routes": {"limit": 0}}),
            "spec.underlay.routes.limit: 0: must be 1 to 10000",
        ),
        (
            |f| f["spec"]["underlay"] = json!({"routes": {"errorRate": 1.5}}),
            "spec.underlay.routes.errorRate: 1.5: must be 0 (never fails) to 1",
        ),
        (
            |f| f["spec"]["underlay"] = json!({"routes": {"delayMilliseconds": 700000}}),
            "spec.underlay.routes.delayMilliseconds: 700000: must be 0 to 600000",
        ),
        (
            |f| f["spec"]["hostPorts"] = json!([{"listen": "0.0.0.0:80", "to": "10.0.0.1:80"}]),
            "must be a loopback address",
        ),
        (
            |f| f["spec"]["images"] = json!({"nginx": "nginx"}),
            "spec.images[\"nginx\"]: nginx: must be one of yard/echo",
        ),
        (
            |f| f["spec"]["dns"] = json!({"zones": ["esxcloud"]}),
            "spec.dns.zones[0]: \"esxcloud\": must be a domain of at least two labels",
        ),
        (|f| f["spec"]["dns"] = json!({"zones": ["a.cluster.local"]}), "cluster.local is the cluster's own domain"),
        (
            |f| f["spec"]["dns"] = json!({"upstreams": ["dns.example"]}),
            "spec.dns.upstreams[0]: \"dns.example\": must be ADDRESS",
        ),
        (|f| f["spec"]["dns"] = json!({"listen": "0.0.0.0:53"}), "spec.dns.listen: 0.0.0.0:53: must be a loopback"),
        (
            |f| f["spec"]["nodeMonitorGracePeriodSeconds"] = json!(3),
            "spec.nodeMonitorGracePeriodSeconds: 3: must be 4 to 3600",
        ),
        (
            |f| f["spec"]["defaultTolerationSeconds"] = json!(100_000),
            "spec.defaultTolerationSeconds: 100000: must be 0 (pods leave at once) to 86400",
        ),
        (|f| f["spec"]["colour"] = json!("red"), "unknown field `colour`"),
    ];
    for (change, expected) in cases {
        let got = complaint(change);
        assert!(got.contains(expected), "expected …{expected}…\n     got {got}");
    }
}

#[test]
fn a_folder_gives_one_cluster_and_its_manifests() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("b.yaml"), "kind: Service\n---\n---\nkind: List\nitems: [{kind: Pod}]\n")
        .unwrap();
    std::fs::write(folder.path().join("README.md"), "not: [yaml").unwrap();
    let error = load(folder.path()).unwrap_err().to_string();
    assert!(error.contains("0 objects of kind Cluster"), "{error}");
    std::fs::write(folder.path().join("a.yaml"), serde_json::to_string(&textbook()).unwrap()).unwrap();
    let loaded = load(folder.path()).unwrap();
    let kinds: Vec<_> = loaded.manifests.iter().map(|object| object["kind"].clone()).collect();
    assert_eq!(kinds, ["Service", "Pod"]);
}
