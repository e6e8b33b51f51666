//! JSON patches (RFC 6902), within bounds.
//!
//! An operation may take from the object itself, so a few bytes of patch can make much of little: copies double what is there, and
//! each `add` may go on where the last one ended. So before an operation is done, how deep its value will lie and how much it copies
//! are known.

use json_patch::PatchOperation;
use json_patch::jsonptr::Pointer;
use serde_json::Value;
use switchyard_store::bounds::MOST_DEPTH;

/// Why a patch was not done.
pub enum Refused {
    /// It does not fit the object.
    Wrong(json_patch::PatchError),
    /// Its result would have too many levels.
    TooDeep,
    /// It copies and moves too much.
    TooMuch,
}

/// Bytes that all of a patch's `copy` and `move` operations together may take from the object, as in Kubernetes.
pub const MOST_COPIED: usize = 3 << 20;

/// Applies a patch. What it has changed so far stays when it is refused.
pub fn apply(object: &mut Value, patch: &[PatchOperation]) -> Result<(), Refused> {
    // A value of the patch itself is as long as the body lets it.
    let (mut copied, mut given) = (MOST_COPIED, usize::MAX);
    for (at, operation) in patch.iter().enumerate() {
        let levels = || MOST_DEPTH.checked_sub(operation.path().count()).ok_or(Refused::TooDeep);
        match operation {
            PatchOperation::Add(add) => weigh(&add.value, levels()?, &mut given)?,
            PatchOperation::Replace(replace) => weigh(&replace.value, levels()?, &mut given)?,
            PatchOperation::Copy(copy) => taken(object, &copy.from, levels()?, &mut copied)?,
            PatchOperation::Move(moved) => taken(object, &moved.from, levels()?, &mut copied)?,
            PatchOperation::Remove(_) | PatchOperation::Test(_) => {}
        }
        json_patch::patch_unsafe(object, std::slice::from_ref(operation)).map_err(|mut error| {
            error.operation = at;
            Refused::Wrong(error)
        })?;
    }
    Ok(())
}

/// Nothing where there is nothing: the operation itself says so.
fn taken(object: &Value, from: &Pointer, levels: usize, left: &mut usize) -> Result<(), Refused> {
    from.resolve(object).map_or(Ok(()), |value| weigh(value, levels, left))
}

/// Takes a value's length, about that of its JSON, from what is left.
fn weigh(value: &Value, levels: usize, left: &mut usize) -> Result<(), Refused> {
    let inner = || levels.checked_sub(1).ok_or(Refused::TooDeep);
    match value {
        Value::Object(map) => {
            let levels = inner()?;
            map.iter().try_for_each(|(field, value)| {
                take(field.len() + 4, left)?;
                weigh(value, levels, left)
            })
        }
        Value::Array(list) => {
            let levels = inner()?;
            list.iter().try_for_each(|value| weigh(value, levels, left))
        }
        Value::String(text) => take(text.len() + 2, left),
        _ => take(2, left),
    }
}

fn take(bytes: usize, left: &mut usize) -> Result<(), Refused> {
    *left = left.checked_sub(bytes).ok_or(Refused::TooMuch)?;
    Ok(())
}
