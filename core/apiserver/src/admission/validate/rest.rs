//! Services, Ingresses, maps of data, quotas.

use std::collections::HashSet;
use std::net::IpAddr;

use serde_json::Value;

use super::pods::number_in_port_range;
use crate::admission::limits;
use crate::admission::scope::SCOPES;
use crate::kinds::Kind;
use crate::meta;
use crate::registry::{is_dns_label, is_dns_subdomain};
use crate::status::FieldErrors;

/// Bytes of a ConfigMap's or Secret's values at most.
const MOST_DATA_BYTES: usize = 1 << 20;

pub fn service(service: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let kind = meta::text(service, "/spec/type");
    errors.one_of("spec.type", kind, &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    errors.one_of("spec.sessionAffinity", meta::text(service, "/spec/sessionAffinity"), &["ClientIP", "None"]);
    let policy = meta::text(service, "/spec/externalTrafficPolicy");
    errors.one_of("spec.externalTrafficPolicy", policy, &["Cluster", "Local"]);
    let ports = meta::list(service, "/spec/ports");
    let headless = meta::text(service, "/spec/clusterIP") == "None";
    if kind == "ExternalName" {
        let name = meta::text(service, "/spec/externalName");
        if name.is_empty() {
            errors.required("spec.externalName", "");
        } else if !is_dns_subdomain(name.trim_end_matches('.')) {
            errors.invalid("spec.externalName", name, "a lowercase RFC 1123 subdomain");
        }
    } else if ports.is_empty() && !headless {
        errors.required("spec.ports", "");
    }
    external_ips(service, old, errors);
    if headless && matches!(kind, "NodePort" | "LoadBalancer") {
        errors.invalid("spec.clusterIPs[0]", "None", &format!("may not be set to 'None' for {kind} services"));
    }
    let (mut names, mut numbers) = (HashSet::new(), HashSet::new());
    for (at, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{at}]");
        let name = meta::text(port, "/name");
        if name.is_empty() && ports.len() > 1 {
            errors.required(format!("{path}.name"), "");
        } else if !name.is_empty() && !is_dns_label(name) {
            errors.invalid(
                format!("{path}.name"),
                name,
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-'",
            );
        } else if !name.is_empty() && !names.insert(name) {
            errors.duplicate(format!("{path}.name"), name);
        }
        match meta::number(port, "/port") {
            Some(number) => number_in_port_range(number, &format!("{path}.port"), errors),
            None => errors.required(format!("{path}.port"), ""),
        }
        let protocol = meta::text(port, "/protocol");
        errors.one_of(format!("{path}.protocol"), protocol, &["SCTP", "TCP", "UDP"]);
        if !numbers.insert((meta::number(port, "/port"), protocol)) {
            errors.duplicate(path.clone(), &format!("{protocol}/{}", meta::number(port, "/port").unwrap_or(0)));
        }
        match port.get("targetPort") {
            Some(Value::Number(number)) => {
                number_in_port_range(number.as_i64().unwrap_or(-1), &format!("{path}.targetPort"), errors);
            }
            Some(Value::String(name)) if name.len() > 15 || !is_dns_label(name) => {
                errors.invalid(
                    format!("{path}.targetPort"),
                    name.as_str(),
                    "must be a port number or the name of a port: up to 15 of a-z, 0-9 and '-'",
                );
            }
            _ => {}
        }
    }
    if let Some(old) = old {
        let (before, now) = (meta::text(old, "/spec/clusterIP"), meta::text(service, "/spec/clusterIP"));
        if !before.is_empty()
            && before != now
            && kind != "ExternalName"
            && meta::text(old, "/spec/type") != "ExternalName"
        {
            errors.invalid("spec.clusterIPs[0]", now, "may not change once set");
        }
    }
}

/// Addresses from outside; what was stored before stays as it is.
fn external_ips(service: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let had = old.map(|old| meta::list(old, "/spec/externalIPs")).unwrap_or_default();
    for (at, value) in meta::list(service, "/spec/externalIPs").iter().enumerate().filter(|(_, ip)| !had.contains(ip)) {
        let text = value.as_str().unwrap_or_default();
        let why = match text.parse::<IpAddr>() {
            Err(_) => "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            Ok(ip) if ip.is_unspecified() => "may not be unspecified (0.0.0.0 or ::)",
            Ok(ip) if ip.is_loopback() => "may not be in the loopback range (127.0.0.0/8, ::1/128)",
            Ok(ip) if is_link_local(ip) => "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
            Ok(ip) if is_link_local_multicast(ip) => {
                "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
            }
            Ok(_) => continue,
        };
        errors.invalid(format!("spec.externalIPs[{at}]"), value.clone(), why);
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn is_link_local_multicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
        IpAddr::V6(ip) => ip.is_multicast() && ip.octets()[1] & 0xf == 2,
    }
}

