//! Names: the cluster's domain and the zones outside.
//!
//! An [`Index`] holds records by name. [`sources`] says which records a Kubernetes object means, as values; [`follow`] keeps an index
//! current with an API server, at the cost of what changed; [`spawn`] answers queries from it over UDP and TCP. Decoding, encoding and
//! forwarding are hickory's; the sockets are our own, because they are handed down (so that no query is lost while the process
//! is started again), are read in batches, and have limits per client.

pub mod client;
mod follow;
mod index;
mod record;
mod server;
pub mod sources;
mod zone;

pub use follow::{Mirror, follow};
pub use index::{Answer, Found, Index, Shared, Unit};
pub use record::{Data, Entry};
pub use server::{Answering, Config, Limits, Sockets, spawn};
pub use zone::{Zone, reverse_zones};

/// Version of the Kubernetes DNS specification that the records follow.
pub const SPECIFICATION: &str = "1.1.0";
/// How long an answer may be kept, in seconds: as short as CoreDNS has it, as names follow pods.
pub const TTL: u32 = 5;
