//! What the author of a network plugin sees.
//!
//! > A network plugin is a pure function from cluster state to desired kernel state. It decides; the core acts.
//!
//! Implement [`NetworkPlugin`] and export it with `export_plugin!`. Every call gets facts and answers with a
//! [`Fragment`](switchyard_netstate::Fragment): plain data saying which links, addresses, routes and rules should exist in which
//! network namespaces. The same facts must give the same answer; a plugin opens no socket, reads no file, keeps no clock.

pub mod abi;
pub mod bridged;
pub mod export;
mod facts;
mod hosting;
mod manifest;
mod network_plugin;
mod options;

pub use facts::{EdgeRole, Facts, NodeFacts, PodFacts, PodSegment, Pool, SegmentFacts, SegmentPool};
pub use hosting::Hosting;
pub use manifest::{Manifest, OptionSpec};
pub use network_plugin::NetworkPlugin;
pub use options::{OptionReader, Options, OptionsError};
pub use switchyard_netstate as netstate;
