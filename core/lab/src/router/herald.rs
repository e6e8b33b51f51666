//! Says on each Node whether the upstream device holds its route, as the route controllers of clouds do: the condition
//! `NetworkUnavailable`, and an event for each route that was refused. Written behind the router's back, so that packets do not
//! wait for the API server; what could not be written is written again.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Node};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use switchyard_api::names::{NO_ROUTE_CREATED, ROUTE_CREATED, ROUTE_PENDING};
use switchyard_netstate::{Fragment, Object};
use tokio::sync::mpsc;
use tracing::warn;

use super::kernel::{Kernel, Why};
use super::underlay::UNIT;
use super::upstream::{Outcome, Upstream};
use super::watch::{Mirror, ObjectName};

/// Hears how routes do.
pub(super) struct Herald {
    news: mpsc::UnboundedSender<News>,
    /// What was said last of each node.
    said: BTreeMap<String, Condition>,
}

/// What the condition `NetworkUnavailable` is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Condition {
    status: &'static str,
    reason: &'static str,
    message: String,
}

struct News {
    node: String,
    uid: Option<String>,
    condition: Condition,
    /// Worth an event.
    refused: bool,
}

const CONDITION: &str = "NetworkUnavailable";
/// The network that is active asks for no routes.
const NO_ROUTE_NEEDED: &str = "NoRouteNeeded";
/// Who says it.
const NAME: &str = "route-controller";
/// Until what could not be written is written again.
const PAUSE: Duration = Duration::from_secs(1);

// === impl Herald ===

impl Herald {
    /// Needs a runtime, on which it writes.
    pub(super) fn new(client: Client) -> Self {
        let (news, heard) = mpsc::unbounded_channel();
        tokio::spawn(write(client, heard));
        Self { news, said: BTreeMap::new() }
    }

    /// Says what has changed, and again what somebody else has overwritten. What the device lets through is there once the kernel has
    /// it.
    pub(super) fn tell(&mut self, upstream: &Upstream, kernel: &Kernel, nodes: &Mirror<Node>) {
        for (unit, wish, outcome) in upstream.units() {
            let outcome = &as_made(outcome, kernel.why_not(unit));
            let Some(name) = unit.0.strip_prefix(UNIT) else { continue };
            let Some(node) = nodes.get(&ObjectName::new("", name)) else {
                self.said.remove(name);
                continue;
            };
            let shown = shown(node);
            let ours =
                shown.is_some_and(|(_, reason, _)| [NO_ROUTE_CREATED, ROUTE_PENDING, ROUTE_CREATED].contains(&reason));
            // Where no route is needed the condition is the agent's, once what was said of a route is taken back.
            if *outcome == Outcome::NotNeeded && !ours {
                self.said.remove(name);
                continue;
            }
            let condition = condition(wish, outcome);
            let stands = shown == Some((condition.status, condition.reason, condition.message.as_str()));
            let news = self.said.insert(name.to_owned(), condition.clone()).as_ref() != Some(&condition);
            if news || !stands {
                let refused = news && matches!(outcome, Outcome::Refused(_));
                let (node, uid) = (name.to_owned(), node.uid());
                drop(self.news.send(News { node, uid, condition, refused }));
            }
        }
    }
}

/// How a node's routes do, the kernel's answer included.
fn as_made(decided: &Outcome, why_not: Option<&Why>) -> Outcome {
    match (decided, why_not) {
        (Outcome::Held, Some(Why::NotYet)) => Outcome::Asked,
        (Outcome::Held, Some(Why::Refused(why))) => Outcome::Refused(format!("the kernel refuses it: {why}")),
        _ => decided.clone(),
    }
}

fn condition(wish: Option<&Fragment>, outcome: &Outcome) -> Condition {
    let way = wish.and_then(way).unwrap_or_default();
    let (status, reason, message) = match outcome {
        Outcome::NotNeeded => {
            ("False", NO_ROUTE_NEEDED, "the network needs no routes on the upstream device".to_owned())
        }
        Outcome::Held => ("False", ROUTE_CREATED, format!("the upstream device holds the route {way}")),
        Outcome::Asked => ("True", ROUTE_PENDING, format!("the upstream device has been asked for the route {way}")),
        Outcome::Refused(why) => ("True", NO_ROUTE_CREATED, format!("no route {way}: {why}")),
    };
    Condition { status, reason, message }
}

