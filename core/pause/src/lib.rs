//! The first process of a pod: owns its namespaces, starts and reaps its containers.
//!
//! One process a pod, single-threaded and small, because a machine carries a thousand of them. It outlives the agent that
//! started it: containers are its children, their output goes through its pipes into their logs, and an agent that comes back asks
//! it what runs. When it dies the kernel ends everything of the pod with it, as it is process 1 of the pod's pid namespace.
//!
//! The agent speaks to it over a Unix socket, one JSON document a line ([`protocol`]).

// Forking, entering namespaces and passing descriptors have no safe form; each use says why it is sound.
#![allow(unsafe_code, reason = "namespaces, fork and exec are system calls without a safe wrapper")]

pub mod protocol;

mod child;
mod clock;
mod connection;
mod log;
mod program;
mod sandbox;
mod server;
mod tree;
mod within;

pub use sandbox::run;
