//! SecurityPolicies and Groups: what the firewall's own reading of them refuses, the API refuses.

use serde::Deserialize;
use serde_json::Value;
use switchyard_api::{GroupSpec, SecurityPolicySpec};
use switchyard_policy::SpecError;

use crate::status::FieldErrors;

pub fn security_policy(policy: &Value, errors: &mut FieldErrors) {
    // What is not of the type has been refused before.
    let Some(spec) = policy.get("spec") else { return };
    if let Err(error) = SecurityPolicySpec::deserialize(spec).map_err(SpecError::from).and_then(|spec| spec.check()) {
        refuse(&error, errors);
    }
}

pub fn group(group: &Value, errors: &mut FieldErrors) {
    let Some(spec) = group.get("spec") else { return };
    if let Err(error) = GroupSpec::deserialize(spec).map_err(SpecError::from).and_then(|spec| spec.check()) {
        refuse(&error, errors);
    }
}

fn refuse(error: &SpecError, errors: &mut FieldErrors) {
    match error {
        SpecError::Invalid { field, value, expected } => {
            errors.invalid(format!("spec.{field}"), value.as_str(), &format!("expected {expected}"));
        }
        SpecError::Malformed(error) => errors.invalid("spec", Value::Null, &error.to_string()),
    }
}
