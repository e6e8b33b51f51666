//! The environment of a container: values, references, and `$(VAR)` in them and in the command.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, Pod, ResourceFieldSelector, Service, ServicePort};
use switchyard_api::Amount;

/// What environment variables may refer to, fetched beforehand; see [`references`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    /// Data of ConfigMaps, by name.
    pub(crate) config_maps: BTreeMap<String, BTreeMap<String, String>>,
    /// Data of Secrets, decoded, by name.
    pub(crate) secrets: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// The node's address.
    pub(crate) host_ip: String,
    /// The pod's address.
    pub(crate) pod_ip: String,
    /// What every container gets: the API server's address, for one.
    pub(crate) common: Vec<(String, String)>,
    /// The Services of the namespace, see [`links`].
    pub(crate) links: Vec<(String, String)>,
}

/// ConfigMaps and Secrets that a pod's containers read their environment from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct References {
    pub(crate) config_maps: BTreeSet<String>,
    pub(crate) secrets: BTreeSet<String>,
}

/// A reference that leads nowhere; a container with one waits with CreateContainerConfigError.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EnvError {
    #[error("configmap {0:?} not found")]
    NoConfigMap(String),
    #[error("secret {0:?} not found")]
    NoSecret(String),
    #[error("couldn't find key {key} in {kind} {name}")]
    NoKey { kind: &'static str, name: String, key: String },
    #[error(
        "env {name}: fieldPath {path:?} is not supported: use metadata.name, .namespace, .uid, .labels['K'], .annotations['K'], spec.nodeName, spec.serviceAccountName, status.hostIP or status.podIP"
    )]
    Field { name: String, path: String },
    #[error(
        "env {name}: resource {resource:?} is not supported: use limits.cpu, limits.memory, requests.cpu or requests.memory"
    )]
    Resource { name: String, resource: String },
}

/// What has to be fetched before [`resolve`].
pub(crate) fn references(pod: &Pod) -> References {
    let mut references = References::default();
    let spec = pod.spec.iter();
    for container in spec.flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers)) {
        for from in container.env_from.iter().flatten() {
            references.config_maps.extend(from.config_map_ref.as_ref().map(|r| r.name.clone()));
            references.secrets.extend(from.secret_ref.as_ref().map(|r| r.name.clone()));
        }
        for source in container.env.iter().flatten().filter_map(|var| var.value_from.as_ref()) {
            references.config_maps.extend(source.config_map_key_ref.as_ref().map(|r| r.name.clone()));
            references.secrets.extend(source.secret_key_ref.as_ref().map(|r| r.name.clone()));
        }
    }
    references
}

/// The environment of one container, later entries winning over earlier ones: what is common, `envFrom`, `env`.
pub(crate) fn resolve(pod: &Pod, container: &Container, sources: &Sources) -> Result<Vec<(String, String)>, EnvError> {
    let mut env = Environment::default();
    env.set("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    env.set("HOSTNAME", pod.metadata.name.clone().unwrap_or_default());
    for (name, value) in sources.links.iter().chain(&sources.common) {
        env.set(name, value.clone());
    }
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &from.config_map_ref {
            match sources.config_maps.get(&reference.name) {
                Some(data) => data.iter().for_each(|(key, value)| env.set(&format!("{prefix}{key}"), value.clone())),
                None if reference.optional == Some(true) => {}
                None => return Err(EnvError::NoConfigMap(reference.name.clone())),
            }
        }
        if let Some(reference) = &from.secret_ref {
            match sources.secrets.get(&reference.name) {
                Some(data) => data.iter().for_each(|(key, value)| env.set(&format!("{prefix}{key}"), text(value))),
                None if reference.optional == Some(true) => {}
                None => return Err(EnvError::NoSecret(reference.name.clone())),
            }
        }
    }
    for var in container.env.iter().flatten() {
        let value = match &var.value_from {
            Some(source) => referred(pod, container, var, source, sources)?,
            None => Some(expand(var.value.as_deref().unwrap_or_default(), &env.0)),
        };
        if let Some(value) = value {
            env.set(&var.name, value);
        }
    }
    Ok(env.0)
}

