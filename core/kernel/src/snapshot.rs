//! All that a place holds, as text: to say whether something is as it was before.

use std::collections::BTreeSet;
use std::net::IpAddr;

use switchyard_netstate::{Object, Place};

use crate::read::{ALL, Truth};
use crate::{Engine, Error, sysctl};

/// Parameters of the namespace and of each interface that say where packets go.
const GENERAL: [&str; 2] = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"];
const OF_INTERFACES: [&str; 8] = [
    "net/ipv4/conf/*/forwarding",
    "net/ipv4/conf/*/rp_filter",
    "net/ipv4/conf/*/accept_redirects",
    "net/ipv4/conf/*/send_redirects",
    "net/ipv4/conf/*/accept_local",
    "net/ipv4/conf/*/proxy_arp",
    "net/ipv6/conf/*/disable_ipv6",
    "net/ipv6/conf/*/accept_ra",
];

impl Engine {
    /// What there is in a place, whoever made it, a line each: links, addresses, routes, rules, permanent neighbours, FDB entries,
    /// queueing disciplines, nftables (names of tables that are not ours), and the parameters that say where packets go. The
    /// same state gives the same lines; what the kernel does by itself for IPv6 on a link is left out.
    pub fn snapshot(&mut self, place: &Place) -> Result<BTreeSet<String>, Error> {
        let truth = Truth::read(&mut self.places, place, self.owner.protocol, &ALL)?;
        let mut lines = BTreeSet::new();
        for found in truth.links.values() {
            let link = found.as_link(None, &truth.names);
            lines.insert(format!("link {}: group {} {link:?}", found.name, found.group));
        }
        for found in truth.others.values().flatten().filter(|found| !of_the_kernel(&found.object)) {
            lines.insert(format!("{}: {:?}", found.object.key(), found.object));
        }
        for (table, found) in &truth.tables {
            lines.insert(format!("table {table}: {found:?}"));
        }
        let names = ["all", "default"].into_iter().chain(truth.links.keys().map(String::as_str));
        let of_interfaces = names.flat_map(|name| OF_INTERFACES.iter().map(move |path| path.replace('*', name)));
        let paths: Vec<String> = GENERAL.iter().map(|path| (*path).to_owned()).chain(of_interfaces).collect();
        let read = || paths.iter().filter_map(|path| Some(format!("{path} = {}", sysctl::read(path).ok()?))).collect();
        let parameters: Vec<String> = self
            .places
            .netns(place)?
            .run(read)
            .map_err(|source| crate::places::io_error(place, "read parameters", source))?;
        lines.extend(parameters);
        self.places.trim();
        Ok(lines)
    }
}

/// Link-local addresses and multicast routes of IPv6 come some time after a link is up.
fn of_the_kernel(object: &Object) -> bool {
    let ip = match object {
        Object::Address(address) => address.address.addr(),
        Object::Route(route) => route.to.addr(),
        _ => return false,
    };
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local() || ip.is_multicast())
}
