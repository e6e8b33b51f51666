//! Events: what controllers have to say about an object, for `kubectl describe`.
//!
//! They are written behind the controllers' backs, a few at once; when more wait than is sensible they are dropped. The same thing
//! said again counts up the event that is there.

use std::time::Duration;

use foldhash::{HashMap, HashMapExt};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use serde_json::json;
use tokio::sync::mpsc;

/// Takes what is to be said. A cheap handle.
#[derive(Clone)]
pub(crate) struct Recorder(mpsc::Sender<Said>);

/// Writes it.
pub(crate) struct Writer {
    client: Client,
    said: mpsc::Receiver<Said>,
    before: HashMap<Id, (String, i32)>,
}

/// What is the same when it is said again: the object, the reason, the message.
type Id = (String, &'static str, String);

struct Said {
    about: ObjectReference,
    by: &'static str,
    normal: bool,
    reason: &'static str,
    message: String,
}

const MOST_WAITING: usize = 4096;
/// Beyond this many remembered events all are forgotten, and said anew.
const MOST_REMEMBERED: usize = 4096;
const AT_ONCE: usize = 8;

pub(crate) fn channel(client: Client) -> (Recorder, Writer) {
    let (sender, said) = mpsc::channel(MOST_WAITING);
    (Recorder(sender), Writer { client, said, before: HashMap::new() })
}

// === impl Recorder ===

impl Recorder {
    pub(crate) fn normal<K>(&self, by: &'static str, about: &K, reason: &'static str, message: impl Into<String>)
    where
        K: Resource<DynamicType = ()>,
    {
        self.say(by, about, true, reason, message.into());
    }

    pub(crate) fn warning<K>(&self, by: &'static str, about: &K, reason: &'static str, message: impl Into<String>)
    where
        K: Resource<DynamicType = ()>,
    {
        self.say(by, about, false, reason, message.into());
    }

    fn say<K: Resource<DynamicType = ()>>(
        &self,
        by: &'static str,
        about: &K,
        normal: bool,
        reason: &'static str,
        message: String,
    ) {
        let about = ObjectReference { field_path: None, ..about.object_ref(&()) };
        // A full channel means nobody could read that many anyway.
        let _ = self.0.try_send(Said { about, by, normal, reason, message });
    }
}

// === impl Writer ===

impl Writer {
    pub(crate) async fn run(mut self) {
        let mut writing = futures::stream::FuturesUnordered::new();
        loop {
            tokio::select! {
                said = self.said.recv(), if writing.len() < AT_ONCE => match said {
                    Some(said) => writing.push(self.write(said)),
                    None => break,
                },
                Some(anew) = writing.next(), if !writing.is_empty() => {
                    if let Some((id, name)) = anew {
                        self.before.insert(id, (name, 1));
                    }
                }
            }
        }
        while writing.next().await.is_some() {}
    }

    /// The future says under which name an event was written anew, if the one that was there is gone.
    fn write(&mut self, said: Said) -> impl Future<Output = Option<(Id, String)>> + use<> {
        let namespace = said.about.namespace.clone().unwrap_or_else(|| "default".into());
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        if self.before.len() >= MOST_REMEMBERED {
            self.before.clear();
        }
        let id = (said.about.uid.clone().unwrap_or_default(), said.reason, said.message.clone());
        let now = Timestamp::now();
        let again = self.before.get_mut(&id).map(|(name, count)| {
            *count += 1;
            (name.clone(), json!({"count": *count, "lastTimestamp": Time(now)}))
        });
        let event = Event {
            metadata: ObjectMeta {
                // As Kubernetes names them: the object, and when.
                name: Some(format!("{}.{:x}", said.about.name.as_deref().unwrap_or("unknown"), now.as_nanosecond())),
                namespace: Some(namespace),
                ..ObjectMeta::default()
            },
            involved_object: said.about,
            type_: Some(if said.normal { "Normal" } else { "Warning" }.into()),
            reason: Some(said.reason.into()),
            message: Some(said.message),
            count: Some(1),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            source: Some(EventSource { component: Some(said.by.into()), host: None }),
            reporting_component: Some(said.by.into()),
            reporting_instance: Some(said.by.into()),
            ..Event::default()
        };
        if again.is_none() {
            self.before.insert(id.clone(), (event.metadata.name.clone().unwrap_or_default(), 1));
        }
        async move {
            let write = async {
                if let Some((name, patch)) = &again
                    && api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.is_ok()
                {
                    return Ok(None);
                }
                let event = api.create(&PostParams::default(), &event).await?;
                Ok::<_, kube::Error>(event.metadata.name.filter(|_| again.is_some()))
            };
            match tokio::time::timeout(Duration::from_secs(10), write).await {
                Ok(Ok(anew)) => return anew.map(|name| (id, name)),
                Ok(Err(error)) => tracing::debug!(reason = event.reason, %error, "event not written"),
                Err(_) => tracing::debug!(reason = event.reason, "event not written in time"),
            }
            None
        }
    }
}
