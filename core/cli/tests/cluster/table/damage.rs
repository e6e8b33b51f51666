//! What goes wrong on the way, and what comes of it.

use serde_json::Value;

use super::stage::Stage;
use crate::rig::eventually;

/// Something that somebody destroys: where, how, and how it shows.
type Damage = (String, String, String);

/// The way back to a pod gets narrow behind its node: the sender hears of it and goes on in smaller pieces.
pub(super) fn path_mtu(stage: &Stage) {
    let (a, c) = (stage.ip("a"), stage.ip("c"));
    let way = stage.sh("worker-2", &format!("ip -o route get {a}"));
    let words: Vec<&str> = way.split_whitespace().collect();
    let after = |name: &str| words.windows(2).find(|pair| pair[0] == name).map(|pair| pair[1]).expect("a gateway");
    // Beside whatever leads there: a network may have a route to this one address.
    let encap = way.find("encap ").zip(way.find(" via ")).map_or("", |(from, to)| &way[from..to]);
    let route = format!("{a}/32 {encap} via {} dev {} onlink mtu 1200 table 99", after("via"), after("dev"));
    stage.sh("worker-2", &format!("ip route add {route}; ip rule add priority 99 to {a} lookup 99"));
    let got = stage.sh("pod/a", &format!("curl -sS -m 30 {c}/bytes/300000 | wc -c"));
    assert_eq!(got.trim(), "300000");
    let known = stage.sh("pod/c", &format!("ip route get {a}"));
    assert!(known.contains("mtu 1200"), "the sender was told: {known}");
    stage.sh("worker-2", &format!("ip rule del priority 99; ip route del {route}"));
}

/// One packet in a hundred goes missing on a node. It takes longer, and nothing fails.
pub(super) fn loss(stage: &Stage) {
    let table = "table inet test-loss { chain pre { type filter hook prerouting priority -300; \
        iifname != lo meta l4proto tcp numgen random mod 100 == 0 drop; }; }";
    stage.sh("worker-2", &format!("nft '{table}'"));
    let line =
        format!("for i in 1 2 3 4 5 6 7 8; do curl -sS -m 60 {}/bytes/500000 | wc -c & done; wait", stage.ip("c"));
    let got = stage.sh("pod/a", &line);
    stage.sh("worker-2", "nft delete table inet test-loss");
    assert_eq!(got.split_whitespace().collect::<Vec<_>>(), ["500000"; 8]);
}

pub(super) fn link_down_and_up(stage: &Stage) {
    let c = stage.ip("c");
    stage.sh("worker-1", "ip link set eth0 down; ip link set eth0 up");
    stage.eventually_answered("pod/a", &c);
    stage.eventually_answered("pod/c", &stage.ip("a"));
    stage.eventually_answered("worker-1", &c);
}

/// An agent is killed. Packets go on, and its successor finds everything as it should be.
pub(super) fn agent_restart(stage: &Stage) {
    let c = stage.ip("c");
    let before = stage.cluster.kill("node-worker-1");
    assert_eq!(stage.ask("pod/a", &c)["pod"], "c");
    eventually("another agent", || stage.cluster.try_pid("node-worker-1").filter(|pid| *pid != before));
    assert_eq!(stage.ask("pod/a", &c)["pod"], "c");
    eventually_ready(stage);
}

pub(super) fn bare_agent_restart(stage: &Stage) {
    let before = stage.cluster.kill("node-worker-1");
    eventually("another agent", || stage.cluster.try_pid("node-worker-1").filter(|pid| *pid != before));
    eventually_ready(stage);
}

/// Somebody destroys what a network is made of, piece by piece. It is as it was before within moments.
pub(super) fn drift(stage: &Stage) {
    let mut damage: Vec<Damage> = [
        ("pod/a", "ip route del default", "ip route show default"),
        ("pod/a", "ip neigh flush nud permanent dev eth0", "ip neigh show nud permanent dev eth0"),
        ("worker-1", "nft delete table ip yard-services", "nft -s list chain ip yard-services services"),
        ("worker-1", "ip route del default", "ip route show default"),
    ]
    .map(|(place, destroy, look)| (place.into(), destroy.into(), look.into()))
    .into();
    damage.extend(of_the_network(stage));
    for (place, destroy, look) in damage {
        let show = || stage.try_sh(&place, &look).unwrap_or_default().replace(" linkdown", "");
        let before = show();
        assert!(!before.trim().is_empty(), "{}: {place}: {look}", stage.network);
        stage.sh(&place, &destroy);
        eventually(&format!("{}: {place}: after {destroy}, {look} as before", stage.network), || {
            (show() == before).then_some(())
        });
    }
    stage.eventually_answered("pod/a", &stage.ip("c"));
}

