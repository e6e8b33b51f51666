//! Names: queries a second and processor time a query, against dnsmasq and unbound that serve the same records in the same run; and how
//! long it takes from a changed EndpointSlice to a changed answer, in the server alone and through a whole cluster.
//!
//! Each server is one process with one thread, asked over loopback for records of a thousand Services: with many queries under way, and
//! with one at a time. The two others are found on the path (`apt-get install dnsmasq-base unbound`); who is not there is left out, and
//! the page says so. With `--test` once.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use switchyard_benches::{Cluster, Record, Series, lasting, turns};
use switchyard_dns::sources::Naming;
use switchyard_dns::{Config, Limits, Mirror, Shared, Sockets, spawn};
use tokio_util::sync::CancellationToken;

const SERVICES: u32 = 1000;
const ROUNDS: usize = 20;
const LASTING: Duration = Duration::from_millis(300);
const CHANGES: usize = 200;
const CLUSTER_CHANGES: usize = 100;
/// The address of the endpoint that changes, at first.
const FIRST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// Queries under way.
const MANY: usize = 64;
/// Longest that a server may take to be there.
const PATIENCE: Duration = Duration::from_secs(30);

/// A name server and how it does.
struct Server {
    name: &'static str,
    child: Child,
    address: SocketAddr,
    socket: UdpSocket,
}

/// What a while of asking brought.
struct Outcome {
    per_second: f64,
    nanos_per_query: f64,
}

fn main() -> anyhow::Result<()> {
    if let Some(port) = std::env::args().skip_while(|word| word != "serve").nth(1) {
        return ourselves(SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse()?)));
    }
    let folder = tempfile::tempdir()?;
    let mut record = Record::new("dns", "Names, against dnsmasq and unbound with the same records in the same run.");
    let mut servers = vec![Server::start("switchyard", folder.path())?];
    for (other, package) in [("dnsmasq", "dnsmasq-base"), ("unbound", "unbound")] {
        match Server::start(other, folder.path()) {
            Ok(server) => servers.push(server),
            Err(error) => {
                println!("without {other}: {error:#}");
                record.absent(other, package);
            }
        }
    }
    for (kind, under_way) in [("many at a time", MANY), ("one at a time", 1)] {
        let name = |what: &str, server: &Server| format!("{}: {what}, {kind}", server.name);
        let mut rates: Vec<_> = servers.iter().map(|server| Series::new(&name("queries", server), "1/s")).collect();
        let mut costs: Vec<_> = servers.iter().map(|server| Series::new(&name("CPU a query", server), "ns")).collect();
        for round in 0..=turns(ROUNDS) {
            for turn in 0..servers.len() {
                let index = (turn + round) % servers.len();
                let outcome = servers[index].ask(under_way, lasting(LASTING))?;
                // The first round warms up.
                if round > 0 {
                    rates[index].values.push(outcome.per_second);
                    costs[index].values.push(outcome.nanos_per_query);
                }
            }
        }
        for index in 1..servers.len() {
            let versus = servers[index].name;
            record.compare(&format!("queries, {kind}, against {versus}"), &rates[0], &rates[index], "as many or more");
            record.compare(
                &format!("CPU, {kind}, against {versus}"),
                &costs[0],
                &costs[index],
                "no more than the better",
            );
        }
    }
    record.fact("from EndpointSlice to changed answer", spread(changes()?), "milliseconds");
    record.fact(
        "from the API's client to changed answer, through a cluster",
        spread(cluster_changes()?),
        "milliseconds",
    );
    record.save_unless_testing()
}

/// What is usual and what is rare, of microseconds.
fn spread(mut taken: Vec<f64>) -> String {
    taken.sort_by(f64::total_cmp);
    let at = |share: f64| taken[((taken.len() - 1) as f64 * share) as usize];
    format!("{:.0} µs (p50), {:.0} µs (p99)", at(0.5), at(0.99))
}

/// Our server as a process of its own.
fn ourselves(address: SocketAddr) -> anyhow::Result<()> {
    let (index, _mirror) = records();
    let limits = Limits { queries_per_second: u32::MAX, ..Limits::default() };
    let sockets = vec![Sockets::bind(address)?];
    let serving = spawn(sockets, index, Config { limits, ..Config::default() }, CancellationToken::new())?;
    serving.join().map_err(|_| anyhow::anyhow!("the server panicked"))
}

