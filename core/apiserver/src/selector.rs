//! Label and field selectors.

use serde_json::Value;

use crate::kinds::Kind;
use crate::meta;
use crate::status::{ApiError, Result};

/// Which objects a list or watch is about.
#[derive(Default)]
pub struct Selector {
    labels: Vec<LabelRule>,
    fields: Vec<FieldRule>,
}

struct LabelRule {
    key: String,
    test: Test,
}

enum Test {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
    Greater(i64),
    Less(i64),
}

struct FieldRule {
    path: String,
    pointer: String,
    equal: bool,
    value: String,
}

const LONGEST: usize = 16 << 10;

// === impl Selector ===

impl Selector {
    pub fn parse(kind: &Kind, labels: Option<&str>, fields: Option<&str>) -> Result<Self> {
        for text in [labels, fields].into_iter().flatten() {
            if text.len() > LONGEST {
                return Err(ApiError::bad_request(format!("a selector of {} bytes: at most {LONGEST}", text.len())));
            }
        }
        let labels = labels.map(parse_labels).transpose()?.unwrap_or_default();
        let fields = fields.map(|text| parse_fields(kind, text)).transpose()?.unwrap_or_default();
        Ok(Self { labels, fields })
    }

    /// Whether it lets everything through.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub fn matches(&self, object: &Value) -> bool {
        self.fields.iter().all(|rule| rule.matches(object)) && {
            let labels = meta::map(object, "/metadata/labels");
            self.labels
                .iter()
                .all(|rule| rule.matches(labels.and_then(|map| map.get(&rule.key)).and_then(Value::as_str)))
        }
    }

    /// The value a field must have, if there is exactly one.
    pub fn exact(&self, path: &str) -> Option<&str> {
        self.fields.iter().find(|rule| rule.equal && rule.path == path).map(|rule| rule.value.as_str())
    }
}

// === impl LabelRule ===

impl LabelRule {
    fn matches(&self, value: Option<&str>) -> bool {
        match (&self.test, value) {
            (Test::Exists, value) => value.is_some(),
            (Test::Absent, value) => value.is_none(),
            (Test::In(set), value) => value.is_some_and(|value| set.iter().any(|item| item == value)),
            (Test::NotIn(set), value) => value.is_none_or(|value| set.iter().all(|item| item != value)),
            (Test::Greater(limit), value) => {
                value.and_then(|value| value.parse().ok()).is_some_and(|n: i64| n > *limit)
            }
            (Test::Less(limit), value) => value.and_then(|value| value.parse().ok()).is_some_and(|n: i64| n < *limit),
        }
    }
}

// === impl FieldRule ===

impl FieldRule {
    fn matches(&self, object: &Value) -> bool {
        let value = match object.pointer(&self.pointer) {
            Some(Value::String(text)) => text == &self.value,
            Some(Value::Bool(flag)) => flag.to_string() == self.value,
            Some(Value::Number(number)) => number.to_string() == self.value,
            _ => self.value.is_empty() || self.value == "false" && self.path.ends_with("unschedulable"),
        };
        value == self.equal
    }
}

fn parse_labels(text: &str) -> Result<Vec<LabelRule>> {
    let wrong =
        |why: &str| ApiError::bad_request(format!("unable to parse requirement: label selector {text:?}: {why}"));
    let mut rules = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        // A requirement ends at a comma that is not inside parentheses.
        let mut depth = 0;
        let end = rest
            .find(|c| {
                match c {
                    '(' => depth += 1,
                    ')' => depth -= 1,
                    _ => {}
                }
                c == ',' && depth == 0
            })
            .unwrap_or(rest.len());
        let item = rest[..end].trim();
        rest = rest[end..].strip_prefix(',').unwrap_or("").trim();
        if item.is_empty() {
            return Err(wrong("empty requirement"));
        }
        rules.push(parse_label(item).ok_or_else(|| wrong(&format!("cannot read {item:?}")))?);
    }
    Ok(rules)
}

