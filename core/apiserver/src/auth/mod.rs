//! Who is asking, and may they.

mod builtin;
pub mod escalation;
mod jwt;
mod node;
pub mod rbac;
pub mod reviews;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use http::{HeaderMap, header};
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};

use crate::meta;
use crate::pki::Pki;
use crate::request::Target;
use crate::server::Inner;
use crate::status::{ApiError, FieldErrors, Result};
use jwt::{Claims, Signer};

/// Somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The groups.
    pub groups: Vec<String>,
    /// For a service account: the uid.
    pub uid: String,
}

/// Reads and makes credentials.
pub struct Auth {
    signer: Signer,
    /// Tokens whose signature has been checked, by their text; their objects are looked up every time.
    checked: Mutex<HashMap<String, Arc<Claims>>>,
    pub rbac: rbac::Cache,
}

pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
pub const MASTERS: &str = "system:masters";
const AUTHENTICATED: &str = "system:authenticated";
const TOKENS_KEPT: usize = 4096;
const LONGEST_TOKEN: usize = 16 << 10;

// === impl User ===

impl User {
    /// A user who has proven it.
    pub fn new(name: &str, groups: &[String]) -> Self {
        let mut groups = groups.to_vec();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.into());
        }
        Self { name: name.into(), groups, uid: String::new() }
    }

    /// The API server itself.
    pub fn server() -> &'static Self {
        static SERVER: LazyLock<User> = LazyLock::new(|| User::new("system:apiserver", &[MASTERS.to_owned()]));
        &SERVER
    }

    /// Nobody in particular.
    pub fn anonymous() -> Self {
        Self { name: "system:anonymous".into(), groups: vec!["system:unauthenticated".into()], uid: String::new() }
    }

    /// Whether the user is in the group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// The node whose agent this is.
    pub fn node(&self) -> Option<&str> {
        self.name.strip_prefix("system:node:").filter(|_| self.is_in("system:nodes"))
    }

    /// As `userInfo` of a review.
    pub fn info(&self) -> Value {
        let mut info = json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            info["uid"] = json!(self.uid);
        }
        info
    }
}

/// Who a client certificate speaks for: its common name and organizations.
pub fn user_of_certificate(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?;
    let groups: Vec<String> =
        parsed.subject().iter_organization().filter_map(|group| group.as_str().ok()).map(ToOwned::to_owned).collect();
    Some(User::new(name, &groups))
}

// === impl Auth ===

impl Auth {
    pub fn new(pki: &Pki) -> Result<Self, String> {
        let signer = Signer::new(pki.service_account_key())?;
        Ok(Self { signer, checked: Mutex::default(), rbac: rbac::Cache::default() })
    }

