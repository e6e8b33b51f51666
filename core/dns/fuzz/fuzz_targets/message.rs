//! Any bytes, as a datagram and over a connection, to a server with the records of the tests.
#![no_main]

#[path = "../../tests/harmless/mod.rs"]
mod harmless;
#[path = "../../tests/world/mod.rs"]
mod world;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use world::World;

static RECORDS: LazyLock<switchyard_dns::Shared> = LazyLock::new(|| World::coredns().index);

fuzz_target!(|bytes: &[u8]| harmless::harmless(&RECORDS, bytes));
