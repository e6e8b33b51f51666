//! Another network under a cluster that serves: nobody notices, whoever is killed, and what fails is taken back.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::Value;

use crate::policy::{address, apply, datagrams, idle, policy, ready, sender};
use crate::rig::{Cluster, Dialogue, Powers, State, Traffic, eventually, has, scenarios};

scenarios! {
    networks_change_under_load
    tunnels_change_under_load
    segments_are_handed_over_and_closed_ways_stay_closed
    whoever_dies_in_a_swap_it_ends_well
    a_swap_that_fails_is_taken_back
}

const HOST: &str = "sphinx-v1.esxcloud.net";

/// All networks that there are; each pair of plugins is swapped in both directions.
const NETWORKS: [&[&str]; 6] = [
    &["kubenet"],
    &["overlay"],
    &["kubenet", "--config", "bridge=cbr1"],
    &["nsx"],
    &["none"],
    &["nsx", "--config", "encapsulation=geneve"],
];

/// The pods of the default namespace: name, uid, address, whether ready, restarts.
#[derive(Debug, PartialEq)]
struct Pods(Vec<(Value, Value, Value, bool, u64)>);

impl Pods {
    #[track_caller]
    fn of(cluster: &Cluster) -> Self {
        let pods = cluster.get(&["pods"]);
        let of = |pod: &Value| {
            let (meta, status) = (&pod["metadata"], &pod["status"]);
            let containers = status["containerStatuses"].as_array().map_or(&[][..], Vec::as_slice);
            let ready = containers.iter().all(|container| container["ready"] == true);
            let restarts = containers.iter().filter_map(|container| container["restartCount"].as_u64()).sum();
            (meta["name"].clone(), meta["uid"].clone(), status["podIP"].clone(), ready, restarts)
        };
        Self(pods["items"].as_array().expect("pods").iter().map(of).collect())
    }

    fn restarts(&self) -> u64 {
        self.0.iter().map(|(.., restarts)| restarts).sum()
    }

    fn are_ready(&self) -> bool {
        self.0.iter().all(|(_, _, _, ready, _)| *ready)
    }

    /// Names, uids and addresses.
    fn addresses(&self) -> Vec<(&Value, &Value, &Value)> {
        self.0.iter().map(|(name, uid, ip, ..)| (name, uid, ip)).collect()
    }
}

fn swap(cluster: &Cluster, network: &[&str]) -> String {
    cluster.yard(&[&["network", "use"], network].concat())
}

fn status(cluster: &Cluster) -> Value {
    serde_json::from_str(&cluster.yard(&["network", "status", "-o", "json"])).expect("JSON")
}

fn networks_change_under_load(powers: Powers) {
    let cluster = Cluster::boot(powers);
    let before = State::of(&cluster);
    let pods = Pods::of(&cluster);
    let dry = cluster.yard(&["network", "use", "overlay", "--dry-run"]);
    assert!(dry.contains("node/worker-1: link vxlan") && dry.contains("router: route 10.40."), "{dry}");
    before.is_again(&cluster);

    let traffic = Traffic::start(cluster.door(), HOST);
    let dialogue = Dialogue::between_nodes(&cluster);
    traffic.more(50);
    // Every ordered pair, and back to where it began.
    for to in [1, 2, 0, 2, 1, 0, 3, 1, 3, 0] {
        let told = swap(&cluster, NETWORKS[to]);
        assert!(told.contains("all of them all the time"), "{told}");
        if to == 0 {
            before.is_again(&cluster);
        }
        traffic.more(20);
    }
    traffic.stop().lost_at_most(0);
    dialogue.end().was_one_connection();
    before.is_again(&cluster);
    assert_eq!(Pods::of(&cluster), pods);
    assert_eq!(pods.restarts(), 0);
    nothing_is_a_network_too(&cluster, &before, &pods);
}

/// From one encapsulation to the other and back, where the kernel has both; where it has not, every node says so and nothing changes.
fn tunnels_change_under_load(powers: Powers) {
    let cluster = Cluster::boot_on(powers, "nsx");
    let before = State::of(&cluster);
    let pods = Pods::of(&cluster);
    if !has("geneve") {
        for more in [&["--dry-run"][..], &[]] {
            let refused = cluster.try_yard(&[&["network", "use"], NETWORKS[5], more].concat());
            let told = String::from_utf8_lossy(&[refused.stdout, refused.stderr].concat()).into_owned();
            assert!(
                !refused.status.success() && told.contains("plugin nsx needs geneve, which this kernel refuses"),
                "{told}"
            );
        }
        before.is_again(&cluster);
        return;
    }
    let dry = cluster.yard(&[&["network", "use"], NETWORKS[5], &["--dry-run"]].concat());
    assert!(dry.contains("node/worker-1: link geneve0") && dry.contains("node/worker-1: link vx4095"), "{dry}");
    let traffic = Traffic::start(cluster.door(), HOST);
    let dialogue = Dialogue::between_nodes(&cluster);
    traffic.more(20);
    for to in [5, 3, 5, 0, 5, 3] {
        let told = swap(&cluster, NETWORKS[to]);
        assert!(told.contains("all of them all the time"), "{told}");
        traffic.more(20);
    }
    traffic.stop().lost_nothing();
    dialogue.end().was_one_connection();
    before.is_again(&cluster);
    assert_eq!(Pods::of(&cluster), pods);
}

