//! Benches of whole paths and of hot pieces. Whole paths are measured against a baseline in the same run, round by round, so that a
//! machine that slows down slows both. Pieces are criterion's, one after the other in one run. What is reported is the ratio with its
//! interval; a time alone says more about the machine than about us.
//!
//! A run leaves `NAME.json` in `target/switchyard/`, and criterion's results in `target/criterion/`; `yard-bench-page` makes
//! `docs/benchmarks.md` of what is there.

pub mod asking;
pub mod byhand;
pub mod cni;
pub mod figures;
pub mod flows;
pub mod load;
pub mod memory;
pub mod pieces;
pub mod policed;
mod record;
mod series;
mod settle;
mod steal;
mod world;

pub use record::{Comparison, Fact, Record, folder, lasting, machine, testing, turns};
pub use series::{Ratio, Series};
pub use settle::settle;
pub use steal::{Conditions, Steal};
pub use world::{Cluster, Pod, built, in_namespaces};
