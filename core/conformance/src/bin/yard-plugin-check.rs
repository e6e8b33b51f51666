//! The kit without the rest of `yard`: `yard-plugin-check FILE [OPTIONS-AS-JSON [CHECK..]]`. Tests use it, as it builds quickly.

use std::process::ExitCode;

use switchyard_conformance::{Request, enter, run};
use switchyard_plugin_host::{ProcessHost, child};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().unwrap_or_default();
    if file == "plugin-host" {
        return child::main();
    }
    let options = match serde_json::from_str(&arguments.next().unwrap_or_else(|| "{}".into())) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("options: {error}");
            return ExitCode::from(2);
        }
    };
    let lab = enter();
    let request = Request { file: file.into(), options, only: arguments.collect(), host: ProcessHost::default() };
    match run(&request, lab) {
        Ok(report) => {
            print!("{}", report.text());
            ExitCode::from(u8::from(!report.is_good()))
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}
