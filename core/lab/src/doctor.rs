//! What this machine has to allow, checked by trying, and the exact command that mends what is missing.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount};
use serde::{Deserialize, Serialize};
use switchyard_kernel::conntrack::Filter;
use switchyard_kernel::{Engine, Feature, Netns, Owner, Places};
use switchyard_netstate::{Place, UnitId};
use switchyard_services::{NodeServiceFacts, external_base, node_base};

use crate::boot::SELF;
use crate::namespaces;

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What.
    pub what: String,
    /// How it is.
    pub health: Health,
    /// What was seen.
    pub detail: String,
    /// The command that mends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Good.
    Ok,
    /// Works, but not for large clusters, or not for every plugin.
    Limited,
    /// No cluster can start.
    Missing,
}

/// Files that one connection through the router needs, and a thousand of them.
const FILES_WANTED: u64 = 4096;

/// The node on which things are tried.
const PROBE: &str = "probe";

/// Looks at everything. Spawns this program again to try things in fresh namespaces.
pub fn examine() -> Vec<Finding> {
    let mut findings = user_namespaces();
    findings.push(files());
    findings.push(limits());
    match probe_elsewhere() {
        Ok(more) => findings.extend(more),
        Err(error) => findings.push(Finding::missing("namespaces", error.to_string(), None)),
    }
    findings
}

// === impl Finding ===

impl Finding {
    fn ok(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { what: what.into(), health: Health::Ok, detail: detail.into(), mend: None }
    }

    fn limited(what: impl Into<String>, detail: impl Into<String>, mend: Option<&str>) -> Self {
        Self { what: what.into(), health: Health::Limited, detail: detail.into(), mend: mend.map(Into::into) }
    }

    fn missing(what: impl Into<String>, detail: impl Into<String>, mend: Option<&str>) -> Self {
        Self { what: what.into(), health: Health::Missing, detail: detail.into(), mend: mend.map(Into::into) }
    }
}

/// Three settings that distributions use to forbid user namespaces.
fn user_namespaces() -> Vec<Finding> {
    if namespaces::is_privileged() {
        return vec![Finding::ok("user namespaces", "not needed: this user may make namespaces as it is")];
    }
    let forbidding = [
        ("kernel/unprivileged_userns_clone", "0", "sudo sysctl -w kernel.unprivileged_userns_clone=1"),
        ("user/max_user_namespaces", "0", "sudo sysctl -w user.max_user_namespaces=63359"),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ];
    let found = forbidding.into_iter().filter_map(|(path, forbids, mend)| {
        let value = fs::read_to_string(format!("/proc/sys/{path}")).ok()?;
        let name = path.replace('/', ".");
        Some(match value.trim() == forbids {
            true => Finding::missing(name, format!("is {forbids}: users may not make user namespaces"), Some(mend)),
            false => Finding::ok(name, format!("is {}", value.trim())),
        })
    });
    found.collect()
}

fn files() -> Finding {
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let text = hard.map_or_else(|| "no limit".into(), |limit| limit.to_string());
    match hard.is_none_or(|limit| limit >= FILES_WANTED) {
        true => Finding::ok("open files", text),
        false => Finding::limited(
            "open files",
            format!("at most {text}; {FILES_WANTED} are good for 1,000 connections"),
            Some("ulimit -Hn 65536"),
        ),
    }
}

/// Said once here, and by an event of each pod that asks for limits.
fn limits() -> Finding {
    let detail = "containers' limits.cpu and limits.memory count for scheduling and quota; nothing enforces them";
    Finding::limited("limits", detail, None)
}

fn probe_elsewhere() -> io::Result<Vec<Finding>> {
    let output = Command::new(SELF).arg0("yard").arg("probe").stdin(Stdio::null()).stderr(Stdio::piped()).output()?;
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// `yard probe`: in fresh namespaces, tries what a cluster does. Prints findings as JSON.
pub fn probe(inside: bool) -> anyhow::Result<()> {
    if inside {
        let findings = try_everything();
        serde_json::to_writer(io::stdout().lock(), &findings)?;
        return Ok(());
    }
    match namespaces::leave("probe") {
        Err(error) => {
            serde_json::to_writer(io::stdout().lock(), &[Finding::missing("namespaces", error.to_string(), None)])?
        }
        Ok(()) => drop(Command::new(SELF).arg0("yard").args(["probe", "--inside"]).status()?),
    }
    Ok(())
}

fn try_everything() -> Vec<Finding> {
    let mut findings = vec![Finding::ok("namespaces", "pid, mount, network, IPC and UTS namespaces can be made")];
    let none = None::<&str>;
    let mounted = mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .and_then(|()| mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none))
        .and_then(|()| mount(Some("t"), "/tmp", Some("tmpfs"), MsFlags::empty(), none));
    findings.push(match mounted {
        Ok(()) => Finding::ok("mounts", "/proc and tmpfs"),
        Err(errno) => Finding::missing(
            "mounts",
            format!("{errno}: in a container, /proc must not be masked"),
            Some("docker run --security-opt systempaths=unconfined ..."),
        ),
    });
    for feature in Feature::ALL {
        let outcome = feature.attempt().map_err(anyhow::Error::msg);
        findings.push(tried(feature.name(), feature.module(), without(feature), outcome));
    }
    let modules = "nf_conntrack nft_chain_nat nft_ct nft_nat nft_reject_ipv4 nft_fib_ipv4 nft_masq";
    findings.push(tried("Services", modules, Health::Missing, try_services()));
    findings.push(tried("conntrack", "nf_conntrack_netlink", Health::Missing, try_conntrack()));
    findings
}

/// What it means if the kernel does not have it.
fn without(feature: Feature) -> Health {
    match feature {
        Feature::NftBridge | Feature::Vxlan | Feature::Geneve | Feature::Macvlan | Feature::Tun => Health::Limited,
        _ => Health::Missing,
    }
}

fn tried(what: &str, modules: &str, health: Health, outcome: anyhow::Result<()>) -> Finding {
    match outcome {
        Ok(()) => Finding::ok(what, "works"),
        Err(error) => {
            let mend = format!("sudo modprobe -a {modules}");
            Finding { what: what.into(), health, detail: format!("{error:#}"), mend: Some(mend) }
        }
    }
}

/// What nodes and router carry for Services before there is one.
fn try_services() -> anyhow::Result<()> {
    let mut whole = node_base(&NodeServiceFacts {
        node: PROBE.into(),
        address: [127, 0, 0, 1].into(),
        service_cidr: "10.96.0.0/16".parse().expect("a constant prefix"),
    });
    whole.merge(external_base());
    engine()?.apply(BTreeMap::from([(UnitId("probe".into()), Some(whole))]))?;
    Ok(())
}

/// Flows to endpoints that went have to be found and dropped.
fn try_conntrack() -> anyhow::Result<()> {
    engine()?.flows(&Place::node(PROBE), &Filter::default())?;
    Ok(())
}

/// For fresh namespaces of a node and the router.
fn engine() -> anyhow::Result<Engine> {
    let mut places = Places::new();
    places.add(Place::node(PROBE), Netns::create()?);
    places.add(Place::Router, Netns::create()?);
    Ok(Engine::new(Owner { protocol: switchyard_api::names::OWNER_LAB }, places))
}
