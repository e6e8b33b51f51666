//! SecurityPolicies and Groups, followed: what each means in the model, and which of them have to be reported on anew.

use std::collections::{BTreeMap, BTreeSet};

use futures::{Stream, StreamExt};
use kube::ResourceExt;
use kube::runtime::watcher::{self, Event};
use switchyard_api::{Group, GroupSpec, SecurityPolicy};
use switchyard_policy::{Layer, SecurityPolicySpec};
use tracing::warn;

use super::known::Known;
use super::version;

/// News of the firewall's objects.
pub(crate) enum Heard {
    Policy(watcher::Result<Event<SecurityPolicy>>),
    Group(watcher::Result<Event<Group>>),
}

/// A policy that has come into force, or has not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Enacted {
    pub(super) name: String,
    /// Of the object; one of the same name may come after it.
    pub(super) uid: String,
    pub(super) generation: i64,
    /// Its rules' names, in order.
    pub(super) rules: Vec<String>,
    /// Why it is not.
    pub(super) error: Option<String>,
}

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Firewall {
    policies: BTreeMap<String, Entry>,
    groups: BTreeMap<String, GroupSpec>,
    known_policies: Known,
    known_groups: Known,
    fresh: BTreeSet<String>,
    gone: BTreeSet<String>,
}

#[derive(Debug)]
struct Entry {
    uid: String,
    generation: i64,
    spec: SecurityPolicySpec,
    /// Names in the model.
    told: BTreeSet<String>,
    error: Option<String>,
}

/// Both kinds in one stream.
pub(crate) fn heard(
    policies: impl Stream<Item = watcher::Result<Event<SecurityPolicy>>>,
    groups: impl Stream<Item = watcher::Result<Event<Group>>>,
) -> impl Stream<Item = Heard> {
    futures::stream::select(policies.map(Heard::Policy), groups.map(Heard::Group))
}

// === impl Firewall ===

impl Firewall {
    /// Whether both lists have been received.
    pub(super) fn is_complete(&self) -> bool {
        self.known_policies.is_complete() && self.known_groups.is_complete()
    }

    pub(super) fn hear(&mut self, heard: Heard, layer: &mut Layer) {
        match heard {
            Heard::Policy(Ok(event)) => self.policy(event, layer),
            Heard::Group(Ok(event)) => self.group(event, layer),
            Heard::Policy(Err(error)) => warn!(%error, "watching SecurityPolicies failed; trying again"),
            Heard::Group(Err(error)) => warn!(%error, "watching Groups failed; trying again"),
        }
    }

    /// What was asked for beside the watches.
    pub(super) fn learn(&mut self, policies: Vec<SecurityPolicy>, groups: Vec<Group>, layer: &mut Layer) {
        groups.into_iter().for_each(|group| self.group(Event::Apply(group), layer));
        policies.into_iter().for_each(|policy| self.policy(Event::Apply(policy), layer));
    }

    /// Policies that have been told to the layer since this was asked last, and names of those that went.
    pub(super) fn news(&mut self) -> Option<(Vec<Enacted>, BTreeSet<String>)> {
        if self.fresh.is_empty() && self.gone.is_empty() {
            return None;
        }
        let enacted = |name: &String| {
            let known = self.policies.get(name)?;
            Some(Enacted {
                name: name.clone(),
                uid: known.uid.clone(),
                generation: known.generation,
                rules: known.spec.rules.iter().map(|rule| rule.name.clone()).collect(),
                error: known.error.clone(),
            })
        };
        let fresh = self.fresh.iter().filter_map(enacted).collect();
        self.fresh.clear();
        Some((fresh, std::mem::take(&mut self.gone)))
    }

    fn policy(&mut self, event: Event<SecurityPolicy>, layer: &mut Layer) {
        match event {
            Event::Init => self.known_policies.begin(),
            Event::Apply(policy) | Event::InitApply(policy) => {
                let name = policy.name_any();
                if !self.known_policies.comes(&name, version(&policy)) {
                    return;
                }
                let (uid, generation) = (policy.uid().unwrap_or_default(), policy.metadata.generation.unwrap_or(0));
                let told = match self.policies.get(&name) {
                    Some(known) if (&known.uid, known.generation, &known.spec) == (&uid, generation, &policy.spec) => {
                        return;
                    }
                    Some(known) => known.told.clone(),
                    None => BTreeSet::new(),
                };
                let known = Entry { uid, generation, spec: policy.spec, told, error: None };
                self.policies.insert(name.clone(), known);
                self.tell(&name, layer);
            }
            Event::Delete(policy) => {
                if self.known_policies.gone(&policy.name_any(), version(&policy)) {
                    self.policy_gone(&policy.name_any(), layer);
                }
            }
            Event::InitDone => {
                let gone = self.known_policies.listed();
                gone.iter().for_each(|name| self.policy_gone(name, layer));
            }
        }
    }

    fn policy_gone(&mut self, name: &str, layer: &mut Layer) {
        let Some(known) = self.policies.remove(name) else { return };
        known.told.iter().for_each(|name| layer.policy_gone(name));
        self.fresh.remove(name);
        self.gone.insert(name.to_owned());
    }

