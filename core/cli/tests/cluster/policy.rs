//! NetworkPolicies: from a pod's first instant, when labels change, and while nobody watches over them.

use crate::rig::{Cluster, Powers, eventually, scenarios};

scenarios! {
    closed_at_birth_and_while_the_agent_is_dead
    labels_decide
}

/// Sends a datagram to each of some addresses, over and over, from its first instant. Without pauses a few of them would keep a machine from
/// anything else.
pub(crate) fn sender(name: &str, node: &str, to: &str) -> String {
    let pause = if to.contains(' ') { "0.01" } else { "0.001" };
    format!(
        r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "{name}", "labels": {{"app": "{name}"}}}},
            "spec": {{"nodeSelector": {{"kubernetes.io/hostname": "{node}"}}, "terminationGracePeriodSeconds": 0, "containers": [{{"name": "c",
            "image": "host", "command": ["bash", "-c",
            "exec 3<> <(:); while :; do for to in {to}; do echo x > /dev/udp/$to/9; done; read -t {pause} -u 3; done 2> /dev/null"]}}]}}}}"#
    )
}

/// Does nothing; its kernel counts what reaches it.
pub(crate) fn idle(name: &str, node: &str, label: &str) -> String {
    format!(
        r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "{name}", "labels": {{"app": "{label}"}}}},
            "spec": {{"nodeSelector": {{"kubernetes.io/hostname": "{node}"}}, "terminationGracePeriodSeconds": 0, "containers": [{{"name": "c",
            "image": "nginx:1.25", "args": ["--port=8080"]}}]}}}}"#
    )
}

pub(crate) fn policy(name: &str, spec: &str) -> String {
    format!(
        r#"{{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {{"name": "{name}"}}, "spec": {spec}}}"#
    )
}

#[track_caller]
pub(crate) fn apply(cluster: &Cluster, objects: &[String]) {
    let file = cluster.file("objects.yaml");
    std::fs::write(&file, objects.join("\n---\n")).unwrap();
    cluster.yard(&["apply", "-f", file.to_str().unwrap()]);
}

#[track_caller]
pub(crate) fn ready(cluster: &Cluster, pod: &str) {
    eventually(&format!("{pod} is ready"), || cluster.is_ready(pod).then_some(()));
}

#[track_caller]
pub(crate) fn address(cluster: &Cluster, pod: &str) -> String {
    let pod = cluster.get(&["pod", pod]);
    pod["status"]["podIP"].as_str().expect("an address").to_owned()
}

/// Datagrams that a pod has received, and sent; the network namespace of a pod begins with 0.
#[track_caller]
pub(crate) fn datagrams(cluster: &Cluster, pod: &str) -> (u64, u64) {
    let text = cluster.shell(&format!("pod/{pod}"), &["cat", "/proc/net/snmp"]).expect("its counters");
    let mut lines = text.lines().filter(|line| line.starts_with("Udp: ")).map(|line| line.split_whitespace());
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let value = |wanted: &str| {
        let mut pairs = names.clone().zip(values.clone());
        pairs.find(|(name, _)| *name == wanted).and_then(|(_, value)| value.parse::<u64>().ok()).expect("a number")
    };
    (value("InDatagrams") + value("NoPorts"), value("OutDatagrams"))
}

/// Waits until a pod has sent this many more.
#[track_caller]
fn goes_on(cluster: &Cluster, sender: &str, more: u64) {
    let before = datagrams(cluster, sender).1;
    eventually("datagrams are sent", || (datagrams(cluster, sender).1 > before + more).then_some(()));
}

