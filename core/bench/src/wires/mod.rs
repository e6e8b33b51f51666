//! Networks made by hand, which everything is compared with: namespaces and the fewest devices between them, made of the same
//! vocabulary by the same engine as a cluster's, with nothing of a cluster in them.
//!
//! Each lives inside one process, `yard generate wires`, which becomes the agent of its client; a second process serves.

mod impair;
mod plan;

use std::collections::BTreeMap;
use std::io::BufRead as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail};
use switchyard_kernel::{Engine, Netns, Owner, Places};
use switchyard_netstate::{Place, UnitId};

use crate::experiment::{Impairments, Wiring};
use crate::load::Reply;

/// The mark of what is made here; a cluster's parts have others.
const OWNER: Owner = Owner { protocol: 94 };
/// The program itself.
const SELF: &str = "/proc/self/exe";

/// Wires that stay as long as this lives.
struct Wires {
    places: BTreeMap<Place, Netns>,
}

/// Makes wires, starts a server at one end and becomes the agent at the other.
pub fn run(wiring: Wiring, mtu: u32, impairments: &Impairments) -> anyhow::Result<()> {
    let wires = Wires::make(wiring, mtu, impairments)?;
    let mut server = wires.server()?;
    let agent = wires.agent();
    let _ = server.kill();
    let _ = server.wait();
    agent
}

/// Where the server of a wiring listens.
pub(crate) fn target(wiring: Wiring, port: u16) -> SocketAddr {
    SocketAddr::new(plan::server_address(wiring), port)
}

/// Spoils the card of the node this runs in.
pub fn impair(device: &str, impairments: &Impairments) -> anyhow::Result<()> {
    let mut places = Places::new();
    let here = Place::node("here");
    places.add(here.clone(), Netns::current().context("this namespace")?);
    let fragment = impair::fragment(&here, device, impairments)?;
    Engine::new(OWNER, places).set(UnitId("impairments".into()), fragment).context("impair the node's card")?;
    println!("{}", serde_json::to_string(&Reply::Ready)?);
    Ok(())
}

// === impl Wires ===

impl Wires {
    fn make(wiring: Wiring, mtu: u32, impairments: &Impairments) -> anyhow::Result<Self> {
        let mut fragment = plan::fragment(wiring, mtu);
        for (place, device) in plan::cards(wiring) {
            fragment.merge(impair::fragment(&place, device, impairments)?);
        }
        let mut held = BTreeMap::new();
        let mut places = Places::new();
        for (place, _) in fragment.places() {
            let netns = Netns::create().context("make a network namespace")?;
            places.add(place.clone(), netns.try_clone()?);
            held.insert(place.clone(), netns);
        }
        let mut engine = Engine::new(OWNER, places);
        engine.set(UnitId("wires".into()), fragment).with_context(|| format!("wire {}", wiring.name()))?;
        Ok(Self { places: held })
    }

    fn server(&self) -> anyhow::Result<Child> {
        let mut command = Command::new(SELF);
        command.arg0("yard").args(["generate", "server"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let server = self.places.get(&plan::server()).or_else(|| self.places.get(&plan::client()));
        let mut server =
            server.context("no server in this wiring")?.run(|| command.spawn())?.context("start the server")?;
        let mut said = String::new();
        let out = server.stdout.take().context("the server's output")?;
        std::io::BufReader::new(out).read_line(&mut said)?;
        match serde_json::from_str(&said) {
            Ok(Reply::Ready) => Ok(server),
            _ => bail!("the server does not start: {said}"),
        }
    }

    /// Standard streams are the agent's own.
    fn agent(&self) -> anyhow::Result<()> {
        let client = self.places.get(&plan::client()).context("no client in this wiring")?;
        let mut command = Command::new(SELF);
        command.arg0("yard").args(["generate", "agent"]);
        let status = client.run(|| command.status())?.context("start the agent")?;
        if !status.success() {
            bail!("the agent ended: {status}");
        }
        Ok(())
    }
}

/// An address of the wires' own.
fn address(text: &str) -> IpAddr {
    IpAddr::V4(text.parse::<Ipv4Addr>().expect("a constant address"))
}
