//! Writes the addresses clients should use to the status of the Ingresses we serve, and of no others.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use k8s_openapi::api::{core::v1::Service, networking::v1::Ingress};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::table::{Name, Objects};

/// Between attempts to write what could not be written: the first ones, and the later ones.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Compares status with what it should be, and sends what differs to a task that writes it.
#[derive(Debug)]
pub(super) struct Publisher {
    service: Name,
    /// The last thing sent for an Ingress, and of which version of it: not again until there is another one, which still shows
    /// something else.
    sent: HashMap<Name, (Option<String>, Value)>,
    writer: mpsc::UnboundedSender<(Name, Value)>,
}

// === impl Publisher ===

impl Publisher {
    pub(super) fn new(client: Client, service: Name) -> Self {
        let (writer, work) = mpsc::unbounded_channel();
        tokio::spawn(write(client, work));
        Self { service, sent: HashMap::new(), writer }
    }

    /// Called with every change.
    pub(super) fn update(&mut self, objects: &Objects) {
        let Some(wanted) = objects.services.get(&self.service).map(|service| addresses(service)) else { return };
        self.sent.retain(|name, _| objects.ingresses.contains_key(name));
        for (name, ingress) in objects.ingresses.iter().filter(|(_, ingress)| objects.serves(ingress)) {
            if current(ingress) == wanted {
                continue;
            }
            let mark = (ingress.metadata.resource_version.clone(), wanted.clone());
            if self.sent.get(name) != Some(&mark) {
                self.sent.insert(name.clone(), mark);
                let _ = self.writer.send((name.clone(), wanted.clone()));
            }
        }
    }
}

/// Writes the last that was wanted for each Ingress, again and again while it cannot be written.
async fn write(client: Client, mut work: mpsc::UnboundedReceiver<(Name, Value)>) {
    let mut open: BTreeMap<Name, Value> = BTreeMap::new();
    let mut pause = FIRST_PAUSE;
    loop {
        let more = match open.is_empty() {
            true => Some(work.recv().await),
            false => tokio::time::timeout(pause, work.recv()).await.ok(),
        };
        match more {
            Some(Some((name, addresses))) => _ = open.insert(name, addresses),
            Some(None) => return,
            None => pause = (pause * 2).min(LONGEST_PAUSE),
        }
        while let Ok((name, addresses)) = work.try_recv() {
            open.insert(name, addresses);
        }
        let mut left = BTreeMap::new();
        for (name, addresses) in open {
            if !write_one(&client, &name, &addresses).await {
                left.insert(name, addresses);
            }
        }
        open = left;
        if open.is_empty() {
            pause = FIRST_PAUSE;
        }
    }
}

/// Whether there is nothing more to do.
async fn write_one(client: &Client, (namespace, name): &Name, addresses: &Value) -> bool {
    let api: Api<Ingress> = Api::namespaced(client.clone(), namespace);
    let patch = json!({ "status": { "loadBalancer": { "ingress": addresses } } });
    match api.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(_) => true,
        Err(kube::Error::Api(status)) if status.code == 404 => true,
        Err(error) => {
            tracing::warn!(%error, namespace, name, "status not written");
            false
        }
    }
}

fn addresses(service: &Service) -> Value {
    let ingress = service.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|l| l.ingress.as_ref());
    entries(ingress.into_iter().flatten().map(|i| (i.ip.as_deref(), i.hostname.as_deref())))
}

fn current(ingress: &Ingress) -> Value {
    let status = ingress.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|l| l.ingress.as_ref());
    entries(status.into_iter().flatten().map(|i| (i.ip.as_deref(), i.hostname.as_deref())))
}

fn entries<'a>(all: impl Iterator<Item = (Option<&'a str>, Option<&'a str>)>) -> Value {
    all.map(|(ip, hostname)| match (ip, hostname) {
        (Some(ip), _) => json!({ "ip": ip }),
        (None, hostname) => json!({ "hostname": hostname }),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
    };

    use http::{Request, Response};
    use kube::client::Body;
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_written_is_tried_until_it_can() {
        const FAILURES: u32 = 20;
        let (tries, written) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
        let answer = {
            let (tries, written) = (tries.clone(), written.clone());
            move |_: Request<Body>| {
                let fails = tries.fetch_add(1, Ordering::SeqCst) < FAILURES;
                if !fails {
                    written.notify_one();
                }
                let status = if fails { 500 } else { 200 };
                let response = Response::builder().status(status).body(Body::from(b"{}".to_vec())).expect("a response");
                std::future::ready(Ok::<_, Infallible>(response))
            }
        };
        let (writer, work) = mpsc::unbounded_channel();
        tokio::spawn(write(Client::new(tower::service_fn(answer), "default"), work));
        writer.send((("default".into(), "web".into()), json!([{ "ip": "192.0.2.1" }]))).expect("a writer");
        tokio::time::timeout(LONGEST_PAUSE * FAILURES, written.notified()).await.expect("written at last");
        assert_eq!(tries.load(Ordering::SeqCst), FAILURES + 1);
    }
}
