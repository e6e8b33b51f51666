//! What a cluster file may say: one clear error each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Net};
use switchyard_api::{Cluster, ClusterSpec, DnsSpec, Role, RouteTable, names};

use super::{Error, Place, Topology};

/// Programs an image name may stand for.
const PROGRAMS: [&str; 4] = ["yard/echo", "yard/pause", "yard/ingress", "host"];
/// Nodes of one cluster.
const MAX_NODES: usize = 250;
/// Routes that an upstream device may be said to hold: more than any cluster needs.
const MAX_ROUTES: u32 = 10_000;
/// Longest time that it may take for one.
const MAX_DELAY_MILLISECONDS: u32 = 600_000;
/// Shortest and longest time after which a node may be taken for dead: heartbeats go to disk, and somebody must notice.
const NODE_GRACE_SECONDS: RangeInclusive<u32> = 4..=3600;
/// Longest time that pods stay on a dead node by default: a day.
const MAX_TOLERATION_SECONDS: u32 = 86_400;
/// Host ports of one cluster; they travel as file descriptors in one message.
const MAX_HOST_PORTS: usize = 32;
/// Zones, and name servers to ask.
const MAX_NAMES: usize = 16;

pub(super) fn topology(cluster: &Cluster) -> Result<Topology, Error> {
    let spec = &cluster.spec;
    identity(cluster)?;
    prefixes(spec)?;
    let gateway = gateway(spec)?;
    let nodes = nodes(spec, gateway)?;
    blocks(spec)?;
    lifecycle(spec)?;
    host_ports(spec)?;
    dns(spec)?;
    images(spec)?;
    Ok(Topology {
        cluster: cluster.metadata.name.clone().unwrap_or_default(),
        underlay: spec.underlay.cidr,
        gateway,
        mtu: spec.underlay.mtu,
        nodes,
        external: spec.load_balancer.pool,
        dns: names::dns_address(&spec.service_cidr),
    })
}

fn wrong<T>(field: impl Into<String>, value: impl ToString, rule: impl Into<String>) -> Result<T, Error> {
    Err(Error::Field { field: field.into(), value: value.to_string(), rule: rule.into() })
}

fn identity(cluster: &Cluster) -> Result<(), Error> {
    let version = format!("{}/{}", names::GROUP, names::VERSION);
    if cluster.api_version != version {
        return wrong("apiVersion", &cluster.api_version, format!("must be {version}"));
    }
    if cluster.kind != "Cluster" {
        return wrong("kind", &cluster.kind, "must be Cluster");
    }
    label("metadata.name", cluster.metadata.name.as_deref().unwrap_or_default())
}

fn label(field: &str, name: &str) -> Result<(), Error> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let good = (1..=63).contains(&name.len())
        && name.bytes().all(|b| inner(b) || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if good {
        Ok(())
    } else {
        wrong(field, format!("{name:?}"), "must be 1 to 63 of a-z, 0-9 and '-', not at either end")
    }
}

fn v4(field: &str, net: IpNet) -> Result<Ipv4Net, Error> {
    match net {
        IpNet::V4(net) if net.addr() == net.network() => Ok(net),
        IpNet::V4(net) => wrong(field, net, format!("has host bits; write {}", net.trunc())),
        IpNet::V6(net) => wrong(field, net, "must be an IPv4 prefix; the data path carries IPv4"),
    }
}

fn prefixes(spec: &ClusterSpec) -> Result<(), Error> {
    let named = [
        ("spec.underlay.cidr", spec.underlay.cidr, 8..=29),
        ("spec.podCIDR", spec.pod_cidr, 8..=28),
        ("spec.serviceCIDR", spec.service_cidr, 8..=28),
        ("spec.loadBalancer.pool", spec.load_balancer.pool, 8..=32),
    ];
    for (index, (field, net, lengths)) in named.iter().enumerate() {
        let net = v4(field, *net)?;
        if !lengths.contains(&net.prefix_len()) {
            let rule = format!("prefix length must be {} to {}", lengths.start(), lengths.end());
            return wrong(*field, net, rule);
        }
        if let Some(taken) = reserved(net) {
            return wrong(*field, net, format!("overlaps {taken}; take a private range such as 10.0.0.0/8"));
        }
        if let Some((other, with, _)) = named[..index].iter().find(|(_, other, _)| overlap(*other, IpNet::V4(net))) {
            return wrong(*field, net, format!("overlaps {other} {with}; the ranges must be disjoint"));
        }
    }
    if !(576..=65_521).contains(&spec.underlay.mtu) {
        return wrong("spec.underlay.mtu", spec.underlay.mtu, "must be 576 to 65521 bytes");
    }
    route_table(&spec.underlay.routes)
}

