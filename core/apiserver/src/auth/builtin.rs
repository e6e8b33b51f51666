//! Roles every cluster has without anybody creating them.

use std::sync::{Arc, LazyLock};

use super::User;
use super::rbac::Rule;

type Roles = Vec<(&'static str, Arc<Vec<Rule>>)>;

const READ: &[&str] = &["get", "list", "watch"];
const ALL: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// What namespaces hold, by group; Secrets and roles are apart.
const CONTENT: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "configmaps",
            "endpoints",
            "events",
            "limitranges",
            "limitranges/status",
            "pods",
            "pods/log",
            "pods/status",
            "resourcequotas",
            "resourcequotas/status",
            "serviceaccounts",
            "services",
            "services/status",
            "namespaces",
        ],
    ),
    (
        "apps",
        &[
            "controllerrevisions",
            "daemonsets",
            "daemonsets/status",
            "deployments",
            "deployments/scale",
            "deployments/status",
            "replicasets",
            "replicasets/scale",
            "replicasets/status",
            "statefulsets",
            "statefulsets/scale",
            "statefulsets/status",
        ],
    ),
    ("batch", &["jobs", "jobs/status"]),
    ("discovery.k8s.io", &["endpointslices"]),
    ("networking.k8s.io", &["ingresses", "ingresses/status", "networkpolicies"]),
    ("events.k8s.io", &["events"]),
    ("coordination.k8s.io", &["leases"]),
];

static ROLES: LazyLock<Roles> = LazyLock::new(|| {
    let content = |verbs: &[&str]| -> Vec<Rule> {
        CONTENT.iter().map(|(group, resources)| rule(verbs, &[*group], resources)).collect()
    };
    let view = content(READ);
    let mut edit = content(READ);
    // Namespaces themselves, quotas and limits are the administrator's.
    for (group, resources) in CONTENT {
        let own: Vec<&str> = resources
            .iter()
            .copied()
            .filter(|name| {
                !name.starts_with("namespaces")
                    && !name.starts_with("resourcequotas")
                    && !name.starts_with("limitranges")
            })
            .collect();
        edit.push(rule(ALL, &[*group], &own));
    }
    edit.push(rule(
        ALL,
        &[""],
        &["secrets", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "services/proxy"],
    ));
    edit.push(rule(&["create"], &[""], &["pods/eviction", "serviceaccounts/token"]));
    edit.push(rule(&["impersonate"], &[""], &["serviceaccounts"]));
    let mut admin = edit.clone();
    admin.push(rule(ALL, &["rbac.authorization.k8s.io"], &["roles", "rolebindings"]));
    admin.push(rule(&["create"], &["authorization.k8s.io"], &["localsubjectaccessreviews"]));
    let everything = vec![
        rule(&["*"], &["*"], &["*"]),
        Rule { verbs: vec!["*".into()], paths: vec!["*".into()], ..Rule::default() },
    ];
    vec![
        ("cluster-admin", Arc::new(everything)),
        ("admin", Arc::new(admin)),
        ("edit", Arc::new(edit)),
        ("view", Arc::new(view)),
        ("system:discovery", Arc::new(discovery())),
        ("system:basic-user", Arc::new(basic_user())),
        ("system:service-account-issuer-discovery", Arc::new(vec![])),
    ]
});

/// The roles, by name.
pub fn cluster_roles() -> impl Iterator<Item = (&'static str, Arc<Vec<Rule>>)> {
    ROLES.iter().map(|(name, rules)| (*name, rules.clone()))
}

/// What everybody who has proven who they are may do.
pub fn rules_of(user: &User) -> Vec<Arc<Vec<Rule>>> {
    let role = |name: &str| ROLES.iter().find(|(known, _)| *known == name).map(|(_, rules)| rules.clone());
    if user.is_in("system:authenticated") {
        [role("system:discovery"), role("system:basic-user")].into_iter().flatten().collect()
    } else {
        vec![]
    }
}

fn discovery() -> Vec<Rule> {
    let paths = [
        "/",
        "/api",
        "/api/*",
        "/apis",
        "/apis/*",
        "/healthz",
        "/livez",
        "/openapi",
        "/openapi/*",
        "/readyz",
        "/version",
        "/version/",
    ];
    vec![Rule { verbs: vec!["get".into()], paths: paths.map(Into::into).to_vec(), ..Rule::default() }]
}

fn basic_user() -> Vec<Rule> {
    vec![
        rule(&["create"], &["authorization.k8s.io"], &["selfsubjectaccessreviews", "selfsubjectrulesreviews"]),
        rule(&["create"], &["authentication.k8s.io"], &["selfsubjectreviews"]),
    ]
}

pub(super) fn rule(verbs: &[&str], groups: &[&str], resources: &[&str]) -> Rule {
    let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
    Rule { verbs: words(verbs), groups: words(groups), resources: words(resources), ..Rule::default() }
}
