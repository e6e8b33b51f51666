//! Which rule decides for a host and a path, and which others were considered.

use serde::Serialize;
use serde_json::{Value, json};

use super::{HostPattern, Miss, Table, normal_host};

/// The way of one request through a table, for people.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The host as it is compared.
    pub host: String,
    /// The path as it is compared.
    pub path: String,
    /// The pattern that decides, if any has the host.
    pub pattern: Option<String>,
    /// Less specific patterns that cover the host too, and are not asked.
    pub shadowed: Vec<String>,
    /// The rule that decides.
    pub rule: Option<String>,
    /// The Ingress it comes from.
    pub ingress: Option<String>,
    /// The backend it leads to.
    pub backend: Option<Value>,
    /// The outcome in a sentence.
    pub outcome: String,
}

// === impl Table ===

impl Table {
    /// Walks the table as a request would.
    pub fn explain(&self, host: &str, path: &str) -> Explanation {
        let host = normal_host(host);
        let path = path.split('?').next().unwrap_or("/");
        let mut covering: Vec<&HostPattern> =
            self.routes.hosts.iter().map(|(p, _)| p).filter(|p| p.matches(&host)).collect();
        covering.sort_by_key(|p| std::cmp::Reverse(p.rank()));
        let decides = self.routes.hosts.find(&host);
        let found = self.find(&host, path);
        let rule = decides.and_then(|(_, rules)| rules.paths.find(path)).map(|r| format!("{:?} {}", r.kind, r.path));
        let backend = found.ok().map(|route| self.backend(route));
        let outcome = match (&found, backend) {
            (Err(Miss::Host), _) => format!("404: no rule has the host; rules exist for {}", self.some_hosts(8)),
            (Err(Miss::Path), _) => "404: the host has rules, none for this path".to_owned(),
            (Ok(_), Some(backend)) => match &backend.unavailable {
                Some(why) => format!("503: {}: {why}", backend.key),
                None => format!("one of {} endpoints of {}, in turn", backend.endpoints.len(), backend.key),
            },
            (Ok(_), None) => unreachable!("a found route has a backend"),
        };
        Explanation {
            shadowed: covering.iter().skip(1).map(ToString::to_string).collect(),
            pattern: decides.map(|(p, _)| p.to_string()),
            rule: rule.or_else(|| found.ok().map(|_| "defaultBackend".to_owned())),
            ingress: found.ok().map(|route| route.ingress.to_string()),
            backend: backend.map(|b| b.to_json()),
            outcome,
            path: path.to_owned(),
            host: host.into_owned(),
        }
    }

    /// The whole table, for people and programs.
    pub fn to_json(&self) -> Value {
        let hosts: Vec<Value> = self.routes.hosts.iter().map(|(pattern, rules)| {
            let paths: Vec<Value> = rules.paths.iter().map(|rule| {
                json!({ "kind": rule.kind, "path": rule.path, "ingress": &*rule.value.ingress, "backend": self.backend(&rule.value).key.to_string() })
            }).collect();
            let default = rules.default.as_ref().map(|r| self.backend(r).key.to_string());
            json!({ "host": pattern.to_string(), "paths": paths, "default": default })
        }).collect();
        json!({
            "generation": self.generation,
            "hosts": hosts,
            "default": self.routes.default.as_ref().map(|r| self.backend(r).key.to_string()),
            "backends": self.backends.iter().map(|b| b.to_json()).collect::<Vec<_>>(),
            "warnings": self.routes.warnings,
        })
    }
}

impl super::Backend {
    fn to_json(&self) -> Value {
        let endpoints: Vec<Value> = self
            .endpoints
            .iter()
            .map(|e| json!({ "address": e.address.to_string(), "ejected": e.ejected() }))
            .collect();
        json!({ "name": self.key.to_string(), "endpoints": endpoints, "unavailable": self.unavailable })
    }
}