fn route_table(routes: &RouteTable) -> Result<(), Error> {
    let field = |name| format!("spec.underlay.routes.{name}");
    if let Some(limit) = routes.limit.filter(|limit| !(1..=MAX_ROUTES).contains(limit)) {
        return wrong(field("limit"), limit, format!("must be 1 to {MAX_ROUTES} routes; leave it out for no limit"));
    }
    if routes.delay_milliseconds > MAX_DELAY_MILLISECONDS {
        let rule = format!("must be 0 to {MAX_DELAY_MILLISECONDS}, which is ten minutes");
        return wrong(field("delayMilliseconds"), routes.delay_milliseconds, rule);
    }
    if !(0.0..=1.0).contains(&routes.error_rate) {
        return wrong(field("errorRate"), routes.error_rate, "must be 0 (never fails) to 1 (always fails)");
    }
    Ok(())
}

fn lifecycle(spec: &ClusterSpec) -> Result<(), Error> {
    let grace = spec.node_monitor_grace_period_seconds;
    if !NODE_GRACE_SECONDS.contains(&grace) {
        let (least, most) = (NODE_GRACE_SECONDS.start(), NODE_GRACE_SECONDS.end());
        return wrong("spec.nodeMonitorGracePeriodSeconds", grace, format!("must be {least} to {most}"));
    }
    let stay = spec.default_toleration_seconds;
    if stay > MAX_TOLERATION_SECONDS {
        let rule = format!("must be 0 (pods leave at once) to {MAX_TOLERATION_SECONDS}, which is a day");
        return wrong("spec.defaultTolerationSeconds", stay, rule);
    }
    Ok(())
}

fn reserved(net: Ipv4Net) -> Option<&'static str> {
    ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"]
        .into_iter()
        .find(|range| overlap(range.parse().expect("a constant prefix"), IpNet::V4(net)))
}

fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

fn gateway(spec: &ClusterSpec) -> Result<IpAddr, Error> {
    let field = "spec.underlay.gateway";
    match spec.underlay.gateway {
        Some(address) => on_underlay(field, address, spec).map(|()| address),
        None => Ok(nth(spec.underlay.cidr, 1).expect("checked: a prefix of at most 29 bits has a first address")),
    }
}

fn nth(net: IpNet, n: u32) -> Option<IpAddr> {
    let IpNet::V4(net) = net else { return None };
    let address = Ipv4Addr::from(u32::from(net.network()).checked_add(n)?);
    (net.contains(&address) && address != net.broadcast()).then_some(address.into())
}

fn on_underlay(field: &str, address: IpAddr, spec: &ClusterSpec) -> Result<(), Error> {
    let net = spec.underlay.cidr;
    if !net.contains(&address) || address == net.network() || address == net.broadcast() {
        return wrong(field, address, format!("must be a host address of spec.underlay.cidr {net}"));
    }
    Ok(())
}

fn nodes(spec: &ClusterSpec, gateway: IpAddr) -> Result<Vec<Place>, Error> {
    let control_planes = spec.nodes.iter().filter(|node| node.role == Role::ControlPlane).count();
    if control_planes != 1 {
        return wrong(
            "spec.nodes",
            format!("{control_planes} control-plane nodes"),
            "exactly one node must have role: control-plane",
        );
    }
    if spec.nodes.len() > MAX_NODES {
        return wrong("spec.nodes", format!("{} nodes", spec.nodes.len()), format!("at most {MAX_NODES}"));
    }
    let mut names = BTreeMap::new();
    let mut taken = BTreeMap::from([(gateway, "spec.underlay.gateway".to_owned())]);
    // Addresses that are written come first, so that a default never takes one of them away.
    for (index, node) in spec.nodes.iter().enumerate() {
        let field = format!("spec.nodes[{index}].name");
        label(&field, &node.name)?;
        if let Some(other) = names.insert(&node.name, index) {
            return wrong(field, &node.name, format!("is also the name of spec.nodes[{other}]"));
        }
        if let Some(address) = node.address {
            let field = format!("spec.nodes[{index}].address");
            on_underlay(&field, address, spec)?;
            if let Some(other) = taken.insert(address, field.clone()) {
                return wrong(field, address, format!("is also {other}"));
            }
        }
        if !(1..=1000).contains(&node.max_pods) {
            return wrong(format!("spec.nodes[{index}].maxPods"), node.max_pods, "must be 1 to 1000");
        }
    }
    let mut free = (11..).map_while(|n| nth(spec.underlay.cidr, n));
    let mut places = Vec::with_capacity(spec.nodes.len());
    for (index, node) in spec.nodes.iter().enumerate() {
        let first = (node.role == Role::ControlPlane).then(|| nth(spec.underlay.cidr, 10)).flatten();
        let mut next = || first.into_iter().chain(&mut free).find(|address| !taken.contains_key(address));
        let Some(address) = node.address.or_else(&mut next) else {
            let rule = format!("spec.underlay.cidr {} has no default address left; write one", spec.underlay.cidr);
            return wrong(format!("spec.nodes[{index}].address"), "absent", rule);
        };
        taken.insert(address, format!("spec.nodes[{index}].address"));
        places.push(Place { name: node.name.clone(), role: node.role, address, pod_cidr: node.pod_cidr });
    }
    Ok(places)
}

