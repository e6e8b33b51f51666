//! Checks of whole objects, in Kubernetes' words.

mod firewall;
mod pods;
mod policies;
mod rest;
mod segments;
mod selectors;

use serde_json::Value;
use switchyard_api::names::POD_IP;

use crate::kinds::Kind;
use crate::meta;
use crate::server::Inner;
use crate::status::FieldErrors;

/// Checks an object; `old` is there on updates.
pub fn object(server: &Inner, kind: &Kind, object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Pod") => {
            pods::spec(object, "spec", "/spec", errors);
            if let Some(old) = old {
                pods::update(old, object, errors);
            }
        }
        ("", "Service") => rest::service(object, old, errors),
        ("apps", "Deployment" | "ReplicaSet" | "DaemonSet" | "StatefulSet") => workload(kind, object, old, errors),
        ("batch", "Job") => job(object, old, errors),
        ("networking.k8s.io", "Ingress") => rest::ingress(object, errors),
        ("networking.k8s.io", "NetworkPolicy") => policies::network_policy(object, errors),
        ("", "ConfigMap" | "Secret") => rest::data(kind, object, old, errors),
        ("", "ResourceQuota") => rest::quota(object, errors),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => {
            if let Some(old) = old
                && old.get("roleRef") != object.get("roleRef")
            {
                errors.invalid("roleRef", object.get("roleRef").cloned().unwrap_or_default(), "cannot change roleRef");
            }
        }
        ("discovery.k8s.io", "EndpointSlice") => {
            let kind = meta::text(object, "/addressType");
            if kind.is_empty() {
                errors.required("addressType", "");
            }
            errors.one_of("addressType", kind, &["IPv4", "IPv6", "FQDN"]);
        }
        (switchyard_api::names::GROUP, "Network") => {
            if meta::name(object) != switchyard_api::names::NETWORK {
                let why = format!("the cluster's one network is named {:?}", switchyard_api::names::NETWORK);
                errors.invalid("metadata.name", meta::name(object), &why);
            }
            if meta::text(object, "/spec/plugin").is_empty() {
                errors.required("spec.plugin", "the name of a plugin on the search path, or a path to its file");
            }
        }
        (switchyard_api::names::GROUP, "SecurityPolicy") => firewall::security_policy(object, errors),
        (switchyard_api::names::GROUP, "Group") => firewall::group(object, errors),
        (switchyard_api::names::GROUP, "Segment") => segments::segment(server, object, old, errors),
        _ => {}
    }
}

fn job(object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let policy = meta::text(object, "/spec/template/spec/restartPolicy");
    if policy == "Always" {
        errors.unsupported("spec.template.spec.restartPolicy", policy, &["OnFailure", "Never"]);
    }
    selectors::of_pods(object, old, errors);
    template(object, errors);
    let Some(old) = old else { return };
    // A Job that waits to be started may still become another one.
    let waits = old["spec"]["suspend"] == true && old["status"]["startTime"].is_null();
    for field in ["selector", "template"] {
        let (before, after) = (&old["spec"][field], &object["spec"][field]);
        if before != after && !(waits && field == "template") {
            errors.invalid(format!("spec.{field}"), after.clone(), "field is immutable");
        }
    }
}

fn workload(kind: &Kind, object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let replicas = object.pointer("/spec/replicas");
    if let Some(number) = replicas
        && number.as_i64().is_none_or(|number| number < 0)
    {
        errors.invalid("spec.replicas", number.clone(), "must be greater than or equal to 0");
    }
    let selector = object.pointer("/spec/selector");
    let labels = meta::map(object, "/spec/selector/matchLabels");
    let expressions = meta::list(object, "/spec/selector/matchExpressions");
    if selector.is_none() {
        errors.required("spec.selector", "");
    } else if labels.is_none_or(serde_json::Map::is_empty) && expressions.is_empty() {
        let why = format!("empty selector is invalid for {}", kind.kind.to_lowercase());
        errors.invalid("spec.selector", selector.cloned().unwrap_or_default(), &why);
    }
    selectors::of_pods(object, old, errors);
    let policy = meta::text(object, "/spec/template/spec/restartPolicy");
    if policy != "Always" {
        errors.unsupported("spec.template.spec.restartPolicy", policy, &["Always"]);
    }
    if let Some(old) = old
        && old.pointer("/spec/selector") != selector
    {
        errors.invalid("spec.selector", selector.cloned().unwrap_or_default(), "field is immutable");
    }
    if kind.kind == "Deployment" {
        errors.one_of("spec.strategy.type", meta::text(object, "/spec/strategy/type"), &["Recreate", "RollingUpdate"]);
        let none = |field: &str| {
            let value = object.pointer(&format!("/spec/strategy/rollingUpdate/{field}"));
            value.is_some_and(|value| *value == 0 || *value == "0%" || *value == "0")
        };
        if none("maxUnavailable") && none("maxSurge") {
            let why = "may not be 0 when `maxSurge` is 0";
            errors.invalid("spec.strategy.rollingUpdate.maxUnavailable", 0, why);
        }
    }
    if kind.kind == "StatefulSet" {
        stateful(object, old, errors);
    }
    template(object, errors);
}

fn stateful(object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let policy = meta::text(object, "/spec/podManagementPolicy");
    errors.one_of("spec.podManagementPolicy", policy, &["OrderedReady", "Parallel"]);
    let strategy = meta::text(object, "/spec/updateStrategy/type");
    errors.one_of("spec.updateStrategy.type", strategy, &["OnDelete", "RollingUpdate"]);
    if !meta::list(object, "/spec/volumeClaimTemplates").is_empty() {
        let why = "there are no persistent volumes in a Switchyard cluster: use emptyDir volumes in the template";
        errors.forbidden("spec.volumeClaimTemplates", why);
    }
    let fixed = ["/spec/serviceName", "/spec/podManagementPolicy"];
    if old.is_some_and(|old| fixed.iter().any(|field| old.pointer(field) != object.pointer(field))) {
        let why = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
                   'revisionHistoryLimit' and 'minReadySeconds' are forbidden";
        errors.forbidden("spec", why);
    }
}

fn template(object: &Value, errors: &mut FieldErrors) {
    if let Some(template) = object.pointer("/spec/template") {
        if meta::map(template, "/metadata/annotations").is_some_and(|all| all.contains_key(POD_IP)) {
            let field = format!("spec.template.metadata.annotations[{POD_IP}]");
            errors.forbidden(field, "each pod gets an address of its own when it is bound");
        }
        pods::spec(template, "spec.template.spec", "/spec", errors);
    }
}
