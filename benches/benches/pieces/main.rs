//! The hot pieces, each alone: difference and order, netlink messages, plugin calls, the store, policies, names. The ingress's own are
//! in `ingress/benches/hot.rs`. `yard-bench-page` says which stands beside which (`benches/src/pieces.rs`).
//!
//! In namespaces of its own, where it is root whoever runs it.

mod dns;
mod netlink;
mod netstate;
mod plugin;
mod policy;
mod store;

use std::process::ExitCode;
use std::time::Duration;

use criterion::Criterion;
use switchyard_benches::{Conditions, Steal, folder, in_namespaces, testing};

fn main() -> anyhow::Result<ExitCode> {
    // The plugin host starts this program for a plugin in a process of its own.
    if std::env::args().nth(1).is_some_and(|word| word == "plugin-host") {
        return Ok(switchyard_plugin_host::child::main());
    }
    if !in_namespaces()? {
        return Ok(ExitCode::SUCCESS);
    }
    let since = Steal::begin();
    // There are some sixty of them, and all together are to take a few minutes.
    let criterion = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(200));
    let criterion = criterion.measurement_time(Duration::from_millis(500)).nresamples(20_000);
    let mut criterion = criterion.configure_from_args();
    for piece in [netstate::all, netlink::all, plugin::all, store::all, policy::all, dns::all] {
        piece(&mut criterion);
    }
    criterion.final_summary();
    if !testing() {
        Conditions::save(&since, &folder(), "pieces")?;
    }
    Ok(ExitCode::SUCCESS)
}
