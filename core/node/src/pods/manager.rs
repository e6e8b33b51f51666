//! All pods of the node: follows their objects, keeps a worker for each, passes questions on.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::runtime::watcher::{self, Event};
use serde_json::json;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::pods::Context;
use crate::pods::pause::Pause;
use crate::pods::sandbox::Places;
use crate::pods::worker::{Note, Worker, facts};
use crate::server::{Ask, AskError};

/// Follows pods and answers questions until the stream ends.
pub(crate) struct Manager {
    context: Arc<Context>,
    pods: HashMap<String, Known>,
    over: mpsc::UnboundedSender<String>,
    overs: mpsc::UnboundedReceiver<String>,
    /// The pods of a list that is being received.
    listed: Option<HashSet<String>>,
    /// The first list is through.
    begun: bool,
}

struct Known {
    namespace: String,
    name: String,
    tell: mpsc::UnboundedSender<Note>,
    latest: Arc<Pod>,
}

// === impl Manager ===

impl Manager {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        let (over, overs) = mpsc::unbounded_channel();
        Self { context, pods: HashMap::new(), over, overs, listed: None, begun: false }
    }

    pub(crate) async fn run(
        mut self,
        events: impl Stream<Item = watcher::Result<Event<Pod>>>,
        mut asks: mpsc::Receiver<Ask>,
    ) {
        let mut events = std::pin::pin!(events);
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) => self.event(event).await,
                    Some(Err(error)) => warn!(%error, "watching pods failed; trying again"),
                    None => return,
                },
                Some(uid) = self.overs.recv() => { self.pods.remove(&uid); }
                Some(ask) = asks.recv() => self.ask(ask),
            }
        }
    }

    async fn event(&mut self, event: Event<Pod>) {
        match event {
            Event::Init => self.listed = Some(HashSet::new()),
            Event::InitApply(pod) => {
                let uid = pod.uid().unwrap_or_default();
                self.listed.get_or_insert_default().insert(uid);
                self.apply(pod);
            }
            Event::InitDone => self.listed().await,
            Event::Apply(pod) => self.apply(pod),
            Event::Delete(pod) => self.gone(&pod.uid().unwrap_or_default()),
        }
    }

    fn apply(&mut self, mut pod: Pod) {
        pod.metadata.managed_fields = None;
        let Some(uid) = pod.uid().filter(|uid| is_plain(uid)) else { return };
        let pod = Arc::new(pod);
        if let Some(known) = self.pods.get_mut(&uid) {
            known.latest = Arc::clone(&pod);
            let _ = known.tell.send(Note::Pod(pod));
            return;
        }
        if !self.begun {
            // Known to the network before it begins, so that what is there already is taken over and not swept away.
            if let Some(facts) = facts(&pod) {
                let netns = Places::of(&self.context.config, &pod).netns();
                if netns.exists() {
                    self.context.network.adopt(facts, netns);
                }
            }
        }
        let (namespace, name, latest) = (pod.namespace().unwrap_or_default(), pod.name_any(), Arc::clone(&pod));
        let (worker, tell) = Worker::new(Arc::clone(&self.context), pod);
        self.pods.insert(uid.clone(), Known { namespace, name, tell, latest });
        let over = self.over.clone();
        tokio::spawn(async move {
            worker.run().await;
            let _ = over.send(uid);
        });
    }

    fn gone(&self, uid: &str) {
        if let Some(known) = self.pods.get(uid) {
            let _ = known.tell.send(Note::Gone);
        }
    }

    /// A list is through: what it did not hold is gone, also what an earlier agent left behind.
    async fn listed(&mut self) {
        let listed = self.listed.take().unwrap_or_default();
        for uid in self.pods.keys().filter(|uid| !listed.contains(*uid)) {
            self.gone(uid);
        }
        if !std::mem::replace(&mut self.begun, true) {
            self.sweep(&listed).await;
            self.context.network.begin();
        }
    }

    /// Ends pods whose objects went while no agent was there.
    async fn sweep(&self, wanted: &HashSet<String>) {
        let dir = self.context.config.pods_dir();
        let Ok(entries) = std::fs::read_dir(&dir) else { return };
        for entry in entries.flatten() {
            let Ok(uid) = entry.file_name().into_string() else { continue };
            if wanted.contains(&uid) {
                continue;
            }
            info!(uid, "ending a pod that was deleted meanwhile");
            let places = Places { dir: entry.path(), logs: entry.path().join("logs") };
            let (tell, mut events) = mpsc::unbounded_channel();
            if let Ok(pause) = Pause::connect(&places.dir, tell).await {
                pause.kill();
                while events.recv().await.is_some() {}
            }
            if let Err(error) = places.remove() {
                warn!(path = %places.dir.display(), %error, "a directory cannot be removed");
            }
            let suffix = format!("_{uid}");
            let logs = std::fs::read_dir(&self.context.config.log_dir).into_iter().flatten().flatten();
            for log in logs.filter(|log| log.file_name().to_string_lossy().ends_with(&suffix)) {
                let _ = std::fs::remove_dir_all(log.path());
            }
        }
    }

    fn ask(&self, ask: Ask) {
        match ask {
            Ask::Pods { reply } => {
                let items: BTreeMap<_, _> =
                    self.pods.values().map(|known| ((&known.namespace, &known.name), known.latest.as_ref())).collect();
                let list = json!({
                    "apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": items.values().collect::<Vec<_>>(),
                });
                let _ = reply.send(list.to_string());
            }
            Ask::Log { container, previous, reply } => match self.find(&container.namespace, &container.pod) {
                Ok(known) => {
                    let _ = known.tell.send(Note::Log { container: container.container, previous, reply });
                }
                Err(error) => drop(reply.send(Err(error))),
            },
            Ask::Exec { container, command, reply } => match self.find(&container.namespace, &container.pod) {
                Ok(known) => {
                    let _ = known.tell.send(Note::Exec {
                        container: container.container,
                        command: Box::new(command),
                        reply,
                    });
                }
                Err(error) => drop(reply.send(Err(error))),
            },
            Ask::Netns { namespace, pod, reply } => match self.find(&namespace, &pod) {
                Ok(known) => {
                    let _ = known.tell.send(Note::Netns { reply });
                }
                Err(error) => drop(reply.send(Err(error))),
            },
        }
    }

    fn find(&self, namespace: &str, pod: &str) -> Result<&Known, AskError> {
        let mut pods = self.pods.values();
        pods.find(|known| known.namespace == namespace && known.name == pod)
            .ok_or_else(|| AskError::NotFound(format!("pod {namespace}/{pod} is not on this node")))
    }
}

/// A uid names a directory, so it must be a plain word.
fn is_plain(uid: &str) -> bool {
    !uid.is_empty() && uid.len() <= 64 && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}