fn parse_label(item: &str) -> Option<LabelRule> {
    let rule = |key: &str, test| is_label_key(key.trim()).then(|| LabelRule { key: key.trim().into(), test });
    let value = |text: &str| is_label_value(text.trim()).then(|| text.trim().to_owned());
    if let Some(key) = item.strip_prefix('!') {
        return rule(key, Test::Absent);
    }
    if let Some((head, set)) = item.split_once('(') {
        let set = set.trim().strip_suffix(')')?.split(',').map(value).collect::<Option<Vec<_>>>()?;
        let (key, operator) = head.trim().rsplit_once(char::is_whitespace)?;
        return match operator {
            "in" => rule(key, Test::In(set)),
            "notin" => rule(key, Test::NotIn(set)),
            _ => None,
        };
    }
    if let Some((key, text)) = item.split_once("!=") {
        return rule(key, Test::NotIn(vec![value(text)?]));
    }
    if let Some((key, text)) = item.split_once('=') {
        return rule(key, Test::In(vec![value(text.strip_prefix('=').unwrap_or(text))?]));
    }
    if let Some((key, text)) = item.split_once('>') {
        return rule(key, Test::Greater(text.trim().parse().ok()?));
    }
    if let Some((key, text)) = item.split_once('<') {
        return rule(key, Test::Less(text.trim().parse().ok()?));
    }
    rule(item, Test::Exists)
}

/// `name`, or `prefix.example.net/name`.
pub fn is_label_key(key: &str) -> bool {
    let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    !name.is_empty() && is_label_value(name) && prefix.is_none_or(|prefix| !prefix.is_empty() && prefix.len() <= 253)
}

/// Up to 63 of letters, digits, `-`, `_`, `.`, beginning and ending with a letter or digit; or nothing.
pub fn is_label_value(value: &str) -> bool {
    let ends = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    value.len() <= 63
        && value.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && ends(value.chars().next())
        && ends(value.chars().last())
}

fn parse_fields(kind: &Kind, text: &str) -> Result<Vec<FieldRule>> {
    let mut rules = Vec::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let (path, equal, value) = if let Some((path, value)) = item.split_once("!=") {
            (path, false, value)
        } else if let Some((path, value)) = item.split_once('=') {
            (path, true, value.strip_prefix('=').unwrap_or(value))
        } else {
            return Err(ApiError::bad_request(format!(
                "invalid field selector {text:?}: {item:?} must be field=value or field!=value"
            )));
        };
        let path = path.trim();
        if !supports(kind, path) {
            return Err(ApiError::bad_request(format!(
                "Unable to find \"{}\" that match label selector \"\", field selector \"{text}\": field label not \
                 supported: {path}",
                kind.resource()
            )));
        }
        let pointer = format!("/{}", path.replace('.', "/"));
        rules.push(FieldRule { path: path.into(), pointer, equal, value: value.trim().into() });
    }
    Ok(rules)
}

fn supports(kind: &Kind, path: &str) -> bool {
    let own: &[&str] = match kind.kind.as_str() {
        "Pod" => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        "Event" => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        "Node" => &["spec.unschedulable"],
        "Namespace" => &["status.phase"],
        "Secret" => &["type"],
        "Service" => &["spec.clusterIP", "spec.type"],
        "ReplicaSet" => &["status.replicas"],
        "Job" => &["status.successful"],
        _ => &[],
    };
    matches!(path, "metadata.name" | "metadata.namespace") || own.contains(&path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn matches(labels: &str, object: Value) -> bool {
        let table = crate::kinds::Kinds::built_in().now();
        let pod = table.get("", "v1", "pods").expect("pods are built in");
        Selector::parse(pod, Some(labels), None).expect("the selector is good").matches(&object)
    }

    #[test]
    fn label_requirements_mean_what_they_mean_in_kubernetes() {
        let object = json!({"metadata": {"labels": {"app": "a", "tier": "web", "n": "5"}}});
        for yes in [
            "",
            "app",
            "app=a",
            "app==a",
            "app!=b",
            "x!=b",
            "!x",
            "app in (a,b),tier notin (db)",
            "x notin (a)",
            "n>4",
            "n<6",
        ] {
            assert!(matches(yes, object.clone()), "{yes} should match");
        }
        for no in ["!app", "app=b", "app!=a", "x", "x=a", "app in (b)", "app=a,tier=db", "n>5"] {
            assert!(!matches(no, object.clone()), "{no} should not match");
        }
    }
}
