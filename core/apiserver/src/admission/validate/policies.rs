//! NetworkPolicies.

use ipnet::IpNet;
use serde_json::Value;

use super::pods::number_in_port_range;
use super::selectors;
use crate::meta;
use crate::status::FieldErrors;

pub fn network_policy(policy: &Value, errors: &mut FieldErrors) {
    selectors::selector(policy.pointer("/spec/podSelector"), "spec.podSelector", errors);
    let types = meta::list(policy, "/spec/policyTypes");
    if types.len() > 2 {
        errors.invalid("spec.policyTypes", types.to_vec(), "may not specify more than two policyTypes");
    }
    for (at, kind) in types.iter().enumerate() {
        let (path, kind) = (format!("spec.policyTypes[{at}]"), kind.as_str().unwrap_or_default());
        if !["Egress", "Ingress"].contains(&kind) {
            errors.unsupported(path, kind, &["Egress", "Ingress"]);
        }
    }
    for (field, side) in [("ingress", "from"), ("egress", "to")] {
        for (at, rule) in meta::list(policy, &format!("/spec/{field}")).iter().enumerate() {
            let path = format!("spec.{field}[{at}]");
            for (at, item) in meta::list(rule, "/ports").iter().enumerate() {
                port(item, &format!("{path}.ports[{at}]"), errors);
            }
            for (at, item) in meta::list(rule, &format!("/{side}")).iter().enumerate() {
                peer(item, &format!("{path}.{side}[{at}]"), errors);
            }
        }
    }
}

fn port(item: &Value, path: &str, errors: &mut FieldErrors) {
    errors.one_of(format!("{path}.protocol"), meta::text(item, "/protocol"), &["SCTP", "TCP", "UDP"]);
    let end = meta::number(item, "/endPort");
    match item.get("port") {
        Some(Value::String(name)) => {
            let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            let word = name.len() <= 15 && name.chars().all(good) && name.chars().any(|c| c.is_ascii_lowercase());
            if !word || name.starts_with('-') || name.ends_with('-') || name.contains("--") {
                let why =
                    "must be an IANA_SVC_NAME (at most 15 characters, matching regex [a-z0-9]([a-z0-9-]*[a-z0-9])*)";
                errors.invalid(format!("{path}.port"), name.as_str(), why);
            }
            if end.is_some() {
                errors.invalid(format!("{path}.port"), name.as_str(), "must be a number if `endPort` is specified");
            }
        }
        Some(first) if first.is_number() => {
            number_in_port_range(first.as_i64().unwrap_or(0), &format!("{path}.port"), errors);
            if let Some(end) = end {
                number_in_port_range(end, &format!("{path}.endPort"), errors);
                if first.as_i64().is_some_and(|first| end < first) {
                    errors.invalid(format!("{path}.endPort"), end, "must be greater than or equal to `port`");
                }
            }
        }
        _ if end.is_some() => errors.required(format!("{path}.port"), "must be specified if `endPort` is specified"),
        _ => {}
    }
}

fn peer(item: &Value, path: &str, errors: &mut FieldErrors) {
    let given = |field: &str| item.get(field).is_some_and(|value| !value.is_null());
    let fields = ["podSelector", "namespaceSelector"];
    for field in fields {
        selectors::selector(item.get(field), &format!("{path}.{field}"), errors);
    }
    let selects = fields.into_iter().any(given);
    if !given("ipBlock") {
        if !selects {
            errors.required(path, "must specify a peer");
        }
        return;
    }
    if selects {
        errors.forbidden(path, "may not specify both ipBlock and another peer");
        return;
    }
    let text = meta::text(item, "/ipBlock/cidr");
    let why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
    let path = format!("{path}.ipBlock");
    if text.is_empty() {
        errors.required(format!("{path}.cidr"), "");
        return;
    }
    let Ok(block) = text.parse::<IpNet>() else { return errors.invalid(format!("{path}.cidr"), text, why) };
    for (at, except) in meta::list(item, "/ipBlock/except").iter().enumerate() {
        let (path, text) = (format!("{path}.except[{at}]"), except.as_str().unwrap_or_default());
        match text.parse::<IpNet>() {
            Err(_) => errors.invalid(path, text, why),
            Ok(inner) if !block.contains(&inner) || inner.prefix_len() == block.prefix_len() => {
                errors.invalid(path, text, &format!("must be a strict subset of `cidr` {block}"));
            }
            Ok(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn problems(spec: Value) -> usize {
        let mut errors = FieldErrors::default();
        network_policy(&json!({"spec": spec}), &mut errors);
        errors.0.len()
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        let rule = |rule: Value| json!({"podSelector": {}, "ingress": [rule]});
        let block = |cidr: &str, except: &str| rule(json!({"from": [{"ipBlock": {"cidr": cidr, "except": [except]}}]}));
        for (spec, count) in [
            (json!({"podSelector": {}}), 0),
            (rule(json!({"ports": [{"port": 80, "endPort": 90}, {"port": "http", "protocol": "UDP"}]})), 0),
            (rule(json!({"ports": [{"port": 0}]})), 1),
            (rule(json!({"ports": [{"port": 90, "endPort": 80}]})), 1),
            (rule(json!({"ports": [{"port": "http", "endPort": 80}]})), 1),
            (rule(json!({"ports": [{"endPort": 80}]})), 1),
            (rule(json!({"ports": [{"port": "Not A Name"}]})), 1),
            (rule(json!({"ports": [{"protocol": "ICMP"}]})), 1),
            (rule(json!({"from": [{}]})), 1),
            (rule(json!({"from": [{"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}]})), 1),
            (block("10.0.0.0/8", "10.1.0.0/16"), 0),
            (block("0.0.0.0/0", "10.1.0.0/16"), 0),
            (block("10.0.0.0/8", "10.0.0.0/8"), 1),
            (block("10.0.0.0/8", "11.0.0.0/16"), 1),
            (block("10.0.0.0", "10.1.0.0/16"), 1),
            (json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}), 1),
            (json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}}), 1),
            (json!({"podSelector": {}, "policyTypes": ["Both"]}), 1),
        ] {
            assert_eq!(problems(spec.clone()), count, "{spec}");
        }
    }
}
