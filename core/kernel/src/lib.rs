//! netstate made real: netlink, nf_tables, namespaces; read back, apply, audit.
//!
//! [`Netns`] is a namespace, [`Places`] says which place is which namespace, and [`Engine`] keeps what units want in force there:
//! it plans, checks everything, applies in batches, puts back what it changed when something fails, and repairs what others
//! change. It touches nothing that does not carry its owner's mark.

#![allow(unsafe_code, reason = "namespaces and tun interfaces have no safe interface; each use says why it is sound")]

mod apply;
mod audit;
pub mod conntrack;
mod counters;
mod detour;
mod encode;
mod engine;
mod error;
pub mod feature;
mod monitor;
mod netlink;
mod netns;
mod nft;
mod places;
mod read;
mod rtnl;
mod snapshot;
mod sys;
mod sysctl;
mod tun;
mod validate;
mod ways;

pub use audit::Audit;
pub use counters::Counters;
pub use encode::encode;
pub use engine::{Engine, Owner};
pub use error::Error;
pub use feature::Feature;
pub use monitor::{Keeper, Repair};
pub use netns::{Identity, Netns};
pub use places::Places;
pub use ways::Ways;
