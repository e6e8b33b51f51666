//! The examples' READMEs, taken at their word: their commands are run as they stand there, in a copy of the sources' folders, and what
//! they say comes of it does.
//!
//! Left out are commands that build (the tests find everything built) and `yard plugin check`, which the kit's own tests run on the same
//! files.

use std::fs;
use std::path::{Path, PathBuf};

use crate::rig::{Cluster, Powers, eventually};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const HOST: &str = "sphinx-v1.esxcloud.net";

/// A copy of the examples, in which their commands run.
struct Readers {
    cluster: Cluster,
}

// === impl Readers ===

impl Readers {
    /// Copies examples; `change` may change a file's text.
    fn of(examples: &[&str], change: impl Fn(&str, String) -> String) -> Self {
        let cluster = Cluster::prepare_with(Powers::Nobody, |folder| {
            let here = folder.parent().expect("the test's folder");
            copy(&Path::new(ROOT).join("core/plugin/include"), &here.join("core/plugin/include"), &change);
            for example in examples {
                let folder = Path::new("examples").join(example);
                copy(&Path::new(ROOT).join(&folder), &here.join(&folder), &change);
            }
            let built = Path::new(env!("CARGO_BIN_EXE_yard")).with_file_name("libswitchyard_hello.so");
            fs::create_dir_all(here.join("target/debug")).unwrap();
            fs::copy(built, here.join("target/debug/libswitchyard_hello.so")).expect("hello-plugin is built");
        });
        Self { cluster }
    }

    /// Runs the commands of a README, and gives what each printed.
    #[track_caller]
    fn follow(&self, example: &str, folder: &str, wanted: impl Fn(&str) -> bool) -> Vec<(String, String)> {
        let commands = commands(example).into_iter().filter(|command| wanted(command));
        let ran: Vec<_> = commands.map(|command| (command.clone(), self.run(folder, &command))).collect();
        assert!(!ran.is_empty(), "{example}: no commands");
        ran
    }

    /// Runs one in a folder of the copy.
    #[track_caller]
    fn run(&self, folder: &str, command: &str) -> String {
        let mut shell = self.cluster.command(Path::new("/bin/sh"));
        let beside = self.cluster.program().parent().expect("a folder").display();
        let path = format!("{beside}:{}", std::env::var("PATH").unwrap_or_default());
        shell.env("PATH", path).current_dir(self.cluster.file(folder)).args(["-c", command]);
        let output = shell.output().expect("sh runs");
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {}\n{told}{errors}\n{}", output.status, self.cluster.last_words());
        told
    }

    /// One request through the ingress is answered by a pod.
    #[track_caller]
    fn serves(&self) {
        assert_eq!(self.cluster.ask(HOST).status, 200);
    }
}

/// The commands of a README: indented lines, without the remark that follows after a `#` or some blanks.
fn commands(example: &str) -> Vec<String> {
    let text = fs::read_to_string(Path::new(ROOT).join("examples").join(example).join("README.md")).unwrap();
    let command = |line: &str| {
        let line = line.strip_prefix("    ")?;
        let end = line.find(" #").or_else(|| line.find("   ")).unwrap_or(line.len());
        Some(line[..end].trim().to_owned())
    };
    let builds = |command: &String| command.starts_with("cargo ") || command.starts_with("yard plugin check");
    text.lines().filter_map(command).filter(|command| !builds(command)).collect()
}

fn copy(from: &Path, to: &Path, change: &impl Fn(&str, String) -> String) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap_or_else(|error| panic!("{}: {error}", from.display())) {
        let path: PathBuf = entry.unwrap().path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap();
        if path.is_dir() {
            copy(&path, &to.join(name), change);
        } else if let Ok(text) = fs::read_to_string(&path) {
            fs::write(to.join(name), change(name, text)).unwrap();
            fs::set_permissions(to.join(name), fs::metadata(&path).unwrap().permissions()).unwrap();
        }
    }
}

/// The textbook cluster, and on it the network of each example, put where its README says, while it serves.
#[test]
fn sphinx_and_plugins_of_three_languages() {
    let free = |name: &str, text: String| match name {
        "cluster.yaml" => text.replace("127.0.0.1:8080", "127.0.0.1:0"),
        _ => text,
    };
    let readers = Readers::of(&["sphinx", "hello-plugin", "c-plugin", "python-plugin"], free);
    let [up, asks @ ..] = &commands("sphinx")[..] else { panic!("no commands") };
    readers.run("", up);
    for ask in asks {
        let ask = ask.replace("127.0.0.1:8080", &readers.cluster.door().to_string());
        let told = readers.run("", &ask);
        assert_eq!(told.contains("no rule"), ask.contains("other."), "{ask}: {told}");
    }
    for (example, folder, plugin) in [
        ("hello-plugin", "", "hello"),
        ("c-plugin", "examples/c-plugin", "c-plugin"),
        ("python-plugin", "examples/python-plugin", "python-plugin"),
    ] {
        let told = readers.follow(example, folder, |_| true);
        let inspected = told.iter().find(|(command, _)| command.starts_with("yard plugin inspect"));
        assert!(inspected.is_some_and(|(_, told)| told.contains(plugin)), "{told:?}");
        let status = readers.cluster.yard(&["network", "status", "-o", "json"]);
        assert!(status.contains(&format!("\"{plugin}\"")), "{status}");
        readers.serves();
    }
}

