//! What can be typed.

use clap::{Parser, Subcommand};

use crate::{
    apply, bench, curl, delete, describe, doctor, down, exec, get, logs, network, plugin, port_forward, process, shell,
    status, up,
};

/// A Kubernetes-style cluster on this machine, with real packets.
#[derive(Debug, Parser)]
#[command(
    name = "yard",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 done, 1 failed, 2 not understood, 3 no such cluster or not running, \
                  4 a condition of bench --fail-if holds; shell and exec end with the code of their command.\n\
                  Clusters are kept in $SWITCHYARD_HOME, by default ~/.local/state/switchyard."
)]
pub struct Cli {
    /// Which cluster. Default: the only running one, or the only one there is.
    #[arg(long, global = true, env = "SWITCHYARD_CLUSTER", value_name = "NAME")]
    pub cluster: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Start a cluster, and create in it what the files describe.
    Up(up::Args),
    /// Show clusters, their processes and their ports on the host.
    Status(status::Args),
    /// Show objects.
    Get(get::Args),
    /// Show objects in words, with their events.
    Describe(describe::Args),
    /// Create objects, or change them to what files say.
    Apply(apply::Args),
    /// Delete objects, or a whole cluster.
    Delete(delete::Args),
    /// Print what a container wrote.
    Logs(logs::Args),
    /// Run a command in a container.
    Exec(exec::Args),
    /// Carry connections to this machine to ports of a pod.
    PortForward(port_forward::Args),
    /// Run a shell, or a command, in the network of a node, the router or a pod.
    Shell(shell::Args),
    /// Send one HTTP request to a name of the cluster, from outside.
    Curl(curl::Args),
    /// Print the path of the administrator's kubeconfig.
    Kubeconfig,
    /// Stop a cluster. Its store, logs and configuration stay.
    Down(down::Args),
    /// Say whether clusters can run here, and how to allow what is missing.
    Doctor(doctor::Args),
    /// Change the network under a running cluster, and see how that goes.
    Network(network::Args),
    /// Write, look at and check network plugins.
    Plugin(plugin::Args),
    /// Measure what networks cost.
    Bench(bench::Args),
    /// Print the version.
    Version,

    /// Leave for fresh namespaces and start the supervisor there.
    #[command(hide = true)]
    Launch(process::InDirectory),
    /// Try things in fresh namespaces.
    #[command(hide = true)]
    Probe(doctor::ProbeArgs),
    /// First process of a cluster.
    #[command(hide = true)]
    Supervisor(process::InDirectory),
    /// The upstream device.
    #[command(hide = true)]
    Router(process::InDirectory),
    /// API server and controllers.
    #[command(hide = true)]
    ControlPlane(process::ControlPlaneArgs),
    /// A node's agent.
    #[command(hide = true)]
    Node(process::NodeArgs),
    /// Generate load, or answer it.
    #[command(hide = true)]
    Generate(bench::GenerateArgs),
    /// Take the terminal and run a command.
    #[command(hide = true)]
    Enter(process::EnterArgs),
}
