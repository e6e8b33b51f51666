//! Says whether a network plugin keeps its promises.
//!
//! A plugin is asked about clusters that do not exist, in a process of its own, so that whatever it does is an observation; then
//! what it wants is made real between network namespaces, and packets are sent through. Each promise is a check with a name, such as
//! `purity/deterministic`; what failed comes with a reason and with what to do. That the checks can fail is itself tested, with a
//! plugin that breaks one promise after the other.

mod checks;
mod cluster;
mod report;
mod run;
mod subject;
mod world;

pub use checks::{CHECKS, Check};
pub use report::{Outcome, Report, Verdict};
pub use run::{Request, RunError, enter, run};
