//! Kinds of core/v1.

use serde_json::{Value, json};

use super::words::{age, joined, name, or_none, selector, since};
use super::{Printer, number, text, wide};
use crate::meta;

pub fn of(kind: &str) -> Option<Printer> {
    Some(match kind {
        "Pod" => Printer {
            columns: const {
                &[
                    text("Name"),
                    text("Ready"),
                    text("Status"),
                    text("Restarts"),
                    text("Age"),
                    wide("IP"),
                    wide("Node"),
                    wide("Nominated Node"),
                    wide("Readiness Gates"),
                ]
            },
            cells: pod,
        },
        "Node" => Printer {
            columns: const {
                &[
                    text("Name"),
                    text("Status"),
                    text("Roles"),
                    text("Age"),
                    text("Version"),
                    wide("Internal-IP"),
                    wide("External-IP"),
                    wide("OS-Image"),
                    wide("Kernel-Version"),
                    wide("Container-Runtime"),
                ]
            },
            cells: node,
        },
        "Namespace" => Printer {
            columns: const { &[text("Name"), text("Status"), text("Age")] },
            cells: |o| vec![json!(name(o)), json!(meta::text(o, "/status/phase")), json!(age(o))],
        },
        "Service" => Printer {
            columns: const {
                &[
                    text("Name"),
                    text("Type"),
                    text("Cluster-IP"),
                    text("External-IP"),
                    text("Port(s)"),
                    text("Age"),
                    wide("Selector"),
                ]
            },
            cells: service,
        },
        "Endpoints" => Printer {
            columns: const { &[text("Name"), text("Endpoints"), text("Age")] },
            cells: |o| vec![json!(name(o)), json!(endpoints(o)), json!(age(o))],
        },
        "ConfigMap" => Printer {
            columns: const { &[text("Name"), number("Data"), text("Age")] },
            cells: |o| {
                let count = |field| meta::map(o, field).map_or(0, serde_json::Map::len);
                vec![json!(name(o)), json!(count("/data") + count("/binaryData")), json!(age(o))]
            },
        },
        "Secret" => Printer {
            columns: const { &[text("Name"), text("Type"), number("Data"), text("Age")] },
            cells: |o| {
                let data = meta::map(o, "/data").map_or(0, serde_json::Map::len);
                vec![json!(name(o)), json!(meta::text(o, "/type")), json!(data), json!(age(o))]
            },
        },
        "ServiceAccount" => Printer {
            columns: const { &[text("Name"), number("Secrets"), text("Age")] },
            cells: |o| vec![json!(name(o)), json!(meta::list(o, "/secrets").len()), json!(age(o))],
        },
        "Event" => super::rest::EVENT,
        "ResourceQuota" => Printer {
            columns: const { &[text("Name"), text("Request"), text("Limit"), text("Age")] },
            cells: |o| {
                let side = |limits: bool| {
                    let hard = meta::map(o, "/status/hard").into_iter().flatten();
                    let parts: Vec<String> = hard
                        .filter(|(what, _)| what.starts_with("limits.") == limits)
                        .map(|(what, hard)| {
                            let used =
                                meta::map(o, "/status/used").and_then(|used| used.get(what)?.as_str()).unwrap_or("0");
                            format!("{what}: {used}/{}", hard.as_str().map_or_else(|| hard.to_string(), Into::into))
                        })
                        .collect();
                    parts.join(", ")
                };
                vec![json!(name(o)), json!(side(false)), json!(side(true)), json!(age(o))]
            },
        },
        "LimitRange" => Printer {
            columns: const { &[text("Name"), text("Created At")] },
            cells: |o| vec![json!(name(o)), json!(meta::text(o, "/metadata/creationTimestamp"))],
        },
        _ => return None,
    })
}

fn pod(pod: &Value) -> Vec<Value> {
    let statuses = meta::list(pod, "/status/containerStatuses");
    let ready = statuses.iter().filter(|status| status.get("ready") == Some(&Value::Bool(true))).count();
    let (mut restarts, mut last_restart) = (0, String::new());
    for status in statuses {
        restarts += meta::number(status, "/restartCount").unwrap_or(0);
        let finished = meta::text(status, "/lastState/terminated/finishedAt");
        if finished > last_restart.as_str() {
            last_restart = finished.into();
        }
    }
    let restarts = match restarts {
        0 => "0".into(),
        n if last_restart.is_empty() => n.to_string(),
        n => format!("{n} ({} ago)", since(&last_restart)),
    };
    let addresses = meta::text(pod, "/status/podIP");
    let gates = meta::list(pod, "/spec/readinessGates");
    let gates = if gates.is_empty() {
        "<none>".to_owned()
    } else {
        let met = gates.iter().filter(|gate| condition(pod, meta::text(gate, "/conditionType")) == "True").count();
        format!("{met}/{}", gates.len())
    };
    vec![
        json!(name(pod)),
        json!(format!("{ready}/{}", meta::list(pod, "/spec/containers").len())),
        json!(pod_status(pod)),
        json!(restarts),
        json!(age(pod)),
        json!(or_none(addresses)),
        json!(or_none(meta::text(pod, "/spec/nodeName"))),
        json!(or_none(meta::text(pod, "/status/nominatedNodeName"))),
        json!(gates),
    ]
}

