//! Keeps an index current: watches of Services, EndpointSlices, Pods and Ingresses.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::future::ready;

use futures::StreamExt as _;
use futures::stream::{BoxStream, select_all};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tracing::{debug, info};

use crate::sources::{Naming, SERVICE_NAME, unit};
use crate::{Shared, Unit};

/// Namespace and name.
type Id = (String, String);

/// What is kept of the objects: as much as it takes to say what a change of one of them means.
#[derive(Debug)]
pub struct Mirror {
    naming: Naming,
    index: Shared,
    services: BTreeMap<Id, Service>,
    slices: BTreeMap<Id, EndpointSlice>,
    /// Names of slices by Service.
    members: BTreeMap<Id, BTreeSet<Id>>,
    others: BTreeMap<&'static str, BTreeSet<Id>>,
    listings: BTreeMap<&'static str, BTreeSet<Id>>,
    complete: BTreeSet<&'static str>,
}

/// Something heard.
#[expect(clippy::large_enum_variant, reason = "taken apart at once; a box would only add an allocation")]
enum Heard {
    Service(Event<Service>),
    Slice(Event<EndpointSlice>),
    Pod(Event<Pod>),
    Ingress(Event<Ingress>),
}

const SERVICE: &str = "Service";
const SLICE: &str = "EndpointSlice";
const POD: &str = "Pod";
const INGRESS: &str = "Ingress";
/// Lists that have to be there before anything is answered.
const KINDS: [&str; 4] = [SERVICE, SLICE, POD, INGRESS];

/// Follows an API server for ever. `complete` becomes true once the index has everything; what is asked before has to wait.
pub async fn follow(client: Client, naming: Naming, index: Shared, complete: watch::Sender<bool>) {
    let mut events = select_all([
        events::<Service>(&client).map(Heard::Service).boxed(),
        events::<EndpointSlice>(&client).map(Heard::Slice).boxed(),
        events::<Pod>(&client).map(Heard::Pod).boxed(),
        events::<Ingress>(&client).map(Heard::Ingress).boxed(),
    ]);
    let mut mirror = Mirror::new(naming, index);
    while let Some(heard) = events.next().await {
        mirror.hear(heard);
        if mirror.is_complete() && !*complete.borrow() {
            info!(names = mirror.index.read().len(), "names are known");
            complete.send_replace(true);
        }
    }
}

// === impl Mirror ===

impl Mirror {
    /// A mirror that writes to an index.
    pub fn new(naming: Naming, index: Shared) -> Self {
        index.set(Unit::new("Domain", "", ""), naming.entries());
        Self {
            naming,
            index,
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            members: BTreeMap::new(),
            others: BTreeMap::new(),
            listings: BTreeMap::new(),
            complete: BTreeSet::new(),
        }
    }

    /// Whether every list has been received once.
    pub fn is_complete(&self) -> bool {
        KINDS.iter().all(|kind| self.complete.contains(kind))
    }

    /// A Service as it is now.
    pub fn service(&mut self, mut service: Service) {
        service.metadata.managed_fields = None;
        let id = id(&service);
        self.index.set(unit(SERVICE, &service), self.naming.service(&service));
        self.services.insert(id.clone(), service);
        self.settle_slices(&id);
    }

    /// An EndpointSlice as it is now.
    pub fn slice(&mut self, mut slice: EndpointSlice) {
        slice.metadata.managed_fields = None;
        let id = id(&slice);
        if let Some(before) = self.slices.insert(id.clone(), slice) {
            self.part(&id, &before);
        }
        if let Some(service) = service_of(&self.slices[&id]) {
            self.members.entry(service).or_default().insert(id.clone());
        }
        self.settle_slice(&id);
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Service(event) => self.take(SERVICE, event, Self::service),
            Heard::Slice(event) => self.take(SLICE, event, Self::slice),
            Heard::Pod(event) => self.take(POD, event, |mirror, pod| {
                mirror.others.entry(POD).or_default().insert(id(&pod));
                mirror.index.set(unit(POD, &pod), mirror.naming.pod(&pod));
            }),
            Heard::Ingress(event) => self.take(INGRESS, event, |mirror, ingress| {
                mirror.others.entry(INGRESS).or_default().insert(id(&ingress));
                mirror.index.set(unit(INGRESS, &ingress), mirror.naming.ingress(&ingress));
            }),
        }
    }

    fn take<K: Resource<DynamicType = ()>>(&mut self, kind: &'static str, event: Event<K>, apply: fn(&mut Self, K)) {
        match event {
            Event::Init => drop(self.listings.insert(kind, BTreeSet::new())),
            Event::InitApply(object) => {
                self.listings.entry(kind).or_default().insert(id(&object));
                apply(self, object);
            }
            Event::InitDone => {
                let listed = self.listings.remove(kind).unwrap_or_default();
                for gone in self.known(kind).into_iter().filter(|known| !listed.contains(known)) {
                    self.gone(kind, &gone);
                }
                self.complete.insert(kind);
            }
            Event::Apply(object) => apply(self, object),
            Event::Delete(object) => self.gone(kind, &id(&object)),
        }
    }

    fn known(&self, kind: &'static str) -> Vec<Id> {
        match kind {
            SERVICE => self.services.keys().cloned().collect(),
            SLICE => self.slices.keys().cloned().collect(),
            other => self.others.get(other).into_iter().flatten().cloned().collect(),
        }
    }

    fn gone(&mut self, kind: &'static str, id: &Id) {
        match kind {
            SERVICE => drop(self.services.remove(id)),
            SLICE => {
                if let Some(before) = self.slices.remove(id) {
                    self.part(id, &before);
                }
            }
            other => drop(self.others.get_mut(other).is_some_and(|known| known.remove(id))),
        }
        self.say(kind, id, Vec::new());
        if kind == SERVICE {
            self.settle_slices(id);
        }
    }

    /// A slice is no longer its Service's.
    fn part(&mut self, id: &Id, before: &EndpointSlice) {
        let Some(service) = service_of(before) else { return };
        if let Some(members) = self.members.get_mut(&service) {
            members.remove(id);
            if members.is_empty() {
                self.members.remove(&service);
            }
        }
    }

    fn settle_slices(&self, service: &Id) {
        for slice in self.members.get(service).into_iter().flatten() {
            self.settle_slice(slice);
        }
    }

    fn settle_slice(&self, id: &Id) {
        let Some(slice) = self.slices.get(id) else { return };
        let service = service_of(slice).and_then(|service| self.services.get(&service));
        let entries = service.map(|service| self.naming.slice(service, slice)).unwrap_or_default();
        self.say(SLICE, id, entries);
    }

    fn say(&self, kind: &'static str, (namespace, name): &Id, entries: Vec<crate::Entry>) {
        self.index.set(Unit::new(kind, namespace, name), entries);
    }
}

fn id(object: &impl Resource) -> Id {
    (object.namespace().unwrap_or_default(), object.name_any())
}

fn service_of(slice: &EndpointSlice) -> Option<Id> {
    Some((slice.namespace()?, slice.labels().get(SERVICE_NAME)?.clone()))
}

fn events<K>(client: &Client) -> BoxStream<'static, Event<K>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let events = switchyard_watch::watch(Api::<K>::all(client.clone()), watcher::Config::default());
    let heard = events.filter_map(|event| {
        ready(event.inspect_err(|error| debug!(%error, kind = %K::kind(&()), "watch interrupted")).ok())
    });
    heard.boxed()
}
