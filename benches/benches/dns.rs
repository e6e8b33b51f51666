//! Names: queries a second and processor time a query, against dnsmasq and unbound that serve the same records in the same run; and how
//! long it takes from a changed EndpointSlice to a changed answer.
//!
//! Each server is one process with one thread, asked over loopback for records of a thousand Services: with many queries under way, and
//! with one at a time. The two others are found on the path (`apt-get install dnsmasq-base unbound`); who is not there is left out, and the page says so. With `--test` once.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;
use switchyard_benches::{Record, Series, lasting, turns};
use switchyard_dns::sources::Naming;
use switchyard_dns::{Config, Limits, Mirror, Shared, Sockets, serve};
use tokio_util::sync::CancellationToken;

const SERVICES: u32 = 1000;
const ROUNDS: usize = 20;
const LASTING: Duration = Duration::from_millis(300);
const CHANGES: usize = 200;
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
    let mut changes = changes()?;
    changes.sort_by(f64::total_cmp);
    let at = |share: f64| changes[((changes.len() - 1) as f64 * share) as usize];
    let value = format!("{:.0} µs (p50), {:.0} µs (p99)", at(0.5), at(0.99));
    record.fact("from EndpointSlice to changed answer", value, "milliseconds");
    record.save_unless_testing()
}

/// Our server as a process of its own.
fn ourselves(address: SocketAddr) -> anyhow::Result<()> {
    let (index, _mirror) = records();
    let limits = Limits { queries_per_second: u32::MAX, ..Limits::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let sockets = vec![Sockets::bind(address)?];
    runtime.block_on(serve(sockets, index, Config { limits, ..Config::default() }, CancellationToken::new()))?;
    Ok(())
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
    let headless = json!({"metadata": {"name": "hdls", "namespace": "default"}, "spec": {"clusterIP": "None"}});
    mirror.service(serde_json::from_value(headless).expect("a Service"));
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
    let serving = switchyard_dns::spawn(vec![sockets], index, Config::default(), shutdown.clone())?;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let asked = query(1, "last.hdls.default.svc.cluster.local");
    let mut taken = Vec::new();
    for change in 0..turns(CHANGES) {
        let last = Ipv4Addr::new(198, 51, 100, (change % 250) as u8);
        let mut endpoints: Vec<_> = (0..99).map(|host| json!({"addresses": [format!("10.40.1.{host}")]})).collect();
        endpoints.push(json!({"addresses": [last], "hostname": "last"}));
        let labels = json!({"kubernetes.io/service-name": "hdls"});
        let slice = json!({
            "metadata": {"name": "hdls-a", "namespace": "default", "labels": labels},
            "addressType": "IPv4", "endpoints": endpoints, "ports": [],
        });
        let slice = serde_json::from_value(slice)?;
        let begun = Instant::now();
        mirror.slice(slice);
        let mut answer = [0; 512];
        loop {
            socket.send(&asked)?;
            let length = socket.recv(&mut answer)?;
            if answer[..length].ends_with(&last.octets()) {
                break;
            }
        }
        taken.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    shutdown.cancel();
    let _ = serving.join();
    Ok(taken)
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
