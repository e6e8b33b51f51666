//! Policies on this node: follows NetworkPolicies, the distributed firewall and the view of the cluster, and wants what [`switchyard_policy::Layer`] says.
//!
//! *Closed at birth.* A pod is not attached before what its policies say is in the kernel, and not before it is certain which
//! policies there are: its namespace's and the firewall's are asked for once more, as the watches may lag behind the pod's own. Peers elsewhere are let
//! in as they become known.

mod firewall;
mod known;
mod report;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use futures::{FutureExt, Stream, StreamExt};
use kube::api::{Api, ListParams};
use kube::runtime::watcher::{self, Event};
use kube::{Client, ResourceExt};
use switchyard_api::{Group, SecurityPolicy};
use switchyard_netstate::Place;
use switchyard_policy::{Layer, Pod, closed, network_policy, policy_name};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::warn;

use crate::network::{AttachError, Call, List, Network};
use crate::view::{Change, SlimNamespace, SlimPolicy, View, version};
pub(crate) use firewall::{Heard, heard};

use firewall::Firewall;
use known::Known;
use report::{Reporter, Told};

/// Events that are taken in before anything is computed.
const BURST: usize = 512;
/// Requests for a namespace's policies that are under way at the same time.
const REQUESTS: usize = 4;

/// Lets pods in when their policies are in force; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    births: mpsc::UnboundedSender<Birth>,
}

/// Policies, followed.
pub(crate) struct Policies {
    node: String,
    client: Client,
    network: Network,
    view: View,
    layer: Layer,
    known: Known,
    firewall: Firewall,
    births: mpsc::UnboundedReceiver<Birth>,
    /// Births whose namespace's policies have been asked for.
    asked: JoinSet<(Birth, Answers)>,
    /// Births that wait for a request's turn, or for the first lists.
    waiting: VecDeque<Birth>,
    viewed: bool,
    begun: bool,
}

/// A pod that is about to be attached.
#[derive(Debug)]
struct Birth {
    namespace: String,
    address: IpAddr,
    /// It is new: nothing that somebody else exchanged with its address goes on.
    is_fresh: bool,
    reply: oneshot::Sender<Result<(), String>>,
}

/// What was asked for when a pod was about to be attached: its namespace's policies, the firewall, and its namespace, the labels of
/// which decide whom the firewall is for.
struct Answers {
    policies: kube::Result<Vec<SlimPolicy>>,
    firewall: kube::Result<(Vec<SecurityPolicy>, Vec<Group>)>,
    namespace: kube::Result<Option<SlimNamespace>>,
}

/// Whether what a pod's policies say is in force.
pub(crate) struct Protection(oneshot::Receiver<Result<(), String>>);

// === impl Guard ===

impl Guard {
    /// Begins to see to the policies of a pod, which is fresh if it did not run before.
    pub(crate) fn protect(&self, namespace: &str, address: IpAddr, is_fresh: bool) -> Protection {
        let (reply, outcome) = oneshot::channel();
        let _ = self.births.send(Birth { namespace: namespace.to_owned(), address, is_fresh, reply });
        Protection(outcome)
    }
}

// === impl Protection ===

impl Protection {
    /// Returns when the pod may be attached.
    pub(crate) async fn in_force(self) -> Result<(), AttachError> {
        let outcome = self.0.await.unwrap_or_else(|_| Err("the agent is leaving".into()));
        outcome.map_err(|error| AttachError(format!("its policies cannot be enforced: {error}")))
    }
}

// === impl Policies ===

impl Policies {
    /// The part's value, to be run, and the guard of pods.
    pub(crate) fn new(node: &str, client: Client, network: Network, view: View) -> (Self, Guard) {
        let (births_in, births) = mpsc::unbounded_channel();
        let policies = Self {
            node: node.to_owned(),
            client,
            network,
            view,
            layer: Layer::new(Place::node(node)),
            known: Known::default(),
            firewall: Firewall::default(),
            births,
            asked: JoinSet::new(),
            waiting: VecDeque::new(),
            viewed: false,
            begun: false,
        };
        (policies, Guard { births: births_in })
    }

