//! Counters: each core writes its own, a scrape adds them up. Labels are statuses and reasons, never hosts or paths, so the number
//! of series does not grow with the cluster.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::StatusCode;

/// Upper bounds of the duration buckets, in microseconds.
const BUCKETS: [u64; 14] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000, 30_000_000];

/// Errors by [`crate::ProxyError::reason`].
const REASONS: [&str; 10] = [
    "refused",
    "trace",
    "no-host",
    "no-path",
    "unavailable",
    "connect",
    "connect-timeout",
    "broken",
    "answer-timeout",
    "rewrite",
];

/// The counters of one core. Only that core writes them, so a plain store after a load loses nothing.
#[derive(Debug)]
#[repr(align(128))]
pub struct CoreMetrics {
    statuses: [AtomicU64; 600],
    reasons: [AtomicU64; REASONS.len()],
    buckets: [AtomicU64; BUCKETS.len() + 1],
    micros: AtomicU64,
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections open.
    pub open: AtomicU64,
    /// Connections turned away because there were too many.
    pub overflowed: AtomicU64,
    /// Connections opened to endpoints.
    pub connects: AtomicU64,
    /// Requests sent over a connection used before.
    pub reused: AtomicU64,
    /// Further attempts for one request.
    pub retries: AtomicU64,
    /// Connections handed over to another protocol.
    pub upgrades: AtomicU64,
}

/// All cores, and what belongs to none.
#[derive(Debug, Default)]
pub struct Metrics {
    /// One for each core.
    pub cores: Vec<Arc<CoreMetrics>>,
    /// Tables published.
    pub tables: AtomicU64,
    /// Nanoseconds the last one took to compile.
    pub compile_nanos: AtomicU64,
}

// === impl CoreMetrics ===

impl Default for CoreMetrics {
    fn default() -> Self {
        Self {
            statuses: [const { AtomicU64::new(0) }; 600],
            reasons: Default::default(),
            buckets: Default::default(),
            micros: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            open: AtomicU64::new(0),
            overflowed: AtomicU64::new(0),
            connects: AtomicU64::new(0),
            reused: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            upgrades: AtomicU64::new(0),
        }
    }
}

impl CoreMetrics {
    /// Counts an answer.
    pub fn answered(&self, status: StatusCode, took: Duration) {
        if let Some(counter) = self.statuses.get(usize::from(status.as_u16())) {
            add(counter, 1);
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        add(&self.buckets[BUCKETS.partition_point(|bound| *bound < micros)], 1);
        add(&self.micros, micros);
    }

    /// Counts an error.
    pub fn failed(&self, reason: &str) {
        if let Some(place) = REASONS.iter().position(|r| *r == reason) {
            add(&self.reasons[place], 1);
        }
    }
}

/// Adds to a counter that only this thread writes.
pub fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(amount), Relaxed);
}

/// Subtracts from a counter that only this thread writes.
pub fn subtract(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Relaxed).wrapping_sub(amount), Relaxed);
}

// === impl Metrics ===

impl Metrics {
    /// Room for that many cores.
    pub fn new(cores: usize) -> Self {
        Self { cores: (0..cores).map(|_| Arc::default()).collect(), ..Self::default() }
    }

    /// Everything in Prometheus' text format.
    pub fn render(&self, hosts: usize, backends: usize, generation: u64) -> String {
        let mut text = String::with_capacity(4096);
        let sum = |read: &dyn Fn(&CoreMetrics) -> u64| self.cores.iter().map(|c| read(c)).sum::<u64>();
        let out = &mut text;
        head(out, "yard_ingress_requests_total", "counter", "Requests answered, by status.");
        for status in 100..600 {
            let count = sum(&|c| c.statuses[status].load(Relaxed));
            if count > 0 {
                let _ = writeln!(out, "yard_ingress_requests_total{{code=\"{status}\"}} {count}");
            }
        }
        head(out, "yard_ingress_errors_total", "counter", "Requests not answered by a backend, by reason.");
        for (place, reason) in REASONS.iter().enumerate() {
            let count = sum(&|c| c.reasons[place].load(Relaxed));
            let _ = writeln!(out, "yard_ingress_errors_total{{reason=\"{reason}\"}} {count}");
        }
        head(
            out,
            "yard_ingress_request_duration_seconds",
            "histogram",
            "From a request's head to the end of its answer.",
        );
        let mut below = 0;
        for place in 0..=BUCKETS.len() {
            below += sum(&|c| c.buckets[place].load(Relaxed));
            let bound = BUCKETS.get(place).map_or("+Inf".to_owned(), |b| (*b as f64 / 1e6).to_string());
            let _ = writeln!(out, "yard_ingress_request_duration_seconds_bucket{{le=\"{bound}\"}} {below}");
        }
        let seconds = sum(&|c| c.micros.load(Relaxed)) as f64 / 1e6;
        let _ = writeln!(out, "yard_ingress_request_duration_seconds_sum {seconds}");
        let _ = writeln!(out, "yard_ingress_request_duration_seconds_count {below}");
        let mut counter = |name: &str, kind: &str, help: &str, value: u64| {
            head(out, name, kind, help);
            let _ = writeln!(out, "{name} {value}");
        };
        let read = |field: &dyn Fn(&CoreMetrics) -> &AtomicU64| sum(&|c| field(c).load(Relaxed));
        counter("yard_ingress_connections_total", "counter", "Connections accepted.", read(&|c| &c.accepted));
        counter("yard_ingress_connections_open", "gauge", "Connections open.", read(&|c| &c.open));
        counter(
            "yard_ingress_connections_overflowed_total",
            "counter",
            "Connections turned away.",
            read(&|c| &c.overflowed),
        );
        counter(
            "yard_ingress_upstream_connects_total",
            "counter",
            "Connections opened to endpoints.",
            read(&|c| &c.connects),
        );
        counter(
            "yard_ingress_upstream_reused_total",
            "counter",
            "Requests over a kept connection.",
            read(&|c| &c.reused),
        );
        counter("yard_ingress_upstream_retries_total", "counter", "Further attempts.", read(&|c| &c.retries));
        counter("yard_ingress_upgrades_total", "counter", "Connections that left HTTP.", read(&|c| &c.upgrades));
        counter("yard_ingress_table_generation", "gauge", "Number of the current table.", generation);
        counter("yard_ingress_table_hosts", "gauge", "Host patterns.", hosts as u64);
        counter("yard_ingress_table_backends", "gauge", "Backends.", backends as u64);
        counter(
            "yard_ingress_table_compile_nanoseconds",
            "gauge",
            "Of the last table.",
            self.compile_nanos.load(Relaxed),
        );
        text
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}
