//! The kernel's network in every place, to be compared.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Cluster, eventually};

/// What the kernel holds, place by place, one line an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State(BTreeMap<String, Vec<String>>);

/// Everything that can be asked for; the ruleset comes as text, as some versions of `nft` cannot do JSON. Of parameters, those that
/// plugins and Services write and those that the kernel changes with them.
const LOOK: &str = "ip -d -j link; echo; ip -j addr; echo; ip -j route show table all; echo; ip -6 -j route show table all; echo; \
                    ip -j rule; echo; ip -6 -j rule; echo; ip -j neigh show nud permanent; echo; bridge -j fdb; echo; \
                    tc -j qdisc; echo; nft list ruleset; cd /proc/sys/net; \
                    grep -s . ipv4/ip_forward bridge/bridge-nf-call-iptables ipv4/conf/*/forwarding ipv4/conf/*/rp_filter \
                    ipv4/conf/*/send_redirects ipv4/conf/*/accept_redirects ipv4/conf/*/accept_local \
                    ipv4/conf/*/proxy_arp ipv6/conf/*/disable_ipv6 ipv6/conf/*/forwarding; true";
/// Namespaces beside a node's own that a network may ask for.
const EXTRA: [&str; 3] = ["node/controlplane/t0", "node/worker-1/t0", "node/worker-2/t0"];
/// Numbers that the kernel gives out, clocks, what it notices a moment after it is so, and what a macvlan takes over from its bridge
/// as that is when it is made.
const VOLATILE: [&str; 19] = [
    "tso_max_size",
    "designated_port",
    "operstate",
    "ifindex",
    "link_index",
    "link_netnsid",
    "hello_timer",
    "tcn_timer",
    "topology_change_timer",
    "gc_timer",
    "id",
    "no",
    "message_age_timer",
    "forward_delay_timer",
    "hold_timer",
    "link",
    "config_pending",
    "handle",
    "refcnt",
];

// === impl State ===

impl State {
    /// Looks into every node, the router, and one pod of each node, once the kernel has given itself every address that it wants
    /// to (RFC 4862, 5.4).
    pub(crate) fn of(cluster: &Cluster) -> Self {
        let settled = || {
            let state = Self::now(cluster);
            let tentative = state.0.values().flatten().any(|line| line.contains("\"tentative\""));
            (!tentative).then_some(state)
        };
        eventually("addresses that are no longer tentative", settled)
    }

    fn now(cluster: &Cluster) -> Self {
        let pods = cluster.get(&["pods"]);
        let name = |pod: &Value| format!("pod/{}", pod["metadata"]["name"].as_str().unwrap_or_default());
        let on = |node: &str| {
            pods["items"].as_array().into_iter().flatten().find(|pod| pod["spec"]["nodeName"] == node).map(name)
        };
        let mut places: Vec<String> =
            ["router", "controlplane", "worker-1", "worker-2"].iter().map(|place| (*place).to_owned()).collect();
        places.extend(["worker-1", "worker-2"].iter().filter_map(|node| on(node)));
        let mut state: BTreeMap<_, _> =
            places.into_iter().map(|place| (place.clone(), look(cluster, &place))).collect();
        let is_there = |place: &&&str| cluster.shell(place, &["true"]).is_ok();
        state.insert("namespaces".into(), EXTRA.iter().filter(is_there).map(|place| (*place).to_owned()).collect());
        Self(state)
    }

    /// The kernel is as it was.
    #[track_caller]
    pub(crate) fn is_again(&self, cluster: &Cluster) {
        let mut difference = None;
        for _ in 0..20 {
            difference = self.difference(&Self::of(cluster));
            if difference.is_none() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        panic!("the kernel is not as it was: {}", difference.unwrap_or_default());
    }

    /// The first place that is not the same, and how.
    fn difference(&self, now: &Self) -> Option<String> {
        let differs = |(place, lines): (&String, &Vec<String>)| {
            let there = &now.0[place];
            let gone: Vec<_> = lines.iter().filter(|line| !there.contains(line)).collect();
            let new: Vec<_> = there.iter().filter(|line| !lines.contains(line)).collect();
            (!gone.is_empty() || !new.is_empty()).then(|| format!("{place}: gone {gone:#?}, new {new:#?}"))
        };
        self.0.iter().find_map(differs)
    }
}

fn look(cluster: &Cluster, place: &str) -> Vec<String> {
    let text = cluster.shell(place, &["sh", "-c", LOOK]).unwrap_or_else(|error| panic!("{place}: {error}"));
    let mut lines = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        match serde_json::from_str::<Value>(line) {
            Ok(Value::Array(objects)) => lines.extend(objects.into_iter().map(|object| steady(object).to_string())),
            _ => lines.push(without_counts(line)),
        }
    }
    lines.sort();
    lines
}

fn steady(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            map.into_iter().filter(|(key, _)| !VOLATILE.contains(&key.as_str())).map(|(k, v)| (k, steady(v))).collect()
        }
        Value::Array(list) => list.into_iter().filter(|one| !is_carrier(one)).map(steady).collect(),
        other => other,
    }
}

/// A flag of a link or a route that says whether there is a carrier.
fn is_carrier(flag: &Value) -> bool {
    ["NO-CARRIER", "LOWER_UP", "linkdown"].iter().any(|one| flag == one)
}

/// A line of the ruleset without what packets have changed in it.
fn without_counts(line: &str) -> String {
    let mut words = Vec::new();
    let mut skip = 0;
    for word in line.split_whitespace() {
        match word {
            _ if skip > 0 => skip -= 1,
            "packets" | "bytes" | "handle" | "#" => skip = 1,
            _ => words.push(word),
        }
    }
    words.join(" ")
}