/// No network at all, between any two others: pods keep what they have, and answer again. Their cables are made anew and the same.
fn nothing_is_a_network_too(cluster: &Cluster, before: &State, pods: &Pods) {
    for to in [4, 1, 4, 3, 4, 0] {
        swap(cluster, NETWORKS[to]);
        assert_eq!(Pods::of(cluster).addresses(), pods.addresses(), "{:?}", NETWORKS[to]);
        if to != 4 {
            answers(cluster, &format!("{:?} came after nothing", NETWORKS[to]));
        }
    }
    eventually("every pod is ready again", || Pods::of(cluster).are_ready().then_some(()));
    before.is_again(cluster);
}

/// Pods that were born into segments keep their addresses under networks that have none, and what a policy of the firewall or of
/// Kubernetes forbids does not happen in between.
fn segments_are_handed_over_and_closed_ways_stay_closed(powers: Powers) {
    let cluster = Cluster::boot_on(powers, "nsx");
    let pods = [("near", "worker-1"), ("far", "worker-2"), ("free", "worker-2")];
    apply(&cluster, &pods.map(|(name, node)| idle(name, node, name)));
    pods.iter().for_each(|(name, _)| ready(&cluster, name));
    let to = pods.map(|(name, _)| address(&cluster, name)).join(" ");
    let rule = r#"[{"name": "no", "sources": [{"podSelector": {"matchLabels": {"app": "crier"}}}],
        "destinations": [{"podSelector": {"matchLabels": {"app": "near"}}}], "action": "Drop"}]"#;
    let closed = [
        format!(
            r#"{{"apiVersion": "switchyard.dev/v1alpha1", "kind": "SecurityPolicy", "metadata": {{"name": "near"}},
                "spec": {{"tier": "Emergency", "rules": {rule}}}}}"#
        ),
        policy("far", r#"{"podSelector": {"matchLabels": {"app": "far"}}, "policyTypes": ["Ingress"]}"#),
    ];
    apply(&cluster, &closed);
    eventually("the firewall is in force", || {
        let policy = cluster.get(&["securitypolicy", "near"]);
        (policy["status"]["conditions"][0]["reason"] == "Realised").then_some(())
    });
    apply(&cluster, &[sender("crier", "worker-1", &to)]);
    ready(&cluster, "crier");
    let free = || datagrams(&cluster, "free").0;
    eventually("the crier is heard where it may be", || (free() > 0).then_some(()));

    let before = State::of(&cluster);
    let traffic = Traffic::start(cluster.door(), HOST);
    let dialogue = Dialogue::between_nodes(&cluster);
    traffic.more(20);
    for to in [0, 3, 1, 3] {
        let told = swap(&cluster, NETWORKS[to]);
        assert!(told.contains("all of them all the time"), "{told}");
        traffic.more(20);
        let heard = free();
        eventually("the crier is still heard", || (free() > heard).then_some(()));
    }
    traffic.stop().lost_nothing();
    dialogue.end().was_one_connection();
    for pod in ["near", "far"] {
        assert_eq!(datagrams(&cluster, pod).0, 0, "{pod} has heard the crier");
    }
    before.is_again(&cluster);
}

fn whoever_dies_in_a_swap_it_ends_well(powers: Powers) {
    let cluster = Cluster::boot(powers);
    let (before, pods) = (State::of(&cluster), Pods::of(&cluster));
    let mut to = 1;
    let unharmed = |to: usize, what: &str| {
        let now = Pods::of(&cluster);
        assert_eq!((now.addresses(), now.restarts()), (pods.addresses(), 0), "{what}");
        if to == 0 {
            before.is_again(&cluster);
        }
    };
    for phase in ["Planning", "Preparing", "Checking", "Switching", "Verifying", "Withdrawing", "Cleaning"] {
        for part in ["node-worker-1", "control-plane"] {
            dies(&cluster, NETWORKS[to], phase, part);
            unharmed(to, &format!("{part} died in {phase}"));
            // Between all three plugins, either way.
            to = [1, 3, 0, 0][to];
        }
    }
    dies(&cluster, NETWORKS[to], "Switching", "router");
    unharmed(to, "the router died in Switching");
    // On the way back from a network that does not carry anything.
    swap(&cluster, NETWORKS[0]);
    for part in ["node-worker-1", "control-plane", "router"] {
        wall(&cluster);
        kill_in(&cluster, NETWORKS[1], "Returning", part);
        let status = status(&cluster);
        assert_eq!(status["status"]["lastSwap"]["outcome"], "Returned", "{part}: {status}");
        assert_eq!(status["status"]["active"]["plugin"], "kubenet");
        no_wall(&cluster);
        unharmed(0, &format!("{part} died in Returning"));
        answers(&cluster, &format!("{part} died in Returning"));
    }
}

