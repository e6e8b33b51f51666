//! What is served, told in the ways clients ask.

use http::{HeaderMap, Response, header};
use serde_json::{Value, json};

use crate::auth::reviews;
use crate::body::{self, Body};
use crate::kinds::{Kind, Table};
use crate::status::{ApiError, Result};

const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// The version we are compatible with.
pub fn version() -> Value {
    json!({
        "major": "1", "minor": "34", "gitVersion": concat!("v1.34.0+switchyard-", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "2026-01-01T00:00:00Z", "goVersion": "none",
        "compiler": "rustc", "platform": concat!("linux/", "amd64"),
    })
}

/// Answers `/`, `/api`, `/apis` and what is below them.
pub fn answer(table: &Table, headers: &HeaderMap, path: &str) -> Result<Response<Body>> {
    let parts: Vec<&str> = path.split('/').skip(1).filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        [] => Ok(body::json(200, &json!({"paths": paths(table)}))),
        ["api"] if wants_aggregated(headers) => Ok(body::typed(200, AGGREGATED, aggregated(table, true).to_string())),
        ["apis"] if wants_aggregated(headers) => Ok(body::typed(200, AGGREGATED, aggregated(table, false).to_string())),
        ["api"] => Ok(body::json(
            200,
            &json!({
            "kind": "APIVersions", "apiVersion": "v1", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
        )),
        ["apis"] => {
            let groups: Vec<Value> = group_names(table).iter().map(|name| group(table, name)).collect();
            Ok(body::json(200, &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})))
        }
        ["apis", name] if group_names(table).iter().any(|group| group == name) => {
            let mut group = group(table, name);
            group["kind"] = json!("APIGroup");
            group["apiVersion"] = json!("v1");
            Ok(body::json(200, &group))
        }
        ["api", version] => resources(table, "", version),
        ["apis", group, version] => resources(table, group, version),
        _ => Err(ApiError::no_such_path()),
    }
}

fn wants_aggregated(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|item| {
        item.contains("g=apidiscovery.k8s.io") && item.contains("v=v2;") && item.contains("as=APIGroupDiscoveryList")
            || item.contains("g=apidiscovery.k8s.io")
                && item.ends_with("v=v2")
                && item.contains("as=APIGroupDiscoveryList")
    })
}

fn paths(table: &Table) -> Vec<String> {
    let mut paths = vec!["/api".to_owned(), "/api/v1".into(), "/apis".into()];
    for name in group_names(table) {
        paths.push(format!("/apis/{name}"));
        paths.extend(versions(table, &name).into_iter().map(|version| format!("/apis/{name}/{version}")));
    }
    paths.extend(
        ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"].map(String::from),
    );
    paths
}

/// Names of groups but the core one: `apps` first, as clients prefer what comes first.
fn group_names(table: &Table) -> Vec<String> {
    let stored = table.groups().map(|((group, _), _)| group.clone());
    let mut names: Vec<String> = stored.chain(reviews::GROUPS.iter().map(|(group, _)| group.to_string())).collect();
    names.retain(|name| !name.is_empty());
    names.sort();
    names.dedup();
    names
}

fn versions(table: &Table, group: &str) -> Vec<String> {
    let mut versions: Vec<String> =
        table.groups().filter(|((name, _), _)| name == group).map(|((_, version), _)| version.clone()).collect();
    if reviews::GROUPS.iter().any(|(name, _)| *name == group) {
        versions.push("v1".into());
    }
    versions.dedup();
    versions
}

fn group(table: &Table, name: &str) -> Value {
    let describe = |version: &String| json!({"groupVersion": format!("{name}/{version}"), "version": version});
    let versions: Vec<Value> = versions(table, name).iter().map(describe).collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions.first().cloned().unwrap_or_default()})
}

fn kinds_of<'a>(table: &'a Table, group: &str, version: &str) -> Vec<&'a Kind> {
    let found = table.groups().find(|((g, v), _)| g == group && v == version);
    found.map(|(_, kinds)| kinds.values().map(AsRef::as_ref).collect()).unwrap_or_default()
}

