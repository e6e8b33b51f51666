//! Tells what of the distributed firewall is in force on this node, and what its rules have counted, in the status of each policy.
//!
//! The kernel tells nobody when it counts, so counters are read in intervals while there are policies, and written where they have
//! changed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use switchyard_api::{Hits, NodePolicyStatus, RuleStatus, SecurityPolicy};
use switchyard_kernel::Counters;
use switchyard_policy::{Action, Direction, counter_chain, security_counter};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use super::firewall::Enacted;
use crate::network::{Network, until};

/// What was told to the network's task, and how that ends.
pub(super) struct Told {
    pub(super) policies: Vec<Enacted>,
    pub(super) gone: BTreeSet<String>,
    pub(super) outcome: oneshot::Receiver<Result<(), String>>,
}

/// Writes reports until its sender is gone.
pub(super) struct Reporter {
    pub(super) node: String,
    pub(super) client: Client,
    pub(super) network: Network,
    in_force: BTreeMap<String, Enacted>,
    /// Those that the kernel did not take. The network's task tries again by itself.
    failed: BTreeSet<String>,
    written: BTreeMap<String, NodePolicyStatus>,
}

/// How old counters may be.
const PERIOD: Duration = Duration::from_secs(5);

// === impl Reporter ===

impl Reporter {
    pub(super) fn new(node: &str, client: Client, network: Network) -> Self {
        Self {
            node: node.to_owned(),
            client,
            network,
            in_force: BTreeMap::new(),
            failed: BTreeSet::new(),
            written: BTreeMap::new(),
        }
    }

    pub(super) async fn run(mut self, mut told: mpsc::UnboundedReceiver<Told>) {
        let mut state = self.network.state();
        let mut beat = interval(PERIOD);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                news = told.recv() => match news {
                    Some(news) => self.learn(news).await,
                    None => return,
                },
                true = until(&mut state, |state| state.policies.is_none()), if !self.failed.is_empty() => self.recovered(),
                _ = beat.tick(), if !self.in_force.is_empty() => {}
            }
            self.write().await;
        }
    }

    async fn learn(&mut self, told: Told) {
        let outcome = told.outcome.await.unwrap_or_else(|_| Err("the agent is leaving".into()));
        for name in &told.gone {
            self.in_force.remove(name);
            self.failed.remove(name);
            self.written.remove(name);
        }
        for mut policy in told.policies {
            self.failed.remove(&policy.name);
            if let (None, Err(why)) = (&policy.error, &outcome) {
                policy.error = Some(why.clone());
                self.failed.insert(policy.name.clone());
            }
            // Another object of this name has a status of its own.
            if self.in_force.get(&policy.name).is_some_and(|old| old.uid != policy.uid) {
                self.written.remove(&policy.name);
            }
            self.in_force.insert(policy.name.clone(), policy);
        }
    }

    /// What the kernel did not take has come into force meanwhile.
    fn recovered(&mut self) {
        for name in std::mem::take(&mut self.failed) {
            if let Some(policy) = self.in_force.get_mut(&name) {
                policy.error = None;
            }
        }
    }

    async fn write(&mut self) {
        if self.in_force.is_empty() {
            return;
        }
        let counters = self.network.policy_counters().await;
        let api = Api::<SecurityPolicy>::all(self.client.clone());
        for (name, policy) in &self.in_force {
            let status = status(policy, &counters);
            if self.written.get(name) == Some(&status) {
                continue;
            }
            let mut value = serde_json::to_value(&status).unwrap_or_default();
            if status.error.is_none() {
                // Takes away what was there.
                value["error"] = Value::Null;
            }
            let patch = Patch::Merge(json!({
                "metadata": {"uid": policy.uid}, "status": {"nodes": {self.node.clone(): value}},
            }));
            match api.patch_status(name, &PatchParams::default(), &patch).await {
                Ok(_) => drop(self.written.insert(name.clone(), status)),
                // It is gone, or is another one by now; the watch will say so.
                Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => {}
                Err(error) => warn!(name, %error, "a SecurityPolicy's status cannot be written; trying again"),
            }
        }
    }
}

fn status(policy: &Enacted, counters: &BTreeMap<String, Counters>) -> NodePolicyStatus {
    let hits = |rule: &str, direction| {
        let counter = security_counter(&policy.name, rule, direction);
        // A rule has one action at a time.
        let chains = [Action::Accept, Action::Drop, Action::Reject].map(|action| counter_chain(&counter, action));
        let found = chains.iter().filter_map(|chain| counters.get(chain));
        let mut hits = Hits::default();
        found.for_each(|one| hits += Hits { packets: one.packets, bytes: one.bytes });
        hits
    };
    let rules = policy.rules.iter().map(|rule| RuleStatus {
        name: rule.clone(),
        egress: hits(rule, Direction::Egress),
        ingress: hits(rule, Direction::Ingress),
    });
    NodePolicyStatus { generation: policy.generation, error: policy.error.clone(), rules: rules.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_counts_for_both_ends() {
        let rules = vec!["web".to_owned(), "rest".to_owned()];
        let policy = Enacted { name: "p".into(), uid: "u".into(), generation: 3, rules, error: None };
        let counters = BTreeMap::from([
            ("rule/p/web/out/accept".to_owned(), Counters { packets: 2, bytes: 120 }),
            ("rule/p/rest/in/drop".to_owned(), Counters { packets: 5, bytes: 300 }),
        ]);
        let status = status(&policy, &counters);
        assert_eq!(status.rules[0].egress, Hits { packets: 2, bytes: 120 });
        assert_eq!(status.rules[0].ingress, Hits::default());
        assert_eq!(status.rules[1].ingress, Hits { packets: 5, bytes: 300 });
    }
}
