//! Pods: from an object in the API to processes in namespaces, and back.
//!
//! One task a pod ([`worker`]) acts on what it hears: the object changed, a process ended, a probe answered, a time has come. What
//! a container should do next and what the status says are pure functions ([`containers`], [`status`]).

mod asked;
pub(crate) mod containers;
mod heard;
mod hooks;
pub(crate) mod manager;
mod pause;
mod sandbox;
mod start;
pub(crate) mod status;
mod terminate;
mod volumes;
mod worker;
mod write;

use std::path::PathBuf;
use std::sync::Arc;

use kube::Client;
use tokio::sync::Semaphore;

use crate::config::Config;
use crate::events::Recorder;
use crate::images::Images;
use crate::network::Network;
use crate::policy::Guard;

/// Pods that are being started at the same time.
const STARTS: usize = 4;
/// Requests to the API that are under way at the same time for pods.
const REQUESTS: usize = 4;

/// What every pod of the node shares.
pub(crate) struct Context {
    pub(crate) config: Arc<Config>,
    pub(crate) client: Client,
    pub(crate) images: Images,
    pub(crate) recorder: Recorder,
    pub(crate) network: Network,
    pub(crate) guard: Guard,
    /// The program `yard-pause`.
    pause: PathBuf,
    starts: Semaphore,
    requests: Semaphore,
}

impl Context {
    pub(crate) fn new(
        config: Arc<Config>,
        client: Client,
        recorder: Recorder,
        network: Network,
        guard: Guard,
    ) -> std::io::Result<Arc<Self>> {
        let programs = config.programs()?;
        let pause = programs.join("yard-pause");
        let images = Images::new(programs, &config.images);
        let (starts, requests) = (Semaphore::new(STARTS), Semaphore::new(REQUESTS));
        Ok(Arc::new(Self { config, client, images, recorder, network, guard, pause, starts, requests }))
    }
}
