//! What a node's agent may do: read what it needs to run pods, write what is its own.

use crate::meta;
use crate::server::Inner;

use super::User;
use super::rbac::Attributes;

/// What this module thinks.
pub enum Answer {
    Allow,
    Deny,
    NoOpinion,
}

/// Judges a request of a node's agent.
pub fn allows(server: &Inner, user: &User, wanted: &Attributes) -> Answer {
    let Some(node) = user.node() else { return Answer::NoOpinion };
    let reads = matches!(wanted.verb.as_str(), "get" | "list" | "watch");
    let writes = matches!(wanted.verb.as_str(), "create" | "update" | "patch" | "delete");
    let answer = |yes: bool| if yes { Answer::Allow } else { Answer::Deny };
    match (wanted.group.as_str(), wanted.resource.as_str(), wanted.subresource.as_str()) {
        ("", "nodes", "" | "status") if writes => answer(wanted.verb == "create" || wanted.name == node),
        ("", "nodes", _) if reads => Answer::Allow,
        ("", "pods", "") if reads => Answer::Allow,
        // Its pods' status; a pod that is done may go.
        ("", "pods", "status") if writes => answer(pod_is_on(server, wanted, node)),
        ("", "pods", "") if wanted.verb == "delete" => answer(pod_is_on(server, wanted, node)),
        ("", "pods", _) => Answer::Deny,
        ("", "services" | "endpoints" | "namespaces" | "serviceaccounts", "") if reads => Answer::Allow,
        ("", "configmaps" | "secrets", "") if reads => answer(a_pod_needs(server, wanted, node)),
        ("", "serviceaccounts", "token") if wanted.verb == "create" => answer(account_is_used(server, wanted, node)),
        ("" | "events.k8s.io", "events", "") if wanted.verb != "delete" => Answer::Allow,
        ("discovery.k8s.io", "endpointslices", "") if reads => Answer::Allow,
        ("networking.k8s.io", "networkpolicies" | "ingresses", "") if reads => Answer::Allow,
        (switchyard_api::names::GROUP, _, "") if reads => Answer::Allow,
        // What is in force on it; a patch, so that it need not repeat what others have written.
        (switchyard_api::names::GROUP, "securitypolicies", "status") => answer(wanted.verb == "patch"),
        ("coordination.k8s.io", "leases", "") if wanted.namespace == switchyard_api::names::LEASE_NAMESPACE => {
            answer(reads || wanted.verb == "create" || wanted.name == node)
        }
        _ => Answer::NoOpinion,
    }
}

fn pod_is_on(server: &Inner, wanted: &Attributes, node: &str) -> bool {
    let pod = server.store.get(&format!("core/pods/{}/{}", wanted.namespace, wanted.name));
    // A pod that is gone may be asked about: the answer is 404.
    pod.is_none_or(|pod| pod.index.as_deref() == Some(node))
}

/// Whether a pod on the node uses the ConfigMap or Secret.
fn a_pod_needs(server: &Inner, wanted: &Attributes, node: &str) -> bool {
    if wanted.name.is_empty() || wanted.namespace.is_empty() {
        return false;
    }
    let fields: &[&str] = if wanted.resource == "secrets" {
        &["secret", "secretRef", "secretKeyRef"]
    } else {
        &["configMap", "configMapRef", "configMapKeyRef"]
    };
    if wanted.name == "kube-root-ca.crt" && wanted.resource == "configmaps" {
        return true;
    }
    let (pods, _) = server.store.list(&format!("core/pods/{}/", wanted.namespace));
    pods.iter().filter(|pod| pod.index.as_deref() == Some(node)).any(|pod| {
        let spec = pod.value.get("spec").unwrap_or(&serde_json::Value::Null);
        mentions(spec, fields, &wanted.name)
            || meta::list(spec, "/imagePullSecrets").iter().any(|secret| meta::text(secret, "/name") == wanted.name)
    })
}

fn mentions(value: &serde_json::Value, fields: &[&str], name: &str) -> bool {
    use serde_json::Value;
    match value {
        Value::Object(map) => map.iter().any(|(field, value)| {
            let named = fields.contains(&field.as_str())
                && (meta::text(value, "/name") == name || meta::text(value, "/secretName") == name);
            named || mentions(value, fields, name)
        }),
        Value::Array(list) => list.iter().any(|value| mentions(value, fields, name)),
        _ => false,
    }
}

fn account_is_used(server: &Inner, wanted: &Attributes, node: &str) -> bool {
    let (pods, _) = server.store.list(&format!("core/pods/{}/", wanted.namespace));
    pods.iter().any(|pod| {
        pod.index.as_deref() == Some(node) && meta::text(&pod.value, "/spec/serviceAccountName") == wanted.name
    })
}
