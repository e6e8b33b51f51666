//! What it costs to attach and detach a pod (veth pair with a bridge port, address, two routes, neighbour, one nftables element),
//! with 1, 100 and 1,000 pods there already, against a baseline in the same process: the same objects as a hand-written batch of
//! netlink messages on sockets that are open already.
//!
//!     cargo bench -p switchyard-kernel --bench attach
//!
//! Root is not needed: the bench runs itself again in new user, network and mount namespaces.

use std::hint::black_box;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion};
use switchyard_kernel::{Engine, Netns, Owner, Places};
use switchyard_netstate::{Fragment, Place, UnitId};

mod baseline;

const INSIDE: &str = "SWITCHYARD_BENCH_INSIDE";

fn main() {
    if std::env::var_os(INSIDE).is_none() {
        again_in_namespaces();
        return;
    }
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(4))
        .configure_from_args();
    attach(&mut criterion);
    criterion.final_summary();
}

fn attach(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("attach");
    for there in [1usize, 100, 1000] {
        let mut rig = Rig::new(there);
        group.bench_function(BenchmarkId::new("engine", there), |bench| {
            bench.iter_custom(|rounds| (0..rounds).map(|_| rig.engine_round()).sum());
        });
        let mut base = baseline::Baseline::new(rig.netns());
        group.bench_function(BenchmarkId::new("hand-written", there), |bench| {
            bench.iter_custom(|rounds| (0..rounds).map(|_| rig.baseline_round(&mut base)).sum());
        });
    }
    group.finish();
}

/// A node with a bridge, a table, and pods that are there already.
struct Rig {
    engine: Engine,
}

impl Rig {
    fn new(there: usize) -> Self {
        let mut places = Places::new();
        places.add(Place::node("n1"), Netns::create().expect("a namespace for the node"));
        let mut engine = Engine::new(Owner { protocol: 83 }, places);
        let base = r#"{"node/n1":[
            {"kind":"link","name":"cbr0","type":{"bridge":{}},"mtu":1500,"mac":"0a:58:0a:28:00:01"},
            {"kind":"address","dev":"cbr0","address":"10.40.0.1/16"},
            {"kind":"table","table":{"family":"ip","name":"yard-bench"}},
            {"kind":"set","table":{"family":"ip","name":"yard-bench"},"name":"pods","key":["ipv4"]}]}"#;
        engine.set(UnitId("node".into()), serde_json::from_str(base).expect("valid")).expect("a node");
        for number in 0..there {
            let uid = format!("there{number}");
            engine.add_place(Place::pod(&*uid), Netns::create().expect("a namespace"));
            engine.set(UnitId(format!("pod/{uid}")), pod(&uid, number + 256)).expect("a pod");
        }
        Self { engine }
    }

    fn netns(&self) -> &Netns {
        self.engine.places().get(&Place::node("n1")).expect("added above")
    }

    /// Attaches a pod, timed, and takes it away again, not timed.
    fn engine_round(&mut self) -> Duration {
        let place = Place::pod("new");
        self.engine.add_place(place.clone(), Netns::create().expect("a namespace"));
        let fragment = pod("new", 7);
        let start = Instant::now();
        self.engine.set(UnitId("pod/new".into()), black_box(fragment)).expect("attach");
        let took = start.elapsed();
        self.engine.remove(UnitId("pod/new".into())).expect("detach");
        self.engine.remove_place(&place);
        took
    }

    fn baseline_round(&mut self, baseline: &mut baseline::Baseline) -> Duration {
        let netns = Netns::create().expect("a namespace");
        let start = Instant::now();
        baseline.attach(&netns);
        let took = start.elapsed();
        baseline.detach();
        took
    }
}

fn pod(uid: &str, number: usize) -> Fragment {
    let (high, low) = (number / 256, number % 256);
    let text = format!(
        r#"{{"node/n1":[
        {{"kind":"link","name":"v{uid}","type":{{"veth":{{"peer":{{"place":"pod/{uid}","name":"eth0"}}}}}},
            "mtu":1500,"master":"cbr0","port":{{"hairpin":true}}}},
        {{"kind":"neighbour","dev":"cbr0","address":"10.40.{high}.{low}","mac":"0a:58:0a:28:{high:02x}:{low:02x}"}},
        {{"kind":"element","table":{{"family":"ip","name":"yard-bench"}},"set":"pods","key":[{{"ip":"10.40.{high}.{low}"}}]}}],
        "pod/{uid}":[
        {{"kind":"link","name":"eth0","type":{{"veth":{{"peer":{{"place":"node/n1","name":"v{uid}"}}}}}},
            "mtu":1500,"mac":"0a:58:0a:28:{high:02x}:{low:02x}"}},
        {{"kind":"address","dev":"eth0","address":"10.40.{high}.{low}/16","noprefixroute":true}},
        {{"kind":"route","to":"10.40.0.1/32","via":{{"dev":"eth0"}}}},
        {{"kind":"route","to":"0.0.0.0/0","via":{{"dev":"eth0","gateway":"10.40.0.1"}}}}]}}"#
    );
    serde_json::from_str(&text).expect("valid")
}

#[allow(unsafe_code, reason = "namespaces are made between fork and exec")]
fn again_in_namespaces() {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let mut again = Command::new(std::env::current_exe().expect("a program has a path"));
    again.args(std::env::args_os().skip(1)).env(INSIDE, "1");
    // SAFETY: the closure only makes system calls and writes three small files.
    unsafe {
        again.pre_exec(move || {
            use rustix::thread::UnshareFlags;
            rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNET | UnshareFlags::NEWNS)?;
            std::fs::write("/proc/self/setgroups", "deny")?;
            std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
            std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
        });
    }
    let status = again.status().expect("run again in new namespaces (are user namespaces allowed?)");
    std::process::exit(status.code().unwrap_or(1));
}
