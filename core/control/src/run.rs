//! All of it, side by side, until told to stop.

use std::sync::Arc;

use kube::Client;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::context::Context;
use crate::{
    daemonset, deployment, edge, endpoints, entrance, events, firewall, gc, job, loadbalancer, namespace, network,
    node, replicaset, scheduler, segment, statefulset,
};

/// Lets go of the caches' handlers however the run ends, also when its future is dropped.
struct Running(Arc<Context>);

/// Runs the scheduler and all controllers against the API server behind `client` until `shutdown`.
///
/// May be dropped, or die, at any moment: the next run goes on from what the API says.
pub async fn run(client: Client, config: Config, shutdown: CancellationToken) {
    let (recorder, writer) = events::channel(client.clone());
    let context = Context::new(client.clone(), config, recorder);
    let running = Running(context);
    let context = &running.0;
    // Handlers first, watches last: a controller sees everything from the beginning.
    let controllers = vec![
        network::controller(context),
        segment::controller(context),
        edge::controller(context),
        firewall::controller(context),
        scheduler::controller(context),
        replicaset::controller(context),
        deployment::controller(context),
        daemonset::controller(context),
        statefulset::controller(context),
        job::controller(context),
        endpoints::controller(context),
        loadbalancer::controller(context),
        entrance::controller(context),
        namespace::controller(context),
        node::ipam::controller(context),
        node::lifecycle::controller(context),
        node::evict::controller(context),
        node::podgc::controller(context),
        gc::controller(context),
    ];
    let mut tasks = JoinSet::new();
    tasks.spawn(writer.run());
    for task in controllers.into_iter().chain(context.caches.watches(&client)) {
        tasks.spawn(task);
    }
    tokio::select! {
        () = shutdown.cancelled() => {}
        Some(ended) = tasks.join_next() => {
            // None of them ends by itself.
            if let Err(error) = ended {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}

// === impl Running ===

impl Drop for Running {
    fn drop(&mut self) {
        self.0.caches.close();
    }
}
