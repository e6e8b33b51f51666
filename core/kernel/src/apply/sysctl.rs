//! Parameters: written, and put back to what they were.

use switchyard_netstate::{Change, Object, Op, Sysctl};

use super::Run;
use crate::netlink::Refusal;
use crate::places::io_error;
use crate::{Error, sysctl};

impl Run<'_> {
    pub(super) fn sysctls(&mut self, ops: &[&Op]) -> Result<(), Error> {
        let place = ops[0].place.clone();
        let mut work: Vec<(&Op, String, Option<String>)> = Vec::new();
        for op in ops {
            let key = op.object().key();
            let Object::Sysctl(parameter) = op.object() else { unreachable!("called for parameters") };
            let value = match &op.change {
                Change::Remove(_) => match self.memory.take(&place, &key) {
                    Some(Object::Sysctl(original)) => Some(original.value),
                    _ => None,
                },
                _ => Some(parameter.value.clone()),
            };
            work.push((op, parameter.path.clone(), value));
        }
        let netns = self.places.netns(&place)?.clone();
        let outcomes = netns.visit(|| {
            let write = |path: &str, value: &str| -> std::io::Result<Option<String>> {
                let before = sysctl::read(path)?;
                if before == sysctl::normal(value) {
                    return Ok(Some(before));
                }
                sysctl::write(path, value).map(|()| Some(before))
            };
            let mut outcomes = Vec::new();
            for (_, path, value) in &work {
                let outcome = value.as_ref().map_or(Ok(None), |value| write(path, value));
                let failed = outcome.is_err();
                outcomes.push(outcome);
                if failed {
                    break;
                }
            }
            outcomes
        });
        let outcomes = outcomes.map_err(|source| io_error(&place, "enter the namespace", source))?;
        for ((op, path, _), outcome) in work.into_iter().zip(outcomes) {
            let removal = matches!(op.change, Change::Remove(_));
            match outcome {
                Ok(Some(before)) if !removal => {
                    let original = Object::Sysctl(Sysctl { path, value: before });
                    self.memory.keep(&place, op.object().key(), original);
                    self.done.push(op.clone());
                }
                Ok(_) => self.done.push(op.clone()),
                // The interface it belongs to is gone, and the parameter with it.
                Err(error) if removal && error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    let text = Some(error.to_string());
                    let errno = error.raw_os_error().unwrap_or(libc::EIO);
                    return Err(self.refused(op, Refusal { errno, text, offset: None }));
                }
            }
        }
        Ok(())
    }
}