fn records() -> (Shared, Mirror) {
    let naming = Naming::new("cluster.local", &[]);
    let index = Shared::new(naming.index(&["10.96.0.0/16".parse().expect("a prefix")], None));
    let mut mirror = Mirror::new(naming, index.clone());
    for number in 0..SERVICES {
        let service = json!({
            "metadata": {"name": format!("svc-{number}"), "namespace": "default"},
            "spec": {"clusterIP": address(number).to_string(), "ports": [{"name": "web", "port": 80}]},
        });
        mirror.service(serde_json::from_value(service).expect("a Service"));
    }
    mirror.service(serde_json::from_value(headless()).expect("a Service"));
    (index, mirror)
}

fn name(number: u32) -> String {
    format!("svc-{number}.default.svc.cluster.local")
}

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 1, 0)) + number)
}

/// A hundred endpoints among a thousand Services change; asked until the answer has changed, over UDP. Microseconds.
fn changes() -> anyhow::Result<Vec<f64>> {
    let (index, mut mirror) = records();
    let sockets = Sockets::bind_free(Ipv4Addr::LOCALHOST.into())?;
    let address = sockets.udp.local_addr()?;
    let shutdown = CancellationToken::new();
    let serving = spawn(vec![sockets], index, Config::default(), shutdown.clone())?;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let asked = query(1, "last.hdls.default.svc.cluster.local");
    let mut taken = Vec::new();
    for change in 0..turns(CHANGES) {
        let last = Ipv4Addr::new(198, 51, 100, (change % 250) as u8);
        let slice = serde_json::from_value(slice(last))?;
        let begun = Instant::now();
        mirror.slice(slice);
        until_answered(&socket, &asked, last)?;
        taken.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    shutdown.cancel();
    let _ = serving.join();
    Ok(taken)
}

/// The same in the cluster of examples/sphinx, from the call that writes to the answer at the host's port: the write and its durability,
/// the watch, and the records. Microseconds.
fn cluster_changes() -> anyhow::Result<Vec<f64>> {
    let cluster = Cluster::prepare(|_, text| text)?;
    cluster.up()?;
    let status: Value = serde_json::from_str(&cluster.yard(&["status", "-o", "json"])?)?;
    let names: SocketAddr = status[0]["ports"]["dns"].as_str().context("no port for names")?.parse()?;
    let socket = asking(names)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(cluster.yard(&["kubeconfig"])?.trim())?;
    let asked = query(1, "last.hdls.default.svc.cluster.local");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let client = kube::Client::try_from(config)?;
        let services = Api::<Service>::default_namespaced(client.clone());
        services.create(&PostParams::default(), &serde_json::from_value(headless())?).await?;
        let slices = Api::<EndpointSlice>::default_namespaced(client);
        let mut current = slices.create(&PostParams::default(), &serde_json::from_value(slice(FIRST))?).await?;
        until_answered(&socket, &asked, FIRST)?;
        let mut taken = Vec::new();
        for change in 1..=turns(CLUSTER_CHANGES) {
            let last = Ipv4Addr::from(u32::from(FIRST) + change as u32);
            let mut next: EndpointSlice = serde_json::from_value(slice(last))?;
            next.metadata.resource_version = current.metadata.resource_version;
            let begun = Instant::now();
            current = slices.replace("hdls-a", &PostParams::default(), &next).await?;
            until_answered(&socket, &asked, last)?;
            taken.push(begun.elapsed().as_secs_f64() * 1e6);
        }
        Ok(taken)
    })
}

fn headless() -> Value {
    let spec = json!({"clusterIP": "None", "ports": [{"name": "web", "port": 80}]});
    json!({"metadata": {"name": "hdls", "namespace": "default"}, "spec": spec})
}

/// A hundred endpoints, of which the last has a name and this address.
fn slice(last: Ipv4Addr) -> Value {
    let mut endpoints: Vec<_> = (0..99).map(|host| json!({"addresses": [format!("10.40.1.{host}")]})).collect();
    endpoints.push(json!({"addresses": [last], "hostname": "last"}));
    let labels = json!({"kubernetes.io/service-name": "hdls"});
    json!({
        "metadata": {"name": "hdls-a", "namespace": "default", "labels": labels},
        "addressType": "IPv4", "endpoints": endpoints, "ports": [],
    })
}

/// Asks until the answer is this address.
fn until_answered(socket: &UdpSocket, asked: &[u8], address: Ipv4Addr) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut answer = [0; 512];
    loop {
        socket.send(asked)?;
        let length = socket.recv(&mut answer)?;
        if answer[..length].ends_with(&address.octets()) {
            return Ok(());
        }
        anyhow::ensure!(begun.elapsed() < PATIENCE, "no answer of {address} within {PATIENCE:?}");
    }
}

