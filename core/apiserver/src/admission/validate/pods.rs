//! Pods and templates of pods.

use std::collections::HashSet;

use serde_json::Value;

use crate::admission::limits;
use crate::meta;
use crate::registry::is_dns_label;
use crate::status::FieldErrors;

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
/// Containers of a pod at most: more serves nobody but who attacks.
const MOST_CONTAINERS: usize = 256;

/// Checks the pod spec at `pointer` of `object`; `path` is how errors name it.
pub fn spec(object: &Value, path: &str, pointer: &str, errors: &mut FieldErrors) {
    let Some(spec) = object.pointer(pointer) else { return errors.required(path, "") };
    let containers = meta::list(spec, "/containers");
    if containers.is_empty() {
        errors.required(format!("{path}.containers"), "");
    }
    if containers.len() > MOST_CONTAINERS {
        errors.invalid(
            format!("{path}.containers"),
            containers.len(),
            &format!("must have at most {MOST_CONTAINERS} items"),
        );
    }
    if !meta::list(spec, "/ephemeralContainers").is_empty() {
        errors.forbidden(format!("{path}.ephemeralContainers"), "this cluster's nodes run no ephemeral containers");
    }
    let mut volumes = HashSet::new();
    for (at, volume) in meta::list(spec, "/volumes").iter().enumerate() {
        let name = meta::text(volume, "/name");
        let field = format!("{path}.volumes[{at}].name");
        label(name, &field, errors);
        if !name.is_empty() && !volumes.insert(name) {
            errors.duplicate(field, name);
        }
    }
    let mut names = HashSet::new();
    for field in ["initContainers", "containers"] {
        for (at, container) in meta::list(spec, &format!("/{field}")).iter().take(MOST_CONTAINERS).enumerate() {
            let path = format!("{path}.{field}[{at}]");
            let name = meta::text(container, "/name");
            label(name, &format!("{path}.name"), errors);
            if !name.is_empty() && !names.insert(name) {
                errors.duplicate(format!("{path}.name"), name);
            }
            self::container(container, &path, &volumes, errors);
        }
    }
    errors.one_of(
        format!("{path}.restartPolicy"),
        meta::text(spec, "/restartPolicy"),
        &["Always", "OnFailure", "Never"],
    );
    let policies = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    errors.one_of(format!("{path}.dnsPolicy"), meta::text(spec, "/dnsPolicy"), &policies);
    if meta::number(spec, "/terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0) {
        let seconds = meta::number(spec, "/terminationGracePeriodSeconds");
        errors.invalid(format!("{path}.terminationGracePeriodSeconds"), seconds, "must be greater than or equal to 0");
    }
    for (at, toleration) in meta::list(spec, "/tolerations").iter().enumerate() {
        let path = format!("{path}.tolerations[{at}]");
        let operator = meta::text(toleration, "/operator");
        errors.one_of(format!("{path}.operator"), operator, &["Equal", "Exists"]);
        errors.one_of(
            format!("{path}.effect"),
            meta::text(toleration, "/effect"),
            &["NoSchedule", "PreferNoSchedule", "NoExecute"],
        );
        if meta::text(toleration, "/key").is_empty() && operator != "Exists" {
            errors.invalid(
                format!("{path}.operator"),
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
    }
    let hostname = meta::text(spec, "/hostname");
    if !hostname.is_empty() && !is_dns_label(hostname) {
        errors.invalid(format!("{path}.hostname"), hostname, LABEL);
    }
}

fn label(name: &str, path: &str, errors: &mut FieldErrors) {
    if name.is_empty() {
        errors.required(path, "");
    } else if !is_dns_label(name) {
        errors.invalid(path, name, LABEL);
    }
}

fn container(container: &Value, path: &str, volumes: &HashSet<&str>, errors: &mut FieldErrors) {
    if meta::text(container, "/image").trim().is_empty() {
        errors.required(format!("{path}.image"), "");
    }
    errors.one_of(
        format!("{path}.imagePullPolicy"),
        meta::text(container, "/imagePullPolicy"),
        &["Always", "IfNotPresent", "Never"],
    );
    let mut port_names = HashSet::new();
    for (at, port) in meta::list(container, "/ports").iter().enumerate() {
        let path = format!("{path}.ports[{at}]");
        match meta::number(port, "/containerPort") {
            None | Some(0) => errors.required(format!("{path}.containerPort"), ""),
            Some(number) => number_in_port_range(number, &format!("{path}.containerPort"), errors),
        }
        errors.one_of(format!("{path}.protocol"), meta::text(port, "/protocol"), &["SCTP", "TCP", "UDP"]);
        let name = meta::text(port, "/name");
        if !name.is_empty() && (name.len() > 15 || !is_dns_label(name)) {
            errors.invalid(format!("{path}.name"), name, "must be no more than 15 characters of a-z, 0-9 and '-'");
        }
        if !name.is_empty() && !port_names.insert(name) {
            errors.duplicate(format!("{path}.name"), name);
        }
    }
    for (at, env) in meta::list(container, "/env").iter().enumerate() {
        if meta::text(env, "/name").is_empty() {
            errors.required(format!("{path}.env[{at}].name"), "");
        }
        if !meta::text(env, "/value").is_empty() && env.get("valueFrom").is_some() {
            errors.invalid(format!("{path}.env[{at}].valueFrom"), "", "may not be specified when `value` is not empty");
        }
    }
    let mut mounts = HashSet::new();
    for (at, mount) in meta::list(container, "/volumeMounts").iter().enumerate() {
        let path = format!("{path}.volumeMounts[{at}]");
        let name = meta::text(mount, "/name");
        if name.is_empty() {
            errors.required(format!("{path}.name"), "");
        } else if !volumes.contains(name) {
            errors.not_found(format!("{path}.name"), name);
        }
        let target = meta::text(mount, "/mountPath");
        if target.is_empty() {
            errors.required(format!("{path}.mountPath"), "");
        } else if !mounts.insert(target) {
            errors.invalid(format!("{path}.mountPath"), target, "must be unique");
        }
    }
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get(field) {
            self::probe(probe, &format!("{path}.{field}"), field != "readinessProbe", errors);
        }
    }
    for side in ["requests", "limits"] {
        for (what, value) in meta::map(container, &format!("/resources/{side}")).into_iter().flatten() {
            let field = format!("{path}.resources.{side}[{what}]");
            match limits::amount(value) {
                None => errors.invalid(
                    field,
                    value.clone(),
                    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
                ),
                Some(amount) if amount.is_negative() => {
                    errors.invalid(field, value.clone(), "must be greater than or equal to 0")
                }
                Some(amount) if side == "requests" => {
                    let limit = container.pointer(&format!("/resources/limits/{what}")).and_then(limits::amount);
                    if limit.is_some_and(|limit| amount > limit) {
                        let why =
                            format!("must be less than or equal to {what} limit of {}", limit.unwrap_or_default());
                        errors.invalid(format!("{path}.resources.requests"), value.clone(), &why);
                    }
                }
                Some(_) => {}
            }
        }
    }
}

fn probe(probe: &Value, path: &str, one_success: bool, errors: &mut FieldErrors) {
    let handlers = ["httpGet", "tcpSocket", "exec", "grpc"].iter().filter(|field| probe.get(**field).is_some()).count();
    match handlers {
        0 => errors.required(path, "must specify a handler type"),
        1 => {}
        _ => errors.forbidden(path, "may not specify more than 1 handler type"),
    }
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        if let Some(number) = meta::number(probe, &format!("/{field}"))
            && number < 0
        {
            errors.invalid(format!("{path}.{field}"), number, "must be greater than or equal to 0");
        }
    }
    if one_success && meta::number(probe, "/successThreshold").is_some_and(|number| number > 1) {
        errors.invalid(format!("{path}.successThreshold"), meta::number(probe, "/successThreshold"), "must be 1");
    }
    for field in ["httpGet", "tcpSocket"] {
        if probe.get(field).is_none() {
            continue;
        }
        match probe.pointer(&format!("/{field}/port")) {
            None => errors.required(format!("{path}.{field}.port"), ""),
            Some(port) => {
                if let Some(number) = port.as_i64() {
                    number_in_port_range(number, &format!("{path}.{field}.port"), errors);
                }
            }
        }
    }
}

