//! nf_tables over netlink (linux/netfilter/nf_tables.h): encoding of every object of [`switchyard_netstate::nft`], one atomic
//! transaction for each batch, and reading back.
//!
//! A table carries its owner as its comment; each rule carries, in its user data, a digest of the chain it belongs to and its
//! place in it, so that an audit knows in one look whether a chain still is what we wrote. Elements are compared by value.

pub(crate) mod batch;
pub(crate) mod chain;
pub(crate) mod dump;
pub(crate) mod expr;
pub(crate) mod message;
mod ops;
pub(crate) mod set;