    /// Who a bearer token speaks for; nobody without one.
    pub fn bearer(&self, server: &Inner, headers: &HeaderMap) -> Result<Arc<User>> {
        let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(Arc::new(User::anonymous())) };
        let text = value.to_str().map_err(|_| ApiError::unauthorized())?;
        let Some((scheme, token)) = text.split_once(' ') else { return Err(ApiError::unauthorized()) };
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(ApiError::unauthorized());
        }
        self.user_of_token(server, token.trim(), ISSUER).map(Arc::new).map_err(|_| ApiError::unauthorized())
    }

    /// Who a token speaks for, if it is good for the audience now and what it was made for still exists.
    pub fn user_of_token(&self, server: &Inner, token: &str, audience: &str) -> Result<User, String> {
        let claims = self.claims(token)?;
        let now = jiff::Timestamp::now().as_second();
        if now >= claims.exp || now + 60 < claims.nbf {
            return Err("the token has expired".into());
        }
        if !claims.aud.iter().any(|aud| aud == audience) {
            return Err(format!("the token is for {:?}, not for {audience}", claims.aud));
        }
        let about = &claims.kubernetes;
        let object = |prefix: &str, name: &str| server.store.get(&format!("{prefix}{}/{name}", about.namespace));
        let is = |entry: &switchyard_store::Entry, uid: &str| meta::text(&entry.value, "/metadata/uid") == uid;
        let account = &about.serviceaccount;
        if !object("core/serviceaccounts/", &account.name).is_some_and(|entry| is(&entry, &account.uid)) {
            return Err("the token's service account is gone".into());
        }
        if let Some(pod) = &about.pod
            && !object("core/pods/", &pod.name).is_some_and(|entry| is(&entry, &pod.uid))
        {
            return Err("the token's pod is gone".into());
        }
        let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{}", about.namespace)];
        let mut user = User::new(&format!("system:serviceaccount:{}:{}", about.namespace, account.name), &groups);
        user.uid = account.uid.clone();
        Ok(user)
    }

    fn claims(&self, token: &str) -> Result<Arc<Claims>, String> {
        if token.len() > LONGEST_TOKEN {
            return Err("the token is too long".into());
        }
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(claims) = checked.get(token) {
            return Ok(claims.clone());
        }
        let claims = Arc::new(self.signer.verify(token, ISSUER)?);
        if checked.len() >= TOKENS_KEPT {
            checked.clear();
        }
        checked.insert(token.into(), claims.clone());
        Ok(claims)
    }

    /// Makes a token for a service account, as `serviceaccounts/token` asks.
    pub fn token_request(&self, server: &Inner, target: &Target, request: &Value) -> Result<Value> {
        let (namespace, name) = (target.namespace(), target.name());
        let account = server.store.get(&target.key()).ok_or_else(|| ApiError::not_found(&target.kind, name))?;
        let seconds = meta::number(request, "/spec/expirationSeconds").unwrap_or(3600);
        let mut errors = FieldErrors::default();
        if seconds < 600 {
            errors.invalid("spec.expirationSeconds", seconds, "may not specify a duration less than 10 minutes");
        } else if seconds > 1 << 32 {
            errors.invalid("spec.expirationSeconds", seconds, "may not specify a duration larger than 2^32 seconds");
        }
        errors.into_result(&target.kind, name)?;
        let audiences: Vec<String> =
            meta::list(request, "/spec/audiences").iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect();
        let audiences = if audiences.is_empty() { vec![ISSUER.to_owned()] } else { audiences };
        let pod = match meta::text(request, "/spec/boundObjectRef/kind") {
            "" => None,
            "Pod" => {
                let pod_name = meta::text(request, "/spec/boundObjectRef/name");
                let table = server.kinds.now();
                let pods = table.find("", "pods").expect("pods are built in");
                let pod = server.store.get(&pods.key(namespace, pod_name));
                let pod = pod.ok_or_else(|| ApiError::not_found(pods, pod_name))?;
                let uid = meta::text(&pod.value, "/metadata/uid").to_owned();
                let given = meta::text(request, "/spec/boundObjectRef/uid");
                if !given.is_empty() && given != uid {
                    let why = format!(
                        "the UID in the bound object reference ({given}) does not match the UID in record ({uid})"
                    );
                    return Err(ApiError::conflict(pods, pod_name, &why));
                }
                Some(jwt::Reference { name: pod_name.into(), uid })
            }
            other => {
                return Err(ApiError::bad_request(format!("cannot bind token to a {other}: only to a Pod")));
            }
        };
        let now = jiff::Timestamp::now();
        let expires = now.as_second() + seconds;
        let claims = Claims {
            aud: audiences.clone(),
            exp: expires,
            iat: now.as_second(),
            iss: ISSUER.into(),
            jti: uuid::Uuid::new_v4().to_string(),
            kubernetes: jwt::About {
                namespace: namespace.into(),
                pod,
                serviceaccount: jwt::Reference {
                    name: name.into(),
                    uid: meta::text(&account.value, "/metadata/uid").into(),
                },
            },
            nbf: now.as_second(),
            sub: format!("system:serviceaccount:{namespace}:{name}"),
        };
        let token = self.signer.sign(&claims).map_err(ApiError::internal)?;
        let expiration = jiff::Timestamp::from_second(expires).map_err(ApiError::internal)?;
        let mut spec = request.get("spec").cloned().unwrap_or_else(|| json!({}));
        spec["audiences"] = json!(audiences);
        spec["expirationSeconds"] = json!(seconds);
        Ok(json!({
            "kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": name, "namespace": namespace, "creationTimestamp": meta::timestamp(now)},
            "spec": spec, "status": {"token": token, "expirationTimestamp": meta::timestamp(expiration)},
        }))
    }

    /// Who the request wants to be taken for (`kubectl --as`).
    pub fn impersonate(&self, server: &Inner, user: Arc<User>, headers: &HeaderMap) -> Result<Arc<User>> {
        let Some(name) = headers.get("impersonate-user").and_then(|value| value.to_str().ok()) else { return Ok(user) };
        let mut groups: Vec<String> = headers
            .get_all("impersonate-group")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .map(ToOwned::to_owned)
            .collect();
        let may = |resource: &str, name: &str| {
            rbac::allowed(server, &user, &rbac::Attributes::object("impersonate", "", resource, name))
        };
        if !may("users", name) || !groups.iter().all(|group| may("groups", group)) {
            return Err(ApiError::forbidden_path(&user.name, "impersonate", name));
        }
        if let Some((namespace, _)) = name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'))
        {
            groups.extend(["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")]);
        }
        Ok(Arc::new(User::new(name, &groups)))
    }
}