/// The first route, for people.
fn way(fragment: &Fragment) -> Option<String> {
    let mut objects = fragment.places().flat_map(|(_, objects)| objects.iter());
    objects.find_map(|(_, object)| match object {
        Object::Route(route) => Some(match route.via.gateway {
            Some(gateway) => format!("{} via {gateway}", route.to),
            None => route.to.to_string(),
        }),
        _ => None,
    })
}

fn shown(node: &Node) -> Option<(&str, &str, &str)> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|condition| condition.type_ == CONDITION)?;
    let (reason, message) = (condition.reason.as_deref(), condition.message.as_deref());
    Some((&condition.status, reason.unwrap_or_default(), message.unwrap_or_default()))
}

/// Writes the last that was said of each node, and every refusal, until the channel closes.
async fn write(client: Client, mut heard: mpsc::UnboundedReceiver<News>) {
    let mut waiting: BTreeMap<String, News> = BTreeMap::new();
    loop {
        let news = if waiting.is_empty() {
            heard.recv().await
        } else {
            match tokio::time::timeout(PAUSE, heard.recv()).await {
                Ok(news) => news,
                Err(_) => waiting.pop_first().map(|(_, news)| news),
            }
        };
        let Some(news) = news else { return };
        waiting.remove(&news.node);
        match say(&client, &news).await {
            Ok(()) => {}
            // A node that is gone needs no condition.
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
            Err(error) => {
                warn!(node = %news.node, %error, "cannot write the condition of a node's route; trying again");
                waiting.insert(news.node.clone(), news);
            }
        }
    }
}

async fn say(client: &Client, news: &News) -> kube::Result<()> {
    let now = format!("{:.0}", Timestamp::now());
    let Condition { status, reason, message } = &news.condition;
    let condition = json!({
        "type": CONDITION, "status": status, "reason": reason, "message": message,
        "lastHeartbeatTime": now, "lastTransitionTime": now,
    });
    let patch = Patch::Strategic(json!({"metadata": {"uid": news.uid}, "status": {"conditions": [condition]}}));
    let nodes: Api<Node> = Api::all(client.clone());
    nodes.patch_status(&news.node, &PatchParams::default(), &patch).await?;
    if news.refused {
        let event = json!({
            "metadata": {"name": format!("{}.{:x}", news.node, Timestamp::now().as_nanosecond()), "namespace": "default"},
            "involvedObject": {"apiVersion": "v1", "kind": "Node", "name": news.node, "uid": news.uid},
            "type": "Warning", "reason": "FailedToCreateRoute", "message": message, "count": 1,
            "firstTimestamp": now, "lastTimestamp": now,
            "source": {"component": NAME}, "reportingComponent": NAME, "reportingInstance": "",
        });
        let event: Event = serde_json::from_value(event).map_err(kube::Error::SerdeError)?;
        Api::<Event>::namespaced(client.clone(), "default").create(&PostParams::default(), &event).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_there_once_the_kernel_has_it() {
        let refused = Why::Refused("route 10.40.1.0/24: network is unreachable (errno 101)".into());
        let reason = |outcome: &Outcome, why: Option<&Why>| condition(None, &as_made(outcome, why)).reason;
        assert_eq!(reason(&Outcome::Held, None), ROUTE_CREATED);
        assert_eq!(reason(&Outcome::Held, Some(&Why::NotYet)), ROUTE_PENDING);
        assert_eq!(reason(&Outcome::Held, Some(&refused)), NO_ROUTE_CREATED);
        assert!(condition(None, &as_made(&Outcome::Held, Some(&refused))).message.contains("errno 101"));
        // What the device has decided itself stands.
        assert_eq!(reason(&Outcome::Asked, Some(&refused)), ROUTE_PENDING);
        assert_eq!(reason(&Outcome::NotNeeded, Some(&refused)), NO_ROUTE_NEEDED);
    }
}