/// The variables that name Services, as Docker's links did.
///
/// As k8s.io/kubernetes/pkg/kubelet/envvars.
pub(crate) fn links(services: &[Service]) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    for service in services {
        let spec = service.spec.as_ref();
        let address = spec.and_then(|spec| spec.cluster_ip.as_deref()).filter(|ip| !matches!(*ip, "" | "None"));
        let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
        let (Some(address), [first, ..], Some(name)) = (address, ports, &service.metadata.name) else { continue };
        let name = variable(name);
        let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        let url = |port: &ServicePort| format!("{}://{host}:{}", protocol(port), port.port);
        variables.push((format!("{name}_SERVICE_HOST"), address.to_owned()));
        variables.push((format!("{name}_SERVICE_PORT"), first.port.to_string()));
        for port in ports {
            if let Some(label) = port.name.as_deref().filter(|label| !label.is_empty()) {
                variables.push((format!("{name}_SERVICE_PORT_{}", variable(label)), port.port.to_string()));
            }
        }
        variables.push((format!("{name}_PORT"), url(first)));
        for port in ports {
            let prefix = format!("{name}_PORT_{}_{}", port.port, protocol(port).to_uppercase());
            variables.push((prefix.clone(), url(port)));
            variables.push((format!("{prefix}_PROTO"), protocol(port)));
            variables.push((format!("{prefix}_PORT"), port.port.to_string()));
            variables.push((format!("{prefix}_ADDR"), address.to_owned()));
        }
    }
    variables
}

fn variable(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

fn protocol(port: &ServicePort) -> String {
    port.protocol.as_deref().unwrap_or("TCP").to_lowercase()
}

/// Replaces `$(NAME)` by the variable's value; `$$(NAME)` stands for itself, an unknown name stays.
///
/// As k8s.io/kubernetes/third_party/forked/golang/expansion.
pub(crate) fn expand(text: &str, env: &[(String, String)]) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        expanded.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            expanded.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match env.iter().find(|(known, _)| known == name) {
                Some((_, value)) => expanded.push_str(value),
                None => expanded.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            expanded.push('$');
        }
    }
    expanded + rest
}

/// The value of a downward API field, `None` for one that does not exist.
pub(crate) fn field(pod: &Pod, path: &str, sources: &Sources) -> Option<String> {
    let metadata = &pod.metadata;
    let entry = |map: &Option<BTreeMap<String, String>>, key: &str| {
        map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default()
    };
    let subscript = |prefix: &str| path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']");
    if let Some(key) = subscript("metadata.labels") {
        return Some(entry(&metadata.labels, key));
    }
    if let Some(key) = subscript("metadata.annotations") {
        return Some(entry(&metadata.annotations, key));
    }
    let spec = pod.spec.as_ref();
    Some(match path {
        "metadata.name" => metadata.name.clone().unwrap_or_default(),
        "metadata.namespace" => metadata.namespace.clone().unwrap_or_default(),
        "metadata.uid" => metadata.uid.clone().unwrap_or_default(),
        "metadata.labels" => lines(&metadata.labels),
        "metadata.annotations" => lines(&metadata.annotations),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default(),
        "status.hostIP" | "status.hostIPs" => sources.host_ip.clone(),
        "status.podIP" | "status.podIPs" => sources.pod_ip.clone(),
        _ => return None,
    })
}

