//! The command `yard`: what was typed, what it means, and what is printed.
//!
//! One struct of arguments and one module per verb. Results go to standard output, everything else to standard error.

mod api;
mod apply;
mod args;
mod bench;
mod curl;
mod delete;
mod describe;
mod doctor;
mod down;
mod exec;
mod get;
mod kubeconfig;
mod logs;
mod network;
mod output;
mod plugin;
mod port_forward;
mod process;
mod shell;
mod status;
mod up;
mod which;

use std::process::ExitCode;

pub use args::{Cli, Verb};

/// The command did what it was asked.
pub const OK: u8 = 0;
/// It failed; standard error says why.
pub const FAILED: u8 = 1;
/// It was not understood (clap's own number).
pub const USAGE: u8 = 2;
/// There is no such cluster, or it is not running.
pub const NO_CLUSTER: u8 = 3;

/// Runs a command.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    // What was started through /proc/self/exe is "exe" to everybody who lists processes. Nothing depends on it.
    let _ = rustix::thread::set_name(c"yard");
    let cluster = which::Which::new(cli.cluster);
    let done = match cli.verb {
        Verb::Up(args) => up::run(&args, &cluster),
        Verb::Get(args) => get::run(&args, &cluster),
        Verb::Apply(args) => apply::run(&args, &cluster),
        Verb::Delete(args) => delete::run(&args, &cluster),
        Verb::Describe(args) => describe::run(&args, &cluster),
        Verb::Logs(args) => logs::run(&args, &cluster),
        Verb::Exec(args) => return exec::run(&args, &cluster),
        Verb::PortForward(args) => port_forward::run(&args, &cluster),
        Verb::Curl(args) => return curl::run(&args, &cluster),
        Verb::Status(args) => status::run(&args, &cluster),
        Verb::Shell(args) => return shell::run(&args, &cluster),
        Verb::Kubeconfig => kubeconfig::run(&cluster),
        Verb::Doctor(args) => doctor::run(&args),
        Verb::Network(args) => network::run(&args, &cluster),
        Verb::Plugin(args) => plugin::run(&args),
        Verb::Bench(args) => return bench::run(&args),
        Verb::Generate(args) => bench::generate(&args),
        Verb::Version => version(),
        Verb::Probe(args) => doctor::probe(&args),
        Verb::Down(args) => down::run(&args, &cluster),
        Verb::Launch(args) => process::launch(&args),
        Verb::Supervisor(args) => process::supervisor(&args),
        Verb::Router(args) => process::router(&args),
        Verb::ControlPlane(args) => process::control_plane(&args),
        Verb::Node(args) => process::node(&args),
        Verb::Enter(args) => process::enter(&args),
    };
    done.map(|()| ExitCode::from(OK))
}

fn version() -> anyhow::Result<()> {
    output::print(concat!("yard ", env!("CARGO_PKG_VERSION"), "\n"))?;
    Ok(())
}

/// Prints an error, once, on one line, cause after cause; a reader that went away is no error.
pub fn report(error: &anyhow::Error) -> ExitCode {
    let code = code(error);
    if code != OK {
        eprintln!("yard: {}", output::one_line(error));
    }
    ExitCode::from(code)
}

fn code(error: &anyhow::Error) -> u8 {
    match error {
        error if error.is::<output::Closed>() => OK,
        error if error.is::<which::NoCluster>() => NO_CLUSTER,
        _ => FAILED,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, ErrorKind};

    use super::*;

    #[test]
    fn only_a_reader_of_our_output_may_leave() {
        assert_eq!(code(&anyhow::Error::new(output::Closed).context("print")), OK);
        let socket = anyhow::Error::new(io::Error::from(ErrorKind::BrokenPipe)).context("ask the API server");
        assert_eq!(code(&socket), FAILED);
        assert_eq!(code(&which::NoCluster::None.into()), NO_CLUSTER);
    }
}
