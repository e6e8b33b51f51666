//! An ingress controller: HTTP into a cluster by the rules of its Ingress objects.
//!
//! One thread a core, each with its own listener, runtime, connections and upstream pool; nothing on the way of a request is shared
//! between cores but whose turn it is at a backend. A request head passes the [`gate`] before the HTTP library sees it, is looked up
//! in an immutable [`table`] that is compiled from cluster objects and swapped whole, and goes to a ready endpoint directly.
//!
//! Depends on nothing else of the project and runs in any Kubernetes cluster.

pub mod admin;
pub mod answer;
pub mod cluster;
pub mod config;
pub mod error;
pub mod gate;
pub mod headers;
pub mod metrics;
pub mod proxy;
pub mod server;
pub mod table;
pub mod tls;
pub mod upstream;

mod begin;
mod line;
mod run;
mod stream;
mod tunnel;

pub use self::{
    cluster::Origin,
    config::{Config, Limits},
    error::ProxyError,
    run::{RunError, Sockets, run},
};
