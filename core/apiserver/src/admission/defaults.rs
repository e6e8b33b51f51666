//! Defaults that `kubectl get -o yaml` shows.

use serde_json::{Map, Value, json};

use crate::kinds::Kind;
use crate::meta::{as_map, child, default};

type Object = Map<String, Value>;

/// Sets what is not set.
pub fn set(kind: &Kind, object: &mut Value) {
    let map = as_map(object);
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Pod") => {
            let spec = child(map, "spec");
            pod_spec(spec);
            default(spec, "enableServiceLinks", true);
        }
        ("", "Service") => service(child(map, "spec")),
        ("", "Namespace") => {
            let name = map.get("metadata").and_then(|metadata| metadata.get("name")).cloned().unwrap_or_default();
            child(child(map, "metadata"), "labels").insert("kubernetes.io/metadata.name".into(), name);
            default(child(map, "spec"), "finalizers", json!(["kubernetes"]));
            default(child(map, "status"), "phase", "Active");
        }
        ("", "Secret") => {
            default(map, "type", "Opaque");
            if let Some(Value::Object(plain)) = map.shift_remove("stringData") {
                use base64::Engine;
                let data = child(map, "data");
                for (key, value) in plain {
                    let bytes = value.as_str().unwrap_or("").as_bytes();
                    data.insert(key, base64::prelude::BASE64_STANDARD.encode(bytes).into());
                }
            }
        }
        ("apps", name) => workload(name, child(map, "spec")),
        ("batch", "Job") => job(child(map, "spec")),
        ("networking.k8s.io", "NetworkPolicy") => policy(child(map, "spec")),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => {
            let group = json!("rbac.authorization.k8s.io");
            default(child(map, "roleRef"), "apiGroup", group.clone());
            for subject in objects(map, "subjects") {
                if subject.get("kind").is_some_and(|kind| kind != "ServiceAccount") {
                    default(subject, "apiGroup", group.clone());
                }
            }
        }
        ("discovery.k8s.io", "EndpointSlice") => {
            for port in objects(map, "ports") {
                default(port, "protocol", "TCP");
                default(port, "name", "");
            }
        }
        ("", "Endpoints") => {
            for subset in objects(map, "subsets") {
                for port in objects(subset, "ports") {
                    default(port, "protocol", "TCP");
                }
            }
        }
        _ => {}
    }
}

/// The maps in a list.
fn objects<'a>(map: &'a mut Object, field: &str) -> impl Iterator<Item = &'a mut Object> + use<'a> {
    map.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

/// A map that is there.
fn existing<'a>(map: &'a mut Object, field: &str) -> Option<&'a mut Object> {
    map.get_mut(field).and_then(Value::as_object_mut)
}

fn pod_spec(spec: &mut Object) {
    default(spec, "restartPolicy", "Always");
    default(spec, "terminationGracePeriodSeconds", 30);
    default(spec, "dnsPolicy", "ClusterFirst");
    default(spec, "securityContext", json!({}));
    default(spec, "schedulerName", "default-scheduler");
    if let Some(name) = spec.get("serviceAccountName").cloned() {
        default(spec, "serviceAccount", name);
    } else if let Some(name) = spec.get("serviceAccount").cloned() {
        spec.insert("serviceAccountName".into(), name);
    }
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for field in ["initContainers", "containers"] {
        for one in objects(spec, field) {
            container(one, host_network);
        }
    }
    for volume in objects(spec, "volumes") {
        for field in ["secret", "configMap", "projected", "downwardAPI"] {
            if let Some(source) = existing(volume, field) {
                default(source, "defaultMode", 0o644);
            }
        }
        if let Some(source) = existing(volume, "hostPath") {
            default(source, "type", "");
        }
    }
}

fn container(container: &mut Object, host_network: bool) {
    default(container, "terminationMessagePath", "/dev/termination-log");
    default(container, "terminationMessagePolicy", "File");
    default(container, "resources", json!({}));
    let image = container.get("image").and_then(Value::as_str).unwrap_or("");
    let name = image.rsplit_once('/').map_or(image, |(_, name)| name);
    let latest = !image.contains('@') && name.split_once(':').is_none_or(|(_, tag)| tag == "latest");
    default(container, "imagePullPolicy", if latest { "Always" } else { "IfNotPresent" });
    for port in objects(container, "ports") {
        default(port, "protocol", "TCP");
        if host_network && let Some(number) = port.get("containerPort").cloned() {
            default(port, "hostPort", number);
        }
    }
    for env in objects(container, "env") {
        if let Some(field) = existing(env, "valueFrom").and_then(|from| existing(from, "fieldRef")) {
            default(field, "apiVersion", "v1");
        }
    }
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = existing(container, field) else { continue };
        for (field, value) in
            [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
        {
            // Zero means "the default", as in Kubernetes.
            if probe.get(field).is_some_and(|value| value == 0) {
                probe.shift_remove(field);
            }
            default(probe, field, value);
        }
        http_get(probe);
        if let Some(grpc) = existing(probe, "grpc") {
            default(grpc, "service", "");
        }
    }
    if let Some(lifecycle) = existing(container, "lifecycle") {
        for field in ["postStart", "preStop"] {
            if let Some(hook) = existing(lifecycle, field) {
                http_get(hook);
            }
        }
    }
    // Limits without requests are requests as well.
    if let Some(resources) = existing(container, "resources")
        && let Some(limits) = existing(resources, "limits").cloned()
    {
        let requests = child(resources, "requests");
        for (name, value) in limits {
            default(requests, &name, value);
        }
    }
}

