//! Any bytes, as a datagram and over a connection, to a server with the records of the tests.
//!
//! `cargo test` builds this file as well, and runs what the fuzzer begins with: a target that nobody compiles would rot.
#![cfg_attr(fuzzing, no_main)]
#![allow(unexpected_cfgs, reason = "`cargo fuzz` sets it")]

#[path = "../../tests/harmless/mod.rs"]
mod harmless;
#[path = "../../tests/world/mod.rs"]
mod world;

use std::sync::LazyLock;

use world::World;

static RECORDS: LazyLock<switchyard_dns::Shared> = LazyLock::new(|| World::coredns().index);

fn try_out(bytes: &[u8]) {
    harmless::harmless(&RECORDS, bytes);
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| try_out(bytes));

#[cfg(not(fuzzing))]
#[path = "../../tests/client/mod.rs"]
mod client;

#[cfg(not(fuzzing))]
#[test]
fn the_corpus_is_harmless() {
    let corpus = client::corpus();
    assert!(corpus.len() > 30, "{} messages", corpus.len());
    corpus.iter().for_each(|message| try_out(message));
}