fn referred(
    pod: &Pod,
    container: &Container,
    var: &EnvVar,
    source: &EnvVarSource,
    sources: &Sources,
) -> Result<Option<String>, EnvError> {
    if let Some(reference) = &source.field_ref {
        let path = reference.field_path.clone();
        return match field(pod, &path, sources) {
            Some(value) => Ok(Some(value)),
            None => Err(EnvError::Field { name: var.name.clone(), path }),
        };
    }
    if let Some(reference) = &source.resource_field_ref {
        return resource(container, reference)
            .map(Some)
            .ok_or_else(|| EnvError::Resource { name: var.name.clone(), resource: reference.resource.clone() });
    }
    if let Some(reference) = &source.config_map_key_ref {
        let optional = reference.optional == Some(true);
        let map = sources.config_maps.get(&reference.name);
        return match (map, map.and_then(|map| map.get(&reference.key))) {
            (_, Some(value)) => Ok(Some(value.clone())),
            _ if optional => Ok(None),
            (None, _) => Err(EnvError::NoConfigMap(reference.name.clone())),
            _ => Err(no_key("ConfigMap", &reference.name, &reference.key)),
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let optional = reference.optional == Some(true);
        let map = sources.secrets.get(&reference.name);
        return match (map, map.and_then(|map| map.get(&reference.key))) {
            (_, Some(value)) => Ok(Some(text(value))),
            _ if optional => Ok(None),
            (None, _) => Err(EnvError::NoSecret(reference.name.clone())),
            _ => Err(no_key("Secret", &reference.name, &reference.key)),
        };
    }
    Ok(Some(String::new()))
}

/// A limit or request in units of the divisor, rounded up.
pub(crate) fn resource(container: &Container, selector: &ResourceFieldSelector) -> Option<String> {
    let (which, name) = selector.resource.split_once('.')?;
    let resources = container.resources.as_ref();
    let quantities = match which {
        "limits" => resources.and_then(|r| r.limits.as_ref()),
        "requests" => resources.and_then(|r| r.requests.as_ref()),
        _ => return None,
    };
    if !matches!(name, "cpu" | "memory" | "ephemeral-storage") {
        return None;
    }
    let milli = |text: &str| Amount::parse(text).map(Amount::milli);
    let value = quantities.and_then(|q| q.get(name)).and_then(|q| milli(&q.0)).unwrap_or(0);
    let divisor = selector.divisor.as_ref().and_then(|d| milli(&d.0)).filter(|d| *d > 0).unwrap_or(1000);
    Some(((value + divisor - 1) / divisor).to_string())
}

fn no_key(kind: &'static str, name: &str, key: &str) -> EnvError {
    EnvError::NoKey { kind, name: name.to_owned(), key: key.to_owned() }
}

fn lines(map: &Option<BTreeMap<String, String>>) -> String {
    map.iter().flatten().map(|(key, value)| format!("{key}={value:?}\n")).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Variables in the order in which they were first set; a later value replaces an earlier one.
#[derive(Default)]
struct Environment(Vec<(String, String)>);

impl Environment {
    fn set(&mut self, name: &str, value: String) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(container: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "labels": {"app": "w"}},
            "spec": {"nodeName": "n1", "containers": [container]},
        }))
        .unwrap()
    }

    fn resolved(container: serde_json::Value) -> Result<BTreeMap<String, String>, EnvError> {
        let pod = pod(container);
        let sources = Sources {
            config_maps: [("cm".to_owned(), [("k".to_owned(), "v".to_owned())].into())].into(),
            secrets: [("s".to_owned(), [("p".to_owned(), b"w".to_vec())].into())].into(),
            pod_ip: "10.40.1.2".into(),
            ..Sources::default()
        };
        resolve(&pod, &pod.spec.as_ref().unwrap().containers[0], &sources).map(|env| env.into_iter().collect())
    }

    #[test]
    fn references_and_values_resolve() {
        let env = resolved(json!({"name": "c",
        "resources": {"limits": {"memory": "64Mi", "cpu": "1500m"}},
        "envFrom": [{"prefix": "X_", "configMapRef": {"name": "cm"}}, {"secretRef": {"name": "no", "optional": true}}],
        "env": [
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "PASS", "valueFrom": {"secretKeyRef": {"name": "s", "key": "p"}}},
            {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
            {"name": "URL", "value": "http://$(IP)/$(NOPE)?$$(IP)"},
        ]}))
        .unwrap();
        assert_eq!(env["X_k"], "v");
        assert_eq!(env["APP"], "w");
        assert_eq!(env["PASS"], "w");
        assert_eq!((env["MEM"].as_str(), env["CPU"].as_str()), ("64", "2"));
        assert_eq!(env["URL"], "http://10.40.1.2/$(NOPE)?$(IP)");
        assert_eq!(env["HOSTNAME"], "web");
    }

    #[test]
    fn services_are_named_as_links() {
        let services: Vec<Service> = serde_json::from_value(json!([
            {"metadata": {"name": "my-db"}, "spec": {"clusterIP": "10.96.0.7", "ports": [
                {"name": "main", "port": 5432}, {"name": "dns-tcp", "port": 53, "protocol": "UDP"},
            ]}},
            {"metadata": {"name": "headless"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}},
        ]))
        .unwrap();
        let env: BTreeMap<_, _> = links(&services).into_iter().collect();
        let of = |name: &str| env.get(name).map(String::as_str);
        assert_eq!((of("MY_DB_SERVICE_HOST"), of("MY_DB_SERVICE_PORT")), (Some("10.96.0.7"), Some("5432")));
        assert_eq!((of("MY_DB_SERVICE_PORT_DNS_TCP"), of("MY_DB_PORT")), (Some("53"), Some("tcp://10.96.0.7:5432")));
        assert_eq!((of("MY_DB_PORT_53_UDP"), of("MY_DB_PORT_53_UDP_PROTO")), (Some("udp://10.96.0.7:53"), Some("udp")));
        assert!(!env.keys().any(|name| name.starts_with("HEADLESS")), "{env:?}");
    }

    #[test]
    fn a_reference_to_nothing_is_named() {
        let of = |source| {
            resolved(json!({"name": "c", "env": [{"name": "A", "valueFrom": source}]})).unwrap_err().to_string()
        };
        assert_eq!(of(json!({"secretKeyRef": {"name": "x", "key": "p"}})), "secret \"x\" not found");
        assert_eq!(of(json!({"configMapKeyRef": {"name": "cm", "key": "z"}})), "couldn't find key z in ConfigMap cm");
        assert!(of(json!({"fieldRef": {"fieldPath": "spec.nope"}})).contains("\"spec.nope\" is not supported"));
    }
}
