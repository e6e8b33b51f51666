//! Which path a word or an object leads to. Everyday kinds are known; the API server is asked about the others.

use anyhow::{bail, ensure};
use serde_json::Value;

use super::{Api, JSON};

/// A kind of objects, as the API serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    pub(crate) kind: String,
    pub(crate) namespaced: bool,
}

/// Group and version, kind, plural, short names, whether it is namespaced.
type Known = (&'static str, &'static str, &'static str, &'static [&'static str], bool);

const KNOWN: [Known; 19] = [
    ("v1", "Pod", "pods", &["po"], true),
    ("v1", "Service", "services", &["svc"], true),
    ("v1", "Node", "nodes", &["no"], false),
    ("v1", "Namespace", "namespaces", &["ns"], false),
    ("v1", "ConfigMap", "configmaps", &["cm"], true),
    ("v1", "Secret", "secrets", &[], true),
    ("v1", "Event", "events", &["ev"], true),
    ("v1", "ServiceAccount", "serviceaccounts", &["sa"], true),
    ("v1", "ResourceQuota", "resourcequotas", &["quota"], true),
    ("apps/v1", "ReplicaSet", "replicasets", &["rs"], true),
    ("apps/v1", "Deployment", "deployments", &["deploy"], true),
    ("discovery.k8s.io/v1", "EndpointSlice", "endpointslices", &[], true),
    ("networking.k8s.io/v1", "Ingress", "ingresses", &["ing"], true),
    ("networking.k8s.io/v1", "IngressClass", "ingressclasses", &[], false),
    ("coordination.k8s.io/v1", "Lease", "leases", &[], true),
    ("switchyard.dev/v1alpha1", "Cluster", "clusters", &[], false),
    ("switchyard.dev/v1alpha1", "Network", "networks", &["net"], false),
    ("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", &[], false),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings", &[], false),
];

// === impl Kind ===

impl Kind {
    /// What a person calls it: `pod`, `pods`, `po`, `Pod`, `replicasets.apps`.
    pub(crate) async fn named(api: &Api, word: &str) -> anyhow::Result<Self> {
        let wanted = word.to_ascii_lowercase();
        let (name, group) = wanted.split_once('.').map_or((wanted.as_str(), None), |(name, group)| (name, Some(group)));
        let fits = |kind: &Self, short: &[&str]| {
            let named = kind.plural == name || kind.kind.to_ascii_lowercase() == name || short.contains(&name);
            named && group.is_none_or(|group| kind.group == group)
        };
        if let Some((kind, _)) =
            KNOWN.iter().map(|known| (Self::known(known), known.3)).find(|(kind, short)| fits(kind, short))
        {
            return Ok(kind);
        }
        for version in versions(api).await? {
            for (kind, short) in resources(api, &version).await? {
                let short: Vec<_> = short.iter().map(String::as_str).collect();
                if fits(&kind, &short) {
                    return Ok(kind);
                }
            }
        }
        bail!("{word}: the API server has no such kind")
    }

    /// The kind of an object.
    pub(crate) async fn of(api: &Api, object: &Value) -> anyhow::Result<Self> {
        let (version, kind) = (object["apiVersion"].as_str().unwrap_or(""), object["kind"].as_str().unwrap_or(""));
        for (field, value, like) in [("apiVersion", version, "v1 or apps/v1"), ("kind", kind, "Pod")] {
            ensure!(!value.is_empty(), "{field}: missing, would be a word such as {like}, in {}", brief(object));
        }
        if let Some(known) = KNOWN.iter().find(|known| known.0 == version && known.1 == kind) {
            return Ok(Self::known(known));
        }
        let served = resources(api, version).await?;
        match served.into_iter().find(|(served, _)| served.kind == kind) {
            Some((found, _)) => Ok(found),
            None => bail!("{version} {kind}: the API server has no such kind"),
        }
    }

    fn known(&(version, kind, plural, _, namespaced): &Known) -> Self {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        Self { group: group.into(), version: version.into(), plural: plural.into(), kind: kind.into(), namespaced }
    }

    /// The path of a list; no namespace means all of them.
    pub(crate) fn path(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() { "/api".into() } else { format!("/apis/{}", self.group) };
        let within =
            namespace.filter(|_| self.namespaced).map(|name| format!("namespaces/{name}/")).unwrap_or_default();
        format!("{root}/{}/{within}{}", self.version, self.plural)
    }

    /// How kubectl names an object of this kind: `pod/web`, `replicaset.apps/web`.
    pub(crate) fn title(&self, name: &str) -> String {
        let dot = if self.group.is_empty() { "" } else { "." };
        format!("{}{dot}{}/{name}", self.kind.to_ascii_lowercase(), self.group)
    }
}

async fn versions(api: &Api) -> anyhow::Result<Vec<String>> {
    let groups = api.get("/apis", JSON).await?;
    let preferred = groups["groups"].as_array().into_iter().flatten();
    let preferred = preferred.filter_map(|group| group["preferredVersion"]["groupVersion"].as_str().map(str::to_owned));
    Ok(std::iter::once("v1".to_owned()).chain(preferred).collect())
}

async fn resources(api: &Api, version: &str) -> anyhow::Result<Vec<(Kind, Vec<String>)>> {
    let root = if version.contains('/') { "/apis" } else { "/api" };
    let Some(list) = api.find(&format!("{root}/{version}")).await? else { return Ok(Vec::new()) };
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let resources = list["resources"].as_array().into_iter().flatten();
    let kinds = resources.filter_map(|resource| {
        let plural = resource["name"].as_str().filter(|name| !name.contains('/'))?;
        let short =
            resource["shortNames"].as_array().into_iter().flatten().filter_map(|s| s.as_str().map(str::to_owned));
        let kind = Kind {
            group: group.into(),
            version: version.into(),
            plural: plural.into(),
            kind: resource["kind"].as_str()?.into(),
            namespaced: resource["namespaced"].as_bool().unwrap_or(false),
        };
        Some((kind, short.collect()))
    });
    Ok(kinds.collect())
}

fn brief(object: &Value) -> String {
    object.to_string().chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_titles_are_kubernetes_own() {
        let kind = |name: &str| Kind::known(KNOWN.iter().find(|known| known.1 == name).unwrap());
        assert_eq!(kind("Pod").path(Some("a")), "/api/v1/namespaces/a/pods");
        assert_eq!(kind("Node").path(Some("a")), "/api/v1/nodes");
        assert_eq!(kind("ReplicaSet").path(None), "/apis/apps/v1/replicasets");
        assert_eq!(kind("ReplicaSet").title("x"), "replicaset.apps/x");
    }
}
