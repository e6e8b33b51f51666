//! A Kubernetes-compatible API over the store.
//!
//! Objects are JSON values from the socket to the disk, so fields we do not know survive; the types of `k8s-openapi` only check
//! what comes in. One table of kinds (`kinds`) drives routes, discovery, storage, printing and validation.
//!
//! A request goes: `connection` → who is it (`auth`) → what does it want (`request`) → may it (`auth::rbac`) → its body
//! (`intake`) → the verb (`registry`) → defaults, checks, quota (`admission`) → store. Reads and watches share the bytes the store encoded.

#![allow(unreachable_pub, reason = "modules are private; `pub` in them means: for the rest of the crate")]

mod accept;
mod admission;
mod auth;
mod body;
mod connection;
mod discovery;
mod events;
mod handler;
mod intake;
mod kinds;
mod list;
mod meta;
mod openapi;
mod patch;
pub mod pki;
mod printers;
mod protobuf;
mod proxy;
mod registry;
mod request;
mod selector;
mod server;
mod status;
mod table;
mod view;
mod watch;
mod yaml;

pub use auth::User;
pub use connection::Patience;
#[doc(hidden)]
pub use patch::for_tests as patch_for_tests;
pub use server::{Config, Error, History, Server};
