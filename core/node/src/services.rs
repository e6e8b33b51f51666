//! Services on this node: follows Services and EndpointSlices, and wants a unit for each Service.
//!
//! Cost follows the change: only Services that an event touched are computed anew, a burst of events once.

use std::collections::{BTreeMap, BTreeSet};

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::runtime::watcher::{self, Event};
use switchyard_netstate::{Fragment, UnitId};
use switchyard_services::{Claims, NodeServiceFacts, Stale, Taken, UdpWays, node_base, service, udp_ways};
use tracing::warn;

use crate::network::{Call, List, Network, Units};

/// Label that ties an EndpointSlice to its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Events that are taken in before anything is computed.
const BURST: usize = 512;

/// Namespace and name.
type Id = (String, String);

/// What is known of Services.
pub(crate) struct Services {
    facts: NodeServiceFacts,
    network: Network,
    services: Known<Service>,
    slices: Known<EndpointSlice>,
    /// Names of slices by Service.
    members: BTreeMap<Id, BTreeSet<Id>>,
    /// Which Service holds an entrance that several ask for.
    claims: Claims,
    dirty: BTreeSet<Id>,
    /// Who answers UDP, as it was settled last.
    udp: BTreeMap<Id, UdpWays>,
    begun: bool,
}

/// Objects of one kind, and those seen in a list that is being received.
struct Known<K> {
    objects: BTreeMap<Id, K>,
    listing: Option<BTreeSet<Id>>,
    complete: bool,
}

/// Something heard.
#[expect(
    clippy::large_enum_variant,
    reason = "handed on once and taken apart at once; a box would only add an allocation"
)]
pub(crate) enum Heard {
    Service(Event<Service>),
    Slice(Event<EndpointSlice>),
}

// === impl Services ===

impl Services {
    pub(crate) fn new(facts: NodeServiceFacts, network: Network) -> Self {
        Self {
            facts,
            network,
            services: Known::new(),
            slices: Known::new(),
            members: BTreeMap::new(),
            claims: Claims::default(),
            dirty: BTreeSet::new(),
            udp: BTreeMap::new(),
            begun: false,
        }
    }

    /// Follows until the stream ends.
    pub(crate) async fn run(mut self, events: impl Stream<Item = watcher::Result<Heard>>) {
        let mut bursts = std::pin::pin!(events.ready_chunks(BURST));
        while let Some(burst) = bursts.next().await {
            for heard in burst {
                match heard {
                    Ok(heard) => self.hear(heard),
                    Err(error) => warn!(%error, "watching Services failed; trying again"),
                }
            }
            self.settle();
        }
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Service(event) => {
                let changed = self.services.take(event, |service| {
                    service.metadata.managed_fields = None;
                    // The addresses of load balancers stay: the node answers for them itself.
                    if let Some(status) = &mut service.status {
                        status.conditions = None;
                    }
                });
                self.dirty.extend(changed.into_iter().map(|(id, _)| id));
            }
            Heard::Slice(event) => {
                let changed = self.slices.take(event, |slice| slice.metadata.managed_fields = None);
                for (id, old) in changed {
                    if let Some(service) = old.as_ref().and_then(service_of)
                        && let Some(slices) = self.members.get_mut(&service)
                    {
                        slices.remove(&id);
                        if slices.is_empty() {
                            self.members.remove(&service);
                        }
                        self.dirty.insert(service);
                    }
                    if let Some(service) = self.slices.objects.get(&id).and_then(service_of) {
                        self.members.entry(service.clone()).or_default().insert(id);
                        self.dirty.insert(service);
                    }
                }
            }
        }
    }

    /// Says what is wanted now.
    fn settle(&mut self) {
        if !self.services.complete || !self.slices.complete {
            return;
        }
        let mut units = Units::new();
        let mut stale = Stale::default();
        for id in self.touched() {
            let slices = self.slices_of(&id);
            let taken = self.claims.taken(&id);
            let service = self.services.objects.get(&id);
            units.insert(unit(&id), service.and_then(|service| self.fragment(service, &slices, &taken)));
            let old = self.udp.remove(&id).unwrap_or_default();
            let new = service.map(|service| udp_ways(&self.facts, service, &slices, &taken)).unwrap_or_default();
            stale.add(Stale::between(&old, &new));
            if !new.is_empty() {
                self.udp.insert(id, new);
            }
        }
        if !self.begun {
            units.insert(UnitId("services".into()), Some(node_base(&self.facts)));
            // Nobody knows what changed while no agent was there.
            stale = Stale::all_but(self.udp.values().flatten().map(|(to, ends)| (*to, ends.clone())).collect());
        }
        if !units.is_empty() {
            self.network.tell(Call::Services { units, stale });
        }
        if !std::mem::replace(&mut self.begun, true) {
            self.network.tell(Call::Listed(List::Services));
        }
    }

    /// Services to be computed anew: those that changed, and those that gain or lose an entrance by it.
    fn touched(&mut self) -> BTreeSet<Id> {
        let mut touched = std::mem::take(&mut self.dirty);
        for id in touched.clone() {
            touched.extend(self.claims.update(&id, self.services.objects.get(&id)));
        }
        touched
    }

    fn slices_of(&self, id: &Id) -> Vec<EndpointSlice> {
        let members = self.members.get(id).into_iter().flatten();
        members.filter_map(|slice| self.slices.objects.get(slice)).cloned().collect()
    }

    fn fragment(&self, object: &Service, slices: &[EndpointSlice], taken: &Taken) -> Option<Fragment> {
        Some(service(&self.facts, object, slices, taken)).filter(|fragment| !fragment.is_empty())
    }
}

fn unit((namespace, name): &Id) -> UnitId {
    UnitId(format!("service/{namespace}/{name}"))
}

fn service_of(slice: &EndpointSlice) -> Option<Id> {
    Some((slice.namespace()?, slice.labels().get(SERVICE_NAME)?.clone()))
}

// === impl Known ===

impl<K: ResourceExt + PartialEq> Known<K> {
    fn new() -> Self {
        Self { objects: BTreeMap::new(), listing: None, complete: false }
    }

    /// Takes an event in; what changed, with what was there before.
    fn take(&mut self, event: Event<K>, slim: impl Fn(&mut K)) -> Vec<(Id, Option<K>)> {
        match event {
            Event::Init => {
                self.listing = Some(BTreeSet::new());
                Vec::new()
            }
            Event::InitApply(object) | Event::Apply(object) => {
                let id = id(&object);
                if let Some(listing) = &mut self.listing {
                    listing.insert(id.clone());
                }
                let mut object = object;
                slim(&mut object);
                vec![(id.clone(), self.objects.insert(id, object))]
            }
            Event::InitDone => {
                self.complete = true;
                let listed = self.listing.take().unwrap_or_default();
                let gone: Vec<Id> = self.objects.keys().filter(|id| !listed.contains(*id)).cloned().collect();
                gone.into_iter().map(|id| (id.clone(), self.objects.remove(&id))).collect()
            }
            Event::Delete(object) => {
                let id = id(&object);
                vec![(id.clone(), self.objects.remove(&id))]
            }
        }
    }
}

fn id(object: &impl ResourceExt) -> Id {
    (object.namespace().unwrap_or_default(), object.name_any())
}
