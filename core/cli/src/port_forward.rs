//! `yard port-forward`.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::api::{Api, block_on};
use crate::output;
use crate::which::Which;

/// Connections carried at once; others wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 128;

/// Carry connections to this machine to ports of a pod, until interrupted.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the pod, with or without `pod/`.
    pod: String,
    /// Ports: LOCAL:PORT, or PORT for the same on both sides. LOCAL 0 means any free one.
    #[arg(required = true, value_name = "[LOCAL:]PORT")]
    ports: Vec<Ports>,
    /// Namespace of the pod.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Address on this machine.
    #[arg(long, default_value = "127.0.0.1")]
    address: IpAddr,
}

/// A port here and one there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ports {
    local: u16,
    pod: u16,
}

pub(crate) fn run(args: &Args, cluster: &Which) -> anyhow::Result<()> {
    block_on(async {
        let api = Api::of(cluster).await?;
        let pods: kube::Api<Pod> = kube::Api::namespaced(api.client().clone(), &args.namespace);
        let name = args.pod.trim_start_matches("pod/");
        pods.get(name).await.with_context(|| format!("pod {name}"))?;
        let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let mut listening = JoinSet::new();
        for ports in &args.ports {
            let at = SocketAddr::new(args.address, ports.local);
            let listener = TcpListener::bind(at).await.with_context(|| format!("listen on {at}"))?;
            output::print(&format!("Forwarding from {} -> {}\n", listener.local_addr()?, ports.pod))?;
            listening.spawn(forward(listener, pods.clone(), name.to_owned(), ports.pod, Arc::clone(&slots)));
        }
        match listening.join_next().await {
            Some(ended) => ended?,
            None => Ok(()),
        }
    })
}

async fn forward(
    listener: TcpListener,
    pods: kube::Api<Pod>,
    name: String,
    port: u16,
    slots: Arc<Semaphore>,
) -> anyhow::Result<()> {
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await?;
        let (stream, peer) = listener.accept().await.context("accept")?;
        let (pods, name) = (pods.clone(), name.clone());
        tokio::spawn(async move {
            let _slot = slot;
            if let Err(error) = carry(stream, &pods, &name, port).await {
                eprintln!("yard: connection of {peer}: {}", output::one_line(&error));
            }
        });
    }
}

async fn carry(mut here: TcpStream, pods: &kube::Api<Pod>, name: &str, port: u16) -> anyhow::Result<()> {
    let mut forwarder = pods.portforward(name, &[port]).await.with_context(|| format!("pod {name}"))?;
    let mut there = forwarder.take_stream(port).context("no stream for the port")?;
    let failed = forwarder.take_error(port).context("no errors for the port")?;
    let carried = tokio::io::copy_bidirectional(&mut here, &mut there).await;
    drop(there);
    forwarder.abort();
    if let Some(error) = failed.await {
        anyhow::bail!("{error}");
    }
    carried.map(drop).context("carry")
}

// === impl Ports ===

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (local, pod) = text.split_once(':').unwrap_or((text, text));
        let wrong = |part: &str, right: &str| format!("{part:?}: must be a port {right}, as in 8080:80 or 80");
        let pod = pod.parse().ok().filter(|pod| *pod > 0).ok_or_else(|| wrong(pod, "from 1 to 65535"))?;
        let local = local.parse().map_err(|_| wrong(local, "from 0 to 65535"))?;
        Ok(Self { local, pod })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_two_or_one_for_both() {
        assert_eq!("8080:80".parse(), Ok(Ports { local: 8080, pod: 80 }));
        assert_eq!("80".parse(), Ok(Ports { local: 80, pod: 80 }));
        assert_eq!("0:80".parse(), Ok(Ports { local: 0, pod: 80 }));
        for wrong in ["", "0", "80:0", "web", "80:", "70000:80"] {
            assert!(wrong.parse::<Ports>().is_err(), "{wrong}");
        }
    }
}
