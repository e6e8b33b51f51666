//! Segments: what no node could carry, every node would fail at, so it is refused where it is written.

use serde::Deserialize;
use serde_json::Value;
use switchyard_api::{SegmentFault, SegmentSpec};

use crate::meta;
use crate::server::Inner;
use crate::status::FieldErrors;

pub fn segment(server: &Inner, segment: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let spec = |object: &Value| SegmentSpec::deserialize(object.get("spec")?).ok();
    // What is not of the type has been refused before.
    let Some(own) = spec(segment) else { return };
    let (others, _) = server.store.list("switchyard.dev/segments/");
    let others: Vec<(String, SegmentSpec)> = others
        .iter()
        .filter(|other| meta::name(&other.value) != meta::name(segment))
        .filter_map(|other| Some((meta::name(&other.value).to_owned(), spec(&other.value)?)))
        .collect();
    let checked = own
        .check()
        .and_then(|()| old.and_then(spec).map_or(Ok(()), |old| own.check_update(&old)))
        .and_then(|()| within(server, &own))
        .and_then(|()| own.check_beside(others.iter().map(|(name, other)| (name.as_str(), other))));
    if let Err(SegmentFault { field, value, expected }) = checked {
        errors.invalid(format!("spec.{field}"), value, &format!("expected {expected}"));
    }
}

/// Addresses of segments are addresses of pods.
fn within(server: &Inner, spec: &SegmentSpec) -> Result<(), SegmentFault> {
    let Some(all) = server.pod_cidr else { return Ok(()) };
    let beyond = spec.subnets.iter().enumerate().find(|(_, subnet)| !all.contains(*subnet));
    match beyond {
        Some((number, subnet)) => Err(SegmentFault {
            field: format!("subnets[{number}]"),
            value: subnet.to_string(),
            expected: format!("a part of the cluster's pod addresses, {all}"),
        }),
        None => Ok(()),
    }
}
