//! Scheduler, address management and controllers.
//!
//! Everything here speaks to the cluster through a `kube` client alone, holds one cache a kind for the whole process, and does its
//! work from queues that events fill. Nothing is remembered that the API does not hold, so all of it may be killed at any moment.

mod cache;
mod config;
mod context;
mod daemonset;
mod deployment;
mod edge;
mod endpoints;
mod entrance;
mod error;
mod events;
mod firewall;
mod gc;
mod ipam;
mod job;
mod loadbalancer;
mod meta;
mod namespace;
mod network;
mod node;
mod ownership;
mod pod;
mod queue;
mod replicaset;
mod run;
mod scheduler;
mod segment;
mod statefulset;
mod template;

pub use config::Config;
pub use run::run;
