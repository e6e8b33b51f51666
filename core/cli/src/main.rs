//! The command `yard`.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let cli = switchyard::Cli::parse();
    match switchyard::run(cli) {
        Ok(code) => code,
        Err(error) => switchyard::report(&error),
    }
}
