//! Addresses and ports of Services.
//!
//! One is in use exactly while a stored Service carries it. What was picked for a Service that is still on its way to the store is
//! remembered until the store has it, or the write failed; nothing else is kept, so nothing can leak.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::Admission;
use crate::meta;
use crate::status::{ApiError, FieldErrors, Result};

/// What is picked but not stored yet.
#[derive(Default, Clone)]
pub struct Allocations(Arc<Mutex<Picked>>);

#[derive(Default)]
struct Picked {
    addresses: BTreeSet<IpAddr>,
    ports: BTreeSet<(String, u16)>,
    /// Where the search for a free address goes on, so that one just given up is not given again at once.
    next_address: u64,
    next_port: u16,
}

/// One write's picks; given back when dropped.
pub struct Reservation {
    allocations: Allocations,
    addresses: Vec<IpAddr>,
    ports: Vec<(String, u16)>,
}

// === impl Allocations ===

impl Allocations {
    /// Gives a Service the addresses and ports it lacks.
    pub fn allocate(&self, admission: &Admission<'_>, object: &mut Value, old: Option<&Value>) -> Result<Reservation> {
        let server = admission.server;
        let name = meta::name(object).to_owned();
        let mut held = Reservation { allocations: self.clone(), addresses: vec![], ports: vec![] };
        let mut picked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (services, _) = server.store.list("core/services/");
        let others = || {
            services.iter().filter(|entry| {
                meta::name(&entry.value) != name || meta::namespace(&entry.value) != admission.namespace
            })
        };
        let mut errors = FieldErrors::default();
        check_outside(&server.service_cidr, object, old, &mut errors);
        let kind = meta::text(object, "/spec/type").to_owned();
        let address = meta::text(object, "/spec/clusterIP").to_owned();
        if kind == "ExternalName" {
            let spec = meta::child(meta::as_map(object), "spec");
            spec.shift_remove("clusterIP");
            spec.shift_remove("clusterIPs");
        } else if address != "None" {
            let used: BTreeSet<IpAddr> = others()
                .filter_map(|entry| meta::text(&entry.value, "/spec/clusterIP").parse().ok())
                .chain(picked.addresses.iter().copied())
                .collect();
            let chosen = if address.is_empty() {
                let free = free_address(&server.service_cidr, picked.next_address, &used);
                let (at, free) =
                    free.ok_or_else(|| ApiError::internal("failed to allocate a serviceIP: range is full"))?;
                picked.next_address = at + 1;
                Some(free)
            } else if old.is_some_and(|old| meta::text(old, "/spec/clusterIP") == address) {
                // The store says already whose it is; another write of the same Service may say so at the same time.
                None
            } else {
                check_address(&server.service_cidr, &address, &used, &mut errors)
            };
            if let Some(chosen) = chosen {
                picked.addresses.insert(chosen);
                held.addresses.push(chosen);
                let spec = meta::child(meta::as_map(object), "spec");
                spec.insert("clusterIP".into(), json!(chosen.to_string()));
            }
        }
        if kind != "ExternalName" {
            let spec = meta::child(meta::as_map(object), "spec");
            spec.insert("clusterIPs".into(), json!([spec.get("clusterIP").cloned().unwrap_or_default()]));
            meta::default(
                spec,
                "ipFamilies",
                json!([if server.service_cidr.addr().is_ipv6() { "IPv6" } else { "IPv4" }]),
            );
            meta::default(spec, "ipFamilyPolicy", "SingleStack");
        }
        let wants_ports = kind == "NodePort"
            || kind == "LoadBalancer"
                && object.pointer("/spec/allocateLoadBalancerNodePorts") != Some(&Value::Bool(false));
        let mut had = old.map(node_ports).unwrap_or_default();
        let mut used: BTreeSet<(String, u16)> = others()
            .flat_map(|entry| node_ports(&entry.value))
            .chain(picked.ports.iter().filter(|port| !had.contains(*port)).cloned())
            .collect();
        let range = server.node_ports.clone();
        let spec = meta::child(meta::as_map(object), "spec");
        let ports = spec.get_mut("ports").and_then(Value::as_array_mut);
        for (at, port) in ports.into_iter().flatten().enumerate() {
            let field = format!("spec.ports[{at}].nodePort");
            let protocol = meta::text(port, "/protocol").to_owned();
            let wanted = meta::number(port, "/nodePort").unwrap_or(0);
            let Some(port) = port.as_object_mut() else { continue };
            if kind == "ClusterIP" || kind == "ExternalName" {
                port.shift_remove("nodePort");
                continue;
            }
            let number = if wanted != 0 {
                match u16::try_from(wanted).ok().filter(|number| range.contains(number)) {
                    None => {
                        let why = format!(
                            "provided port is not in the valid range. The range of valid ports is {}-{}",
                            range.start(),
                            range.end()
                        );
                        errors.invalid(field, wanted, &why);
                        continue;
                    }
                    Some(number) if used.contains(&(protocol.clone(), number)) => {
                        errors.invalid(field, wanted, "provided port is already allocated");
                        continue;
                    }
                    Some(number) => number,
                }
            } else if wants_ports {
                let width = u32::from(range.end() - range.start()) + 1;
                let begin = u32::from(picked.next_port);
                let found = (0..width)
                    .map(|step| range.start() + ((begin + step) % width) as u16)
                    .find(|number| [&used, &had].iter().all(|taken| !taken.contains(&(protocol.clone(), *number))));
                let Some(found) = found else {
                    return Err(ApiError::internal("failed to allocate a nodePort: range is full"));
                };
                picked.next_port = found - range.start() + 1;
                found
            } else {
                port.shift_remove("nodePort");
                continue;
            };
            port.insert("nodePort".into(), json!(number));
            used.insert((protocol.clone(), number));
            if !had.remove(&(protocol.clone(), number)) {
                picked.ports.insert((protocol.clone(), number));
                held.ports.push((protocol, number));
            }
        }
        // Taking back what was picked needs the lock.
        drop(picked);
        errors.into_result(admission.kind, &name)?;
        Ok(held)
    }
}

