//! Questions about access, asked as objects: nothing is stored.

use bytes::Bytes;
use http::{Method, Request, Response};
use serde_json::{Value, json};

use super::rbac::{self, Attributes};
use super::{ISSUER, User};
use crate::body::{self, Body};
use crate::meta;
use crate::server::Inner;
use crate::status::{ApiError, Result};

/// Plural, kind, and whether it is namespaced.
pub type Review = (&'static str, &'static str, bool);

/// The groups of reviews, and the reviews in each.
pub const GROUPS: &[(&str, &[Review])] = &[
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
pub fn of(group: &str, version: &str) -> impl Iterator<Item = &'static (&'static str, &'static str, bool)> {
    GROUPS.iter().filter(move |(name, _)| *name == group && version == "v1").flat_map(|(_, kinds)| kinds.iter())
}

/// Answers a request that is a review.
pub fn answer(server: &Inner, user: &User, request: &Request<Bytes>) -> Result<Option<Response<Body>>> {
    let path = request.uri().path();
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let (group, plural) = match parts.as_slice() {
        ["apis", group, "v1", plural] => (*group, *plural),
        ["apis", group, "v1", "namespaces", _, plural] => (*group, *plural),
        _ => return Ok(None),
    };
    let Some((plural, kind, _)) = of(group, "v1").find(|(known, ..)| *known == plural) else { return Ok(None) };
    if request.method() != Method::POST {
        return Err(ApiError::method_not_allowed());
    }
    let wanted = Attributes::object("create", group, plural, "");
    if !rbac::allowed(server, user, &wanted) {
        return Err(if user.name == "system:anonymous" {
            ApiError::unauthorized()
        } else {
            ApiError::forbidden_path(&user.name, "create", path)
        });
    }
    let review = crate::handler::parse_body(request.headers(), request.body())?;
    let status = match *kind {
        "SelfSubjectAccessReview" => access(server, user, &review),
        "SubjectAccessReview" | "LocalSubjectAccessReview" => {
            let groups: Vec<String> =
                meta::list(&review, "/spec/groups").iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect();
            let about = User { name: meta::text(&review, "/spec/user").into(), groups, uid: String::new() };
            access(server, &about, &review)
        }
        "SelfSubjectRulesReview" => rules(server, user, meta::text(&review, "/spec/namespace")),
        "SelfSubjectReview" => json!({ "userInfo": user.info() }),
        _ => {
            let token = meta::text(&review, "/spec/token");
            let audience = meta::list(&review, "/spec/audiences").first().and_then(Value::as_str).unwrap_or(ISSUER);
            match server.auth.user_of_token(server, token, audience) {
                Ok(about) => json!({"authenticated": true, "user": about.info(), "audiences": [audience]}),
                Err(error) => json!({"authenticated": false, "error": error}),
            }
        }
    };
    let spec = review.get("spec").cloned().unwrap_or_else(|| json!({}));
    let answer = json!({"kind": kind, "apiVersion": format!("{group}/v1"), "metadata": {"creationTimestamp": null},
        "spec": spec, "status": status});
    Ok(Some(body::json(201, &answer)))
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
