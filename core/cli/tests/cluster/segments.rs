//! The network of segments: nsx.

use std::fs;
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::policy::{address, apply, datagrams, idle, ready};
use crate::rig::{Cluster, Powers, eventually, scenarios};

scenarios! {
    namespaces_are_segments_with_an_address_outside
    a_pod_sends_with_its_own_addresses_or_not_at_all
    the_standby_takes_over_from_a_dead_gateway
}

/// An address of the world outside, and a port there.
const WORLD: &str = "203.0.113.1";
const PORT: &str = "8099";

/// A server outside, ended when dropped.
struct World(Child);

impl World {
    fn serve(cluster: &Cluster) -> Self {
        cluster.shell("router", &["ip", "address", "add", &format!("{WORLD}/32"), "dev", "lo"]).expect("an address");
        let echo = cluster.program().with_file_name("yard-echo");
        let mut command = cluster.command(cluster.program());
        command.args(["shell", "router", "--"]).arg(echo).args(["--port", PORT]);
        Self(command.stdout(Stdio::null()).spawn().expect("a server outside"))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How the world outside sees a pod.
fn seen(cluster: &Cluster, namespace: &str, pod: &str) -> Option<String> {
    seen_at(cluster, namespace, pod, WORLD)
}

/// The same, asked at another address that leads there.
fn seen_at(cluster: &Cluster, namespace: &str, pod: &str, address: &str) -> Option<String> {
    let url = format!("http://{address}:{PORT}/");
    let asked = cluster.try_yard(&["shell", "-n", namespace, pod, "--", "curl", "-sS", "-m", "2", &url]);
    let echo: Value = serde_json::from_slice(&asked.stdout).ok()?;
    Some(echo["remote"].as_str()?.rsplit_once(':')?.0.to_owned())
}

/// Counts what floods, on a node's tunnel of a segment.
fn count_floods(cluster: &Cluster, node: &str, tunnel: &str) {
    let chain = format!(
        "add table netdev floods; add chain netdev floods {tunnel} {{ type filter hook egress device {tunnel} priority 0; }}; \
         add rule netdev floods {tunnel} ether type arp counter; \
         add rule netdev floods {tunnel} ether daddr ff:ff:ff:ff:ff:ff counter"
    );
    cluster.shell(node, &["nft", &chain]).expect("a table of its own");
}

/// Frames that were counted so.
fn floods(cluster: &Cluster, node: &str) -> u64 {
    let text = cluster.shell(node, &["nft", "list", "table", "netdev", "floods"]).expect("the table");
    let counters =
        text.split("counter packets ").skip(1).map(|rest| rest.split(' ').next().and_then(|n| n.parse().ok()));
    counters.map(|packets: Option<u64>| packets.expect("a number")).sum()
}

/// A pod's gateway. Which namespace has which subnet depends on whose pods come first.
fn gateway(cluster: &Cluster, pod: &str) -> String {
    let route = cluster.shell(pod, &["ip", "route", "show", "default"]).expect("a route");
    route.split_whitespace().nth(2).unwrap_or_else(|| panic!("default via GATEWAY: {route}")).to_owned()
}

/// Whether a pod answers another one over HTTP.
fn hears(cluster: &Cluster, from: &str, to: &str) -> bool {
    let url = format!("http://{}:8080/", address(cluster, to));
    cluster.shell(&format!("pod/{from}"), &["curl", "-sS", "-m", "2", &url]).is_ok()
}

/// A cluster with segments of 13 pods a subnet.
fn boot_with_small_subnets(powers: Powers) -> Cluster {
    let cluster = Cluster::prepare_with(powers, |folder| {
        let file = folder.join("cluster.yaml");
        let network = "plugin: nsx\n    options: {subnetPrefix: 28}";
        let text = fs::read_to_string(&file).unwrap().replace("plugin: kubenet", network);
        fs::write(&file, text).unwrap();
    });
    cluster.up();
    cluster
}

fn namespaces_are_segments_with_an_address_outside(powers: Powers) {
    let cluster = boot_with_small_subnets(powers);
    for node in ["worker-1", "worker-2"] {
        count_floods(&cluster, node, "vx4096");
    }
    assert_eq!(cluster.ask("sphinx-v1.esxcloud.net").status, 200);

    let segments = cluster.get(&["segments"]);
    let outside = |name: &str| {
        let items = segments["items"].as_array().unwrap();
        let segment = items.iter().find(|segment| segment["metadata"]["name"] == name).expect("a segment");
        segment["spec"]["outside"].as_str().expect("an address outside").to_owned()
    };
    let pod = format!("pod/{}", cluster.pod_of("app=sphinx,version=v1"));
    let services = cluster.get(&["services"]);
    for service in services["items"].as_array().unwrap() {
        let name = service["metadata"]["name"].as_str().unwrap();
        if name.starts_with("sphinx-svc-") {
            let url = format!("http://{}/", service["spec"]["clusterIP"].as_str().unwrap());
            for place in [&pod, "worker-1", "controlplane"] {
                let answer = cluster.shell(place, &["curl", "-sS", "-m", "20", &url]).expect("an answer");
                assert!(answer.contains("\"pod\":\"sphinx-rs-"), "{place} {url}: {answer}");
            }
        }
    }
    // The gateway is the same on both nodes, and the pod's own.
    let gateway = &gateway(&cluster, &pod);
    for pod in cluster.get(&["pods", "-l", "app=sphinx"])["items"].as_array().unwrap() {
        let pod = format!("pod/{}", pod["metadata"]["name"].as_str().unwrap());
        let neighbour = cluster.shell(&pod, &["ip", "neighbour", "show", gateway]).unwrap();
        assert!(neighbour.contains("02:50:56:56:44:52") && neighbour.contains("PERMANENT"), "{pod}: {neighbour}");
    }

    let _world = World::serve(&cluster);
    let default = outside("default");
    eventually("the default namespace's address outside", || {
        (seen(&cluster, "default", &pod) == Some(default.clone())).then_some(())
    });
    let ingress = cluster.get(&["pods", "-n", "ingress"]);
    let ingress = format!("pod/{}", ingress["items"][0]["metadata"]["name"].as_str().unwrap());
    assert_eq!(seen(&cluster, "ingress", &ingress), Some(outside("ingress")));
    // A Service whose endpoint is outside: all of the connection goes by the gateway, not only its first packet.
    let service = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: world}}\nspec: {{ports: [{{port: {PORT}}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nports: [{{port: {PORT}}}]\n\
         metadata: {{name: world, labels: {{kubernetes.io/service-name: world}}}}\nendpoints: [{{addresses: [{WORLD}]}}]\n"
    );
    apply(&cluster, &[service]);
    let world = cluster.get(&["service", "world"])["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    eventually("the namespace's address outside, by a Service", || {
        (seen_at(&cluster, "default", &pod, &world) == Some(default.clone())).then_some(())
    });

    // The other node becomes the only one that may carry the gateway.
    let nodes = cluster.get(&["nodes"]);
    let standby = nodes["items"].as_array().unwrap().iter();
    let mut standby = standby.filter(|node| node["metadata"]["annotations"]["switchyard.dev/edge"] == "standby");
    let standby = standby.next().expect("one stands by")["metadata"]["name"].as_str().unwrap();
    let label = format!(
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: {standby}\n  labels:\n    node-role.kubernetes.io/edge: \"\"\n"
    );
    fs::write(cluster.file("label.yaml"), label).unwrap();
    cluster.yard(&["apply", "-f", cluster.file("label.yaml").to_str().unwrap()]);
    eventually("the other gateway", || {
        let route = cluster.shell("router", &["ip", "route", "show", "192.168.200.0/24"]).unwrap();
        (route.lines().count() == 1).then_some(())
    });
    eventually("the same address by the other gateway", || {
        (seen(&cluster, "default", &pod) == Some(default.clone())).then_some(())
    });
    a_segment_grows_under_its_pods(&cluster);
    for node in ["worker-1", "worker-2"] {
        assert_eq!(floods(&cluster, node), 0, "{node}: nothing is asked of everybody");
    }
    a_device_in_the_way_is_told_by_the_segment_until_it_goes(&cluster);
}

/// A second subnet, on both nodes, whose pods reach each other and those of the first.
fn a_segment_grows_under_its_pods(cluster: &Cluster) {
    let names: Vec<String> = (0..14).map(|number| format!("more-{number}")).collect();
    let on = |number: usize| if number.is_multiple_of(2) { "worker-1" } else { "worker-2" };
    let pods: Vec<String> = names.iter().enumerate().map(|(number, name)| idle(name, on(number), "more")).collect();
    apply(cluster, &pods);
    names.iter().for_each(|name| ready(cluster, name));
    let segment = cluster.get(&["segment", "default"]);
    let subnets = segment["spec"]["subnets"].as_array().expect("subnets");
    assert!(subnets.len() >= 2, "{segment}");
    let is_first =
        |name: &&String| address(cluster, name).rsplit('.').next().and_then(|n| n.parse::<u8>().ok()) < Some(16);
    let first = names.iter().find(is_first);
    let second: Vec<&String> = names.iter().filter(|name| !is_first(name)).collect();
    let (here, there) = (second[0], second[1]);
    assert!(hears(cluster, here, there) && hears(cluster, there, here), "between nodes, in the second subnet");
    if let Some(first) = first {
        assert!(hears(cluster, first, here) && hears(cluster, there, first), "between the subnets");
    }
    let old = cluster.pod_of("app=sphinx,version=v1");
    assert!(hears(cluster, &old, there), "from a pod that was there before");
}

/// Somebody else's device has the name that a node would give its tunnel, for a while.
fn a_device_in_the_way_is_told_by_the_segment_until_it_goes(cluster: &Cluster) {
    cluster.shell("worker-2", &["ip", "link", "add", "vx4098", "type", "bridge"]).expect("a device");
    let namespace = r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "late"}}"#.to_owned();
    let pod = idle("late", "worker-1", "late")
        .replace(r#""metadata": {"name""#, r#""metadata": {"namespace": "late", "name""#);
    apply(cluster, &[namespace, pod]);
    eventually("the segment says which node does not carry it", || {
        let output = cluster.try_yard(&["get", "segment", "late", "-o", "json"]);
        let segment: Value = serde_json::from_slice(&output.stdout).ok()?;
        let condition = &segment["status"]["conditions"][0];
        let message = condition["message"].as_str()?;
        (condition["status"] == "False" && message.contains("worker-2") && message.contains("vx4098")).then_some(())
    });
    cluster.shell("worker-2", &["ip", "link", "del", "vx4098"]).expect("the device goes");
    eventually("the segment is there", || {
        let link = cluster.shell("worker-2", &["ip", "-d", "link", "show", "vx4098"]).ok()?;
        let segment = cluster.get(&["segment", "late"]);
        (link.contains("vxlan id 4098") && segment["status"]["conditions"][0]["status"] == "True").then_some(())
    });
}

/// The node with this role among gateways.
fn edge(cluster: &Cluster, role: &str) -> Option<String> {
    let nodes = cluster.get(&["nodes"]);
    let mut nodes = nodes["items"].as_array()?.iter();
    let node = nodes.find(|node| node["metadata"]["annotations"]["switchyard.dev/edge"] == role)?;
    Some(node["metadata"]["name"].as_str()?.to_owned())
}

fn the_standby_takes_over_from_a_dead_gateway(powers: Powers) {
    let cluster = Cluster::boot_on(powers, "nsx");
    let active = eventually("an active gateway", || edge(&cluster, "active"));
    let standby = eventually("one that stands by", || edge(&cluster, "standby"));
    apply(&cluster, &[idle("client", &standby, "client"), idle("far", &active, "far")]);
    ready(&cluster, "client");
    ready(&cluster, "far");
    let _world = World::serve(&cluster);
    let segment = cluster.get(&["segment", "default"]);
    let outside = segment["spec"]["outside"].as_str().expect("an address outside").to_owned();
    let seen = || seen(&cluster, "default", "pod/client");
    eventually("the namespace's address outside", || (seen() == Some(outside.clone())).then_some(()));

    // No packet comes to the node any more, and its agent says nothing.
    let wall =
        "add table inet wall; add chain inet wall p { type filter hook prerouting priority -300; iifname != lo drop; }";
    cluster.shell(&active, &["nft", wall]).unwrap();
    let agent = rustix::process::Pid::from_raw(cluster.pid(&format!("node-{active}")) as i32).expect("a process id");
    rustix::process::kill_process(agent, rustix::process::Signal::STOP).expect("stop the agent");
    assert_eq!(seen(), None, "the gateway is dead");
    // The time after which a silent node is taken for dead, 40 seconds, is most of what this takes.
    eventually("the other one is active", || (edge(&cluster, "active")? == standby).then_some(()));
    eventually("the same address by the other gateway", || (seen() == Some(outside.clone())).then_some(()));
    rustix::process::kill_process(agent, rustix::process::Signal::CONT).expect("let the agent go on");
    cluster.shell(&active, &["nft", "delete table inet wall"]).unwrap();
    eventually("the one that was dead", || {
        let node = cluster.get(&["node", &active]);
        let conditions = node["status"]["conditions"].as_array()?;
        conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True").then_some(())
    });
    assert_eq!(edge(&cluster, "active"), Some(standby.clone()), "it does not come back to it");
    assert_eq!(seen(), Some(outside));

    // Without any gateway pods are still there for each other, and for nobody outside.
    for node in [&active, &standby] {
        cluster.shell(&format!("node/{node}/t0"), &["nft", wall]).expect("the gateway's place");
    }
    assert_eq!(seen(), None, "both gateways are dead");
    assert!(hears(&cluster, "client", "far") && hears(&cluster, "far", "client"), "east-west goes on");
}

/// Frames that the guard of a node's ports has dropped.
fn guarded(cluster: &Cluster, node: &str) -> u64 {
    let text = cluster.shell(node, &["nft", "list", "chain", "bridge", "yard-guard", "prerouting"]).unwrap();
    let counter = text.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next());
    counter.and_then(|number| number.parse().ok()).expect("a counter")
}

