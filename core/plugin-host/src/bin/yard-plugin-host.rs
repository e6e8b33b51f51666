//! Hosts one plugin, for a parent that speaks to it over a socket; see [`switchyard_plugin_host::child`].

fn main() -> std::process::ExitCode {
    switchyard_plugin_host::child::main()
}
