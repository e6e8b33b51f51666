//! `yard shell`.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::thread;

use anyhow::{Context as _, bail};
use rustix::termios::{self, OptionalActions, Termios};
use switchyard_lab::control::{Exit, Request, ShellPlace};
use switchyard_netstate::Place;

use crate::api::{Api, JSON, block_on};
use crate::which::Which;

/// Run a shell, or a command, in the network of a node, the router, a pod, or a further place that a network has made.
///
/// The file system stays the host's, so every tool of the host is at hand: ip, nft, tcpdump, curl.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// `router`, the name of a node, `pod/NAME`, or `node/NODE/PLACE` such as a gateway.
    place: String,
    /// Namespace of the pod.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Program and arguments. Default: $SHELL.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// A terminal in raw mode; put back when dropped.
pub(crate) struct Raw(Termios);

pub(crate) fn run(args: &Args, cluster: &Which) -> anyhow::Result<ExitCode> {
    let (directory, control) = cluster.control()?;
    let place = match args.place.split_once('/') {
        None if args.place == "router" => ShellPlace::Place(Place::Router),
        Some(("node", rest)) if rest.contains('/') => ShellPlace::Place(args.place.parse()?),
        None | Some(("node", _)) => ShellPlace::Place(Place::node(args.place.trim_start_matches("node/"))),
        Some(("pod", name)) => block_on(pod(cluster, &args.namespace, name))?,
        Some(_) => bail!("{}: must be router, the name of a node, pod/NAME or node/NODE/PLACE", args.place),
    };
    let prompt = format!("[{} {}] \\w # ", directory.name(), args.place);
    let mut env = vec![("SWITCHYARD_PLACE".to_owned(), args.place.clone()), ("PS1".to_owned(), prompt)];
    for name in ["TERM", "SHELL", "PATH", "HOME", "LANG"] {
        env.extend(std::env::var(name).ok().map(|value| (name.to_owned(), value)));
    }
    let request = Request::Shell { place, command: args.command.clone(), env };
    let channel = control.channel();
    let interactive = termios::isatty(io::stdin()) && termios::isatty(io::stdout());
    let raw = if interactive {
        let (near, far) = pseudo_terminal()?;
        channel.send(&request, &[far.as_fd(), far.as_fd(), far.as_fd()])?;
        Some(connect(near)?)
    } else {
        channel.send(&request, &[io::stdin().as_fd(), io::stdout().as_fd(), io::stderr().as_fd()])?;
        None
    };
    let (exit, _): (Exit, _) = channel.receive().context("the cluster ended")?;
    drop(raw);
    match exit {
        Exit::Code(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(255))),
        Exit::Failed(reason) => bail!("{}: {reason}", args.place),
    }
}

/// Where a pod is, as the API server says.
async fn pod(cluster: &Which, namespace: &str, name: &str) -> anyhow::Result<ShellPlace> {
    let api = Api::of(cluster).await?;
    let pod = api.get(&format!("/api/v1/namespaces/{namespace}/pods/{name}"), JSON).await?;
    let (node, uid) = (pod["spec"]["nodeName"].as_str(), pod["metadata"]["uid"].as_str());
    let (Some(node), Some(uid)) = (node, uid) else { bail!("pod {name} is on no node yet") };
    if pod["spec"]["hostNetwork"] == true {
        return Ok(ShellPlace::Place(Place::node(node)));
    }
    Ok(ShellPlace::Pod { node: node.into(), uid: uid.into() })
}

/// Both ends of a new terminal as large as ours.
fn pseudo_terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::fs::{Mode, OFlags};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let near = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&near)?;
    unlockpt(&near)?;
    let name = ptsname(&near, Vec::new())?;
    let far = rustix::fs::open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    termios::tcsetwinsize(&near, termios::tcgetwinsize(io::stdin())?)?;
    Ok((near, far))
}

/// Carries bytes between our terminal and the near end of the other one, and its size along.
fn connect(near: OwnedFd) -> io::Result<Raw> {
    let raw = Raw::enter()?;
    let (mut to, mut from) = (std::fs::File::from(near.try_clone()?), std::fs::File::from(near.try_clone()?));
    thread::spawn(move || io::copy(&mut io::stdin().lock(), &mut to));
    thread::spawn(move || -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let read = from.read(&mut buffer)?;
            let mut out = io::stdout().lock();
            out.write_all(&buffer[..read])?;
            out.flush()?;
        }
    });
    thread::spawn(move || -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut resized = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::window_change())?;
            while resized.recv().await.is_some() {
                termios::tcsetwinsize(&near, termios::tcgetwinsize(io::stdin())?)?;
            }
            Ok(())
        })
    });
    Ok(raw)
}

// === impl Raw ===

impl Raw {
    pub(crate) fn enter() -> io::Result<Self> {
        let before = termios::tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal is gone if this fails, and there is nobody to tell.
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}