    /// Follows until the events end.
    pub(crate) async fn run(
        mut self,
        mut view: mpsc::UnboundedReceiver<Change>,
        events: impl Stream<Item = watcher::Result<Event<SlimPolicy>>>,
        firewall: impl Stream<Item = Heard>,
    ) {
        let mut bursts = std::pin::pin!(events.ready_chunks(BURST));
        let mut firewall = std::pin::pin!(firewall.ready_chunks(BURST));
        let (report, reports) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(Reporter::new(&self.node, self.client.clone(), self.network.clone()).run(reports));
        loop {
            let mut born = None;
            tokio::select! {
                burst = bursts.next() => match burst {
                    Some(burst) => burst.into_iter().for_each(|event| self.hear(event)),
                    None => return,
                },
                burst = firewall.next() => match burst {
                    Some(burst) => burst.into_iter().for_each(|heard| self.firewall.hear(heard, &mut self.layer)),
                    None => return,
                },
                Some(change) = view.recv() => self.see(change),
                Some(birth) = self.births.recv() => self.waiting.push_back(birth),
                Some(Ok((birth, answers))) = self.asked.join_next() => match self.learn(answers) {
                    Ok(()) => born = Some(birth),
                    Err(why) => drop(birth.reply.send(Err(why))),
                },
            }
            // What was told before a birth is known before it is answered.
            while let Some(Some(change)) = view.recv().now_or_never() {
                self.see(change);
            }
            while self.is_complete() && self.asked.len() < REQUESTS {
                let Some(birth) = self.waiting.pop_front() else { break };
                let answers = Answers::ask(self.client.clone(), birth.namespace.clone());
                self.asked.spawn(async move { (birth, answers.await) });
            }
            self.settle(born);
            self.enact(&report);
        }
    }

    /// Whether all lists have been received.
    fn is_complete(&self) -> bool {
        self.known.is_complete() && self.firewall.is_complete() && self.viewed
    }

    /// Has it reported what of the firewall has been told to the network's task.
    fn enact(&mut self, report: &mpsc::UnboundedSender<Told>) {
        if !self.begun {
            return;
        }
        if let Some((policies, gone)) = self.firewall.news() {
            let (reply, outcome) = oneshot::channel();
            // What came before this is in force when this is.
            self.network.tell(Call::Policies {
                units: BTreeMap::new(),
                forget: None,
                concern: None,
                reply: Some(reply),
            });
            let _ = report.send(Told { policies, gone, outcome });
        }
    }

    fn see(&mut self, change: Change) {
        match change {
            Change::Pod { was, now } => match (now.as_deref().and_then(|pod| Some((pod, pod.ip?))), was) {
                (Some((pod, address)), _) => self.layer.pod(Pod {
                    uid: Arc::clone(&pod.uid),
                    namespace: Arc::clone(&pod.namespace),
                    labels: Arc::clone(&pod.labels),
                    address,
                    ports: Arc::clone(&pod.ports),
                    local: *pod.node == *self.node,
                }),
                (None, Some(was)) => self.layer.pod_gone(&was.uid),
                (None, None) => {}
            },
            Change::Namespace { name, labels } => self.layer.namespace(name, labels),
            Change::Complete => self.viewed = true,
        }
    }

    fn hear(&mut self, event: watcher::Result<Event<SlimPolicy>>) {
        match event {
            Ok(Event::Init) => self.known.begin(),
            Ok(Event::InitApply(policy) | Event::Apply(policy)) => self.take(&policy),
            Ok(Event::InitDone) => {
                for gone in self.known.listed() {
                    self.layer.policy_gone(&gone);
                }
            }
            Ok(Event::Delete(policy)) => {
                let name = name(&policy);
                if self.known.gone(&name, version(&policy)) {
                    self.layer.policy_gone(&name);
                }
            }
            Err(error) => warn!(%error, "watching NetworkPolicies failed; trying again"),
        }
    }

    /// Takes in what was asked for. An error if it is not certain which policies there are.
    fn learn(&mut self, answers: Answers) -> Result<(), String> {
        let policies = certain("NetworkPolicies", answers.policies);
        let firewall = certain("SecurityPolicies and Groups", answers.firewall);
        if let Ok(Some(policies)) = &policies {
            policies.iter().for_each(|policy| self.take(policy));
        }
        let firewall = firewall.map(|known| {
            if let Some((policies, groups)) = known {
                self.firewall.learn(policies, groups, &mut self.layer);
            }
        });
        let namespace = certain("the pod's Namespace", answers.namespace);
        let namespace = namespace.map(|known| {
            if let Some(Some(namespace)) = known {
                self.view.learn_namespace(namespace);
            }
        });
        policies.map(drop).and(firewall).and(namespace)
    }