fn closed_at_birth_and_while_the_agent_is_dead(powers: Powers) {
    let cluster = Cluster::boot(powers);
    apply(&cluster, &[idle("witness", "worker-2", "witness")]);
    ready(&cluster, "witness");
    let witness = address(&cluster, "witness");
    let addresses = "10.40.1.{2..30} 10.40.2.{2..30} 10.40.128.{2..30}";
    apply(&cluster, &[sender("spray", "worker-2", addresses)]);
    ready(&cluster, "spray");
    eventually("the spray arrives", || (datagrams(&cluster, "witness").0 > 0).then_some(()));

    // The witness takes nothing from the one that is not born yet, and the one that is born hears nothing of the spray.
    let mute = |name: &str| {
        policy(
            name,
            &format!(
                r#"{{"podSelector": {{"matchLabels": {{"app": "{name}"}}}}, "policyTypes": ["Ingress", "Egress"]}}"#
            ),
        )
    };
    let only = r#"{"podSelector": {"matchLabels": {"app": "witness"}}, "ingress": [{"from": [{"podSelector": {"matchExpressions":
        [{"key": "app", "operator": "NotIn", "values": ["spray"]}]}}]}]}"#;
    apply(&cluster, &[policy("only", only)]);
    eventually("the spray no longer arrives", || {
        let before = datagrams(&cluster, "witness").0;
        goes_on(&cluster, "spray", 200);
        (datagrams(&cluster, "witness").0 == before).then_some(())
    });
    let before = datagrams(&cluster, "witness").0;
    let born = |near: &str, far: &str| {
        let senders = [sender(near, "worker-2", &witness), sender(far, "worker-1", &witness)];
        apply(&cluster, &[&[mute(near), mute(far)][..], &senders].concat());
        for pod in [near, far] {
            ready(&cluster, pod);
            goes_on(&cluster, pod, 300);
            assert_eq!(datagrams(&cluster, pod).0, 0, "{pod} has received something");
        }
        assert_eq!(datagrams(&cluster, "witness").0, before, "something of what was born mute arrived");
    };
    born("near", "far");
    // Policies are a layer of their own: it is so under every network, in the pods of every network.
    for (network, near, far) in
        [("overlay", "near-2", "far-2"), ("nsx", "near-3", "far-3"), ("kubenet", "near-4", "far-4")]
    {
        cluster.yard(&["network", "use", network]);
        born(near, far);
    }

    for node in ["node-worker-1", "node-worker-2"] {
        let killed = cluster.kill(node);
        goes_on(&cluster, "far", 300);
        eventually("another agent", || (cluster.pid(node) != killed).then_some(()));
        goes_on(&cluster, "far", 300);
        goes_on(&cluster, "near", 300);
    }
    assert_eq!(datagrams(&cluster, "witness").0, before, "policies were open while no agent was there");
    assert_eq!(datagrams(&cluster, "near").0, 0);

    // It was the policies that kept them silent, and the agents that came back follow changes.
    cluster.yard(&["delete", "networkpolicy", "far"]);
    eventually("the far one is heard", || (datagrams(&cluster, "witness").0 > before).then_some(()));
}

fn labels_decide(powers: Powers) {
    let cluster = Cluster::boot(powers);
    apply(
        &cluster,
        &[idle("server", "worker-1", "server"), idle("here", "worker-1", "guest"), idle("there", "worker-2", "guest")],
    );
    for pod in ["server", "here", "there"] {
        ready(&cluster, pod);
    }
    let url = format!("http://{}:8080/", address(&cluster, "server"));
    let asks = |place: &str| cluster.shell(place, &["curl", "-sS", "-m", "1", &url]).is_ok();
    let both = |may: bool| {
        for pod in ["pod/here", "pod/there"] {
            eventually(&format!("{pod} reaches the server: {may}"), || (asks(pod) == may).then_some(()));
        }
    };
    both(true);
    let friends = r#"{"podSelector": {"matchLabels": {"app": "server"}},
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "friend"}}}], "ports": [{"port": 8080}]}]}"#;
    apply(&cluster, &[policy("friends", friends)]);
    both(false);
    assert!(asks("worker-1"), "a node reaches its own pods");
    assert!(!asks("worker-2"), "and no others that do not let it");
    apply(&cluster, &[idle("here", "worker-1", "friend"), idle("there", "worker-2", "friend")]);
    both(true);
    apply(&cluster, &[idle("there", "worker-2", "guest")]);
    eventually("the guest is shut out", || (!asks("pod/there")).then_some(()));
    assert!(asks("pod/here"));
    cluster.yard(&["delete", "networkpolicy", "friends"]);
    both(true);
}