fn of_the_network(stage: &Stage) -> Vec<Damage> {
    let nodes = stage.cluster.get(&["nodes"]);
    let block = |name: &str| {
        let mut nodes = nodes["items"].as_array().unwrap().iter();
        let node = nodes.find(|node| node["metadata"]["name"] == name).expect("a node");
        node["spec"]["podCIDR"].as_str().expect("a block").to_owned()
    };
    let (near, far) = (block("worker-1"), block("worker-2"));
    let bridge = ("worker-1", "ip link del cbr0".to_owned(), "ip -4 -br address show dev cbr0".to_owned());
    let damage = match stage.network {
        "kubenet" => {
            vec![("router", format!("ip route del {near}"), format!("ip route show {near}")), bridge]
        }
        "overlay" => {
            let tunnel = "ip -4 -br address show dev vxlan1; ip route show dev vxlan1; bridge fdb show dev vxlan1";
            vec![
                ("worker-1", format!("ip route del {far}"), format!("ip route show {far}")),
                (
                    "worker-1",
                    "ip neigh flush nud permanent dev vxlan1".into(),
                    "ip neigh show dev vxlan1 | sort".into(),
                ),
                (
                    "worker-1",
                    "bridge fdb del 0e:58:0a:8c:00:0c dev vxlan1 dst 10.140.0.12".into(),
                    "bridge fdb show dev vxlan1 | sort".into(),
                ),
                ("worker-1", "ip link del vxlan1".into(), format!("({tunnel}) | sort")),
                bridge,
            ]
        }
        "nsx_geneve" => {
            let device = "ip -4 -br address show dev geneve0; ip neigh show dev geneve0; ip route show dev geneve0";
            vec![
                ("worker-1", format!("ip route del {far}"), format!("ip route show {far}")),
                (
                    "worker-1",
                    "ip neigh flush nud permanent dev geneve0".into(),
                    "ip neigh show dev geneve0 | sort".into(),
                ),
                ("worker-1", "ip link del geneve0".into(), format!("({device}) | sort")),
                bridge,
            ]
        }
        "nsx" => {
            let guard = "nft -s list table bridge yard-guard";
            let of = |dev: &str| {
                format!("(ip -4 -br address show dev {dev}; ip route show dev {dev}; bridge fdb show dev {dev}) | sort")
            };
            let addresses = "ip -4 -br address show dev dr0; ip route show dev dr0".to_owned();
            vec![
                ("worker-1", "nft delete table bridge yard-guard".into(), guard.into()),
                ("worker-1", "nft flush set bridge yard-guard ports".into(), guard.into()),
                ("worker-1", "ip rule del priority 1002".into(), "ip rule show".into()),
                ("worker-1", "ip link del vx4095".into(), of("vx4095")),
                ("worker-1", "ip link del vx4096".into(), of("vx4096")),
                ("worker-1", "ip link del dr0".into(), addresses.clone()),
                ("worker-1", "ip link del cbr0".into(), addresses),
                ("node/worker-1/t0", "ip route del default".into(), "ip route show default".into()),
                ("node/worker-1/t0", "nft delete table ip yard-tier0".into(), "nft -s list table ip yard-tier0".into()),
                bridge,
            ]
        }
        _ => Vec::new(),
    };
    damage.into_iter().map(|(place, destroy, look)| (place.to_owned(), destroy, look)).collect()
}

