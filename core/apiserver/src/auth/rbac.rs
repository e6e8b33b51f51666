//! Role-based access control, evaluated from the stored roles and bindings.
//!
//! The rules are compiled whenever a role or binding changes and shared until the next change; a check then only looks at the rules
//! of the user's own bindings.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use http::Method;
use serde_json::Value;

use super::{MASTERS, User, builtin, node};
use crate::meta;
use crate::request::{Query, Target};
use crate::server::Inner;
use crate::status::{ApiError, Result};

/// What somebody wants to do.
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    pub verb: String,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    /// For what is no object.
    pub path: String,
}

/// One rule of a role.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    pub verbs: Vec<String>,
    pub groups: Vec<String>,
    pub resources: Vec<String>,
    pub names: Vec<String>,
    pub paths: Vec<String>,
}

/// The compiled rules and the store's revisions they were compiled from.
#[derive(Default)]
pub struct Cache(Mutex<Option<(Stamp, Arc<Compiled>)>>);

type Stamp = (usize, u64, usize, u64, usize, u64, usize, u64);

#[derive(Default)]
struct Compiled {
    /// By subject: where the rules count (everywhere or in a namespace), and the rules.
    by_subject: HashMap<Subject, Vec<Grant>>,
}

/// A namespace, or none for everywhere, and the rules that count there.
type Grant = (Option<String>, Arc<Vec<Rule>>);

#[derive(PartialEq, Eq, Hash)]
enum Subject {
    User(String),
    Group(String),
}

// === impl Attributes ===

impl Attributes {
    pub fn object(verb: &str, group: &str, resource: &str, name: &str) -> Self {
        Self { verb: verb.into(), group: group.into(), resource: resource.into(), name: name.into(), ..Self::default() }
    }
}

// === impl Rule ===

impl Rule {
    pub fn parse(value: &Value) -> Self {
        let words = |field: &str| -> Vec<String> {
            meta::list(value, &format!("/{field}")).iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect()
        };
        Self {
            verbs: words("verbs"),
            groups: words("apiGroups"),
            resources: words("resources"),
            names: words("resourceNames"),
            paths: words("nonResourceURLs"),
        }
    }

    fn allows(&self, wanted: &Attributes) -> bool {
        let has = |list: &[String], word: &str| list.iter().any(|item| item == "*" || item == word);
        if !has(&self.verbs, &wanted.verb) {
            return false;
        }
        if !wanted.path.is_empty() {
            return self.paths.iter().any(|path| match path.strip_suffix('*') {
                Some(prefix) => wanted.path.starts_with(prefix),
                None => *path == wanted.path,
            });
        }
        let resource = if wanted.subresource.is_empty() {
            has(&self.resources, &wanted.resource)
        } else {
            let full = format!("{}/{}", wanted.resource, wanted.subresource);
            let any = format!("*/{}", wanted.subresource);
            self.resources.iter().any(|item| item == "*" || *item == full || *item == any)
        };
        has(&self.groups, &wanted.group)
            && resource
            && (self.names.is_empty() || !wanted.name.is_empty() && self.names.contains(&wanted.name))
    }
}

/// Whether `user` may do it.
pub fn allowed(server: &Inner, user: &User, wanted: &Attributes) -> bool {
    if user.is_in(MASTERS) {
        return true;
    }
    if user.node().is_some() {
        match node::allows(server, user, wanted) {
            node::Answer::Allow => return true,
            node::Answer::Deny => return false,
            node::Answer::NoOpinion => {}
        }
    }
    rules(server, user, &wanted.namespace).iter().any(|rules| rules.iter().any(|rule| rule.allows(wanted)))
}

/// The rules that count for a user in a namespace; in none, only those that count everywhere.
pub fn rules(server: &Inner, user: &User, namespace: &str) -> Vec<Arc<Vec<Rule>>> {
    let compiled = server.auth.rbac.compiled(server);
    let subjects =
        std::iter::once(Subject::User(user.name.clone())).chain(user.groups.iter().cloned().map(Subject::Group));
    let mut found = builtin::rules_of(user);
    for subject in subjects {
        for (place, rules) in compiled.by_subject.get(&subject).into_iter().flatten() {
            if place.as_deref().is_none_or(|place| !namespace.is_empty() && place == namespace) {
                found.push(rules.clone());
            }
        }
    }
    found
}

/// The rules of a role that a binding in a namespace may name.
pub fn role(server: &Inner, kind: &str, namespace: &str, name: &str) -> Option<Vec<Rule>> {
    let key = match kind {
        "Role" => format!("rbac.authorization.k8s.io/roles/{namespace}/{name}"),
        _ => format!("rbac.authorization.k8s.io/clusterroles/{name}"),
    };
    if let Some(entry) = server.store.get(&key) {
        return Some(meta::list(&entry.value, "/rules").iter().map(Rule::parse).collect());
    }
    let built_in = builtin::cluster_roles().find(|(known, _)| kind != "Role" && *known == name);
    built_in.map(|(_, rules)| rules.to_vec())
}