/// The one word kubectl has for how a pod is.
fn pod_status(pod: &Value) -> String {
    let mut word = or_none(meta::text(pod, "/status/phase"));
    let reason = meta::text(pod, "/status/reason");
    if !reason.is_empty() {
        word = reason.into();
    }
    let init = meta::list(pod, "/status/initContainerStatuses");
    let total = meta::list(pod, "/spec/initContainers").len();
    let mut initializing = false;
    for (at, status) in init.iter().enumerate() {
        if let Some(code) = meta::number(status, "/state/terminated/exitCode") {
            if code == 0 {
                continue;
            }
            word = format!("Init:{}", ended(status, code));
        } else {
            let waiting = meta::text(status, "/state/waiting/reason");
            word = if waiting.is_empty() || waiting == "PodInitializing" {
                format!("Init:{at}/{total}")
            } else {
                format!("Init:{waiting}")
            };
        }
        initializing = true;
        break;
    }
    if !initializing {
        let mut running = false;
        for status in meta::list(pod, "/status/containerStatuses").iter().rev() {
            let waiting = meta::text(status, "/state/waiting/reason");
            if !waiting.is_empty() {
                word = waiting.into();
            } else if let Some(code) = meta::number(status, "/state/terminated/exitCode") {
                word = ended(status, code);
            } else if status.get("ready") == Some(&Value::Bool(true)) && status.pointer("/state/running").is_some() {
                running = true;
            }
        }
        if word == "Completed" && running {
            word = if condition(pod, "Ready") == "True" { "Running" } else { "NotReady" }.into();
        }
    }
    if meta::is_deleting(pod) {
        word = if reason == "NodeLost" { "Unknown" } else { "Terminating" }.into();
    }
    word
}

fn ended(status: &Value, code: i64) -> String {
    let reason = meta::text(status, "/state/terminated/reason");
    match meta::number(status, "/state/terminated/signal") {
        _ if !reason.is_empty() => reason.into(),
        Some(signal) if signal != 0 => format!("Signal:{signal}"),
        _ => format!("ExitCode:{code}"),
    }
}

fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let conditions = meta::list(object, "/status/conditions");
    conditions.iter().find(|item| meta::text(item, "/type") == kind).map_or("", |item| meta::text(item, "/status"))
}

fn node(node: &Value) -> Vec<Value> {
    let mut status = match condition(node, "Ready") {
        "True" => "Ready",
        "" => "Unknown",
        _ => "NotReady",
    }
    .to_owned();
    if node.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        status.push_str(",SchedulingDisabled");
    }
    let labels = meta::map(node, "/metadata/labels").into_iter().flatten();
    let mut roles: Vec<&str> = labels
        .filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/"))
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    let address = |kind: &str| {
        let found = meta::list(node, "/status/addresses").iter().find(|address| meta::text(address, "/type") == kind);
        or_none(found.map_or("", |address| meta::text(address, "/address")))
    };
    let info = |field: &str| {
        let text = meta::text(node, &format!("/status/nodeInfo/{field}"));
        json!(if text.is_empty() { "<unknown>" } else { text })
    };
    vec![
        json!(name(node)),
        json!(status),
        json!(joined(roles.into_iter())),
        json!(age(node)),
        json!(meta::text(node, "/status/nodeInfo/kubeletVersion")),
        json!(address("InternalIP")),
        json!(address("ExternalIP")),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

fn service(service: &Value) -> Vec<Value> {
    let kind = meta::text(service, "/spec/type");
    let listed = meta::list(service, "/spec/externalIPs").iter().filter_map(Value::as_str);
    let given = meta::list(service, "/status/loadBalancer/ingress").iter().map(|ingress| {
        let address = meta::text(ingress, "/ip");
        if address.is_empty() { meta::text(ingress, "/hostname") } else { address }
    });
    let external = match kind {
        "ExternalName" => meta::text(service, "/spec/externalName").to_owned(),
        "LoadBalancer" => {
            let all = joined(given.chain(listed));
            if all == "<none>" { "<pending>".into() } else { all }
        }
        _ => joined(listed),
    };
    let ports: Vec<String> = meta::list(service, "/spec/ports")
        .iter()
        .map(|port| {
            let number = meta::number(port, "/port").unwrap_or(0);
            let protocol = meta::text(port, "/protocol");
            match meta::number(port, "/nodePort") {
                Some(node) if node > 0 => format!("{number}:{node}/{protocol}"),
                _ => format!("{number}/{protocol}"),
            }
        })
        .collect();
    vec![
        json!(name(service)),
        json!(kind),
        json!(or_none(meta::text(service, "/spec/clusterIP"))),
        json!(external),
        json!(or_none(&ports.join(","))),
        json!(age(service)),
        json!(selector(service, "/spec/selector")),
    ]
}

fn endpoints(object: &Value) -> String {
    let mut all = Vec::new();
    for subset in meta::list(object, "/subsets") {
        for port in meta::list(subset, "/ports") {
            for address in meta::list(subset, "/addresses") {
                all.push(format!("{}:{}", meta::text(address, "/ip"), meta::number(port, "/port").unwrap_or(0)));
            }
        }
    }
    match all.len() {
        0 => "<none>".into(),
        1..=3 => all.join(","),
        n => format!("{} + {} more...", all[..3].join(","), n - 3),
    }
}
