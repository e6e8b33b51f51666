//! What is run in or asked of a container beside its command: hooks, and commands of probes.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Probe};
use switchyard_pause::protocol::Exec;

use crate::pods::pause::Pause;
use crate::probe::{Plan, RunInContainer};

/// Runs commands in one container, without input and output. A command nobody waits for any more is ended.
pub(crate) fn runner(pause: &Arc<Pause>, container: &str) -> RunInContainer {
    let (pause, name) = (Arc::clone(pause), container.to_owned());
    Arc::new(move |argv| {
        let (pause, name) = (Arc::clone(&pause), name.clone());
        async move {
            let exec = Exec { name, argv, env: Vec::new(), tty: false };
            let stdio = null().map_err(|error| format!("open /dev/null: {error}"))?;
            let mut execution = pause.exec(exec, stdio).await.map_err(|error| error.to_string())?;
            execution.ended().await.map(|exit| exit.code).ok_or_else(|| "the pod's first process is gone".to_owned())
        }
        .boxed()
    })
}

fn null() -> std::io::Result<[OwnedFd; 3]> {
    let file = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    Ok([file.try_clone()?.into(), file.try_clone()?.into(), file.into()])
}

/// Performs a hook, for at most this long.
pub(crate) async fn perform(
    hook: &LifecycleHandler,
    container: &Container,
    ip: IpAddr,
    run: &RunInContainer,
    at_most: Duration,
) -> Result<(), String> {
    if let Some(sleep) = &hook.sleep {
        let seconds = Duration::from_secs(sleep.seconds.unsigned_abs());
        tokio::time::sleep(seconds.min(at_most)).await;
        return Ok(());
    }
    let question = Probe {
        exec: hook.exec.clone(),
        http_get: hook.http_get.clone(),
        tcp_socket: hook.tcp_socket.clone(),
        timeout_seconds: Some(i32::try_from(at_most.as_secs()).unwrap_or(i32::MAX).max(1)),
        ..Probe::default()
    };
    Plan::new(&question, container, ip).map_err(|error| error.to_string())?.ask(run).await
}