/// Refuses what `user` may not do to a target.
pub fn authorize(server: &Inner, user: &User, verb: &str, target: &Target, query: &Query) -> Result<()> {
    if user.is_in(MASTERS) {
        return Ok(());
    }
    let mut wanted = Attributes {
        verb: verb.into(),
        group: target.kind.group.clone(),
        resource: target.kind.plural.clone(),
        subresource: target.subresource.clone().unwrap_or_default(),
        namespace: target.namespace().into(),
        name: target.name().into(),
        path: String::new(),
    };
    // A list or watch of one object by its name is as good as a get of it.
    if wanted.name.is_empty()
        && let Some(name) = query.get("fieldSelector").and_then(|text| text.strip_prefix("metadata.name="))
        && !name.contains(',')
    {
        wanted.name = name.trim_start_matches('=').into();
    }
    if allowed(server, user, &wanted) {
        return Ok(());
    }
    if user.name == "system:anonymous" {
        return Err(ApiError::unauthorized());
    }
    let resource = if wanted.subresource.is_empty() {
        wanted.resource.clone()
    } else {
        format!("{}/{}", wanted.resource, wanted.subresource)
    };
    let place = if wanted.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace \"{}\"", wanted.namespace)
    };
    let why = format!(
        "User \"{}\" cannot {verb} resource \"{resource}\" in API group \"{}\" {place}",
        user.name, wanted.group
    );
    Err(ApiError::forbidden(&target.kind, target.name(), why))
}

/// Refuses paths that name no object.
pub fn authorize_path(server: &Inner, user: &User, method: &Method, path: &str) -> Result<()> {
    let open = ["/healthz", "/livez", "/readyz", "/version"];
    if open.iter().any(|known| path == *known || path.strip_prefix(known).is_some_and(|rest| rest.starts_with('/'))) {
        return Ok(());
    }
    let verb = method.as_str().to_lowercase();
    let wanted = Attributes { verb: verb.clone(), path: path.into(), ..Attributes::default() };
    if allowed(server, user, &wanted) {
        return Ok(());
    }
    if user.name == "system:anonymous" {
        Err(ApiError::unauthorized())
    } else {
        Err(ApiError::forbidden_path(&user.name, &verb, path))
    }
}

// === impl Cache ===

impl Cache {
    fn compiled(&self, server: &Inner) -> Arc<Compiled> {
        let list = |plural: &str| server.store.list(&format!("rbac.authorization.k8s.io/{plural}/")).0;
        let (roles, cluster_roles) = (list("roles"), list("clusterroles"));
        let (bindings, cluster_bindings) = (list("rolebindings"), list("clusterrolebindings"));
        let newest = |entries: &[Arc<switchyard_store::Entry>]| {
            (entries.len(), entries.iter().map(|entry| entry.revision).max().unwrap_or(0))
        };
        let ((a, b), (c, d)) = (newest(&roles), newest(&cluster_roles));
        let ((e, f), (g, h)) = (newest(&bindings), newest(&cluster_bindings));
        let stamp = (a, b, c, d, e, f, g, h);
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, compiled)) = &*cache
            && *known == stamp
        {
            return compiled.clone();
        }
        let mut by_role: HashMap<(String, String), Arc<Vec<Rule>>> = HashMap::new();
        for (name, rules) in builtin::cluster_roles() {
            by_role.insert((String::new(), name.to_owned()), rules);
        }
        for entry in roles.iter().chain(&cluster_roles) {
            let value = &entry.value;
            let rules = meta::list(value, "/rules").iter().map(Rule::parse).collect();
            by_role.insert((meta::namespace(value).into(), meta::name(value).into()), Arc::new(rules));
        }
        let mut compiled = Compiled::default();
        for entry in bindings.iter().chain(&cluster_bindings) {
            let value = &entry.value;
            let place = Some(meta::namespace(value).to_owned()).filter(|namespace| !namespace.is_empty());
            let role_place = match meta::text(value, "/roleRef/kind") {
                "Role" => place.clone().unwrap_or_default(),
                _ => String::new(),
            };
            let Some(rules) = by_role.get(&(role_place, meta::text(value, "/roleRef/name").to_owned())) else {
                continue;
            };
            for subject in meta::list(value, "/subjects") {
                let name = meta::text(subject, "/name");
                let key = match meta::text(subject, "/kind") {
                    "Group" => Subject::Group(name.into()),
                    "ServiceAccount" => {
                        let given = meta::text(subject, "/namespace");
                        let namespace = if given.is_empty() { place.as_deref().unwrap_or("") } else { given };
                        Subject::User(format!("system:serviceaccount:{namespace}:{name}"))
                    }
                    _ => Subject::User(name.into()),
                };
                compiled.by_subject.entry(key).or_default().push((place.clone(), rules.clone()));
            }
        }
        let compiled = Arc::new(compiled);
        *cache = Some((stamp, compiled.clone()));
        compiled
    }
}
