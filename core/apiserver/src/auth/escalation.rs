//! Nobody gives away what they do not hold.
//!
//! Who may write roles and bindings could otherwise make themselves anything. So a role may hold only what its writer holds in the same
//! place, unless they may `escalate` it; and only a role all of whose rules one holds may be bound, unless one may `bind` it.

use serde_json::Value;

use super::rbac::{self, Attributes, Rule};
use super::{MASTERS, User};
use crate::kinds::Kind;
use crate::meta;
use crate::server::Inner;
use crate::status::{ApiError, Result};

const GROUP: &str = "rbac.authorization.k8s.io";
/// Single permissions a rule may stand for at most, where they must be looked at one by one.
const MOST_PERMISSIONS: usize = 10_000;

/// Refuses a role or binding with which `user` would give away more than they hold. `namespace` is empty for those that count everywhere.
pub fn check(
    server: &Inner,
    user: &User,
    kind: &Kind,
    namespace: &str,
    object: &Value,
    old: Option<&Value>,
) -> Result<()> {
    if kind.group != GROUP || user.is_in(MASTERS) {
        return Ok(());
    }
    let unchanged =
        |fields: &[&str]| old.is_some_and(|old| fields.iter().all(|field| old.get(field) == object.get(field)));
    let may = |verb: &str, resource: &str, name: &str| {
        let wanted = Attributes { namespace: namespace.into(), ..Attributes::object(verb, GROUP, resource, name) };
        rbac::allowed(server, user, &wanted)
    };
    let name = meta::name(object);
    let wanted = match kind.kind.as_str() {
        "Role" | "ClusterRole" if unchanged(&["rules"]) || may("escalate", &kind.plural, name) => return Ok(()),
        "Role" | "ClusterRole" => meta::list(object, "/rules").iter().map(Rule::parse).collect(),
        _ => {
            let (role_kind, role) = (meta::text(object, "/roleRef/kind"), meta::text(object, "/roleRef/name"));
            let plural = if role_kind == "Role" { "roles" } else { "clusterroles" };
            if unchanged(&["roleRef", "subjects"]) || may("bind", plural, role) {
                return Ok(());
            }
            let rules = rbac::role(server, role_kind, namespace, role);
            rules.ok_or_else(|| ApiError::forbidden(kind, name, format!("{plural}.{GROUP} \"{role}\" not found")))?
        }
    };
    let held = rbac::rules(server, user, namespace);
    let held: Vec<&Rule> = held.iter().flat_map(|rules| rules.iter()).collect();
    let missing: Vec<String> = wanted.iter().filter(|rule| !covers(&held, rule)).map(show).take(10).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let why = format!(
        "user \"{}\" (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        user.groups,
        missing.join("\n")
    );
    Err(ApiError::forbidden(kind, name, why))
}

/// Whether every single permission of a rule is in one of those held.
fn covers(held: &[&Rule], wanted: &Rule) -> bool {
    let names = wanted.names.len().max(1);
    let sizes = [wanted.verbs.len(), wanted.groups.len(), wanted.resources.len(), names];
    let all = sizes.into_iter().try_fold(1usize, |all, size| all.checked_mul(size));
    if all.is_none_or(|all| all > MOST_PERMISSIONS) || wanted.verbs.len() * wanted.paths.len() > MOST_PERMISSIONS {
        return false;
    }
    let nameless = [String::new()];
    let names = if wanted.names.is_empty() { &nameless[..] } else { &wanted.names };
    wanted.verbs.iter().all(|verb| {
        let held: Vec<&&Rule> = held.iter().filter(|rule| has(&rule.verbs, verb)).collect();
        wanted.paths.iter().all(|path| held.iter().any(|rule| has_path(rule, path)))
            && wanted.groups.iter().all(|group| {
                let held: Vec<_> = held.iter().filter(|rule| has(&rule.groups, group)).collect();
                wanted.resources.iter().all(|resource| {
                    names.iter().all(|name| {
                        held.iter().any(|rule| {
                            has_resource(rule, resource) && (rule.names.is_empty() || rule.names.contains(name))
                        })
                    })
                })
            })
    })
}

fn has(list: &[String], word: &str) -> bool {
    list.iter().any(|item| item == "*" || item == word)
}

fn has_resource(rule: &Rule, resource: &str) -> bool {
    let any = resource.split_once('/').map(|(_, subresource)| format!("*/{subresource}"));
    has(&rule.resources, resource) || any.is_some_and(|any| rule.resources.contains(&any))
}

fn has_path(rule: &Rule, path: &str) -> bool {
    rule.paths.iter().any(|held| match held.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => held == path,
    })
}

fn show(rule: &Rule) -> String {
    let lists = [
        ("APIGroups", &rule.groups),
        ("Resources", &rule.resources),
        ("ResourceNames", &rule.names),
        ("NonResourceURLs", &rule.paths),
        ("Verbs", &rule.verbs),
    ];
    let shown: Vec<String> =
        lists.iter().filter(|(_, list)| !list.is_empty()).map(|(name, list)| format!("{name}:{list:?}")).collect();
    let mut shown = shown.join(", ");
    shown.truncate(shown.floor_char_boundary(300));
    format!("{{{shown}}}")
}

#[cfg(test)]
mod tests {
    use super::super::builtin::rule;
    use super::*;

    #[test]
    fn a_rule_is_covered_by_several_that_hold_its_parts() {
        let held = [rule(&["get", "list"], &[""], &["pods", "*/status"]), rule(&["*"], &["apps"], &["deployments"])];
        let held: Vec<&Rule> = held.iter().collect();
        for (wanted, expected) in [
            (rule(&["get"], &[""], &["pods"]), true),
            (rule(&["get", "list"], &[""], &["pods", "nodes/status"]), true),
            (rule(&["watch"], &["apps"], &["deployments"]), true),
            (rule(&["get"], &["", "apps"], &["deployments"]), false),
            (rule(&["*"], &[""], &["pods"]), false),
            (rule(&["get"], &["*"], &["pods"]), false),
            (rule(&["get"], &[""], &["*"]), false),
            (rule(&["get"], &[""], &["pods/log"]), false),
            (rule(&[], &[""], &["secrets"]), true),
            (Rule { names: vec!["a".into()], ..rule(&["get"], &[""], &["pods"]) }, true),
            (Rule { verbs: vec!["get".into()], paths: vec!["/metrics".into()], ..Rule::default() }, false),
        ] {
            assert_eq!(covers(&held, &wanted), expected, "{}", show(&wanted));
        }
        let named = Rule { names: vec!["a".into()], ..rule(&["get"], &[""], &["secrets"]) };
        assert!(!covers(&[&named], &rule(&["get"], &[""], &["secrets"])), "one of them is not all of them");
        let paths = Rule { verbs: vec!["get".into()], paths: vec!["/a/*".into()], ..Rule::default() };
        let path = |path: &str| Rule { verbs: vec!["get".into()], paths: vec![path.into()], ..Rule::default() };
        assert!(covers(&[&paths], &path("/a/b*")) && !covers(&[&paths], &path("/b")));
    }

    #[test]
    fn a_rule_that_stands_for_too_much_is_not_held() {
        let words = || (0..200).map(|n| n.to_string()).collect::<Vec<_>>();
        let everything = rule(&["*"], &["*"], &["*"]);
        let wanted = Rule { verbs: words(), groups: words(), resources: words(), ..Rule::default() };
        assert!(!covers(&[&everything], &wanted));
    }
}
