//! Load generators and what answers them: the hidden verb `yard generate`, which is also the image `yard/bench`.
//!
//! An *agent* runs where the load comes from and lives as long as the experiment. It takes [`Order`]s on standard input and gives
//! [`Reply`]s on standard output, a line of JSON each. The *server* runs in the pods that the load goes to. Both are small threads
//! and blocking sockets: whatever they cost is part of every figure, also of the baseline's.

pub mod agent;
mod crr;
mod follow;
mod http;
mod meter;
mod observe;
mod pinned;
mod probe;
mod rr;
pub mod server;
mod state;
mod stream;
mod turns;
mod udp;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub use crate::stats::Histogram;
pub use pinned::Pinned;

/// Where servers listen.
pub mod ports {
    /// Takes everything and says how much it was.
    pub const SINK: u16 = 5001;
    /// Sends back what comes, over and over.
    pub const ECHO: u16 = 5002;
    /// Sends back what comes, and closes.
    pub const CRR: u16 = 5003;
    /// Counts datagrams, and answers those that ask.
    pub const UDP: u16 = 5004;
    /// Serves HTTP.
    pub const HTTP: u16 = 8080;
}

/// A load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Load {
    /// As many bytes as TCP carries.
    Stream {
        /// Connections that send at once.
        connections: u16,
    },
    /// A request and its answer, one after the other on one connection.
    Rr {
        /// Bytes each way.
        bytes: u32,
    },
    /// Connect, request, answer, close; one after the other.
    Crr {
        /// Bytes each way.
        bytes: u32,
    },
    /// HTTP requests at a rate that does not wait for answers.
    Http {
        /// Requests a second; none: the next one on each connection as soon as one is answered.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rate: Option<f64>,
        /// Connections; a request waits for a free one, and the wait counts.
        connections: u16,
        /// When requests are due.
        arrivals: Arrivals,
        /// Bytes of an answer's body.
        body: u32,
    },
    /// Datagrams at a rate.
    Udp {
        /// Datagrams a second; none: as many as can be sent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rate: Option<f64>,
        /// Bytes of payload of each.
        bytes: u32,
    },
}

/// When requests are due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arrivals {
    /// At equal distances.
    Constant,
    /// Independently of each other.
    #[default]
    Poisson,
}

/// What an agent is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Order {
    /// One sample.
    Load {
        /// Of what.
        load: Load,
        /// Where to.
        target: SocketAddr,
        /// The name asked for, http only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// Milliseconds that do not count.
        warmup_milliseconds: u32,
        /// Milliseconds that do.
        sample_milliseconds: u32,
        /// For what is left to chance.
        seed: u64,
    },
    /// Send a datagram every millisecond and take the answers, until `Stop`.
    Follow {
        /// Where to.
        target: SocketAddr,
    },
    /// The end of `Follow`; answered by what it saw.
    Stop,
    /// Send each target a datagram every millisecond, each from a port of its own, until `Rest`.
    Probe {
        /// Whom.
        targets: Vec<SocketAddr>,
    },
    /// Wait until a target of `Probe` answers, or does not any more.
    Await {
        /// Which, counted from 0.
        target: usize,
        /// What is waited for.
        answers: bool,
    },
    /// The end of `Probe`.
    Rest,
    /// Say what there is here, devices and routes, and remember when it changes, until `Observed`.
    Observe,
    /// Wait until none of these things is there any more.
    Vanish {
        /// Which.
        things: BTreeSet<String>,
    },
    /// The end of `Observe`; answered by the changes.
    Observed,
    /// What the interfaces here have counted.
    Devices,
    /// What there is in this network namespace, by name.
    State,
    /// The largest packet that goes to a target unfragmented.
    Mtu {
        /// Where to.
        target: SocketAddr,
    },
}

/// What came of an order.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// A server or a namespace is there; said once, at the beginning.
    Ready,
    /// Of `Load`.
    Measured(Box<Measured>),
    /// `Follow` has begun.
    Following,
    /// Of `Stop`.
    Followed(Followed),
    /// A sample's time begins to count.
    Begun,
    /// A sample's time has ended; what it measured follows.
    Ended,
    /// Of `Probe` and `Rest`.
    Done,
    /// Of `Await` and `Vanish`: when it came to be so, nanoseconds of the monotonic clock.
    Since(u64),
    /// Of `Observe`.
    Things(BTreeSet<String>),
    /// Of `Observed`.
    Changes(Vec<Change>),
    /// Of `Devices`.
    Devices(Vec<crate::gauge::Device>),
    /// Of `State`.
    State(BTreeSet<String>),
    /// Of `Mtu`.
    Mtu(u32),
    /// It did not work.
    Failed(String),
}

/// One sample.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Measured {
    /// Seconds that counted.
    pub seconds: f64,
    /// What was finished: answers, connections, datagrams that arrived. Nothing of a stream.
    pub operations: u64,
    /// Payload that arrived.
    pub bytes: u64,
    /// What should have been finished and was not.
    pub errors: u64,
    /// Why the first of those was not, where the generator knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Requests that the generator itself sent a millisecond late or more, although it had a connection to send them on.
    pub late: u64,
    /// Datagrams that the network delivered and the server was too slow to take.
    pub dropped: u64,
    /// Nanoseconds from the moment an operation was due until it was finished.
    #[serde(skip_serializing_if = "Histogram::is_empty")]
    pub latency: Histogram,
    /// What the machine did meanwhile.
    pub cpu: crate::gauge::Cpu,
    /// Seconds that the generator itself ran its own code.
    pub generator_user: f64,
    /// Seconds that the kernel ran for the generator.
    pub generator_system: f64,
}

/// A flow that was followed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Followed {
    /// Datagrams sent.
    pub sent: u64,
    /// Answers.
    pub answered: u64,
    /// Longest time between two answers, milliseconds.
    pub longest_gap: f64,
    /// Longest time between two datagrams sent, milliseconds: a gap of that length may be the sender's own.
    pub longest_stall: f64,
    /// When each answered datagram left, microseconds after the beginning, and how long its answer took.
    pub trips: Vec<(u32, u32)>,
}

/// A change of what is there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// When it was seen, nanoseconds of the monotonic clock.
    pub at: u64,
    /// What came.
    pub came: Vec<String>,
    /// What went.
    pub went: Vec<String>,
}

/// How long anything may take beyond its time.
pub(crate) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);
/// Longest that anything is waited for.
pub(crate) const LIMIT: std::time::Duration = std::time::Duration::from_secs(30);

// === impl Measured ===

impl Measured {
    /// A sample that could not be taken at all: one thing should have been finished and was not.
    pub(crate) fn none(error: &anyhow::Error) -> Self {
        let mut measured = Self::default();
        measured.failed(error);
        measured
    }

    /// Whether there is anything to compare: time that counted.
    pub(crate) fn is_taken(&self) -> bool {
        self.seconds > 0.0
    }

    /// Counts one that failed.
    fn failed(&mut self, error: &anyhow::Error) {
        self.errors += 1;
        self.why.get_or_insert_with(|| format!("{error:#}"));
    }
}

// === impl Followed ===

impl Followed {
    /// Datagrams that were not answered.
    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.answered)
    }
}

#[cfg(test)]
mod tests;
