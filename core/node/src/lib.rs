//! The node agent: pods, probes, the network attachment, the service data plane.
//!
//! [`run`] registers the node, follows what is bound to it, and makes it so: a pause process a pod, containers below it, the pod's
//! network as the active plugin wants it. Everything is an event; everything is taken over when the agent starts again.

mod agent;
mod config;
mod dns;
mod env;
mod events;
mod images;
mod lease;
mod network;
mod pods;
mod policy;
mod probe;
mod register;
mod server;
mod services;
mod view;

pub use agent::{run, run_with};
pub use config::{Config, Dns, Underlay};
pub use switchyard_dns::Sockets as DnsSockets;