/// A query for an IPv4 address.
fn query(id: u16, name: &str) -> Vec<u8> {
    let mut bytes = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, 1, 0, 1]);
    bytes
}

// === impl Server ===

impl Server {
    fn start(name: &'static str, folder: &Path) -> anyhow::Result<Self> {
        let address = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut command = match name {
            "dnsmasq" => dnsmasq(address, folder)?,
            "unbound" => unbound(address, folder)?,
            _ => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["serve", &address.port().to_string()]);
                command
            }
        };
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("start")?;
        let mut server = Self { name, child, address, socket: asking(address)? };
        server.wait()?;
        // What was asked in vain while it started may still be answered, but not here.
        server.socket = asking(address)?;
        server.socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        Ok(server)
    }

    /// Until it answers for the last name rightly.
    fn wait(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        self.socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let mut answer = [0; 512];
        while begun.elapsed() < PATIENCE {
            let _ = self.socket.send(&query(1, &name(SERVICES - 1)));
            if let Ok(length) = self.socket.recv(&mut answer)
                && answer[..length].windows(4).any(|part| part == address(SERVICES - 1).octets())
            {
                return Ok(());
            }
        }
        anyhow::bail!("{} at {} does not answer", self.name, self.address)
    }

    /// Keeps so many queries under way for a while.
    fn ask(&mut self, under_way: usize, lasting: Duration) -> anyhow::Result<Outcome> {
        let queries: Vec<_> = (0..SERVICES).map(|number| query(number as u16, &name(number))).collect();
        let (mut sent, mut received) = (0usize, 0usize);
        let (before, begun) = (self.nanos()?, Instant::now());
        let mut answer = [0; 512];
        while begun.elapsed() < lasting || received < sent {
            while begun.elapsed() < lasting && sent - received < under_way {
                self.socket.send(&queries[sent % queries.len()])?;
                sent += 1;
            }
            if received < sent {
                self.socket.recv(&mut answer).with_context(|| format!("{}: an answer is missing", self.name))?;
                let turn = (received % queries.len()) as u16;
                anyhow::ensure!(answer[..2] == turn.to_be_bytes(), "{}: an answer out of turn", self.name);
                received += 1;
            }
        }
        let (spent, took) = (self.nanos()? - before, begun.elapsed());
        Ok(Outcome {
            per_second: received as f64 / took.as_secs_f64(),
            nanos_per_query: spent as f64 / received as f64,
        })
    }

    /// Processor time of all its threads so far.
    fn nanos(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            sum += text.split_whitespace().next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(sum)
    }
}

/// A socket that asks one server and hears nobody else.
fn asking(server: SocketAddr) -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(server)?;
    Ok(socket)
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn dnsmasq(at: SocketAddr, folder: &Path) -> anyhow::Result<Command> {
    let hosts: String = (0..SERVICES).map(|number| format!("{} {}\n", address(number), name(number))).collect();
    let file = folder.join("hosts");
    fs::write(&file, hosts)?;
    let mut command = Command::new("dnsmasq");
    command.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--bind-interfaces",
        "--user=",
        "--group=",
    ]);
    command.args(["--local-ttl=5", "--dns-forward-max=1000", "--pid-file="]);
    command.args([format!("--port={}", at.port()), format!("--listen-address={}", at.ip())]);
    command.arg(format!("--addn-hosts={}", file.display()));
    Ok(command)
}

fn unbound(at: SocketAddr, folder: &Path) -> anyhow::Result<Command> {
    let mut text = format!(
        "server:\n  interface: {}\n  port: {}\n  num-threads: 1\n  do-daemonize: no\n  username: \"\"\n  chroot: \"\"\n  pidfile: \"\"\n  \
         use-syslog: no\n  directory: \"{}\"\n  module-config: \"iterator\"\n  local-zone: \"cluster.local.\" static\n",
        at.ip(),
        at.port(),
        folder.display()
    );
    for number in 0..SERVICES {
        text += &format!("  local-data: \"{}. 5 IN A {}\"\n", name(number), address(number));
    }
    text += "remote-control:\n  control-enable: no\n";
    let file = folder.join("unbound.conf");
    fs::write(&file, text)?;
    let program =
        ["/usr/sbin/unbound", "unbound"].into_iter().find(|path| Path::new(path).exists()).unwrap_or("unbound");
    let mut command = Command::new(program);
    command.args(["-d", "-p", "-c"]).arg(file);
    Ok(command)
}
