//! Questions about access, asked as objects: nothing is stored.

use http::{Method, Response};
use serde_json::{Value, json};

use super::rbac::{self, Attributes};
use super::{ISSUER, User};
use crate::body::{self, Body};
use crate::meta;
use crate::server::Inner;
use crate::status::{ApiError, Result};

/// One question.
pub struct Review {
    group: &'static str,
    plural: &'static str,
    kind: &'static str,
}

/// Plural, kind, and whether it is namespaced.
type Offered = (&'static str, &'static str, bool);

/// The groups of reviews, and the reviews in each.
pub const GROUPS: &[(&str, &[Offered])] = &[
    (
        "authentication.k8s.io",
        &[("selfsubjectreviews", "SelfSubjectReview", false), ("tokenreviews", "TokenReview", false)],
    ),
    (
        "authorization.k8s.io",
        &[
            ("localsubjectaccessreviews", "LocalSubjectAccessReview", true),
            ("selfsubjectaccessreviews", "SelfSubjectAccessReview", false),
            ("selfsubjectrulesreviews", "SelfSubjectRulesReview", false),
            ("subjectaccessreviews", "SubjectAccessReview", false),
        ],
    ),
];

/// The reviews of a group.
pub fn of(group: &str, version: &str) -> impl Iterator<Item = &'static Offered> {
    GROUPS.iter().filter(move |(name, _)| *name == group && version == "v1").flat_map(|(_, kinds)| kinds.iter())
}

// === impl Review ===

impl Review {
    /// The review a path asks for.
    pub fn of_path(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let (group, plural) = match parts.as_slice() {
            ["apis", group, "v1", plural] => (*group, *plural),
            ["apis", group, "v1", "namespaces", _, plural] => (*group, *plural),
            _ => return None,
        };
        let (group, reviews) = GROUPS.iter().find(|(name, _)| *name == group)?;
        let (plural, kind, _) = reviews.iter().find(|(known, ..)| *known == plural)?;
        Some(Self { group, plural, kind })
    }

    /// Refuses who may not ask.
    pub fn authorize(&self, server: &Inner, user: &User, method: &Method, path: &str) -> Result<()> {
        if method != Method::POST {
            return Err(ApiError::method_not_allowed());
        }
        if rbac::allowed(server, user, &Attributes::object("create", self.group, self.plural, "")) {
            return Ok(());
        }
        Err(if user.name == "system:anonymous" {
            ApiError::unauthorized()
        } else {
            ApiError::forbidden_path(&user.name, "create", path)
        })
    }

    /// Answers it.
    pub fn answer(&self, server: &Inner, user: &User, review: &Value) -> Result<Response<Body>> {
        let status = match self.kind {
            "SelfSubjectAccessReview" => access(server, user, review),
            "SubjectAccessReview" | "LocalSubjectAccessReview" => {
                let groups: Vec<String> = meta::list(review, "/spec/groups")
                    .iter()
                    .filter_map(Value::as_str)
                    .map(ToOwned::to_owned)
                    .collect();
                let about = User { name: meta::text(review, "/spec/user").into(), groups, uid: String::new() };
                access(server, &about, review)
            }
            "SelfSubjectRulesReview" => rules(server, user, meta::text(review, "/spec/namespace")),
            "SelfSubjectReview" => json!({ "userInfo": user.info() }),
            _ => {
                let token = meta::text(review, "/spec/token");
                let audience = meta::list(review, "/spec/audiences").first().and_then(Value::as_str).unwrap_or(ISSUER);
                match server.auth.user_of_token(server, token, audience) {
                    Ok(about) => json!({"authenticated": true, "user": about.info(), "audiences": [audience]}),
                    Err(error) => json!({"authenticated": false, "error": error}),
                }
            }
        };
        let spec = review.get("spec").cloned().unwrap_or_else(|| json!({}));
        let api_version = format!("{}/v1", self.group);
        let answer = json!({"kind": self.kind, "apiVersion": api_version, "metadata": {"creationTimestamp": null},
            "spec": spec, "status": status});
        Ok(body::json(201, &answer))
    }
}

fn access(server: &Inner, user: &User, review: &Value) -> Value {
    let resource = |field: &str| meta::text(review, &format!("/spec/resourceAttributes/{field}")).to_owned();
    let path = |field: &str| meta::text(review, &format!("/spec/nonResourceAttributes/{field}")).to_owned();
    let wanted = if review.pointer("/spec/nonResourceAttributes").is_some_and(Value::is_object) {
        Attributes { verb: path("verb"), path: path("path"), ..Attributes::default() }
    } else {
        Attributes {
            verb: resource("verb"),
            group: resource("group"),
            resource: resource("resource"),
            subresource: resource("subresource"),
            namespace: resource("namespace"),
            name: resource("name"),
            path: String::new(),
        }
    };
    let allowed = rbac::allowed(server, user, &wanted);
    json!({"allowed": allowed, "reason": if allowed { "" } else { "no rule allows it" }})
}

fn rules(server: &Inner, user: &User, namespace: &str) -> Value {
    let (mut resource, mut path) = (Vec::new(), Vec::new());
    if user.is_in(super::MASTERS) {
        resource.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        path.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    for rule in rbac::rules(server, user, namespace).iter().flat_map(|rules| rules.iter()) {
        if rule.paths.is_empty() {
            resource.push(json!({"verbs": rule.verbs, "apiGroups": rule.groups, "resources": rule.resources,
                "resourceNames": rule.names}));
        } else {
            path.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.paths}));
        }
    }
    json!({"resourceRules": resource, "nonResourceRules": path, "incomplete": false})
}