pub fn ingress(ingress: &Value, errors: &mut FieldErrors) {
    let rules = meta::list(ingress, "/spec/rules");
    let default = ingress.pointer("/spec/defaultBackend");
    if rules.is_empty() && default.is_none() {
        errors.invalid("spec", "", "either `defaultBackend` or `rules` must be specified");
    }
    if let Some(default) = default {
        backend(default, "spec.defaultBackend", errors);
    }
    for (at, rule) in rules.iter().enumerate() {
        let path = format!("spec.rules[{at}]");
        let host = meta::text(rule, "/host");
        if !host.is_empty() && !is_host_pattern(host) {
            errors.invalid(
                format!("{path}.host"),
                host,
                "must be a DNS name, `*.` and a DNS name, or a DNS name with one `*` in its first label",
            );
        }
        if rule.get("http").is_some() && meta::list(rule, "/http/paths").is_empty() {
            errors.required(format!("{path}.http.paths"), "");
        }
        for (at, item) in meta::list(rule, "/http/paths").iter().enumerate() {
            let path = format!("{path}.http.paths[{at}]");
            let kind = meta::text(item, "/pathType");
            if kind.is_empty() {
                errors.required(format!("{path}.pathType"), "pathType must be specified");
            }
            errors.one_of(format!("{path}.pathType"), kind, &["Exact", "ImplementationSpecific", "Prefix"]);
            let text = meta::text(item, "/path");
            if matches!(kind, "Exact" | "Prefix") && !text.starts_with('/') {
                errors.invalid(format!("{path}.path"), text, "must be an absolute path");
            }
            if ["//", "/./", "/../", "%2f", "%2F"].iter().any(|bad| text.contains(bad))
                && kind != "ImplementationSpecific"
            {
                errors.invalid(format!("{path}.path"), text, "must not contain '//', '/./', '/../' or an encoded '/'");
            }
            match item.get("backend") {
                Some(value) => backend(value, &format!("{path}.backend"), errors),
                None => errors.required(format!("{path}.backend"), ""),
            }
        }
    }
}

fn backend(backend: &Value, path: &str, errors: &mut FieldErrors) {
    let Some(service) = backend.get("service") else {
        if backend.get("resource").is_none() {
            errors.required(path, "either `service` or `resource` must be specified");
        }
        return;
    };
    let name = meta::text(service, "/name");
    if name.is_empty() {
        errors.required(format!("{path}.service.name"), "");
    } else if !is_dns_label(name) {
        errors.invalid(
            format!("{path}.service.name"),
            name,
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-'",
        );
    }
    let (number, word) = (meta::number(service, "/port/number"), meta::text(service, "/port/name"));
    match (number, word) {
        (None | Some(0), "") => errors.required(path, "port name or number is required"),
        (Some(number), "") => number_in_port_range(number, &format!("{path}.service.port.number"), errors),
        (Some(number), _) if number != 0 => errors.invalid(path, "", "cannot set both port name & port number"),
        _ => {}
    }
}

/// A DNS name; its first label may be `*`, or, beyond Kubernetes, hold one `*` (`sphinx-v*.esxcloud.net`).
fn is_host_pattern(host: &str) -> bool {
    let Some((first, rest)) = host.split_once('.') else { return is_dns_subdomain(host) };
    match first.matches('*').count() {
        0 => is_dns_subdomain(host),
        1 => is_dns_subdomain(rest) && (first == "*" || is_dns_subdomain(&first.replace('*', "x"))),
        _ => false,
    }
}

pub fn data(kind: &Kind, object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let mut bytes = 0;
    for field in ["data", "binaryData"] {
        for (key, value) in meta::map(object, &format!("/{field}")).into_iter().flatten() {
            let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if key.is_empty() || key.len() > 253 || !key.chars().all(good) || key == "." || key == ".." {
                errors.invalid(format!("{field}[{key}]"), key.as_str(), "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')");
            }
            bytes += value.as_str().map_or(0, str::len);
        }
    }
    if bytes > MOST_DATA_BYTES {
        errors.invalid("data", bytes, "may not be more than 1048576 bytes");
    }
    let Some(old) = old else { return };
    if old.get("immutable") == Some(&Value::Bool(true))
        && (old.get("data") != object.get("data")
            || old.get("binaryData") != object.get("binaryData")
            || object.get("immutable") != old.get("immutable"))
    {
        errors.forbidden("data", "field is immutable when `immutable` is set");
    }
    if kind.kind == "Secret" && meta::text(old, "/type") != meta::text(object, "/type") {
        errors.invalid("type", meta::text(object, "/type"), "field is immutable");
    }
}

pub fn quota(quota: &Value, errors: &mut FieldErrors) {
    for (what, value) in meta::map(quota, "/spec/hard").into_iter().flatten() {
        let field = format!("spec.hard[{what}]");
        match limits::amount(value) {
            None => errors.invalid(field, value.clone(), "must be a quantity"),
            Some(amount) if amount.is_negative() => {
                errors.invalid(field, value.clone(), "must be greater than or equal to 0")
            }
            Some(_) => {}
        }
    }
    for (at, scope) in meta::list(quota, "/spec/scopes").iter().enumerate() {
        errors.one_of(format!("spec.scopes[{at}]"), scope.as_str().unwrap_or(""), &SCOPES);
    }
    for (at, expression) in meta::list(quota, "/spec/scopeSelector/matchExpressions").iter().enumerate() {
        let path = format!("spec.scopeSelector.matchExpressions[{at}]");
        let (scope, operator) = (meta::text(expression, "/scopeName"), meta::text(expression, "/operator"));
        errors.one_of(format!("{path}.scopeName"), scope, &SCOPES);
        // Only priority classes have names that could be listed.
        let operators: &[&str] = if scope == "PriorityClass" {
            &["DoesNotExist", "Exists", "In", "NotIn"]
        } else {
            &["DoesNotExist", "Exists"]
        };
        errors.one_of(format!("{path}.operator"), operator, operators);
        if matches!(operator, "In" | "NotIn") && meta::list(expression, "/values").is_empty() {
            errors.required(format!("{path}.values"), "must be at least one value when `operator` is 'In' or 'NotIn'");
        }
    }
}
