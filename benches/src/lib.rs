//! Benches of whole paths: each is measured against a baseline in the same run, round by round, so that a machine that slows down
//! slows both. What is reported is the ratio with its interval; a time alone says more about the machine than about us.
//!
//! A run leaves `NAME.json` in `target/switchyard/`; `yard-bench-page` makes `docs/benchmarks.md` of what is there.

pub mod byhand;
pub mod cni;
pub mod load;
pub mod memory;
mod record;
mod series;
mod world;

pub use record::{Comparison, Fact, Record, folder};
pub use series::{Ratio, Series};
pub use world::{Cluster, in_namespaces};
