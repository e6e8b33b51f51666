//! The reference CNI plugins, run as a container runtime runs them (CNI SPEC 1.0, section 2): a process a call, configuration on
//! standard input.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use serde_json::json;

/// `bridge` with `host-local`, keeping its allocations in a folder.
pub struct Bridge {
    binaries: PathBuf,
    configuration: String,
}

/// Where distributions put them. Debian: containernetworking-plugins.
const PLACES: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

// === impl Bridge ===

impl Bridge {
    /// The plugins of this machine, if it has them, with a bridge of this name.
    pub fn find(allocations: &Path, bridge: &str) -> Option<Self> {
        let binaries = PLACES.iter().map(PathBuf::from).find(|folder| folder.join("bridge").exists())?;
        let configuration = json!({
            "cniVersion": "1.0.0", "name": "bench", "type": "bridge", "bridge": bridge, "isGateway": true, "hairpinMode": true,
            "ipam": {"type": "host-local", "dataDir": allocations, "ranges": [[{"subnet": "10.50.0.0/16"}]],
                     "routes": [{"dst": "0.0.0.0/0"}]},
        });
        Some(Self { binaries, configuration: configuration.to_string() })
    }

    /// Attaches the namespace at a path.
    pub fn add(&self, container: &str, netns: &Path) -> anyhow::Result<()> {
        self.call("ADD", container, netns)
    }

    /// Detaches it.
    pub fn del(&self, container: &str, netns: &Path) -> anyhow::Result<()> {
        self.call("DEL", container, netns)
    }

    fn call(&self, verb: &str, container: &str, netns: &Path) -> anyhow::Result<()> {
        let mut bridge = Command::new(self.binaries.join("bridge"));
        bridge.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", container).env("CNI_NETNS", netns);
        bridge.env("CNI_IFNAME", "eth0").env("CNI_PATH", &self.binaries);
        let mut running =
            bridge.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("bridge")?;
        running.stdin.take().context("standard input")?.write_all(self.configuration.as_bytes())?;
        let output = running.wait_with_output()?;
        if !output.status.success() {
            bail!("CNI {verb}: {}", String::from_utf8_lossy(&output.stdout));
        }
        Ok(())
    }
}
