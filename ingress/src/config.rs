//! What can be set, with its default, and what was typed.

use std::{net::IpAddr, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::gate::{GateLimits, HeadLimits, Timeouts};

/// Routes HTTP into a cluster by its Ingress objects.
#[derive(Debug, Parser)]
#[command(name = "yard-ingress", version)]
pub struct Cli {
    /// Something other than serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to serve.
    #[command(flatten)]
    pub config: Config,
}

/// Verbs besides serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Ask a running ingress which rule decides for a host and path.
    Explain {
        /// As in the Host header.
        host: String,
        /// As in the request line.
        #[arg(default_value = "/")]
        path: String,
        /// Its admin listener.
        #[arg(long, default_value = "127.0.0.1:10254")]
        admin: SocketAddr,
    },
}

/// How to serve.
#[derive(Clone, Debug, Args)]
pub struct Config {
    /// Address for HTTP.
    #[arg(long, default_value = "0.0.0.0:80")]
    pub http: SocketAddr,
    /// Address for HTTPS; nothing is opened unless it is given.
    #[arg(long)]
    pub https: Option<SocketAddr>,
    /// Address for /healthz, /readyz, /metrics, /table and /explain.
    #[arg(long, default_value = "0.0.0.0:10254")]
    pub admin: SocketAddr,
    /// Serving threads; 0 means one for each core this process may use.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
    /// Cluster credentials for development; in a pod the service account is used.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Service whose external addresses are written to the Ingresses' status, as NAMESPACE/NAME.
    #[arg(long)]
    pub publish_service: Option<String>,
    /// Watch one namespace only.
    #[arg(long)]
    pub namespace: Option<String>,
    /// Networks whose X-Forwarded-* is believed, as ADDRESS/BITS.
    #[arg(long, value_delimiter = ',')]
    pub trusted_proxies: Vec<Network>,
    /// Seconds to go on accepting after SIGTERM, while /readyz already says no.
    #[arg(long, default_value = "1", value_parser = seconds)]
    pub drain_delay: Duration,
    /// Seconds after which requests still open at shutdown are cut off.
    #[arg(long, default_value = "25", value_parser = seconds)]
    pub grace: Duration,
    /// Bounds of what a client may ask for and how long anybody may take.
    #[command(flatten)]
    pub limits: Limits,
}

/// Bounds of what a client may ask for and how long anybody may take.
#[derive(Clone, Debug, Args)]
pub struct Limits {
    /// Bytes of a request's head.
    #[arg(long, default_value_t = 32 * 1024)]
    pub max_head: usize,
    /// Header lines of a request (at most 100).
    #[arg(long, default_value_t = 100)]
    pub max_headers: usize,
    /// Bytes of a request's body; 0 means any.
    #[arg(long, default_value_t = 0)]
    pub max_body: u64,
    /// Connections on one thread.
    #[arg(long, default_value_t = 16_384)]
    pub max_connections: usize,
    /// Seconds for a whole head to arrive.
    #[arg(long, default_value = "10", value_parser = seconds)]
    pub header_timeout: Duration,
    /// Seconds a connection may be quiet between requests.
    #[arg(long, default_value = "75", value_parser = seconds)]
    pub idle_timeout: Duration,
    /// Seconds a client may be quiet in the middle of a body, or refuse to take ours.
    #[arg(long, default_value = "60", value_parser = seconds)]
    pub body_timeout: Duration,
    /// Seconds for a backend to accept a connection.
    #[arg(long, default_value = "2", value_parser = seconds)]
    pub connect_timeout: Duration,
    /// Seconds without a word from the other end's kernel after which a connection to a backend is dead; 2 at least for long bodies and
    /// tunnels.
    #[arg(long, default_value = "8", value_parser = seconds)]
    pub peer_timeout: Duration,
    /// Seconds for a backend to begin its answer.
    #[arg(long, default_value = "60", value_parser = seconds)]
    pub answer_timeout: Duration,
    /// Unused connections kept to one endpoint, on one thread.
    #[arg(long, default_value_t = 128)]
    pub max_idle: usize,
    /// Seconds to keep them.
    #[arg(long, default_value = "30", value_parser = seconds)]
    pub upstream_idle_timeout: Duration,
    /// Endpoints tried for one request.
    #[arg(long, default_value_t = 3)]
    pub tries: usize,
}

/// An address block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Cli::parse_from(["yard-ingress"]).config
    }
}

// === impl Limits ===

impl Limits {
    /// What the gate enforces.
    pub fn gate(&self) -> GateLimits {
        GateLimits {
            head: HeadLimits { bytes: self.max_head, headers: self.max_headers.min(100) },
            body: self.max_body,
        }
    }

    /// What the clock of a core enforces.
    pub fn timeouts(&self) -> Timeouts {
        let shortest = self.header_timeout.min(self.idle_timeout).min(self.body_timeout);
        Timeouts {
            idle: self.idle_timeout,
            head: self.header_timeout,
            body: self.body_timeout,
            step: (shortest / 4).clamp(Duration::from_millis(20), Duration::from_millis(500)),
        }
    }
}

// === impl Network ===

impl Network {
    /// Whether an address lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let shift = |width: u8| u32::from(width.saturating_sub(self.bits));
        match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).checked_shr(shift(32)).unwrap_or(0) == 0,
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).checked_shr(shift(128)).unwrap_or(0) == 0,
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));
        let address: IpAddr = address.parse().map_err(|_| format!("{text:?} is not ADDRESS or ADDRESS/BITS"))?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), str::parse).map_err(|_| format!("{text:?}: bits must be a number"))?;
        if bits > most { Err(format!("{text:?}: at most {most} bits")) } else { Ok(Self { address, bits }) }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is not a number of seconds"))?;
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}