fn blocks(spec: &ClusterSpec) -> Result<(), Error> {
    let (pods, length) = (spec.pod_cidr, spec.node_prefix_length);
    if length < pods.prefix_len() || length > 30 {
        return wrong(
            "spec.nodePrefixLength",
            length,
            format!("must be {} (spec.podCIDR {pods}) to 30", pods.prefix_len()),
        );
    }
    let blocks = 1usize << (length - pods.prefix_len()).min(20);
    if spec.nodes.len() > blocks {
        let rule = format!("gives {blocks} blocks of /{length} for {} nodes; take a larger range", spec.nodes.len());
        return wrong("spec.podCIDR", pods, rule);
    }
    let mut seen: Vec<(usize, IpNet)> = Vec::new();
    for (index, node) in spec.nodes.iter().enumerate() {
        let Some(block) = node.pod_cidr else { continue };
        let field = format!("spec.nodes[{index}].podCIDR");
        v4(&field, block)?;
        if block.prefix_len() != length || !pods.contains(&block.network()) {
            return wrong(field, block, format!("must be a /{length} (spec.nodePrefixLength) of spec.podCIDR {pods}"));
        }
        if let Some((other, _)) = seen.iter().find(|(_, other)| *other == block) {
            return wrong(field, block, format!("is also spec.nodes[{other}].podCIDR"));
        }
        seen.push((index, block));
    }
    Ok(())
}

fn host_ports(spec: &ClusterSpec) -> Result<(), Error> {
    if spec.host_ports.len() > MAX_HOST_PORTS {
        return wrong(
            "spec.hostPorts",
            format!("{} ports", spec.host_ports.len()),
            format!("at most {MAX_HOST_PORTS}"),
        );
    }
    let mut seen = BTreeSet::new();
    for (index, port) in spec.host_ports.iter().enumerate() {
        let field = format!("spec.hostPorts[{index}]");
        if !port.listen.ip().is_loopback() {
            return wrong(format!("{field}.listen"), port.listen, "must be a loopback address, 127.0.0.1 or [::1]");
        }
        if port.listen.port() != 0 && !seen.insert(port.listen) {
            return wrong(format!("{field}.listen"), port.listen, "is listed twice");
        }
        if port.to.port() == 0 || port.to.ip().is_unspecified() || !port.to.is_ipv4() {
            return wrong(format!("{field}.to"), port.to, "must be an IPv4 address and port inside the cluster");
        }
    }
    Ok(())
}

fn dns(spec: &ClusterSpec) -> Result<(), Error> {
    let DnsSpec { zones, upstreams, listen } = &spec.dns;
    let few = |field: &str, count: usize| match count {
        0..=MAX_NAMES => Ok(()),
        _ => wrong(field, format!("{count} entries"), format!("at most {MAX_NAMES}")),
    };
    few("spec.dns.zones", zones.len())?;
    few("spec.dns.upstreams", upstreams.len())?;
    for (index, zone) in zones.iter().enumerate() {
        let field = format!("spec.dns.zones[{index}]");
        if zone.len() > 253 || !zone.contains('.') {
            return wrong(field, format!("{zone:?}"), "must be a domain of at least two labels, such as esxcloud.net");
        }
        for part in zone.split('.') {
            label(&field, part)?;
        }
        let inside = |outer: &str| zone == outer || zone.ends_with(&format!(".{outer}"));
        if inside(names::CLUSTER_DOMAIN) {
            return wrong(field, zone, format!("{} is the cluster's own domain", names::CLUSTER_DOMAIN));
        }
        if zones[..index].contains(zone) {
            return wrong(field, zone, "is listed twice");
        }
    }
    for (index, upstream) in upstreams.iter().enumerate() {
        let good = DnsSpec::upstream(upstream).is_some_and(|one| one.port() != 0 && !one.ip().is_unspecified());
        if !good {
            let rule = "must be ADDRESS or ADDRESS:PORT, such as 10.140.0.53 or 10.140.0.53:5353";
            return wrong(format!("spec.dns.upstreams[{index}]"), format!("{upstream:?}"), rule);
        }
    }
    if !listen.ip().is_loopback() {
        return wrong("spec.dns.listen", listen, "must be a loopback address, 127.0.0.1 or [::1]");
    }
    Ok(())
}

fn images(spec: &ClusterSpec) -> Result<(), Error> {
    for (name, source) in &spec.images {
        if name.is_empty() || name.len() > 255 || name.contains(char::is_whitespace) {
            return wrong(
                "spec.images",
                format!("{name:?}"),
                "an image name has 1 to 255 characters and no white space",
            );
        }
        // Default arguments may follow: `yard/echo --port=80`.
        let program = source.0.split_whitespace().next().unwrap_or_default();
        if !PROGRAMS.contains(&program) {
            return wrong(
                format!("spec.images[{name:?}]"),
                &source.0,
                format!("must be one of {}", PROGRAMS.join(", ")),
            );
        }
    }
    Ok(())
}