fn a_pod_sends_with_its_own_addresses_or_not_at_all(powers: Powers) {
    let cluster = Cluster::boot_on(powers, "nsx");
    apply(
        &cluster,
        &[idle("liar", "worker-1", "liar"), idle("near", "worker-1", "near"), idle("far", "worker-2", "far")],
    );
    for pod in ["liar", "near", "far"] {
        ready(&cluster, pod);
    }
    let (liar, near, far) = (address(&cluster, "liar"), address(&cluster, "near"), address(&cluster, "far"));
    let shell = |line: &str| cluster.shell("pod/liar", &["bash", "-c", line]).unwrap();
    let heard = || datagrams(&cluster, "near").0 + datagrams(&cluster, "far").0;
    let say = |times: u32| {
        shell(&format!("for i in $(seq {times}); do for to in {near} {far}; do echo x > /dev/udp/$to/9; done; done"))
    };
    say(3);
    eventually("the pod is heard as itself", || (heard() >= 6).then_some(()));

    // With a stranger's address, with its neighbour's, and with its own from another card.
    let gateway = &gateway(&cluster, "pod/liar");
    let routes = |what: &str| {
        let lines = [&near, &far].map(|to| format!("ip route replace {to}/32 via {gateway} {what} onlink"));
        shell(&lines.join("; "));
    };
    for forged in ["10.40.128.77", &far] {
        let (before, dropped) = (heard(), guarded(&cluster, "worker-1"));
        shell(&format!("ip address add {forged}/32 dev eth0"));
        let to = if forged == far { vec![&near] } else { vec![&near, &far] };
        for to in &to {
            shell(&format!(
                "ip route replace {to}/32 via {gateway} dev eth0 onlink src {forged}; \
                 for i in $(seq 20); do echo x > /dev/udp/{to}/9; done; ip route del {to}/32"
            ));
        }
        // What it says next is heard, so what it said before was not only late.
        shell(&format!("ip address del {forged}/32 dev eth0"));
        say(1);
        eventually("the pod is heard as itself again", || (heard() >= before + 2).then_some(()));
        assert_eq!(heard(), before + 2, "{forged} was heard");
        assert!(guarded(&cluster, "worker-1") >= dropped + 20 * to.len() as u64, "{forged}: counted");
    }
    let (before, dropped) = (heard(), guarded(&cluster, "worker-1"));
    shell(&format!(
        "ip link add link eth0 name card type macvlan mode bridge; ip link set card up; ip address add {liar}/32 dev card; \
         ip neigh replace {gateway} lladdr 02:50:56:56:44:52 dev card"
    ));
    routes("dev card");
    say(20);
    shell("ip link del card");
    say(1);
    eventually("the pod is heard from its own card again", || (heard() >= before + 2).then_some(()));
    assert_eq!(heard(), before + 2, "another card was heard");
    assert!(guarded(&cluster, "worker-1") >= dropped + 40, "another card: counted");

    // Nor does it ask for addresses in the name of another.
    let dropped = guarded(&cluster, "worker-1");
    shell(
        "ip address add 10.40.128.77/32 dev eth0; ip route add 10.99.0.1/32 dev eth0 src 10.40.128.77; \
         echo x > /dev/udp/10.99.0.1/9",
    );
    eventually("a forged question is dropped", || (guarded(&cluster, "worker-1") > dropped).then_some(()));
}