    fn group(&mut self, event: Event<Group>, layer: &mut Layer) {
        match event {
            Event::Init => self.known_groups.begin(),
            Event::Apply(group) | Event::InitApply(group) => {
                let name = group.name_any();
                if self.known_groups.comes(&name, version(&group)) && self.groups.get(&name) != Some(&group.spec) {
                    self.groups.insert(name.clone(), group.spec);
                    self.members_changed(&name, layer);
                }
            }
            Event::Delete(group) => {
                if self.known_groups.gone(&group.name_any(), version(&group)) {
                    self.group_gone(&group.name_any(), layer);
                }
            }
            Event::InitDone => {
                let gone = self.known_groups.listed();
                gone.iter().for_each(|name| self.group_gone(name, layer));
            }
        }
    }

    fn group_gone(&mut self, name: &str, layer: &mut Layer) {
        if self.groups.remove(name).is_some() {
            self.members_changed(name, layer);
        }
    }

    fn members_changed(&mut self, group: &str, layer: &mut Layer) {
        let names = |known: &Entry| {
            let mut rules = known.spec.rules.iter();
            let is = |parties: &[switchyard_policy::Party]| {
                parties.iter().any(|party| party.group.as_deref() == Some(group))
            };
            rules.any(|rule| is(&rule.sources) || is(&rule.destinations))
        };
        let concerned = self.policies.iter().filter(|(_, known)| names(known)).map(|(name, _)| name.clone());
        concerned.collect::<Vec<_>>().iter().for_each(|name| self.tell(name, layer));
    }

    /// Tells the layer what a policy means now. One that has no meaning is not in force at all.
    fn tell(&mut self, name: &str, layer: &mut Layer) {
        let Some(known) = self.policies.get_mut(name) else { return };
        let groups = &self.groups;
        let translated = known.spec.translate(name, |group| groups.get(group));
        let (policies, error) = match translated {
            Ok(translated) => (translated.policies, None),
            Err(error) => {
                warn!(name, %error, "a SecurityPolicy has no meaning; it is not in force");
                (Vec::new(), Some(error.to_string()))
            }
        };
        let told: BTreeSet<String> = policies.iter().map(|policy| policy.name.clone()).collect();
        known.told.difference(&told).for_each(|name| layer.policy_gone(name));
        for policy in policies {
            layer.policy(policy);
        }
        (known.told, known.error) = (told, error);
        self.fresh.insert(name.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use switchyard_netstate::Place;

    use super::*;

    fn policy(generation: i64, group: &str) -> SecurityPolicy {
        serde_json::from_value(json!({
            "apiVersion": "switchyard.dev/v1alpha1", "kind": "SecurityPolicy",
            "metadata": {"name": "p", "uid": "u", "generation": generation},
            "spec": {"tier": "Emergency", "rules": [
                {"name": "r", "sources": [{"group": group}], "action": "Drop"}, {"name": "all", "action": "Allow"},
            ]},
        }))
        .unwrap()
    }

    fn group(label: &str) -> Group {
        serde_json::from_value(json!({
            "apiVersion": "switchyard.dev/v1alpha1", "kind": "Group", "metadata": {"name": "g"},
            "spec": {"members": [{"podSelector": {"matchLabels": {"app": label}}}]},
        }))
        .unwrap()
    }

    #[test]
    fn policies_follow_their_groups_and_leave_nothing() {
        let (mut firewall, mut layer) = (Firewall::default(), Layer::new(Place::node("n")));
        let mut hear = |firewall: &mut Firewall, heard| {
            firewall.hear(heard, &mut layer);
            layer.policies().map(str::to_owned).collect::<Vec<_>>()
        };
        hear(&mut firewall, Heard::Policy(Ok(Event::Init)));
        let without = ["securitypolicy/p 0001 in", "securitypolicy/p 0001 out"];
        assert_eq!(hear(&mut firewall, Heard::Policy(Ok(Event::InitApply(policy(1, "g"))))), without);
        hear(&mut firewall, Heard::Policy(Ok(Event::InitDone)));
        assert!(!firewall.is_complete());
        assert_eq!(firewall.news().unwrap().0[0].rules, ["r", "all"]);
        assert!(firewall.news().is_none());
        hear(&mut firewall, Heard::Group(Ok(Event::Init)));
        let with = hear(&mut firewall, Heard::Group(Ok(Event::InitApply(group("x")))));
        assert_eq!(with.len(), 4, "{with:?}");
        hear(&mut firewall, Heard::Group(Ok(Event::InitDone)));
        assert!(firewall.is_complete() && firewall.news().is_some());
        // Its status was written; nothing new is said.
        hear(&mut firewall, Heard::Policy(Ok(Event::Apply(policy(1, "g")))));
        assert!(firewall.news().is_none());
        assert_eq!(hear(&mut firewall, Heard::Group(Ok(Event::Delete(group("x"))))), without);
        assert_eq!(hear(&mut firewall, Heard::Policy(Ok(Event::Delete(policy(1, "g"))))), [""; 0]);
        assert_eq!(firewall.news().unwrap().1, BTreeSet::from(["p".to_owned()]));
    }
}
