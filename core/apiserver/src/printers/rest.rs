//! Kinds of other groups, and those nobody knows.

use serde_json::{Value, json};

use super::words::{age, joined, name, or_none, selector, since};
use super::{Printer, number, text, wide};
use crate::meta;

/// Name and age.
pub const PLAIN: Printer = Printer {
    columns: const { &[text("Name"), text("Age")] },
    cells: |object| vec![json!(name(object)), json!(age(object))],
};

/// Events, whichever group they are asked for in.
pub const EVENT: Printer = Printer {
    columns: const {
        &[
            text("Last Seen"),
            text("Type"),
            text("Reason"),
            text("Object"),
            wide("Subobject"),
            wide("Source"),
            text("Message"),
            wide("First Seen"),
            wide("Count"),
            wide("Name"),
        ]
    },
    cells: event,
};

pub fn of(kind: &str) -> Option<Printer> {
    Some(match kind {
        "Event" => EVENT,
        "EndpointSlice" => Printer {
            columns: const { &[text("Name"), text("AddressType"), text("Ports"), text("Endpoints"), text("Age")] },
            cells: slice,
        },
        "Ingress" => Printer {
            columns: const { &[text("Name"), text("Class"), text("Hosts"), text("Address"), text("Ports"), text("Age")] },
            cells: ingress,
        },
        "IngressClass" => Printer {
            columns: const { &[text("Name"), text("Controller"), text("Parameters"), text("Age")] },
            cells: |o| {
                let parameters = or_none(meta::text(o, "/spec/parameters/name"));
                vec![json!(name(o)), json!(meta::text(o, "/spec/controller")), json!(parameters), json!(age(o))]
            },
        },
        "NetworkPolicy" => Printer {
            columns: const { &[text("Name"), text("Pod-Selector"), text("Age")] },
            cells: |o| vec![json!(name(o)), json!(selector(o, "/spec/podSelector/matchLabels")), json!(age(o))],
        },
        "Lease" => Printer {
            columns: const { &[text("Name"), text("Holder"), text("Age")] },
            cells: |o| vec![json!(name(o)), json!(meta::text(o, "/spec/holderIdentity")), json!(age(o))],
        },
        "ClusterRole" | "Role" | "CustomResourceDefinition" => Printer {
            columns: const { &[text("Name"), text("Created At")] },
            cells: |o| vec![json!(name(o)), json!(meta::text(o, "/metadata/creationTimestamp"))],
        },
        "ClusterRoleBinding" | "RoleBinding" => Printer {
            columns: const {
                &[text("Name"), text("Role"), text("Age"), wide("Users"), wide("Groups"), wide("ServiceAccounts")]
            },
            cells: binding,
        },
        "Network" => Printer {
            columns: const {
                &[
                    text("Name"),
                    text("Plugin"),
                    text("Active"),
                    text("Ready"),
                    text("Age"),
                    wide("Reason"),
                    wide("Message"),
                ]
            },
            cells: network,
        },
        "Segment" => Printer {
            columns: const {
                &[
                    text("Name"),
                    number("Id"),
                    text("Subnets"),
                    text("Outside"),
                    text("Realised"),
                    text("Age"),
                    wide("Message"),
                ]
            },
            cells: segment,
        },
        "SecurityPolicy" => Printer {
            columns: const {
                &[
                    text("Name"),
                    text("Tier"),
                    number("Priority"),
                    text("Rules"),
                    text("Hits"),
                    text("Realised"),
                    text("Age"),
                    wide("Message"),
                ]
            },
            cells: security_policy,
        },
        "Group" => Printer {
            columns: const { &[text("Name"), number("Pods"), text("Realised"), text("Age"), wide("Message")] },
            cells: group,
        },
        "Cluster" => Printer {
            columns: const { &[text("Name"), number("Nodes"), text("Pod CIDR"), text("Service CIDR"), text("Age")] },
            cells: |o| {
                vec![
                    json!(name(o)),
                    json!(meta::list(o, "/spec/nodes").len()),
                    json!(or_none(meta::text(o, "/spec/podCIDR"))),
                    json!(or_none(meta::text(o, "/spec/serviceCIDR"))),
                    json!(age(o)),
                ]
            },
        },
        _ => return None,
    })
}

fn event(event: &Value) -> Vec<Value> {
    let text = |pointers: &[&str]| {
        pointers.iter().map(|pointer| meta::text(event, pointer)).find(|text| !text.is_empty()).unwrap_or("").to_owned()
    };
    let first = text(&["/firstTimestamp", "/eventTime", "/metadata/creationTimestamp"]);
    let last = text(&["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"]);
    let kind = meta::text(event, "/involvedObject/kind").to_lowercase();
    let about = meta::text(event, "/involvedObject/name");
    let mut source = text(&["/source/component", "/reportingComponent"]);
    let host = text(&["/source/host", "/reportingInstance"]);
    if !host.is_empty() {
        source = format!("{source}, {host}");
    }
    let count = meta::number(event, "/series/count").or_else(|| meta::number(event, "/count")).unwrap_or(1).max(1);
    vec![
        json!(since(&last)),
        json!(meta::text(event, "/type")),
        json!(meta::text(event, "/reason")),
        json!(if kind.is_empty() { about.to_owned() } else { format!("{kind}/{about}") }),
        json!(meta::text(event, "/involvedObject/fieldPath")),
        json!(source),
        json!(meta::text(event, "/message").trim()),
        json!(since(&first)),
        json!(count),
        json!(name(event)),
    ]
}