/// More nodes than routes (fewer of both than in the file): pods go where routes are, events say why not elsewhere, and a node that leaves
/// makes room.
#[test]
fn route_limit() {
    const NODES: usize = 5;
    const LIMIT: usize = 3;
    let small = |_: &str, text: String| {
        let is_left_out = |line: &str| {
            let worker = line.split_once("{name: worker-").and_then(|(_, rest)| rest.split_once('}'));
            worker.is_some_and(|(number, _)| number.parse::<usize>().is_ok_and(|number| number >= NODES))
        };
        let lines = text.lines().filter(|line| !is_left_out(line)).map(|line| format!("{line}\n"));
        lines
            .collect::<String>()
            .replace("limit: 50 ", &format!("limit: {LIMIT} "))
            .replace("replicas: 52", "replicas: 6")
    };
    let readers = Readers::of(&["route-limit"], small);
    let told = readers.follow("route-limit", "", |command| !command.starts_with("yard delete"));
    let of = |what: &str| told.iter().find(|(command, _)| command.contains(what)).map_or("", |(_, told)| told);
    let nodes = of("get nodes");
    assert_eq!(nodes.lines().filter(|line| line.contains(" Ready")).count(), NODES, "{nodes}");
    let routes = || readers.run("", "yard shell router -- ip route");
    let held = |routes: &str| -> Vec<String> {
        let lines = routes.lines().filter(|line| line.starts_with("10.40."));
        lines.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
    };
    let before = eventually("as many routes as it holds", || Some(held(&routes())).filter(|held| held.len() == LIMIT));
    eventually("an event that says why", || {
        readers.run("", "yard get events").contains("FailedToCreateRoute").then_some(())
    });
    let pods = readers.cluster.get(&["pods"]);
    let blocks: Vec<_> = before.iter().map(|block| block.trim_end_matches("0/24").to_owned()).collect();
    for pod in pods["items"].as_array().unwrap() {
        if let Some(ip) = pod["status"]["podIP"].as_str() {
            assert!(blocks.iter().any(|block| ip.starts_with(block)), "{ip} has no route: {before:?}");
        }
    }
    // Whichever worker has a route may leave.
    let nodes = readers.cluster.get(&["nodes"]);
    let leaves = nodes["items"].as_array().unwrap().iter().find(|node| {
        let is_worker = node["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("worker"));
        is_worker && before.iter().any(|block| node["spec"]["podCIDR"] == block.as_str())
    });
    let leaves = leaves.and_then(|node| node["metadata"]["name"].as_str()).expect("a worker with a route").to_owned();
    let command = commands("route-limit").into_iter().find(|command| command.starts_with("yard delete")).unwrap();
    readers.run("", &command.replace("worker-1", &leaves));
    eventually("another one is served", || {
        let now = held(&routes());
        (now.len() == LIMIT && now != before).then_some(())
    });
    // A network without routes leaves the device empty; the way back does not fit in, which is said before anything changes.
    readers.run("", "yard network use overlay");
    assert_eq!(held(&routes()), [""; 0]);
    for more in [&["--dry-run"][..], &[]] {
        let output = readers.cluster.try_yard(&[&["network", "use", "kubenet"], more].concat());
        let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        let why = format!("router: it wants {} routes of the upstream device, which holds {LIMIT} at most", NODES - 1);
        assert!(!output.status.success() && told.contains(&why), "{told}");
    }
    assert_eq!(held(&routes()), [""; 0]);
    let status = readers.cluster.yard(&["network", "status", "-o", "json"]);
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!(status["status"]["lastSwap"]["outcome"], "Refused", "{status}");
}

/// The experiment, with fewer and shorter samples, and its reports side by side.
#[test]
fn plugin_shootout() {
    let short = |name: &str, text: String| match name {
        "experiment.yaml" => {
            let text = text.replace("budgetSeconds: 50", "budgetSeconds: 120").replace("most: 4", "most: 1");
            let text =
                text.replace("rounds: 3", "rounds: 1").replace("sampleMilliseconds: 80", "sampleMilliseconds: 10");
            let text = text.replace("byHand: [loopback, bridge, routed, vxlan]", "byHand: [vxlan]");
            let text = text.replace("paths: [same-node, other-node]", "paths: [other-node]");
            let long = |line: &&str| line.contains("kind: crr") || line.contains("kind: http");
            text.lines().filter(|line| !long(line)).map(|line| format!("{line}\n")).collect()
        }
        _ => text,
    };
    let readers = Readers::of(&["plugin-shootout"], short);
    let folder = readers.cluster.file("");
    let before = readers.follow("plugin-shootout", "", |command| command.contains("--out before"));
    assert!(before[0].1.contains("kubenet") && before[0].1.contains("overlay"), "{before:?}");
    let page = fs::read_to_string(folder.join("before/report.html")).expect("a report");
    assert!(page.contains("<svg"));
    readers.run("", "cp -r before after");
    let compared = readers.follow("plugin-shootout", "", |command| command.starts_with("yard bench compare"));
    assert!(compared[0].1.contains("1.00x"), "{compared:?}");
}
