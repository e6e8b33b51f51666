//! `yard-pause sandbox` becomes a pod's first process; `yard-pause` alone, the built-in image `yard/pause`, waits to be ended.

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        None => loop {
            nix::unistd::pause();
        },
        Some("sandbox") => switchyard_pause::run(),
        Some(other) => {
            eprintln!("yard-pause: unknown argument {other:?}: must be 'sandbox', or none to wait for a signal");
            ExitCode::from(2)
        }
    }
}