/// The ports a Service has on nodes.
fn node_ports(service: &Value) -> BTreeSet<(String, u16)> {
    let ports = meta::list(service, "/spec/ports").iter();
    let taken = ports.filter_map(|port| {
        let number = u16::try_from(meta::number(port, "/nodePort")?).ok().filter(|number| *number > 0)?;
        Some((meta::text(port, "/protocol").to_owned(), number))
    });
    taken.collect()
}

fn check_address(cidr: &ipnet::IpNet, text: &str, used: &BTreeSet<IpAddr>, errors: &mut FieldErrors) -> Option<IpAddr> {
    let field = "spec.clusterIPs[0]";
    let Ok(address) = text.parse::<IpAddr>() else {
        errors.invalid(field, text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        return None;
    };
    if !cidr.contains(&address) {
        let why = format!(
            "failed to allocate IP {address}: the provided IP is not in the valid range. The range of valid IPs is {cidr}"
        );
        errors.invalid("spec.clusterIPs", text, &why);
        return None;
    }
    if used.contains(&address) {
        errors.invalid(
            "spec.clusterIPs",
            text,
            &format!("failed to allocate IP {address}: provided IP is already allocated"),
        );
        return None;
    }
    Some(address)
}

/// Addresses from outside are not those of Services inside: whoever named one would take another Service's packets.
fn check_outside(cidr: &ipnet::IpNet, object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let had = old.map(|old| meta::list(old, "/spec/externalIPs")).unwrap_or_default();
    for (at, value) in meta::list(object, "/spec/externalIPs").iter().enumerate().filter(|(_, ip)| !had.contains(ip)) {
        if value.as_str().and_then(|text| text.parse().ok()).is_some_and(|ip: IpAddr| cidr.contains(&ip)) {
            let why = format!("may not be in the range of Services' addresses inside the cluster, {cidr}");
            errors.invalid(format!("spec.externalIPs[{at}]"), value.clone(), &why);
        }
    }
}

/// The next free address of the range, which begins after `kubernetes`' own.
fn free_address(cidr: &ipnet::IpNet, begin: u64, used: &BTreeSet<IpAddr>) -> Option<(u64, IpAddr)> {
    let bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len()).min(20);
    let size = 1u64 << bits;
    // Not the network's own address, not the first (`kubernetes`), not the broadcast address. The tenth is the cluster's DNS.
    let usable = |offset: &u64| *offset >= 2 && *offset != 10 && *offset < size - 1;
    (0..size).map(|step| (begin + step) % size).filter(usable).find_map(|offset| {
        let address = match cidr.network() {
            IpAddr::V4(base) => IpAddr::V4((u32::from(base) + offset as u32).into()),
            IpAddr::V6(base) => IpAddr::V6((u128::from(base) + u128::from(offset)).into()),
        };
        (!used.contains(&address)).then_some((offset, address))
    })
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut picked = self.allocations.0.lock().unwrap_or_else(PoisonError::into_inner);
        for address in &self.addresses {
            picked.addresses.remove(address);
        }
        for port in &self.ports {
            picked.ports.remove(port);
        }
    }
}

/// Keeps the addresses and ports an update leaves out, where its type still has them.
pub fn keep(old: &Value, new: &mut Value) {
    let had = meta::text(old, "/spec/clusterIP").to_owned();
    let kind = meta::text(new, "/spec/type").to_owned();
    let old_ports = meta::list(old, "/spec/ports").to_vec();
    let spec = meta::child(meta::as_map(new), "spec");
    if kind != "ExternalName" && !had.is_empty() && spec.get("clusterIP").is_none_or(|address| address == "") {
        spec.insert("clusterIP".into(), json!(had));
    }
    if !matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        return;
    }
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let same = |other: &&Value| {
            meta::number(other, "/port") == meta::number(port, "/port")
                && meta::text(other, "/protocol") == meta::text(port, "/protocol")
        };
        let had = old_ports.iter().find(same).and_then(|other| meta::number(other, "/nodePort"));
        if let (Some(had), Some(port)) = (had, port.as_object_mut())
            && port.get("nodePort").is_none_or(|number| number == 0)
        {
            port.insert("nodePort".into(), json!(had));
        }
    }
}