fn resources(table: &Table, group: &str, version: &str) -> Result<Response<Body>> {
    let kinds = kinds_of(table, group, version);
    let reviews: Vec<&(&str, &str, bool)> = reviews::of(group, version).collect();
    if kinds.is_empty() && reviews.is_empty() {
        return Err(ApiError::no_such_path());
    }
    let mut list = Vec::new();
    for kind in kinds {
        let mut resource = json!({"name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced,
            "kind": kind.kind, "verbs": VERBS});
        if !kind.short.is_empty() {
            resource["shortNames"] = json!(kind.short);
        }
        if !kind.categories.is_empty() {
            resource["categories"] = json!(kind.categories);
        }
        list.push(resource);
        for (name, of, verbs) in subresources(kind) {
            let mut resource = json!({"name": format!("{}/{name}", kind.plural), "singularName": "",
                "namespaced": kind.namespaced, "kind": of, "verbs": verbs});
            if let Some((group, version)) = foreign(name) {
                resource["group"] = json!(group);
                resource["version"] = json!(version);
            }
            list.push(resource);
        }
    }
    for (plural, kind, namespaced) in reviews {
        list.push(
            json!({"name": plural, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": ["create"]}),
        );
    }
    let version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Ok(body::json(
        200,
        &json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": list}),
    ))
}

fn subresources(kind: &Kind) -> Vec<(&str, String, &'static [&'static str])> {
    let mut list: Vec<(&str, String, &'static [&'static str])> = Vec::new();
    if kind.status {
        list.push(("status", kind.kind.clone(), &["get", "patch", "update"]));
    }
    if kind.scale {
        list.push(("scale", "Scale".into(), &["get", "patch", "update"]));
    }
    for (name, of) in kind.subresources {
        let verbs: &[&str] = match *name {
            "log" => &["get"],
            "exec" | "attach" | "portforward" => &["create", "get"],
            "finalize" => &["update"],
            _ => &["create"],
        };
        list.push((name, (*of).to_owned(), verbs));
    }
    list
}

/// Subresources that speak a kind of another group.
fn foreign(subresource: &str) -> Option<(&'static str, &'static str)> {
    match subresource {
        "scale" => Some(("autoscaling", "v1")),
        "eviction" => Some(("policy", "v1")),
        "token" => Some(("authentication.k8s.io", "v1")),
        _ => None,
    }
}

/// All groups in one answer, which newer clients ask for first.
fn aggregated(table: &Table, core: bool) -> Value {
    let names = if core { vec![String::new()] } else { group_names(table) };
    let items: Vec<Value> = names
        .iter()
        .map(|name| {
            let of = if core { vec!["v1".to_owned()] } else { versions(table, name) };
            let versions: Vec<Value> = of.iter().map(|version| aggregated_version(table, name, version)).collect();
            json!({"metadata": {"name": name, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_version(table: &Table, group: &str, version: &str) -> Value {
    let scope = |namespaced: bool| if namespaced { "Namespaced" } else { "Cluster" };
    let kind_of = |name: &str, of: &str| {
        let (group, version) = foreign(name).unwrap_or((group, version));
        json!({"group": group, "version": version, "kind": of})
    };
    let mut resources: Vec<Value> = Vec::new();
    for kind in kinds_of(table, group, version) {
        let inner: Vec<Value> = subresources(kind)
            .into_iter()
            .map(|(name, of, verbs)| json!({"subresource": name, "responseKind": kind_of(name, &of), "verbs": verbs}))
            .collect();
        let mut resource = json!({"resource": kind.plural, "singularResource": kind.singular, "verbs": VERBS,
            "responseKind": kind_of("", &kind.kind), "scope": scope(kind.namespaced)});
        if !kind.short.is_empty() {
            resource["shortNames"] = json!(kind.short);
        }
        if !kind.categories.is_empty() {
            resource["categories"] = json!(kind.categories);
        }
        if !inner.is_empty() {
            resource["subresources"] = json!(inner);
        }
        resources.push(resource);
    }
    for (plural, kind, namespaced) in reviews::of(group, version) {
        resources.push(json!({"resource": plural, "singularResource": "", "verbs": ["create"],
            "responseKind": kind_of("", kind), "scope": scope(*namespaced)}));
    }
    json!({"version": version, "freshness": "Current", "resources": resources})
}
