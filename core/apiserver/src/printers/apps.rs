//! Kinds of apps/v1 and batch/v1.

use serde_json::{Value, json};

use super::words::{age, duration, joined, name, selector};
use super::{Printer, number, text, wide};
use crate::meta;

pub fn of(kind: &str) -> Option<Printer> {
    Some(match kind {
        "Deployment" => Printer {
            columns: const {
                &[
                    text("Name"),
                    text("Ready"),
                    number("Up-to-date"),
                    number("Available"),
                    text("Age"),
                    wide("Containers"),
                    wide("Images"),
                    wide("Selector"),
                ]
            },
            cells: |o| {
                let ready = format!("{}/{}", count(o, "/status/readyReplicas"), count(o, "/spec/replicas"));
                let mut cells = vec![
                    json!(name(o)),
                    json!(ready),
                    json!(count(o, "/status/updatedReplicas")),
                    json!(count(o, "/status/availableReplicas")),
                    json!(age(o)),
                ];
                cells.extend(template(o, true));
                cells
            },
        },
        "ReplicaSet" => Printer {
            columns: const {
                &[
                    text("Name"),
                    number("Desired"),
                    number("Current"),
                    number("Ready"),
                    text("Age"),
                    wide("Containers"),
                    wide("Images"),
                    wide("Selector"),
                ]
            },
            cells: |o| {
                let mut cells = vec![
                    json!(name(o)),
                    json!(count(o, "/spec/replicas")),
                    json!(count(o, "/status/replicas")),
                    json!(count(o, "/status/readyReplicas")),
                    json!(age(o)),
                ];
                cells.extend(template(o, true));
                cells
            },
        },
        "DaemonSet" => Printer {
            columns: const {
                &[
                    text("Name"),
                    number("Desired"),
                    number("Current"),
                    number("Ready"),
                    number("Up-to-date"),
                    number("Available"),
                    text("Node Selector"),
                    text("Age"),
                    wide("Containers"),
                    wide("Images"),
                    wide("Selector"),
                ]
            },
            cells: |o| {
                let mut cells = vec![
                    json!(name(o)),
                    json!(count(o, "/status/desiredNumberScheduled")),
                    json!(count(o, "/status/currentNumberScheduled")),
                    json!(count(o, "/status/numberReady")),
                    json!(count(o, "/status/updatedNumberScheduled")),
                    json!(count(o, "/status/numberAvailable")),
                    json!(selector(o, "/spec/template/spec/nodeSelector")),
                    json!(age(o)),
                ];
                cells.extend(template(o, true));
                cells
            },
        },
        "StatefulSet" => Printer {
            columns: const { &[text("Name"), text("Ready"), text("Age"), wide("Containers"), wide("Images")] },
            cells: |o| {
                let ready = format!("{}/{}", count(o, "/status/readyReplicas"), count(o, "/spec/replicas"));
                let mut cells = vec![json!(name(o)), json!(ready), json!(age(o))];
                cells.extend(template(o, false));
                cells
            },
        },
        "Job" => Printer {
            columns: const {
                &[
                    text("Name"),
                    text("Status"),
                    text("Completions"),
                    text("Duration"),
                    text("Age"),
                    wide("Containers"),
                    wide("Images"),
                    wide("Selector"),
                ]
            },
            cells: job,
        },
        "ControllerRevision" => Printer {
            columns: const { &[text("Name"), text("Controller"), number("Revision"), text("Age")] },
            cells: |o| {
                let owner = meta::list(o, "/metadata/ownerReferences").first();
                let owner = owner.map_or_else(String::new, |owner| {
                    format!("{}/{}", meta::text(owner, "/kind").to_lowercase(), meta::text(owner, "/name"))
                });
                vec![json!(name(o)), json!(owner), json!(count(o, "/revision")), json!(age(o))]
            },
        },
        _ => return None,
    })
}

fn count(object: &Value, pointer: &str) -> i64 {
    meta::number(object, pointer).unwrap_or(0)
}

fn template(object: &Value, with_selector: bool) -> Vec<Value> {
    let containers = meta::list(object, "/spec/template/spec/containers");
    let mut cells = vec![
        json!(joined(containers.iter().map(|container| meta::text(container, "/name")))),
        json!(joined(containers.iter().map(|container| meta::text(container, "/image")))),
    ];
    if with_selector {
        cells.push(json!(selector(object, "/spec/selector/matchLabels")));
    }
    cells
}

fn job(job: &Value) -> Vec<Value> {
    let is = |kind: &str| {
        meta::list(job, "/status/conditions")
            .iter()
            .any(|item| meta::text(item, "/type") == kind && meta::text(item, "/status") == "True")
    };
    let status = if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if meta::is_deleting(job) {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else {
        "Running"
    };
    let wanted = meta::number(job, "/spec/completions").unwrap_or(1);
    let second =
        |pointer: &str| meta::text(job, pointer).parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second);
    let took = second("/status/startTime").map(|start| {
        let end = second("/status/completionTime").unwrap_or_else(|| jiff::Timestamp::now().as_second());
        duration(end - start)
    });
    let mut cells = vec![
        json!(name(job)),
        json!(status),
        json!(format!("{}/{wanted}", count(job, "/status/succeeded"))),
        json!(took.unwrap_or_default()),
        json!(age(job)),
    ];
    cells.extend(template(job, true));
    cells
}
