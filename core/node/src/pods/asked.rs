//! What others ask of a pod's containers: where a log is, a command beside one, the way to its ports.

use std::path::PathBuf;

use kube::ResourceExt;
use switchyard_pause::protocol;
use tokio::sync::{oneshot, watch};

use crate::pods::sandbox;
use crate::pods::worker::Worker;
use crate::server::{AskError, Command, LogFile};

impl Worker {
    pub(super) fn log(&self, name: &str, previous: bool) -> Result<LogFile, AskError> {
        let name = self.default_container(name)?;
        let slot = self.slots.get(&name).filter(|slot| slot.runs > 0);
        let waiting =
            || AskError::BadRequest(format!("container {name:?} in pod {:?} is waiting to start", self.pod.name_any()));
        let slot = slot.ok_or_else(waiting)?;
        let latest = slot.runs - 1;
        let none = || {
            AskError::BadRequest(format!(
                "previous terminated container {name:?} in pod {:?} not found",
                self.pod.name_any()
            ))
        };
        let run = if previous { slot.previous().ok_or_else(none)? } else { latest };
        let ended = match self.live.get(&name).filter(|_| !previous) {
            Some(live) => live.ended.subscribe(),
            None => watch::channel(true).1,
        };
        Ok(LogFile { path: self.places.logs.join(&name).join(format!("{run}.log")), ended })
    }

    /// The pod's network namespace; `None` if it is the node's own.
    pub(super) fn netns(&self) -> Result<Option<PathBuf>, AskError> {
        if self.sandbox.is_none() {
            return Err(AskError::BadRequest(format!("pod {:?} does not run", self.pod.name_any())));
        }
        Ok((!sandbox::host_network(&self.pod)).then(|| self.places.netns()))
    }

    pub(super) async fn exec(&self, name: String, command: Command) -> Result<oneshot::Receiver<i32>, AskError> {
        let name = self.default_container(&name)?;
        let not_running = || AskError::BadRequest(format!("container {name:?} does not run"));
        let pause = self.sandbox.as_ref().ok_or_else(not_running)?;
        let exec = protocol::Exec { name: name.clone(), argv: command.argv, env: Vec::new(), tty: command.tty };
        let mut execution =
            pause.exec(exec, command.stdio).await.map_err(|error| AskError::Failed(error.to_string()))?;
        let (mut tell, code) = oneshot::channel();
        tokio::spawn(async move {
            let exit = tokio::select! {
                exit = execution.ended() => exit,
                // Who asked has gone, and the command goes with the execution.
                () = tell.closed() => return,
            };
            // A pod that died took the command along.
            let _ = tell.send(exit.map_or(137, |exit| exit.code));
        });
        Ok(code)
    }

    fn default_container(&self, name: &str) -> Result<String, AskError> {
        let spec = self.pod.spec.as_ref();
        let first = spec.and_then(|spec| spec.containers.first()).map(|container| container.name.clone());
        match name {
            "" => first.ok_or_else(|| AskError::NotFound("the pod has no container".into())),
            _ if self.container(name).is_some() => Ok(name.to_owned()),
            _ => Err(AskError::NotFound(format!("container {name} is not valid for pod {}", self.pod.name_any()))),
        }
    }
}