/// Kills a part when the swap reaches a phase. The swap succeeds or is taken back; either way nothing is left of it, and a try
/// without a death succeeds.
fn dies(cluster: &Cluster, network: &[&str], phase: &str, part: &str) {
    kill_in(cluster, network, phase, part);
    let told = cluster.try_yard(&[&["network", "use"], network].concat());
    let (out, err) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    assert!(told.status.success(), "{part} died in {phase}: {out}{err}");
    if part == "router" {
        // Once it is started again it first asks the nodes whether they are well.
        answers(cluster, &format!("{part} died in {phase}"));
    }
    assert_eq!(cluster.ask(HOST).status, 200, "{part} died in {phase}");
}

fn answers(cluster: &Cluster, after: &str) {
    eventually(&format!("an answer after {after}"), || {
        let answer = crate::rig::http::get(cluster.door(), HOST, "/").ok()?;
        (answer.status == 200).then_some(())
    });
}

/// Begins a swap, kills a part when it reaches a phase, and waits until the part is there again and the swap is over.
fn kill_in(cluster: &Cluster, network: &[&str], phase: &str, part: &str) {
    let before = cluster.pid(part);
    let mut command = cluster.command(cluster.program());
    let mut child = command
        .args(["network", "use"])
        .args(network)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("yard runs");
    let mut told = Vec::new();
    let mut killed = false;
    for line in BufReader::new(child.stderr.take().expect("piped")).lines() {
        let line = line.expect("text");
        if !killed && line.contains(phase) {
            crate::rig::kill(before);
            killed = true;
        }
        told.push(line);
    }
    child.wait().expect("yard ends");
    assert!(killed, "{part} was to die in {phase}, which nobody has seen: {told:#?}");
    eventually(&format!("{part} again, after its death in {phase}"), || {
        let status = cluster.status();
        let all = status["processes"].as_array()?;
        let process = all.iter().find(|process| process["name"] == part)?;
        let is_another = process["hostPid"].as_u64().is_some_and(|pid| pid != u64::from(before));
        is_another.then_some(())
    });
    eventually(&format!("the end of a swap in which {part} died in {phase}"), || {
        let output = cluster.try_yard(&["network", "status", "-o", "json"]);
        let network: Value = serde_json::from_slice(&output.stdout).ok()?;
        let status = &network["status"];
        let at = &status["active"]["generation"];
        let nodes = status["nodes"].as_object()?.values().all(|node| node["generation"] == *at);
        (status["swap"].is_null() && status["lastSwap"]["outcome"].is_string() && nodes).then_some(())
    });
}

/// The underlay lets no tunnel through to or from a node, which nobody knows before packets are sent.
fn wall(cluster: &Cluster) {
    let rule = "add table inet wall; add chain inet wall in { type filter hook input priority -300; }; \
                add rule inet wall in udp dport 4789 drop; add rule inet wall in udp dport 8472 drop";
    cluster.shell("worker-2", &["nft", rule]).unwrap();
}

fn no_wall(cluster: &Cluster) {
    cluster.shell("worker-2", &["nft", "delete table inet wall"]).unwrap();
}

fn a_swap_that_fails_is_taken_back(powers: Powers) {
    let cluster = Cluster::boot(powers);
    let before = State::of(&cluster);
    let traffic = Traffic::start(cluster.door(), HOST);
    traffic.more(50);
    let fails = |network: &[&str], outcome: &str, why: &str| {
        let output = cluster.try_yard(&[&["network", "use"], network].concat());
        let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && told.contains(why), "{network:?}: {told}");
        let status = status(&cluster);
        assert_eq!(status["status"]["active"]["plugin"], "kubenet");
        if !outcome.is_empty() {
            assert_eq!(status["status"]["lastSwap"]["outcome"], outcome, "{told}");
        }
    };
    // An option that is no good: nobody is even asked.
    fails(&["overlay", "--config", "mtu=1"], "", "option mtu");
    // Somebody else's device is in the way on one node, which is seen before anything changes.
    cluster.shell("worker-2", &["ip", "link", "add", "cbr9", "type", "veth", "peer", "name", "cbr9b"]).unwrap();
    fails(&["kubenet", "--config", "bridge=cbr9", "--dry-run"], "", "worker-2: node/worker-2: add link cbr9");
    fails(&["kubenet", "--config", "bridge=cbr9"], "Refused", "worker-2: node/worker-2: add link cbr9");
    cluster.shell("worker-2", &["ip", "link", "del", "cbr9"]).unwrap();
    wall(&cluster);
    fails(&["overlay"], "Returned", "no answer any more");
    no_wall(&cluster);
    before.is_again(&cluster);
    // The wall is gone; the same again succeeds.
    let report = traffic.stop();
    swap(&cluster, &["overlay"]);
    assert_eq!(cluster.ask(HOST).status, 200);
    // Packets were lost only while the tunnel was tried.
    report.was_back_within(crate::rig::DEADLINE, "a tunnel that did not work");
}
