//! Label selectors in objects.

use serde_json::{Map, Value};

use crate::meta;
use crate::selector::is_label_value;
use crate::status::FieldErrors;

/// Checks a selector; none is good.
pub fn selector(selector: Option<&Value>, path: &str, errors: &mut FieldErrors) {
    let Some(selector) = selector else { return };
    for (key, value) in meta::map(selector, "/matchLabels").into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        if !is_label_value(value) {
            let why =
                format!("the value of label {key} must be 63 characters or less of letters, digits, '-', '_' or '.'");
            errors.invalid(format!("{path}.matchLabels"), value, &why);
        }
    }
    for (at, demand) in meta::list(selector, "/matchExpressions").iter().enumerate() {
        let path = format!("{path}.matchExpressions[{at}]");
        if meta::text(demand, "/key").is_empty() {
            errors.required(format!("{path}.key"), "");
        }
        let values = meta::list(demand, "/values");
        match meta::text(demand, "/operator") {
            "In" | "NotIn" if values.is_empty() => {
                errors.required(format!("{path}.values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.forbidden(format!("{path}.values"), why);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(format!("{path}.operator"), other, "not a valid selector operator"),
        }
    }
}

/// Checks that an owner of pods knows those that it makes: if not, it would make them without end. What was stored before this was
/// asked may still be changed otherwise, so that it can go.
pub fn of_pods(object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let Some(selector) = object.pointer("/spec/selector").filter(|selector| !selector.is_null()) else { return };
    if old.is_some_and(|old| old["spec"] == object["spec"]) {
        return;
    }
    let before = errors.0.len();
    self::selector(Some(selector), "spec.selector", errors);
    let own = meta::map(object, "/spec/template/metadata/labels");
    if errors.0.len() == before && !selects(selector, own) {
        let shown = Value::Object(own.cloned().unwrap_or_default());
        errors.invalid("spec.template.metadata.labels", shown, "`selector` does not match template `labels`");
    }
}

/// Whether a selector selects these labels; one that makes no sense selects nothing.
fn selects(selector: &Value, labels: Option<&Map<String, Value>>) -> bool {
    let label = |key: &str| labels.and_then(|labels| labels.get(key));
    let equal = meta::map(selector, "/matchLabels").into_iter().flatten().all(|(key, value)| label(key) == Some(value));
    equal
        && meta::list(selector, "/matchExpressions").iter().all(|demand| {
            let (label, values) = (label(meta::text(demand, "/key")), meta::list(demand, "/values"));
            let among = label.is_some_and(|label| values.contains(label));
            match meta::text(demand, "/operator") {
                "In" => among,
                "NotIn" => !among,
                "Exists" => label.is_some(),
                "DoesNotExist" => label.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_template_is_what_its_selector_selects() {
        let demand = |demand: Value| json!({"matchExpressions": [demand]});
        for (selector, labels, good) in [
            (json!({"matchLabels": {"app": "a"}}), json!({"app": "a", "tier": "web"}), true),
            (json!({"matchLabels": {"app": "a"}}), json!({"app": "b"}), false),
            (demand(json!({"key": "app", "operator": "In", "values": ["a", "b"]})), json!({"app": "b"}), true),
            (demand(json!({"key": "app", "operator": "In", "values": ["a"]})), json!({"app": "b"}), false),
            (demand(json!({"key": "app", "operator": "in", "values": ["a"]})), json!({"app": "a"}), false),
            (demand(json!({"key": "app", "operator": "NotIn", "values": ["a"]})), json!(null), true),
            (demand(json!({"key": "app", "operator": "NotIn", "values": ["a"]})), json!({"app": "a"}), false),
            (demand(json!({"key": "app", "operator": "Exists"})), json!({"app": "a"}), true),
            (demand(json!({"key": "app", "operator": "Exists"})), json!(null), false),
            (demand(json!({"key": "app", "operator": "DoesNotExist"})), json!(null), true),
            (demand(json!({"key": "app", "operator": "DoesNotExist"})), json!({"app": "a"}), false),
        ] {
            let object = json!({"spec": {"selector": selector, "template": {"metadata": {"labels": labels}}}});
            let mut errors = FieldErrors::default();
            of_pods(&object, None, &mut errors);
            assert_eq!(errors.0.is_empty(), good, "{object}");
        }
    }
}
