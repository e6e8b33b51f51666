//! Kernel network state as data: the vocabulary, the difference, the order.
//!
//! A network plugin answers with [`Fragment`]s: the wanted state of one unit (a node, a peer, a pod, a Service) in one or
//! several [`Place`]s. This crate says what can be wanted ([`Object`]), what has to change to get there ([`Plan`]), and in
//! which order ([`Phase`]). It performs no input or output; the `switchyard-kernel` crate makes it real.
//!
//! The terms are the kernel's own, so that a fragment reads like the output of `ip`, `bridge` and `nft`.

mod fragment;
mod ledger;
mod link;
mod name;
pub mod nft;
mod object;
mod plan;

pub use fragment::{Fragment, Objects};
pub use ledger::{Conflict, Ledger, UnitId};
pub use link::{Link, LinkKind, PeerEnd, PortSettings};
pub use name::{IfName, Mac, NameError, Place};
pub use object::{
    Address, Encap, FdbEntry, Key, Neighbour, NextHop, Object, Qdisc, QdiscKind, Route, RouteScope, Rule, Sysctl,
};
pub use plan::{Change, Op, Phase, Plan};