    fn take(&mut self, object: &SlimPolicy) {
        if !self.known.comes(&name(object), version(object)) {
            return;
        }
        let (namespace, of) = (object.namespace().unwrap_or_default(), object.name_any());
        let policy = network_policy(&namespace, &of, object.spec()).unwrap_or_else(|error| {
            warn!(namespace, name = of, %error, "a NetworkPolicy cannot be read; it lets nothing through");
            closed(&namespace, &of, object.spec())
        });
        self.layer.policy(policy);
    }

    /// Says what is wanted now, and that a pod waits for it.
    fn settle(&mut self, born: Option<Birth>) {
        if !self.is_complete() {
            return;
        }
        let units = if self.layer.is_dirty() { self.layer.settle() } else { BTreeMap::new() };
        if born.is_some() || !units.is_empty() {
            let fresh = born.as_ref().filter(|birth| birth.is_fresh).map(|birth| birth.address);
            let forget = fresh.filter(|address| self.layer.is_subject(*address));
            let concern = born.as_ref().map(|birth| self.layer.concern(birth.address));
            self.network.tell(Call::Policies { units, forget, concern, reply: born.map(|birth| birth.reply) });
        }
        if !std::mem::replace(&mut self.begun, true) {
            self.network.tell(Call::Listed(List::Policies));
        }
    }
}

// === impl Answers ===

impl Answers {
    async fn ask(client: Client, namespace: String) -> Self {
        let (all, labels_of) = (ListParams::default(), client.clone());
        let policies = Api::<SlimPolicy>::namespaced(client.clone(), &namespace);
        let firewall = Api::<SecurityPolicy>::all(client.clone());
        let groups = Api::<Group>::all(client);
        let (policies, firewall, groups) = tokio::join!(policies.list(&all), firewall.list(&all), groups.list(&all));
        let firewall = firewall.and_then(|policies| Ok((policies.items, groups?.items)));
        let asks_for_labels = firewall.as_ref().is_ok_and(|(policies, _)| !policies.is_empty());
        let namespace = match asks_for_labels {
            true => Api::<SlimNamespace>::all(labels_of).get_opt(&namespace).await,
            false => Ok(None),
        };
        Self { policies: policies.map(|list| list.items), firewall, namespace }
    }
}

/// What was asked for; nothing where the watches have to do. Without an API server none can be written, and one that does not know
/// the kind has none of it. Anything else leaves open what there is.
fn certain<T>(kinds: &str, answer: kube::Result<T>) -> Result<Option<T>, String> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error @ (kube::Error::Service(_) | kube::Error::HyperError(_))) => {
            warn!(kinds, %error, "no API server answers; going by the watch");
            Ok(None)
        }
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(format!("list {kinds}: {error}")),
    }
}

fn name(policy: &SlimPolicy) -> String {
    policy_name(&policy.namespace().unwrap_or_default(), &policy.name_any())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::{Request, Response, StatusCode};
    use tower::service_fn;

    use super::*;

    async fn answers(respond: impl Fn() -> Result<Response<Body>, std::io::Error> + Clone + Send + 'static) -> Answers {
        let client = Client::new(service_fn(move |_: Request<_>| std::future::ready(respond())), "default");
        Answers::ask(client, "team".into()).await
    }

    #[tokio::test]
    async fn only_without_an_api_server_or_the_kind_do_the_watches_decide() {
        let certain = |answers: Answers| {
            let policies = certain("NetworkPolicies", answers.policies).map(drop);
            policies.and(certain("SecurityPolicies", answers.firewall).map(drop))
        };
        let nobody = || Err(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
        assert_eq!(certain(answers(nobody).await), Ok(()));
        for (code, decided) in [(404, true), (403, false), (429, false), (500, false), (503, false)] {
            let respond = move || {
                let body = format!(r#"{{"kind": "Status", "status": "Failure", "code": {code}, "message": "no"}}"#);
                let code = StatusCode::from_u16(code).expect("a status");
                Ok(Response::builder().status(code).body(Body::from(body)).expect("a response"))
            };
            let outcome = certain(answers(respond).await);
            assert_eq!(outcome.is_ok(), decided, "{code}: {outcome:?}");
        }
        let garbled = || Ok(Response::new(Body::from("not JSON")));
        assert!(certain(answers(garbled).await).is_err());
    }
}
