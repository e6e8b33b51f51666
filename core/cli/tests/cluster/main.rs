//! Whole clusters, booted from the built programs, looked at from outside. Each test owns its cluster: a home of its own in a temporary
//! folder, port 0. As root every scenario runs twice, with and without root's powers; otherwise once.

mod allowing;
mod examples;
mod faults;
mod firewall;
mod leaving;
mod measuring;
mod naming;
mod narrowing;
mod policy;
mod reaching;
mod rig;
mod rolling;
mod segments;
mod serving;
mod streaming;
mod swapping;
mod table;
mod verbs;
