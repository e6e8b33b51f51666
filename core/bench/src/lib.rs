//! Experiments: what does this network cost?
//!
//! An [`Experiment`] says what is compared. [`run()`] boots a cluster of its own, swaps networks under it in an order that the seed
//! decides, and lets [`load`] generators measure each path of each network between two samples of a baseline, a pair of veth devices
//! wired by hand. The [`Report`] holds every sample and how it was made; [`Comparison`]s are computed from the samples alone, so a
//! report can be judged again, by somebody else, later. No figure stands without its ratio to the baseline and the interval around
//! it, and what cannot be trusted is called invalid, with the reason.

mod analysis;
pub mod experiment;
mod gate;
pub mod gauge;
pub mod load;
mod report;
mod run;
mod schedule;
mod stage;
pub mod stats;
mod verdict;
pub mod wires;

pub use analysis::{
    Analysis, Breakdown, Comparison, Curve, Figure, Life, Metric, Point, Step, breakdowns, curves, lives,
};
pub use experiment::Experiment;
pub use gate::{Gate, GateError};
pub use report::{EndedBy, Report, ReportError, compare, page, table};
pub use run::{Keep, Progress, Setting, run};
pub use verdict::{Reason, Verdict};