/// More pods than a node has addresses for: some wait, and say why. One whose address is of no node's block is carried as well.
pub(super) fn full_address_pool_and_foreign_pods(stage: &Stage) {
    stage.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: foreign, annotations: {switchyard.dev/pod-ip: 10.40.200.9}}\n\
         spec:\n  nodeName: worker-1\n  containers: [{name: echo, image: yard/echo, args: [--port=80], \
         env: [{name: POD_NAME, value: foreign}]}]\n---\n\
         apiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {name: many}\nspec:\n  replicas: 14\n  \
         selector: {matchLabels: {app: many}}\n  template:\n    metadata: {labels: {app: many}}\n    spec:\n      \
         nodeSelector: {kubernetes.io/hostname: worker-2}\n      containers: [{name: echo, image: yard/echo}]\n",
    );
    let pods = || stage.cluster.get(&["pods", "-l", "app=many"])["items"].as_array().unwrap().clone();
    let message = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let waits = conditions.iter().find(|one| one["type"] == "PodScheduled" && one["status"] == "False");
        waits.and_then(|one| one["message"].as_str()).map(str::to_owned)
    };
    let (running, waiting): (Vec<Value>, Vec<Value>) = eventually("pods that wait, others that run", || {
        let (waiting, running): (Vec<Value>, Vec<Value>) = pods().into_iter().partition(|pod| message(pod).is_some());
        let run = running.iter().all(|pod| pod["status"]["phase"] == "Running");
        (run && !waiting.is_empty() && waiting.len() + running.len() == 14).then_some((running, waiting))
    });
    let why = message(&waiting[0]).expect("it waits");
    assert!(why.contains("address"), "{why}");
    assert!(!running.is_empty());
    assert_eq!(stage.ip("foreign"), "10.40.200.9");
    for place in ["worker-1", "pod/a"] {
        stage.eventually_answered(place, "10.40.200.9");
        assert_eq!(stage.ask(place, "10.40.200.9")["pod"], "foreign", "{place}");
    }
    // It reaches everybody on its node.
    assert_eq!(stage.ask("pod/foreign", &stage.ip("b"))["pod"], "b");
    stage.cluster.yard(&["delete", "replicaset", "many"]);
    stage.cluster.yard(&["delete", "pod", "foreign"]);
    eventually("all of them gone", || pods().is_empty().then_some(()));
}

/// More pods run to their end than there are addresses, and all of them stay. Each that comes reaches everybody under the address of one
/// that has ended, and nothing that is said of those is about who has their addresses now.
pub(super) fn more_ended_pods_than_addresses(stage: &Stage) {
    let (a, c) = (stage.ip("a"), stage.ip("c"));
    stage.apply(&format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: ended}}\nspec:\n  \
         podSelector: {{matchLabels: {{app: ended}}}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: ended}}\nspec:\n  \
         selector: {{app: ended}}\n  ports: [{{port: 80}}]\n---\n\
         apiVersion: batch/v1\nkind: Job\nmetadata: {{name: ended}}\nspec:\n  completions: 48\n  parallelism: 6\n  \
         backoffLimit: 0\n  template:\n    metadata: {{labels: {{app: ended}}}}\n    spec:\n      restartPolicy: Never\n      \
         containers: [{{name: ask, image: host, command: [curl, -sSf, -m, '20', '{a}', '{c}']}}]\n"
    ));
    let job = || stage.cluster.get(&["job", "ended"])["status"].clone();
    eventually(&format!("{}: as many as the Job wants have ended well", stage.network), || {
        let status = job();
        assert!(status["failed"].is_null(), "{}: {status}", stage.network);
        (status["succeeded"] == 48).then_some(())
    });
    let pods = stage.cluster.get(&["pods", "-l", "app=ended"])["items"].as_array().unwrap().clone();
    let shown: Vec<&str> = pods.iter().filter_map(|pod| pod["status"]["podIP"].as_str()).collect();
    assert_eq!(shown.len(), 48, "each still shows what it was");
    stage.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: heir, labels: {app: heir}}\nspec:\n  \
         nodeSelector: {kubernetes.io/hostname: worker-2}\n  containers: [{name: echo, image: yard/echo, args: [--port=80], \
         env: [{name: POD_NAME, value: heir}]}]\n",
    );
    let heir = eventually("an heir that runs", || {
        let pod = stage.cluster.get(&["pod", "heir"]);
        (pod["status"]["phase"] == "Running").then(|| stage.ip("heir"))
    });
    assert!(shown.contains(&&*heir), "{}: {heir} was nobody's: {shown:?}", stage.network);
    for place in ["worker-1", "worker-2", "pod/a", "pod/c"] {
        stage.eventually_answered(place, &heir);
        assert_eq!(stage.ask(place, &heir)["pod"], "heir", "{}: {place}", stage.network);
    }
    let service = stage.service("ended");
    assert!(stage.try_sh("pod/a", &format!("curl -sS -m 2 {service}")).is_err(), "nobody is behind the Service");
    stage.cluster.yard(&["delete", "job", "ended"]);
    stage.cluster.yard(&["delete", "pod", "heir"]);
    stage.cluster.yard(&["delete", "service", "ended"]);
    stage.cluster.yard(&["delete", "networkpolicy", "ended"]);
    eventually("all of them gone", || {
        let left = stage.cluster.get(&["pods", "-l", "app in (ended,heir)"]);
        left["items"].as_array().unwrap().is_empty().then_some(())
    });
}

fn eventually_ready(stage: &Stage) {
    eventually("the node is ready", || {
        let node = stage.cluster.get(&["node", "worker-1"]);
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True").then_some(())
    });
}
