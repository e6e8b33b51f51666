//! What makes pods a Job's own: a selector, and labels of its template, that the server gives.

use serde_json::{Map, Value, json};

use crate::meta::{self, as_map, child};

const UID: &str = "batch.kubernetes.io/controller-uid";
/// All labels; those without a prefix are older.
const LABELS: [&str; 4] = [UID, "batch.kubernetes.io/job-name", "controller-uid", "job-name"];

/// On creation, unless its author sees to that.
pub(super) fn mutate(job: &mut Value) {
    if job["spec"]["manualSelector"] == true || !job["spec"]["selector"].is_null() {
        return;
    }
    let (uid, name) = (meta::text(job, "/metadata/uid").to_owned(), meta::name(job).to_owned());
    child(as_map(job), "spec").insert("selector".into(), json!({"matchLabels": {UID: uid}}));
    for label in LABELS {
        let value = if label.ends_with("uid") { &uid } else { &name };
        labels(job).insert(label.into(), value.as_str().into());
    }
}

/// A manifest that takes the Job's place does not name them.
pub(super) fn keep(old: &Value, new: &mut Value) {
    if new["spec"]["selector"].is_null() && !old["spec"]["selector"].is_null() {
        child(as_map(new), "spec").insert("selector".into(), old["spec"]["selector"].clone());
    }
    let given = &old["spec"]["template"]["metadata"]["labels"];
    for label in LABELS.into_iter().filter(|label| !given[label].is_null()) {
        labels(new).entry(label).or_insert_with(|| given[label].clone());
    }
}

fn labels(job: &mut Value) -> &mut Map<String, Value> {
    child(child(child(child(as_map(job), "spec"), "template"), "metadata"), "labels")
}
