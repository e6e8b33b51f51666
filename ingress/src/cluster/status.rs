//! Writes the addresses clients should use to the status of the Ingresses we serve, and of no others.

use std::{collections::HashMap, time::Duration};

use k8s_openapi::api::{core::v1::Service, networking::v1::Ingress};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::table::{Name, Objects};

const TRIES: u32 = 6;

/// Compares status with what it should be, and sends what differs to a task that writes it.
#[derive(Debug)]
pub(super) struct Publisher {
    service: Name,
    /// The last thing sent for an Ingress: not again until its object shows something else.
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

    /// Called with every table.
    pub(super) fn update(&mut self, objects: &Objects) {
        let Some(wanted) = objects.services.get(&self.service).map(|service| addresses(service)) else { return };
        self.sent.retain(|name, _| objects.ingresses.contains_key(name));
        for (name, ingress) in objects.ingresses.iter().filter(|(_, ingress)| objects.serves(ingress)) {
            if current(ingress) == wanted {
                continue;
            }
            let mark = (ingress.metadata.uid.clone(), wanted.clone());
            if self.sent.get(name) != Some(&mark) {
                self.sent.insert(name.clone(), mark);
                let _ = self.writer.send((name.clone(), wanted.clone()));
            }
        }
    }
}

async fn write(client: Client, mut work: mpsc::UnboundedReceiver<(Name, Value)>) {
    while let Some(((namespace, name), addresses)) = work.recv().await {
        let api: Api<Ingress> = Api::namespaced(client.clone(), &namespace);
        let patch = json!({ "status": { "loadBalancer": { "ingress": addresses } } });
        for attempt in 0..TRIES {
            match api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
                Ok(_) => break,
                Err(kube::Error::Api(status)) if status.code == 404 => break,
                Err(error) => {
                    tracing::warn!(%error, namespace, name, "status not written");
                    tokio::time::sleep(Duration::from_millis(100 << attempt)).await;
                }
            }
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
