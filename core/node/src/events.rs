//! Events: what happened to a pod, told to people. Written one after the other, after everything else, and counted when they repeat.

use std::collections::{HashMap, VecDeque};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tracing::debug;

/// Events that may wait to be written; what comes on top is lost, as it would only come late.
const QUEUE: usize = 1024;
/// Events that are remembered to be counted.
const MEMORY: usize = 256;

/// Takes events; cheap to clone, never waits.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    queue: mpsc::Sender<Said>,
}

/// Whether it is good news.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Normal,
    Warning,
}

/// Something that was said about an object.
#[derive(Debug)]
struct Said {
    object: Value,
    namespace: String,
    kind: Kind,
    reason: &'static str,
    message: String,
}

/// What makes two events the same.
type Identity = (String, &'static str, String);

struct Writer {
    client: Client,
    node: String,
    known: HashMap<Identity, (String, i32)>,
    order: VecDeque<Identity>,
}

// === impl Recorder ===

impl Recorder {
    /// A recorder, and the task that writes what it takes until every recorder is gone.
    pub(crate) fn new(client: Client, node: &str) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (queue, mut said) = mpsc::channel::<Said>(QUEUE);
        let mut writer = Writer { client, node: node.to_owned(), known: HashMap::new(), order: VecDeque::new() };
        let task = async move {
            while let Some(said) = said.recv().await {
                if let Err(error) = writer.write(said).await {
                    debug!(%error, "writing an event failed");
                }
            }
        };
        (Self { queue }, task)
    }

    /// Notes something about a pod, or about one of its containers.
    pub(crate) fn pod(&self, pod: &Pod, container: Option<&str>, kind: Kind, reason: &'static str, message: String) {
        let namespace = pod.namespace().unwrap_or_default();
        let mut object = json!({
            "apiVersion": "v1", "kind": "Pod", "name": pod.name_any(), "namespace": namespace, "uid": pod.uid(),
            "resourceVersion": pod.resource_version(),
        });
        if let Some(container) = container {
            object["fieldPath"] = json!(format!("spec.containers{{{container}}}"));
        }
        let _ = self.queue.try_send(Said { object, namespace, kind, reason, message });
    }
}

// === impl Writer ===

impl Writer {
    async fn write(&mut self, said: Said) -> kube::Result<()> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &said.namespace);
        let now = Timestamp::now();
        let seconds = format!("{now:.0}");
        let about = format!("{}{}", said.object["uid"], said.object["fieldPath"]);
        let identity = (about, said.reason, said.message.clone());
        if let Some((name, count)) = self.known.get_mut(&identity) {
            let patch = json!({"count": *count + 1, "lastTimestamp": seconds});
            match events.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
                // The event has expired; it is written anew.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => {
                    *count += 1;
                    return other.map(drop);
                }
            }
        }
        let name = format!("{}.{:x}", said.object["name"].as_str().unwrap_or_default(), now.as_nanosecond());
        let event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": name, "namespace": said.namespace},
            "involvedObject": said.object,
            "type": match said.kind { Kind::Normal => "Normal", Kind::Warning => "Warning" },
            "reason": said.reason, "message": said.message, "count": 1,
            "firstTimestamp": seconds, "lastTimestamp": seconds,
            "source": {"component": "kubelet", "host": self.node},
            "reportingComponent": "kubelet", "reportingInstance": self.node,
        });
        let event: Event = serde_json::from_value(event).map_err(kube::Error::SerdeError)?;
        events.create(&PostParams::default(), &event).await?;
        if self.known.insert(identity.clone(), (name, 1)).is_none() {
            self.order.push_back(identity);
        }
        while self.order.len() > MEMORY {
            let oldest = self.order.pop_front().expect("it is longer than nothing");
            self.known.remove(&oldest);
        }
        Ok(())
    }
}
