//! The command `yard`.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    // A plugin's host speaks over its standard streams and nothing else, so it comes before everything that might print.
    if std::env::args_os().nth(1).is_some_and(|verb| verb == "plugin-host") {
        return switchyard_plugin_host::child::main();
    }
    let cli = switchyard::Cli::parse();
    match switchyard::run(cli) {
        Ok(code) => code,
        Err(error) => switchyard::report(&error),
    }
}
