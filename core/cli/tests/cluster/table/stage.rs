//! A cluster on which scenarios are played.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::rig::{Cluster, Powers, eventually};

use super::Scenario;

/// A cluster with one network.
pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    /// The network: its plugin, and after `_` what is chosen of it.
    pub(crate) network: &'static str,
}

const WORKLOAD: &str = include_str!("workload.yaml");
const BARE: &str = include_str!("bare.yaml");
/// Where networks do their work.
const PLACES: [&str; 4] = ["router", "controlplane", "worker-1", "worker-2"];
/// Until everything that was made for a scenario has gone again.
const SETTLED: Duration = Duration::from_secs(30);
/// What the kernel holds, without what it counts, learns or forgets by itself.
const LOOK: &str = "ip -o -d link show; ip -o address show; ip -o route show table all; ip rule show; \
    ip -o neigh show nud permanent; bridge fdb show; tc qdisc show; nft -s list ruleset";

// === impl Stage ===

impl Stage {
    /// Boots it; blocks of 14 addresses, so that one can be used up.
    pub(super) fn boot(powers: Powers, network: &'static str) -> Self {
        let cluster = Cluster::prepare_with(powers, |folder| {
            let file = folder.join("cluster.yaml");
            let text = fs::read_to_string(&file).unwrap();
            let lines = text.lines().filter(|line| !line.starts_with("      podCIDR:")).map(|line| match line.trim() {
                "plugin: kubenet" => format!("    plugin: {}{}", plugin(network), options(network)),
                "podCIDR: 10.40.0.0/16" => format!("{line}\n  nodePrefixLength: 28"),
                _ => line.to_owned(),
            });
            fs::write(&file, lines.collect::<Vec<_>>().join("\n")).unwrap();
            match network {
                // Nothing there becomes ready that somebody has to reach.
                "none" => replace_manifests(folder, BARE),
                _ => fs::write(folder.join("table.yaml"), WORKLOAD).unwrap(),
            }
        });
        cluster.up();
        Self { cluster, network }
    }

    /// Plays scenarios one after the other, to the end, and then says which of them failed.
    pub(super) fn play(self, scenarios: &[Scenario]) {
        let mut before = self.kernel();
        let failed = scenarios.iter().filter(|(name, scenario)| {
            let begun = Instant::now();
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                scenario(&self);
                self.is_as_before(&before);
            }));
            if outcome.is_err() {
                before = self.kernel();
            }
            println!(
                "{}: {name}: {} ms, {}",
                self.network,
                begun.elapsed().as_millis(),
                if outcome.is_ok() { "good" } else { "BAD" }
            );
            outcome.is_err()
        });
        let failed: Vec<&str> = failed.map(|(name, _)| *name).collect();
        assert!(failed.is_empty(), "{}: {failed:?}", self.network);
    }

    fn is_as_before(&self, before: &[String]) {
        let mut after = Vec::new();
        let mut same = || {
            after = self.kernel();
            after == before
        };
        let begun = Instant::now();
        while !same() && begun.elapsed() < SETTLED {
            std::thread::sleep(Duration::from_millis(50));
        }
        let only = |a: &[String], b: &[String]| a.iter().filter(|line| !b.contains(line)).cloned().collect::<Vec<_>>();
        assert!(after == before, "left behind: gone {:#?}, new {:#?}", only(before, &after), only(&after, before));
    }

    /// What the kernel holds in the places of networks, line by line.
    fn kernel(&self) -> Vec<String> {
        let look = |place: &&str| {
            let text = self.sh(place, LOOK);
            let lines = text.lines().map(|line| format!("{place}: {}", lasting(line))).collect::<Vec<_>>();
            lines.into_iter().filter(|line| !is_noise(line))
        };
        let mut lines: Vec<String> = PLACES.iter().flat_map(look).collect();
        lines.sort();
        lines
    }

    /// Runs a shell's line in the network of a place.
    #[track_caller]
    pub(crate) fn sh(&self, place: &str, line: &str) -> String {
        self.try_sh(place, line).unwrap_or_else(|error| panic!("{}: {place}: {line}: {error}", self.network))
    }

    /// The same, whatever comes of it.
    pub(crate) fn try_sh(&self, place: &str, line: &str) -> Result<String, String> {
        self.cluster.shell(place, &["bash", "-c", line])
    }

    /// The address of a pod.
    #[track_caller]
    pub(crate) fn ip(&self, pod: &str) -> String {
        let pod = self.cluster.get(&["pod", pod]);
        pod["status"]["podIP"].as_str().expect("an address").to_owned()
    }

    /// The address of a Service inside the cluster.
    #[track_caller]
    pub(crate) fn service(&self, name: &str) -> String {
        let service = self.cluster.get(&["service", name]);
        service["spec"]["clusterIP"].as_str().expect("an address").to_owned()
    }

    /// What yard-echo answers when a place asks a URL.
    #[track_caller]
    pub(crate) fn ask(&self, place: &str, url: &str) -> Value {
        let answer = self.sh(place, &format!("curl -sS -m 20 {url}"));
        serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{}: {place}: {url}: {answer}", self.network))
    }

    /// Waits until a place is answered at a URL.
    #[track_caller]
    pub(crate) fn eventually_answered(&self, place: &str, url: &str) {
        eventually(&format!("{}: {place} is answered at {url}", self.network), || {
            self.try_sh(place, &format!("curl -sS -m 2 {url}")).ok().map(drop)
        });
    }

    /// Applies manifests.
    pub(crate) fn apply(&self, text: &str) {
        let file = self.cluster.file("more.yaml");
        fs::write(&file, text).unwrap();
        self.cluster.yard(&["apply", "-f", file.to_str().unwrap()]);
    }
}