fn slice(slice: &Value) -> Vec<Value> {
    let ports: Vec<String> = meta::list(slice, "/ports")
        .iter()
        .map(|port| meta::number(port, "/port").map_or_else(|| "*".into(), |number| number.to_string()))
        .collect();
    let addresses: Vec<&str> = meta::list(slice, "/endpoints")
        .iter()
        .flat_map(|endpoint| meta::list(endpoint, "/addresses"))
        .filter_map(Value::as_str)
        .collect();
    let shown = match addresses.len() {
        0 => "<unset>".into(),
        1..=3 => addresses.join(","),
        n => format!("{} + {} more...", addresses[..3].join(","), n - 3),
    };
    let ports = if ports.is_empty() { "<unset>".into() } else { ports.join(",") };
    vec![json!(name(slice)), json!(meta::text(slice, "/addressType")), json!(ports), json!(shown), json!(age(slice))]
}

fn ingress(ingress: &Value) -> Vec<Value> {
    let hosts: Vec<&str> = meta::list(ingress, "/spec/rules")
        .iter()
        .map(|rule| meta::text(rule, "/host"))
        .filter(|host| !host.is_empty())
        .collect();
    let hosts = match hosts.len() {
        0 => "*".into(),
        1..=3 => hosts.join(","),
        n => format!("{} + {} more...", hosts[..3].join(","), n - 3),
    };
    let addresses = meta::list(ingress, "/status/loadBalancer/ingress").iter().map(|item| {
        let address = meta::text(item, "/ip");
        if address.is_empty() { meta::text(item, "/hostname") } else { address }
    });
    let addresses: Vec<&str> = addresses.collect();
    let tls = !meta::list(ingress, "/spec/tls").is_empty();
    vec![
        json!(name(ingress)),
        json!(or_none(meta::text(ingress, "/spec/ingressClassName"))),
        json!(hosts),
        json!(addresses.join(",")),
        json!(if tls { "80, 443" } else { "80" }),
        json!(age(ingress)),
    ]
}

fn binding(binding: &Value) -> Vec<Value> {
    let subjects = |kind: &str| {
        let of: Vec<String> = meta::list(binding, "/subjects")
            .iter()
            .filter(|subject| meta::text(subject, "/kind") == kind)
            .map(|subject| match meta::text(subject, "/namespace") {
                "" => meta::text(subject, "/name").to_owned(),
                namespace => format!("{namespace}/{}", meta::text(subject, "/name")),
            })
            .collect();
        of.join(", ")
    };
    let role = format!("{}/{}", meta::text(binding, "/roleRef/kind"), meta::text(binding, "/roleRef/name"));
    vec![
        json!(name(binding)),
        json!(role),
        json!(age(binding)),
        json!(subjects("User")),
        json!(subjects("Group")),
        json!(subjects("ServiceAccount")),
    ]
}

/// Status and message of the condition `Realised`.
fn realised(object: &Value) -> [Value; 2] {
    let conditions = meta::list(object, "/status/conditions");
    let realised = conditions.iter().find(|item| meta::text(item, "/type") == "Realised");
    let word = |pointer: &str| realised.map_or("", |item| meta::text(item, pointer));
    [json!(if realised.is_some() { word("/status") } else { "Unknown" }), json!(word("/message"))]
}

/// Hits are `rule:egress/ingress`, in packets.
fn security_policy(policy: &Value) -> Vec<Value> {
    let [realised, message] = realised(policy);
    let rules = meta::list(policy, "/spec/rules").iter().map(|rule| meta::text(rule, "/name"));
    let hits = meta::list(policy, "/status/rules").iter().map(|rule| {
        let packets = |side: &str| meta::number(rule, &format!("/{side}/packets")).unwrap_or(0);
        format!("{}:{}/{}", meta::text(rule, "/name"), packets("egress"), packets("ingress"))
    });
    let hits: Vec<String> = hits.collect();
    vec![
        json!(name(policy)),
        json!(meta::text(policy, "/spec/tier")),
        json!(meta::number(policy, "/spec/priority").unwrap_or(100)),
        json!(joined(rules)),
        json!(or_none(&hits.join(","))),
        realised,
        json!(age(policy)),
        message,
    ]
}

fn group(group: &Value) -> Vec<Value> {
    let [realised, message] = realised(group);
    vec![
        json!(name(group)),
        json!(meta::number(group, "/status/pods").unwrap_or(0)),
        realised,
        json!(age(group)),
        message,
    ]
}

fn segment(segment: &Value) -> Vec<Value> {
    let [realised, message] = realised(segment);
    vec![
        json!(name(segment)),
        json!(segment.pointer("/spec/id")),
        json!(joined(meta::list(segment, "/spec/subnets").iter().filter_map(Value::as_str))),
        json!(or_none(meta::text(segment, "/spec/outside"))),
        realised,
        json!(age(segment)),
        message,
    ]
}

fn network(network: &Value) -> Vec<Value> {
    let ready = meta::list(network, "/status/conditions").iter().find(|item| meta::text(item, "/type") == "Ready");
    let word = |pointer: &str| ready.map_or("", |item| meta::text(item, pointer)).to_owned();
    let active = meta::text(network, "/status/active/plugin");
    let version = meta::text(network, "/status/active/version");
    vec![
        json!(name(network)),
        json!(meta::text(network, "/spec/plugin")),
        json!(joined([active, version].into_iter()).replace(',', " ")),
        json!(if ready.is_some() { word("/status") } else { "Unknown".into() }),
        json!(age(network)),
        json!(word("/reason")),
        json!(word("/message")),
    ]
}