fn http_get(probe: &mut Object) {
    if let Some(get) = existing(probe, "httpGet") {
        default(get, "path", "/");
        default(get, "scheme", "HTTP");
    }
}

fn service(spec: &mut Object) {
    default(spec, "type", "ClusterIP");
    default(spec, "sessionAffinity", "None");
    if spec["sessionAffinity"] == "ClientIP" {
        default(child(child(spec, "sessionAffinityConfig"), "clientIP"), "timeoutSeconds", 10800);
    } else {
        spec.shift_remove("sessionAffinityConfig");
    }
    let kind = spec["type"].as_str().unwrap_or("").to_owned();
    if kind != "ExternalName" {
        default(spec, "internalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        default(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        default(spec, "allocateLoadBalancerNodePorts", true);
    }
    let headless = spec.get("clusterIP").is_some_and(|address| address == "None");
    for port in objects(spec, "ports") {
        default(port, "protocol", "TCP");
        let number = port.get("port").cloned().unwrap_or_default();
        if port.get("targetPort").is_some_and(|target| target == 0 || target == "")
            || headless && port.get("targetPort").is_none()
        {
            port.shift_remove("targetPort");
        }
        default(port, "targetPort", number);
    }
}

fn workload(kind: &str, spec: &mut Object) {
    if matches!(kind, "Deployment" | "ReplicaSet" | "DaemonSet" | "StatefulSet") {
        pod_spec(child(child(spec, "template"), "spec"));
    }
    match kind {
        "Deployment" => {
            default(spec, "replicas", 1);
            default(spec, "revisionHistoryLimit", 10);
            default(spec, "progressDeadlineSeconds", 600);
            let strategy = child(spec, "strategy");
            default(strategy, "type", "RollingUpdate");
            if strategy["type"] == "RollingUpdate" {
                let rolling = child(strategy, "rollingUpdate");
                default(rolling, "maxUnavailable", "25%");
                default(rolling, "maxSurge", "25%");
            }
        }
        "ReplicaSet" => default(spec, "replicas", 1),
        "DaemonSet" => {
            default(spec, "revisionHistoryLimit", 10);
            let strategy = child(spec, "updateStrategy");
            default(strategy, "type", "RollingUpdate");
            if strategy["type"] == "RollingUpdate" {
                let rolling = child(strategy, "rollingUpdate");
                default(rolling, "maxUnavailable", 1);
                default(rolling, "maxSurge", 0);
            }
        }
        "StatefulSet" => {
            default(spec, "replicas", 1);
            default(spec, "revisionHistoryLimit", 10);
            default(spec, "podManagementPolicy", "OrderedReady");
            let strategy = child(spec, "updateStrategy");
            default(strategy, "type", "RollingUpdate");
            if strategy["type"] == "RollingUpdate" {
                default(child(strategy, "rollingUpdate"), "partition", 0);
            }
        }
        _ => {}
    }
}

fn job(spec: &mut Object) {
    pod_spec(child(child(spec, "template"), "spec"));
    default(spec, "backoffLimit", 6);
    default(spec, "completionMode", "NonIndexed");
    default(spec, "suspend", false);
    if !spec.contains_key("completions") && !spec.contains_key("parallelism") {
        default(spec, "completions", 1);
    }
    default(spec, "parallelism", 1);
    default(spec, "podReplacementPolicy", "TerminatingOrFailed");
}

fn policy(spec: &mut Object) {
    default(spec, "podSelector", json!({}));
    let some =
        |spec: &Object, field: &str| spec.get(field).and_then(Value::as_array).is_some_and(|all| !all.is_empty());
    let egress = some(spec, "egress");
    if !some(spec, "policyTypes") {
        spec.shift_remove("policyTypes");
    }
    default(spec, "policyTypes", if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
    for field in ["ingress", "egress"] {
        for rule in objects(spec, field) {
            for port in objects(rule, "ports") {
                default(port, "protocol", "TCP");
            }
        }
    }
}
