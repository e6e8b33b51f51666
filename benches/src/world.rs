//! Where benches happen: fresh namespaces, or a cluster of their own.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;
use switchyard_kernel::Netns;

use crate::memory;

/// A cluster in a folder of its own, from the release build; stopped when dropped.
pub struct Cluster {
    folder: tempfile::TempDir,
    yard: PathBuf,
    /// The host port that leads to the ingress.
    pub door: SocketAddr,
}

/// A pod that can be entered.
pub struct Pod {
    /// Its name.
    pub name: String,
    /// The node it is on.
    pub node: String,
    /// Its address.
    pub ip: IpAddr,
    /// Its network namespace.
    pub netns: Netns,
}

const INSIDE: &str = "SWITCHYARD_BENCH_INSIDE";
const SPHINX: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/sphinx");
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs the program again in new user, network and mount namespaces. True in there.
pub fn in_namespaces() -> anyhow::Result<bool> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(true);
    }
    let program = std::env::current_exe()?;
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user", "--net", "--mount", "--"]).arg(program).args(arguments);
    let status = unshare.env(INSIDE, "1").status().context("unshare (are user namespaces allowed?)")?;
    if !status.success() {
        bail!("inside the namespaces: {status}");
    }
    Ok(false)
}

// === impl Cluster ===

impl Cluster {
    /// Prepares the cluster of examples/sphinx; `edit` may change its cluster file and workload.
    pub fn prepare(edit: impl Fn(&str, String) -> String) -> anyhow::Result<Self> {
        let yard = built("yard")?;
        let folder = tempfile::Builder::new().prefix("yard-bench-").tempdir_in("/tmp")?;
        // Free now; whoever takes it before `yard up` does makes the bench fail, not lie.
        let door = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        std::fs::create_dir(folder.path().join("sphinx"))?;
        for entry in std::fs::read_dir(SPHINX)? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| name.ends_with(".yaml"))
            else {
                continue;
            };
            let text = std::fs::read_to_string(&path)?.replace("127.0.0.1:8080", &door.to_string());
            std::fs::write(folder.path().join("sphinx").join(name), edit(name, text))?;
        }
        Ok(Self { folder, yard, door })
    }

    /// The folder the cluster's files are in.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts `yard` with arguments.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.yard);
        command.args(arguments).env("SWITCHYARD_HOME", self.folder.path().join("home")).stdin(Stdio::null());
        command.env_remove("SWITCHYARD_CLUSTER");
        command
    }

    /// Runs `yard` to its end; gives its standard output.
    pub fn yard(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.command(arguments).output()?;
        if !output.status.success() {
            bail!("yard {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// `yard up`, to its end.
    pub fn up(&self) -> anyhow::Result<()> {
        self.yard(&["up", "-f", &self.folder.path().join("sphinx").to_string_lossy()]).map(drop)
    }

    /// Boots, and gives how long it took from the start of `yard up` to the first 200 through the ingress.
    pub fn time_to_first_answer(&self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        let files = self.folder.path().join("sphinx");
        let mut up = self.command(&["up", "-f", &files.to_string_lossy()]);
        let mut up = up.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        while !answers(self.door) {
            if begun.elapsed() > PATIENCE {
                bail!("no answer through the ingress within {PATIENCE:?}");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let took = begun.elapsed();
        up.wait()?;
        Ok(took)
    }

    /// `yard get … -o json`.
    pub fn get(&self, what: &[&str]) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.yard(&[&["get", "-o", "json"], what].concat())?)?)
    }

    /// The pods of all namespaces that carry a label (`app=web`, or none: all), by node and name.
    pub fn pods(&self, label: &str) -> anyhow::Result<Vec<Pod>> {
        let status: Value = serde_json::from_str(&self.yard(&["status", "-o", "json"])?)?;
        let supervisor = status[0]["supervisorPid"].as_u64().context("no supervisor")? as u32;
        let inside = memory::family(supervisor).into_iter().filter_map(|(pid, _)| Netns::of_pid(pid).ok());
        let inside: Vec<Netns> = inside.collect();
        let list = self.get(&["pods", "-A", "-l", label])?;
        let mut pods = Vec::new();
        for pod in list["items"].as_array().into_iter().flatten() {
            let text = |value: &Value| value.as_str().map(str::to_owned);
            let (Some(name), Some(node)) = (text(&pod["metadata"]["name"]), text(&pod["spec"]["nodeName"])) else {
                continue;
            };
            let Some(ip) = pod["status"]["podIP"].as_str().and_then(|ip| ip.parse::<IpAddr>().ok()) else { continue };
            let holds = |netns: &&Netns| netns.run(|| holds(ip)).unwrap_or(false);
            let netns =
                inside.iter().find(holds).with_context(|| format!("pod {name} has no namespace"))?.try_clone()?;
            pods.push(Pod { name, node, ip, netns });
        }
        pods.sort_by(|a, b| (&a.node, &a.name).cmp(&(&b.node, &b.name)));
        Ok(pods)
    }

    /// `yard down`, and forgets the cluster.
    pub fn delete(&self) -> anyhow::Result<()> {
        self.yard(&["down", "--grace", "0"])?;
        std::fs::remove_dir_all(self.folder.path().join("home")).map_err(Into::into)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.yard(&["down", "--grace", "0"]);
    }
}

/// A program or a library of the release build.
pub fn built(name: &str) -> anyhow::Result<PathBuf> {
    // target/release/deps/BENCH-HASH
    let own = std::env::current_exe()?;
    let release = own.ancestors().nth(2).context("no build folder above this program")?;
    let program = release.join(name);
    if !program.exists() {
        bail!("{} is not built; run: make build", program.display());
    }
    Ok(program)
}

/// Whether the calling thread's namespace has this address. (To try and bind says nothing: one without any address lets all through.)
fn holds(ip: IpAddr) -> bool {
    let tree = std::fs::read_to_string("/proc/thread-self/net/fib_trie").unwrap_or_default();
    let leaf = format!("|-- {ip}");
    tree.lines().zip(tree.lines().skip(1)).any(|(line, next)| line.ends_with(&leaf) && next.ends_with("host LOCAL"))
}

fn answers(door: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&door, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: sphinx-v1.esxcloud.net\r\nConnection: close\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(&head == b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}
