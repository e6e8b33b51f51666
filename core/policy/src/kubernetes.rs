//! Kubernetes' `NetworkPolicy` (networking.k8s.io/v1) in the model.
//!
//! A policy that selects a pod for a direction isolates it: what no policy allows is dropped. Several policies allow what any of
//! them does, so their rules stand at one priority, and the drop comes after all of them.

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

use crate::{Action, Direction, Namespaces, Numbers, Peer, PodGroup, Policy, Port, Protocol, Rule, Selector, Tier};

/// Why a spec has no meaning.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// It is not what the API says.
    #[error("{0}")]
    Malformed(#[from] serde_json::Error),
    /// A value is out of bounds.
    #[error("{field}: {value} given, expected {expected}")]
    Invalid {
        /// Where, as `ingress[0].ports[1].port`.
        field: String,
        /// What was given.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    pod_selector: Option<Selector>,
    #[serde(default)]
    policy_types: Option<Vec<String>>,
    #[serde(default)]
    ingress: Option<Vec<Ingress>>,
    #[serde(default)]
    egress: Option<Vec<Egress>>,
}

#[derive(Deserialize)]
struct Ingress {
    #[serde(default)]
    from: Option<Vec<Other>>,
    #[serde(default)]
    ports: Option<Vec<PortSpec>>,
}

#[derive(Deserialize)]
struct Egress {
    #[serde(default)]
    to: Option<Vec<Other>>,
    #[serde(default)]
    ports: Option<Vec<PortSpec>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Other {
    #[serde(default)]
    pod_selector: Option<Selector>,
    #[serde(default)]
    namespace_selector: Option<Selector>,
    #[serde(default)]
    ip_block: Option<IpBlock>,
}

#[derive(Deserialize)]
struct IpBlock {
    cidr: String,
    #[serde(default)]
    except: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PortSpec {
    #[serde(default)]
    pub(crate) protocol: Option<String>,
    #[serde(default)]
    pub(crate) port: Option<Value>,
    #[serde(default)]
    pub(crate) end_port: Option<i64>,
}

/// The policy that an object's `spec` describes.
pub fn network_policy(namespace: &str, name: &str, spec: &Value) -> Result<Policy, SpecError> {
    let spec = Spec::deserialize(spec)?;
    let subjects = vec![PodGroup {
        namespaces: Namespaces::Named(namespace.to_owned()),
        labels: spec.pod_selector.unwrap_or_default(),
    }];
    let types = spec.policy_types.filter(|types| !types.is_empty());
    let has = |kind: &str, default: bool| types.as_ref().map_or(default, |types| types.iter().any(|one| one == kind));
    let (ingress, egress) = (has("Ingress", true), has("Egress", spec.egress.iter().flatten().next().is_some()));
    let mut rules = Vec::new();
    for (number, rule) in spec.ingress.into_iter().flatten().enumerate().filter(|_| ingress) {
        let at = format!("ingress[{number}]");
        rules.push(allow(Direction::Ingress, namespace, &format!("{at}.from"), rule.from, &at, rule.ports)?);
    }
    for (number, rule) in spec.egress.into_iter().flatten().enumerate().filter(|_| egress) {
        let at = format!("egress[{number}]");
        rules.push(allow(Direction::Egress, namespace, &format!("{at}.to"), rule.to, &at, rule.ports)?);
    }
    Ok(Policy {
        name: policy_name(namespace, name),
        tier: Tier::Application,
        priority: Policy::NETWORK_POLICY_PRIORITY,
        subjects,
        rules,
        otherwise_ingress: ingress.then_some(Action::Drop),
        otherwise_egress: egress.then_some(Action::Drop),
    })
}

/// The name in the model of a `NetworkPolicy`.
pub fn policy_name(namespace: &str, name: &str) -> String {
    format!("networkpolicy/{namespace}/{name}")
}

/// What stands in for a policy that cannot be read: nothing passes to or from any pod of its namespace that it may have meant.
pub fn closed(namespace: &str, name: &str, spec: &Value) -> Policy {
    let labels = spec.get("podSelector").and_then(|selector| Selector::deserialize(selector).ok()).unwrap_or_default();
    Policy {
        name: policy_name(namespace, name),
        tier: Tier::Application,
        priority: Policy::NETWORK_POLICY_PRIORITY,
        subjects: vec![PodGroup { namespaces: Namespaces::Named(namespace.to_owned()), labels }],
        rules: Vec::new(),
        otherwise_ingress: Some(Action::Drop),
        otherwise_egress: Some(Action::Drop),
    }
}

fn allow(
    direction: Direction,
    namespace: &str,
    peers_at: &str,
    peers: Option<Vec<Other>>,
    at: &str,
    ports: Option<Vec<PortSpec>>,
) -> Result<Rule, SpecError> {
    let peers = peers.into_iter().flatten().enumerate();
    let peers = peers.map(|(number, other)| peer(namespace, &format!("{peers_at}[{number}]"), other));
    let ports = ports.into_iter().flatten().enumerate();
    let ports = ports.map(|(number, spec)| port(&format!("{at}.ports[{number}]"), spec));
    Ok(Rule {
        direction,
        action: Action::Accept,
        peers: peers.collect::<Result<_, _>>()?,
        ports: ports.collect::<Result<_, _>>()?,
        counter: None,
    })
}

fn peer(namespace: &str, at: &str, other: Other) -> Result<Peer, SpecError> {
    let namespaces = match (other.namespace_selector, &other.pod_selector, other.ip_block) {
        (None, None, Some(block)) => {
            let parse = |field: &str, text: &str| {
                text.parse::<IpNet>().map_err(|_| SpecError::Invalid {
                    field: format!("{at}.ipBlock.{field}"),
                    value: text.to_owned(),
                    expected: "a prefix such as 10.0.0.0/8",
                })
            };
            let except = block.except.iter().flatten().map(|text| parse("except", text)).collect::<Result<_, _>>()?;
            return Ok(Peer::Block { cidr: parse("cidr", &block.cidr)?.trunc(), except });
        }
        (Some(selector), _, None) => Namespaces::Labelled(selector),
        (None, Some(_), None) => Namespaces::Named(namespace.to_owned()),
        _ => {
            return Err(SpecError::Invalid {
                field: at.to_owned(),
                value: "neither or both".into(),
                expected: "either selectors or an ipBlock",
            });
        }
    };
    Ok(Peer::Pods(PodGroup { namespaces, labels: other.pod_selector.unwrap_or_default() }))
}

pub(crate) fn port(at: &str, spec: PortSpec) -> Result<Port, SpecError> {
    let invalid =
        |field: &str, value: String, expected| SpecError::Invalid { field: format!("{at}.{field}"), value, expected };
    let protocol = spec.protocol.as_deref().unwrap_or("TCP");
    let protocol =
        Protocol::named(protocol).ok_or_else(|| invalid("protocol", protocol.to_owned(), "TCP, UDP or SCTP"))?;
    let number = |field: &str, number: Option<i64>, value: &dyn Fn() -> String| {
        let number = number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
        number.ok_or_else(|| invalid(field, value(), "a number from 1 to 65535"))
    };
    let numbers = match (&spec.port, spec.end_port) {
        (None | Some(Value::Null), None) => Numbers::All,
        (Some(Value::String(name)), None) => Numbers::Named(name.clone()),
        (Some(first), end) if first.is_number() => {
            let from = number("port", first.as_i64(), &|| first.to_string())?;
            let to = match end {
                None => from,
                Some(end) => number("endPort", Some(end), &|| end.to_string())?,
            };
            if to < from {
                return Err(invalid("endPort", to.to_string(), "no less than port"));
            }
            Numbers::Range(from, to)
        }
        (Some(other), None) => return Err(invalid("port", other.to_string(), "a number or a name")),
        (_, Some(end)) => return Err(invalid("endPort", end.to_string(), "a numeric port beside it")),
    };
    Ok(Port { protocol, numbers })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(spec: Value) -> Policy {
        network_policy("a", "p", &spec).unwrap()
    }

    #[test]
    fn the_types_default_to_ingress_and_to_egress_if_it_has_such_rules() {
        let isolates = |spec| {
            let policy = policy(spec);
            (policy.otherwise_ingress.is_some(), policy.otherwise_egress.is_some())
        };
        assert_eq!(isolates(json!({"podSelector": {}})), (true, false));
        assert_eq!(isolates(json!({"podSelector": {}, "egress": []})), (true, false));
        assert_eq!(isolates(json!({"podSelector": {}, "egress": [{}]})), (true, true));
        assert_eq!(isolates(json!({"podSelector": {}, "policyTypes": ["Egress"]})), (false, true));
        // Rules of a type that is not named are not looked at.
        let quiet = policy(json!({"podSelector": {}, "policyTypes": ["Egress"], "ingress": [{}]}));
        assert!(quiet.rules.is_empty());
    }

    #[test]
    fn peers_and_ports_are_what_they_say() {
        let policy = policy(json!({
            "podSelector": {"matchLabels": {"app": "db"}},
            "ingress": [{
                "from": [
                    {"podSelector": {"matchLabels": {"app": "web"}}},
                    {"namespaceSelector": {"matchLabels": {"team": "x"}}},
                    {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "web"}}},
                    {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
                ],
                "ports": [{"port": 80}, {"protocol": "UDP", "port": "dns"}, {"port": 1000, "endPort": 2000},
                    {"protocol": "SCTP"}],
            }],
        }));
        let web = Selector::label("app", "web");
        let pods = |namespaces, labels: &Selector| Peer::Pods(PodGroup { namespaces, labels: labels.clone() });
        assert_eq!(
            policy.rules[0].peers,
            [
                pods(Namespaces::Named("a".into()), &web),
                pods(Namespaces::Labelled(Selector::label("team", "x")), &Selector::default()),
                pods(Namespaces::Labelled(Selector::default()), &web),
                Peer::Block { cidr: "10.0.0.0/8".parse().unwrap(), except: vec!["10.1.0.0/16".parse().unwrap()] },
            ]
        );
        let port = |protocol, numbers| Port { protocol, numbers };
        assert_eq!(
            policy.rules[0].ports,
            [
                port(Protocol::Tcp, Numbers::Range(80, 80)),
                port(Protocol::Udp, Numbers::Named("dns".into())),
                port(Protocol::Tcp, Numbers::Range(1000, 2000)),
                port(Protocol::Sctp, Numbers::All),
            ]
        );
    }

    #[test]
    fn what_has_no_meaning_is_refused_by_name_and_closes() {
        for (spec, words) in [
            (json!({"ingress": [{"ports": [{"port": 0}]}]}), "ingress[0].ports[0].port: 0 given"),
            (json!({"ingress": [{"ports": [{"port": 9, "endPort": 8}]}]}), "ports[0].endPort: 8 given"),
            (json!({"ingress": [{"ports": [{"port": "x", "endPort": 8}]}]}), "expected a numeric port beside it"),
            (json!({"ingress": [{"ports": [{"protocol": "ICMP"}]}]}), "ports[0].protocol: ICMP given"),
            (json!({"egress": [{"to": [{}]}]}), "egress[0].to[0]: neither or both given"),
            (json!({"egress": [{"to": [{"ipBlock": {"cidr": "10/8"}}]}]}), "egress[0].to[0].ipBlock.cidr: 10/8 given"),
            (json!({"ingress": 7}), "invalid type"),
        ] {
            let error = network_policy("a", "p", &spec).unwrap_err().to_string();
            assert!(error.contains(words), "{spec}: {error}");
        }
        let closed = closed("a", "p", &json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": 7}));
        assert_eq!(closed.subjects[0].labels, Selector::label("app", "db"));
        assert_eq!((closed.otherwise_ingress, closed.otherwise_egress), (Some(Action::Drop), Some(Action::Drop)));
    }
}
