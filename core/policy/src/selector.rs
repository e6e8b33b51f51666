//! Label selectors, as Kubernetes has them.

use serde::{Deserialize, Serialize};

use crate::Labels;

/// All of its demands must be met; without any it matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Selector {
    /// Labels that have to be there with these values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub match_labels: Option<Labels>,
    /// Other demands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub match_expressions: Option<Vec<Expression>>,
}

/// A demand on one label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Expression {
    /// The label.
    pub key: String,
    /// What is demanded of it.
    pub operator: Operator,
    /// For `In` and `NotIn`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<String>>,
}

/// How a label is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Operator {
    /// It is there, with one of the values.
    In,
    /// It is not there, or with another value.
    NotIn,
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

// === impls ===

impl Selector {
    /// Everything that has this label.
    pub fn label(key: &str, value: &str) -> Self {
        Self { match_labels: Some([(key.to_owned(), value.to_owned())].into()), match_expressions: None }
    }

    /// Whether these labels meet all demands.
    pub fn matches(&self, labels: &Labels) -> bool {
        let mut same = self.match_labels.iter().flatten();
        same.all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().flatten().all(|demand| demand.matches(labels))
    }
}

impl Expression {
    fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        let listed = |value| self.values.iter().flatten().any(|one| one == value);
        match self.operator {
            Operator::In => value.is_some_and(listed),
            Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(text: &str) -> Selector {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn every_demand_counts() {
        let labels: Labels = [("app".to_owned(), "web".to_owned()), ("tier".to_owned(), "front".to_owned())].into();
        for (text, holds) in [
            ("{}", true),
            (r#"{"matchLabels": {"app": "web"}}"#, true),
            (r#"{"matchLabels": {"app": "web", "tier": "back"}}"#, false),
            (r#"{"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "db"]}]}"#, true),
            (r#"{"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}"#, false),
            (r#"{"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]}"#, true),
            (r#"{"matchExpressions": [{"key": "zone", "operator": "Exists"}]}"#, false),
            (r#"{"matchExpressions": [{"key": "zone", "operator": "DoesNotExist"}]}"#, true),
            (r#"{"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "tier", "operator": "Exists"}]}"#, true),
        ] {
            assert_eq!(selector(text).matches(&labels), holds, "{text}");
        }
    }
}