/// 1 to 65535.
pub fn number_in_port_range(number: i64, path: &str, errors: &mut FieldErrors) {
    if !(1..=65535).contains(&number) {
        errors.invalid(path, number, "must be between 1 and 65535, inclusive");
    }
}

/// A pod may change little once it is there.
pub fn update(old: &Value, new: &Value, errors: &mut FieldErrors) {
    let plain = |pod: &Value| {
        let mut spec = pod.get("spec").cloned().unwrap_or_default();
        if let Some(map) = spec.as_object_mut() {
            for field in ["tolerations", "activeDeadlineSeconds", "terminationGracePeriodSeconds", "schedulingGates"] {
                map.shift_remove(field);
            }
            for field in ["containers", "initContainers"] {
                for container in map.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
                    container.as_object_mut().map(|container| container.shift_remove("image"));
                }
            }
            // Binding goes its own way and only once.
            if meta::text(old, "/spec/nodeName").is_empty() {
                map.shift_remove("nodeName");
            }
        }
        spec
    };
    let more = meta::list(new, "/spec/tolerations");
    if !meta::list(old, "/spec/tolerations").iter().all(|toleration| more.contains(toleration)) {
        errors.forbidden("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds");
    }
    if plain(old) != plain(new) {
        errors.forbidden(
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
             `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
             `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
        );
    }
}
