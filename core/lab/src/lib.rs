//! One machine as a cluster: namespaces, router, supervisor, host listeners.
//!
//! The only crate that knows that nodes are namespaces. [`cluster`] reads and checks the file that describes the hardware,
//! [`Hardware`](hardware) says what that is in kernel terms, [`boot`] puts a [`supervisor`] into fresh namespaces, and the
//! supervisor starts the parts of the cluster, each in the network namespace where it would run in real life, and starts them again
//! when they die. [`control`] is how `yard` talks to it afterwards.

pub mod boot;
pub mod channel;
pub mod cluster;
pub mod control;
pub mod doctor;
pub mod handover;
pub mod hardware;
pub mod home;
pub mod listeners;
pub mod namespaces;
pub mod router;
pub mod shell;
pub mod supervisor;
