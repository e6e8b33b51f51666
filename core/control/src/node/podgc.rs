//! Pods nobody looks after: those of nodes that are gone, and ended ones beyond a limit.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Node;

use crate::cache::Key;
use crate::context::{BY_NODE, Context};
use crate::error::Result;
use crate::pod;
use crate::queue::{Next, Queue};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    /// A name that pods are bound to.
    Node(Key),
    Ended,
}

const NAME: &str = "pod-garbage-collector";
const PACE: Duration = Duration::from_millis(100);

pub(crate) fn controller(context: &Arc<Context>) -> BoxFuture<'static, ()> {
    let queue = Queue::<Work>::paced(PACE);
    let wake = queue.clone();
    context.caches.nodes.on_change(move |old, new| {
        if let (Some(node), None) = (old, new) {
            wake.add(Work::Node(Key::of(&node.metadata)));
        }
    });
    let (wake, weak) = (queue.clone(), Arc::downgrade(context));
    context.caches.pods.on_change(move |old, new| {
        let Some(pod) = new else { return };
        if pod::is_terminal(pod) && old.is_none_or(|old| !pod::is_terminal(old)) {
            wake.add(Work::Ended);
        }
        let is_new = old.is_none_or(|old| pod::node(old).is_none());
        if let (Some(node), Some(context), true) = (pod::node(pod), weak.upgrade(), is_new)
            && context.caches.nodes.get(&Key::cluster(node)).is_none()
        {
            wake.add(Work::Node(Key::cluster(node)));
        }
    });
    let context = context.clone();
    Box::pin(async move {
        tokio::join!(context.caches.nodes.synced(), context.caches.pods.synced());
        queue.run(NAME, 2, |work| step(&context, work)).await;
    })
}

async fn step(context: &Context, work: Work) -> Result<Next> {
    match work {
        Work::Node(key) => orphans(context, &key).await?,
        Work::Ended => ended(context).await?,
    }
    Ok(Next::Change)
}

async fn orphans(context: &Context, node: &Key) -> Result<()> {
    let pods = context.caches.pods.by(BY_NODE, &node.name);
    // The cache may be behind; what is deleted by force must be certain.
    if pods.is_empty()
        || context.caches.nodes.get(node).is_some()
        || context.cluster_api::<Node>().get_opt(&node.name).await?.is_some()
    {
        return Ok(());
    }
    for pod in pods {
        tracing::info!(pod = %Key::of(&pod.metadata), node = %node, "deleted: its node is gone");
        context.delete_pod(&pod, Some(0)).await?;
    }
    Ok(())
}

async fn ended(context: &Context) -> Result<()> {
    let mut ended = context.caches.pods.all();
    ended.retain(|pod| pod::is_terminal(pod) && !pod::is_terminating(pod));
    let surplus = ended.len().saturating_sub(context.config.terminated_pods);
    ended.sort_by_key(|pod| pod.metadata.creation_timestamp.clone());
    for pod in &ended[..surplus] {
        context.delete_pod(pod, Some(0)).await?;
    }
    Ok(())
}
