//! What a write needs a right for beyond its verb: it may give others rights, or a pod its address.

use serde_json::Value;
use switchyard_api::names::POD_IP;

use super::{Part, Write};
use crate::auth::{escalation, rbac};
use crate::meta;
use crate::status::{ApiError, FieldErrors, Result};

impl Write<'_> {
    /// Refuses what the user may not make of an object; `old` is there on updates.
    pub fn rights(&self, object: &Value, old: Option<&Value>, part: Part) -> Result<()> {
        escalation::check(self.server, self.user, self.kind, self.namespace, object, old)?;
        match old {
            _ if !self.kind.is("", "Pod") => Ok(()),
            Some(_) if part == Part::Any => Ok(()),
            Some(old) => self.keeps_address(object, old, part),
            None => self.may_give_address(object),
        }
    }

    /// An address is in use as long as a pod has it: binding gives it, and it goes with the pod's end, when its node says that
    /// nothing of the pod is connected any more.
    fn keeps_address(&self, pod: &Value, old: &Value, part: Part) -> Result<()> {
        if address(pod) == address(old) {
            return Ok(());
        }
        let is_end = part == Part::Status && address(pod).is_none() && meta::has_ended(pod);
        if is_end && (self.user.node().is_some() || self.may_bind(pod)) {
            return Ok(());
        }
        let mut errors = FieldErrors::default();
        let why = "a pod's address is given to it with its node, cannot be changed, and is its node's to take back when it has ended";
        errors.forbidden(format!("metadata.annotations[{POD_IP}]"), why);
        errors.into_result(self.kind, meta::name(old))
    }

    /// A pod that comes with its address is as good as bound.
    fn may_give_address(&self, pod: &Value) -> Result<()> {
        if address(pod).is_none() || self.may_bind(pod) {
            return Ok(());
        }
        let why = format!("annotation {POD_IP}: only who may create pods/binding may give a pod its address");
        Err(ApiError::forbidden(self.kind, meta::name(pod), why))
    }

    fn may_bind(&self, pod: &Value) -> bool {
        let wanted = rbac::Attributes {
            subresource: "binding".into(),
            namespace: self.namespace.into(),
            ..rbac::Attributes::object("create", "", "pods", meta::name(pod))
        };
        rbac::allowed(self.server, self.user, &wanted)
    }
}

fn address(pod: &Value) -> Option<&Value> {
    meta::map(pod, "/metadata/annotations")?.get(POD_IP)
}