fn plugin(network: &str) -> &str {
    network.split('_').next().unwrap_or(network)
}

/// Two subnets of 13 addresses are all that segments get: one each for the namespaces that have pods.
fn options(network: &str) -> &'static str {
    match network {
        "nsx" => "\n    options: {segments: 10.40.128.0/27, subnetPrefix: 28}",
        "nsx_geneve" => "\n    options: {segments: 10.40.128.0/27, subnetPrefix: 28, encapsulation: geneve}",
        _ => "",
    }
}

fn replace_manifests(folder: &Path, text: &str) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.file_name() != "cluster.yaml" {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    fs::write(folder.join("bare.yaml"), text).unwrap();
}

/// A line without numbers of links and states that come and go.
fn lasting(line: &str) -> String {
    // Whether there is a carrier shows a moment after it is so.
    let line = &line.replace("NO-CARRIER,", "").replace(",LOWER_UP", "");
    let line =
        line.split_once(": ").filter(|(number, _)| number.parse::<u32>().is_ok()).map_or(&**line, |(_, rest)| rest);
    let mut words: Vec<&str> = Vec::new();
    let mut all = line.split_whitespace();
    while let Some(word) = all.next() {
        match word {
            "linkdown" | "dead" => {}
            // What follows is a time, a random number, or the kernel's own.
            "port_id" | "port_no" | "qlen" | "link-netnsid" | "link-netns" | "designated_port" | "designated_cost"
            | "expires" | "link/ether" | "state" => {
                all.next();
            }
            _ if word.contains("timer")
                || word.contains("uptime")
                || word == "valid_lft"
                || word == "preferred_lft" =>
            {
                all.next();
            }
            // The number of the other end, of another namespace, or of a port.
            _ => words.push(word.split_once("@if").map_or(word, |(name, _)| name)),
        }
    }
    words.join(" ")
}

fn is_noise(line: &str) -> bool {
    ["fe80:", "ff00::", "33:33:", "01:00:5e", "multicast", "anycast"].iter().any(|noise| line.contains(noise))
        // Learnt, not written.
        || (line.contains(" dev ") && line.contains("master") && !line.contains("static") && !line.contains("permanent"))
}
