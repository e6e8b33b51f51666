//! The page at the end of `yard up`.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use switchyard_api::names;
use switchyard_lab::home::Directory;
use switchyard_lab::listeners::Ports;

use super::answers::{self, Answer, Place};
use crate::api::{Api, JSON, TABLE};
use crate::get;

/// Requests sent to each host name, to see the balancing.
const ROUNDS: usize = 2;
/// A host name that no Ingress knows.
const UNKNOWN: &str = "other.example.net";

/// Nodes, pods, services, network, answers, what to try.
pub(crate) async fn page(
    api: &Api,
    directory: &Directory,
    manifests: &[Value],
    ports: &Ports,
    took: Duration,
) -> anyhow::Result<String> {
    let (nodes, pods, services, network) = tokio::try_join!(
        api.get("/api/v1/nodes", TABLE),
        api.get("/api/v1/pods", TABLE),
        api.get("/api/v1/services", TABLE),
        api.get("/apis/switchyard.dev/v1alpha1/networks/default", JSON),
    )?;
    let count = |table: &Value| table["rows"].as_array().map_or(0, Vec::len);
    let active = &network["status"]["active"];
    let word = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let mut text = String::new();
    let (name, seconds) = (directory.name(), took.as_secs_f64());
    let plugin = format!("{} {}", word(&active["plugin"]), word(&active["version"]));
    let _ = writeln!(
        text,
        "cluster {name}: {} nodes and {} pods ready after {seconds:.2} s, network plugin {plugin}",
        count(&nodes),
        count(&pods)
    );
    for (table, namespaced) in [(&nodes, false), (&pods, true), (&services, true)] {
        let _ = write!(text, "\n{}", get::table_of(table, namespaced));
    }
    let places = answers::places(manifests);
    if let Some(door) = ports.host.iter().find(|port| port.to.port() == 80).filter(|_| !places.is_empty()) {
        text.push('\n');
        let unknown = Place { host: UNKNOWN.into(), path: "/".into() };
        let rounds = places.iter().flat_map(|place| [place; ROUNDS]);
        let asked: Vec<_> = rounds.chain([&unknown]).map(|place| (command(door.listen, place), place)).collect();
        let width = asked.iter().map(|(command, _)| command.chars().count()).max().unwrap_or(0);
        for (command, place) in asked {
            let _ = writeln!(text, "{command:width$}   {}", answer(door.listen, place).await);
        }
    }
    if let Some(dns) = ports.dns {
        text += &resolver(dns, &places, &zones(directory));
    }
    let cluster =
        if std::env::var_os("SWITCHYARD_CLUSTER").is_some() { String::new() } else { format!(" --cluster {name}") };
    let _ = write!(
        text,
        "\nyard status · yard get pods -A -o wide · yard shell {} · yard down{cluster}\nkubectl --kubeconfig {} get nodes,pods,svc -A -o wide\n",
        nodes["rows"][0]["object"]["metadata"]["name"].as_str().unwrap_or("NODE"),
        directory.kubeconfig().display(),
    );
    Ok(text)
}

/// The cluster's zones outside.
fn zones(directory: &Directory) -> Vec<String> {
    let loaded = switchyard_lab::cluster::load(&directory.cluster_file());
    loaded.map(|loaded| loaded.cluster.spec.dns.zones).unwrap_or_default()
}

/// How to ask for names from the host: one name inside and one outside, and what to tell a resolver that knows about domains.
fn resolver(dns: SocketAddr, places: &[Place], zones: &[String]) -> String {
    let (ip, port) = (dns.ip(), dns.port());
    let inside = format!("kubernetes.default.svc.{}", names::CLUSTER_DOMAIN);
    let outside = places.iter().find(|place| zones.iter().any(|zone| place.host.ends_with(zone.as_str())));
    let mut text = String::from("\n");
    for name in outside.map(|place| &place.host).into_iter().chain([&inside]) {
        let _ = writeln!(text, "dig +short @{ip} -p {port} {name}");
    }
    if let Some(Place { host, path }) = outside {
        let _ = writeln!(text, "yard curl http://{host}{path}");
    }
    let domains = zones.iter().map(String::as_str).chain([names::CLUSTER_DOMAIN]);
    let servers: Vec<_> = domains.map(|domain| format!("server=/{domain}/{ip}#{port}")).collect();
    let _ = writeln!(text, "resolver (dnsmasq): {}", servers.join(" "));
    text
}

fn command(door: SocketAddr, place: &Place) -> String {
    format!("curl -H 'Host: {}' http://{door}{}", place.host, place.path)
}

async fn answer(door: SocketAddr, place: &Place) -> String {
    match answers::once(door, place).await {
        Ok(Answer { status, from, .. }) => format!("{} {from}", status.as_u16()),
        Err(error) => format!("{error:#}"),
    }
}
