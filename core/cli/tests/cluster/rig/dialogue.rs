//! Requests and answers inside the cluster that follow each other without a pause.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use serde_json::Value;

use super::Cluster;

/// Requests of one client, until it is ended.
pub(crate) struct Dialogue {
    shell: Child,
    stop: Arc<AtomicBool>,
    lines: JoinHandle<Vec<String>>,
}

/// What became of it.
#[derive(Debug)]
pub(crate) struct Told {
    connections: usize,
    answers: usize,
    /// Longest that an answer took, seconds.
    longest: f64,
    strange: Option<String>,
}

/// More requests than anybody waits for.
const REQUESTS: &str = "[1-1000000]";

// === impl Dialogue ===

impl Dialogue {
    /// One connection, from a pod on one worker to a pod on the other.
    pub(crate) fn between_nodes(cluster: &Cluster) -> Self {
        let pods = cluster.get(&["pods", "-l", "version=v1"]);
        let on = |node: &str| {
            let mut all = pods["items"].as_array().into_iter().flatten();
            all.find(|pod| pod["spec"]["nodeName"] == node).cloned().unwrap_or_else(|| panic!("a pod on {node}"))
        };
        let (from, to) = (on("worker-1"), on("worker-2"));
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let place = format!("pod/{}", text(&from["metadata"]["name"]));
        Self::start(cluster, &place, &text(&to["status"]["podIP"]), &[])
    }

    /// From a place to an address, each request on a new connection.
    pub(crate) fn of_strangers(cluster: &Cluster, place: &str, to: &str) -> Self {
        Self::start(cluster, place, to, &["-H", "Connection: close", "--rate", "200/s"])
    }

    fn start(cluster: &Cluster, place: &str, to: &str, how: &[&str]) -> Self {
        let url = format!("http://{to}/?{REQUESTS}");
        let mut command = cluster.command(cluster.program());
        command.args(["shell", place, "--", "curl", "-sS", "-o", "/dev/null"]).args(how);
        command.args(["-w", "%{num_connects} %{http_code} %{time_total}\\n", &url]);
        let mut shell = command.stdout(Stdio::piped()).spawn().expect("yard runs");
        let out = BufReader::new(shell.stdout.take().expect("piped"));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        // Once nobody reads what it writes, curl ends.
        let read = move || out.lines().map_while(Result::ok).take_while(|_| !stopped.load(Ordering::Relaxed)).collect();
        Self { shell, stop, lines: std::thread::spawn(read) }
    }

    /// Ends it.
    pub(crate) fn end(mut self) -> Told {
        self.stop.store(true, Ordering::Relaxed);
        let lines = self.lines.join().expect("the reader does not panic");
        let _ = self.shell.kill();
        let _ = self.shell.wait();
        let mut told = Told { connections: 0, answers: 0, longest: 0.0, strange: None };
        for line in &lines {
            let words: Vec<&str> = line.split(' ').collect();
            let [connects, "200", time] = words[..] else {
                told.strange.get_or_insert_with(|| line.clone());
                continue;
            };
            told.connections += connects.parse::<usize>().unwrap_or(99);
            told.answers += 1;
            told.longest = told.longest.max(time.parse().unwrap_or(f64::MAX));
        }
        told
    }
}

// === impl Told ===

impl Told {
    /// The connection was never lost, and every answer came.
    #[track_caller]
    pub(crate) fn was_one_connection(&self) {
        assert!(self.strange.is_none() && self.connections == 1 && self.answers > 100, "{self:?}");
        eprintln!("{} answers over one connection, the slowest after {:.1} ms", self.answers, self.longest * 1e3);
    }

    /// Every request was answered.
    #[track_caller]
    pub(crate) fn lost_nothing(&self) {
        assert!(self.strange.is_none() && self.answers > 100, "{self:?}");
    }
}
