//! A world for one test: the test runs again in a child process with user, network and mount namespaces of its own, as root there
//! whoever runs it here. Oracles are `ip`, `bridge` and `nft`, run inside the namespace they look at.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(unreachable_pub, reason = "a module of every test binary")]
#![allow(unsafe_code, reason = "the child's namespaces are made between fork and exec")]

use std::io::Write as _;
use std::os::unix::process::CommandExt;
use std::process::Command;

use serde_json::Value;
use switchyard_kernel::{Engine, Feature, Netns, Owner, Places};
use switchyard_netstate::Place;

const INSIDE: &str = "SWITCHYARD_TEST_INSIDE";

/// Runs `work` in a world of its own. `name` is the test's full name.
pub fn isolated(name: &str, work: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        work();
        return;
    }
    for tool in ["ip", "bridge", "nft"] {
        if tool_path(tool).is_none() {
            assert!(std::env::var_os("CI").is_none(), "not to be skipped on CI: {tool} is missing");
            say(&format!("skipped: {tool} is missing (install iproute2 and nftables)"));
            return;
        }
    }
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let mut child = Command::new(std::env::current_exe().expect("a test has a path"));
    child.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(INSIDE, "1");
    // SAFETY: the closure only makes system calls and writes small files; nothing of the parent's locks is needed for that.
    unsafe {
        child.pre_exec(move || {
            use rustix::thread::UnshareFlags;
            rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNET | UnshareFlags::NEWNS)?;
            std::fs::write("/proc/self/setgroups", "deny")?;
            std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
            std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
            Ok(())
        });
    }
    child.env("RUST_BACKTRACE", "0");
    let output = child.output().expect("run the test in namespaces of its own (are user namespaces allowed?)");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    text.lines().filter(|line| line.starts_with("skipped: ")).for_each(say);
}

/// Whether this kernel has a feature; one that it has not is said, as what a test then leaves out.
pub fn has(feature: Feature) -> bool {
    let outcome = feature.attempt();
    if let Err(why) = &outcome {
        say(&format!("skipped: this kernel has no {feature}: {why}"));
    }
    outcome.is_ok()
}

/// Says something where it is seen, although tests' output is not.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn tool_path(tool: &str) -> Option<String> {
    ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        .iter()
        .map(|folder| format!("{folder}/{tool}"))
        .find(|path| std::path::Path::new(path).exists())
}

pub const OWNER: Owner = Owner { protocol: 83 };

/// An engine with one node `n1` and pods of these uids, all in fresh namespaces.
pub fn engine(pods: &[&str]) -> Engine {
    let mut places = Places::new();
    places.add(node(), Netns::create().unwrap());
    for pod in pods {
        places.add(Place::pod(*pod), Netns::create().unwrap());
    }
    Engine::new(OWNER, places)
}

pub fn node() -> Place {
    Place::node("n1")
}

/// Runs a tool in a place; gives what it printed.
pub fn run(engine: &Engine, place: &Place, line: &str) -> String {
    let (code, text) = try_run(engine, place, line);
    assert!(code == 0, "{place}: {line}: {text}");
    text
}

/// Runs a tool in a place; gives its exit code and what it printed.
pub fn try_run(engine: &Engine, place: &Place, line: &str) -> (i32, String) {
    let mut words = line.split_whitespace();
    let tool = words.next().unwrap();
    let tool = tool_path(tool).unwrap_or_else(|| tool.to_owned());
    let words: Vec<&str> = words.collect();
    let netns = engine.places().get(place).expect("a place of this world");
    let output = netns.run(|| Command::new(&tool).args(&words).output()).unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap_or(-1), text)
}

/// Runs a tool that prints JSON.
pub fn json(engine: &Engine, place: &Place, line: &str) -> Value {
    let text = run(engine, place, line);
    if text.trim().is_empty() {
        return Value::Array(Vec::new());
    }
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{line}: {error}: {text}"))
}

/// The whole network state of places, as text that is the same for the same state: no counters, ages, numbers of handles, nothing
/// the kernel does by itself a moment later (carrier, link-local addresses).
pub fn state(engine: &Engine, places: &[Place]) -> String {
    let mut text = String::new();
    for place in places {
        text += &links(engine, place);
        for line in [
            "ip addr show",
            "ip route show table all",
            "ip -6 route show table all",
            "ip rule show",
            "ip neigh show nud permanent",
            "bridge fdb show",
            "nft -s list ruleset",
            "tc qdisc show",
        ] {
            text += &format!("## {place}: {line}\n");
            let shown = run(engine, place, line);
            // Numbers and states of links are seen above; a link that comes back has another number.
            let lines = shown.lines().filter(|shown| match line {
                // Learnt entries come and go.
                "bridge fdb show" => shown.contains("static") || shown.contains(" dst "),
                _ => ![
                    "fe80:",
                    "ff00::/8",
                    "valid_lft",
                    "mtu",
                    "link/",
                    "33:33:",
                    "01:00:5e",
                    "anycast",
                    "127.0.0",
                    "::1 ",
                    "dev lo",
                ]
                .iter()
                .any(|noise| shown.contains(noise)),
            });
            let mut lines: Vec<String> =
                lines.map(|line| line.replace(" linkdown", "").trim_end().to_owned()).collect();
            if line.starts_with("nft") {
                lines = blocks(&lines.join("\n"));
            }
            lines.sort();
            text += &lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        }
        for path in ["net/ipv4/ip_forward", "net/ipv4/conf/all/rp_filter"] {
            text += &format!("{path} = {}", run(engine, place, &format!("cat /proc/sys/{path}")));
        }
    }
    text
}

fn links(engine: &Engine, place: &Place) -> String {
    let shown = json(engine, place, "ip -d -j link show");
    let mut lines: Vec<String> = shown
        .as_array()
        .unwrap()
        .iter()
        .map(|link| {
            let up = link["flags"].as_array().unwrap().iter().any(|flag| flag == "UP");
            let (info, slave) = (&link["linkinfo"], &link["linkinfo"]["info_slave_data"]);
            // Random where none is wanted.
            let mac = if link["ifname"].as_str().unwrap().starts_with("veth") { &Value::Null } else { &link["address"] };
            format!(
                "link {} {} mtu {} mac {mac} group {} master {} up {up} hairpin {} isolated {} learning {} suppress {} snooping {}\n",
                link["ifname"], info["info_kind"], link["mtu"], link["group"], link["master"], slave["hairpin"],
                slave["isolated"], slave["learning"], slave["neigh_suppress"], info["info_data"]["mcast_snooping"],
            )
        })
        .collect();
    lines.sort();
    format!("## {place}: links\n{}", lines.concat())
}

/// The sets and chains of a ruleset, whose order is that of their making.
fn blocks(ruleset: &str) -> Vec<String> {
    let apart = ruleset.replace("\"\n\t", "\"\n\n\t").replace("\n}", "\n\n}");
    apart.split("\n\n").map(str::to_owned).collect()
}
